//! Experiments on real sandboxes, through real agents: that it works, and what happens when something fails. They need root, CRIU and a Python.

mod bed;
mod faults;
mod left;
mod program;
