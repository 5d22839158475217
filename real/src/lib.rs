//! The real world of Medes: what the engine decides, carried out on machines.
//!
//! [`cluster`] says where the agents are; [`ops`] is what an agent can do on its node, [`node`] how it does it; [`bases`] are the base pages of
//! the cluster, [`memory`] that a node shares, and the [`transport`]s that read it from other nodes. [`wire`] is what goes between
//! [`controller`] and [`agent`]s; [`settings`] what all agents of a run are told, [`load`] what functions are asked, [`host`] how fast a host is.

pub mod agent;
pub mod bases;
pub mod bench;
pub mod cluster;
pub mod controller;
pub mod host;
pub mod load;
pub mod measure;
pub mod memory;
pub mod node;
pub mod ops;
pub mod settings;
pub mod transport;
pub mod wire;
