//! The tool as people and scripts use it: the built binary, its exit status, what it says and what it writes.

mod bench;
mod commands;
mod compare;
mod dedup;
mod figures;
mod input;
mod measure;
mod real_samples;
mod reference_files;
mod results;
mod resume;
mod slurm;
mod support;
mod traces;
