//! The real world of Medes: what the engine decides, carried out on machines.
//!
//! [`cluster`] says where the agents are; [`ops`] is what an agent can do on its node, [`node`] does it; [`memory`] that a node shares, and
//! the [`transport`]s that read it from other nodes.

pub mod bench;
pub mod cluster;
pub mod memory;
pub mod node;
pub mod ops;
pub mod transport;
