//! The real world of Medes: what the engine decides, carried out on machines.
//!
//! So far the way base pages take: [`memory`] that a node shares, and the [`transport`]s that read it from other nodes.

pub mod memory;
pub mod transport;
