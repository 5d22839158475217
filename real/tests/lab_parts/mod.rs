//! The two sides of the lab's test.

pub mod faults;
pub mod owner;
pub mod reader;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use medes_engine::id::NodeId;
use medes_real::transport::Secret;
use medes_real::transport::verbs::Settings;

const PORT: u16 = 18_515;

/// Which node of the lab this is.
pub fn node() -> Option<u32> {
    std::env::var_os("LAB_DIR")?;
    std::env::var("NODE_ID").ok()?.parse().ok()
}

/// Addresses of all nodes, as a cluster file would have them.
pub fn peers() -> BTreeMap<NodeId, SocketAddr> {
    let addresses = std::env::var("NODE_ADDRS").unwrap_or_default();
    let parsed = addresses.split(' ').filter_map(|a| a.parse::<IpAddr>().ok());
    (0..).map(NodeId).zip(parsed.map(|ip| SocketAddr::new(ip, PORT))).collect()
}

/// Settings of the transport on node `node`. Patient: three emulated machines share the cores of one, and what is a millisecond on a real one has
/// taken more than two seconds there. Faults that are to be noticed still are, only later.
pub fn settings(node: u32) -> Settings {
    let peers = peers();
    Settings {
        peer_timeout: Duration::from_secs(8),
        heartbeat: Duration::from_millis(400),
        reconnect: Duration::from_millis(300),
        ..Settings::new(peers[&NodeId(node)], peers, Secret::new("the lab's secret"))
    }
}

/// Where node `node` gets its orders.
pub fn orders(node: u32) -> PathBuf {
    PathBuf::from(std::env::var_os("LAB_DIR").unwrap_or_default()).join(format!("node{node}"))
}
