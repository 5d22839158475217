//! `cluster.json`: where the controller and the agents are, as the reference has it, and how to reach their hosts.
//!
//! ```json
//! {
//!   "controller":   { "addr": "10.0.0.1", "port": 4000 },
//!   "grpc_nodes":   [ { "machine_id": 0, "addr": "10.0.0.2", "port": 4001 } ],
//!   "memory_nodes": [ { "machine_id": 0, "addr": "10.1.0.2", "port": 4002 } ],
//!   "ssh":          { "user": "me", "port": 22, "key": "~/.ssh/id_ed25519", "folder": "/tmp/medes" },
//!   "secret_file":  "~/.medes-secret"
//! }
//! ```
//! `grpc_nodes` is the control plane, `memory_nodes` where base pages are read from (over RDMA these are the addresses of the RDMA
//! devices); an agent without an entry there serves its pages at its control address, on the next port. `ssh` and `secret_file` are ours,
//! for `medes cluster`; the reference has neither.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// Where the controller listens; agents ask it for base pages.
    pub controller: Option<Address>,
    /// Control plane of the agents, by number from 0.
    #[serde(default)]
    pub grpc_nodes: Vec<Machine>,
    /// Where the agents' base pages are read from.
    #[serde(default)]
    pub memory_nodes: Vec<Machine>,
    /// How hosts are reached.
    #[serde(default)]
    pub ssh: Ssh,
    /// File with the secret that controller and agents share; none: whoever reaches them may talk to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
}

/// Address and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Host name or address.
    pub addr: String,
    /// TCP port.
    pub port: u16,
}

/// An agent's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Number of the node, from 0.
    pub machine_id: u32,
    /// Host name or address.
    pub addr: String,
    /// TCP port.
    pub port: u16,
}

/// How the hosts are reached. Everything that is not said is left to the system's ssh and its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ssh {
    /// User on the hosts; must be root or have sudo without a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Port of the ssh servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// More options, each given with `-o`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Folder on the hosts, made by `up` and removed by `down`; default `/tmp/medes-cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// Why a cluster file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Not readable.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not what it should be.
    #[error("{}, line {}, column {}: {source}", path.display(), source.line(), source.column())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Of the parser.
        source: serde_json::Error,
    },
    /// Readable and contradictory.
    #[error("{}: {what}", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What and the mend.
        what: String,
    },
    /// A name that is none.
    #[error("{}: no address for {name}: {reason}; give a numeric address or mend the name service", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// The host.
        name: String,
        /// What the system said.
        reason: String,
    },
}

impl ClusterFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Not there, not JSON, an unknown key, numbers of nodes that are not 0, 1, 2, ..., an address used twice.
    pub fn load(path: &Path) -> Result<Self, ClusterError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ClusterError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// As [`Self::load`], from text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ClusterError> {
        let mut file: Self =
            serde_json::from_str(text).map_err(|source| ClusterError::Syntax { path: path.to_owned(), source })?;
        file.grpc_nodes.sort_by_key(|m| m.machine_id);
        file.memory_nodes.sort_by_key(|m| m.machine_id);
        file.check().map_err(|what| ClusterError::Contradiction { path: path.to_owned(), what })?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        if self.grpc_nodes.is_empty() {
            return Err("`grpc_nodes` is empty: a cluster needs at least one agent".into());
        }
        for (i, m) in self.grpc_nodes.iter().enumerate() {
            if m.machine_id as usize != i {
                return Err(format!(
                    "the `machine_id`s in `grpc_nodes` must be 0 to {}, each once; {} is out of place",
                    self.grpc_nodes.len() - 1,
                    m.machine_id
                ));
            }
        }
        let mut seen = BTreeMap::new();
        let nodes = self.grpc_nodes.iter().map(|m| (&m.addr, m.port, format!("agent {}", m.machine_id)));
        let pages = self.memory_nodes.iter().map(|m| (&m.addr, m.port, format!("pages of agent {}", m.machine_id)));
        let controller = self.controller.iter().map(|c| (&c.addr, c.port, "the controller".to_owned()));
        for (addr, port, what) in nodes.chain(pages).chain(controller) {
            if let Some(other) = seen.insert((addr, port), what.clone()) {
                return Err(format!("{addr}:{port} is given to {other} and to {what}; give each a port of its own"));
            }
        }
        for (i, m) in self.memory_nodes.iter().enumerate() {
            if m.machine_id as usize >= self.grpc_nodes.len() {
                return Err(format!("`memory_nodes` has machine {}, `grpc_nodes` has not", m.machine_id));
            }
            if i > 0 && self.memory_nodes[i - 1].machine_id == m.machine_id {
                return Err(format!("`memory_nodes` has machine {} twice", m.machine_id));
            }
        }
        Ok(())
    }

    /// Addresses of all hosts, from which a controller may call; none where the file names no controller.
    ///
    /// # Errors
    /// A name without an address; `path` is for the message.
    pub fn hosts(&self, path: &Path) -> Result<Vec<IpAddr>, ClusterError> {
        let Some(controller) = &self.controller else { return Ok(Vec::new()) };
        let machines = self.grpc_nodes.iter().chain(&self.memory_nodes);
        let all = machines.map(|m| Address { addr: m.addr.clone(), port: m.port }).chain([controller.clone()]);
        let mut hosts = all.map(|a| Ok(a.resolve(path)?.ip())).collect::<Result<Vec<_>, _>>()?;
        hosts.sort_unstable();
        hosts.dedup();
        Ok(hosts)
    }

    /// Where the base pages of an agent are read from.
    pub fn pages_of(&self, node: u32) -> Option<Address> {
        let own = self.memory_nodes.iter().find(|m| m.machine_id == node);
        let control = self.grpc_nodes.get(node as usize);
        own.map(|m| Address { addr: m.addr.clone(), port: m.port })
            .or_else(|| control.map(|m| Address { addr: m.addr.clone(), port: m.port.saturating_add(1) }))
    }
}

impl Address {
    /// The first address that the name has.
    ///
    /// # Errors
    /// The name has none.
    pub fn resolve(&self, path: &Path) -> Result<SocketAddr, ClusterError> {
        let fail = |reason: String| ClusterError::Name { path: path.to_owned(), name: self.addr.clone(), reason };
        let mut found = (self.addr.as_str(), self.port).to_socket_addrs().map_err(|e| fail(e.to_string()))?;
        found.next().ok_or_else(|| fail("the name has no address".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ClusterFile, String> {
        ClusterFile::parse(Path::new("cluster.json"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn the_references_file_is_read() {
        let file = parse(
            r#"{"controller": {"addr": "10.0.0.1", "port": 1},
                "memory_nodes": [{"machine_id": 1, "addr": "10.1.0.3", "port": 7}],
                "grpc_nodes": [{"machine_id": 1, "addr": "10.0.0.3", "port": 2}, {"machine_id": 0, "addr": "10.0.0.2", "port": 2}]}"#,
        )
        .unwrap();
        assert_eq!(file.grpc_nodes[0].addr, "10.0.0.2");
        assert_eq!(file.pages_of(1), Some(Address { addr: "10.1.0.3".into(), port: 7 }));
        assert_eq!(file.pages_of(0), Some(Address { addr: "10.0.0.2".into(), port: 3 }));
        assert_eq!(file.pages_of(2), None);
        let hosts: Vec<String> = file.hosts(Path::new("c")).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.3"]);
        assert!(ClusterFile { controller: None, ..file.clone() }.hosts(Path::new("c")).unwrap().is_empty());
        let written = serde_json::to_string(&file).unwrap();
        assert_eq!(parse(&written), Ok(file));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |text: &str| parse(text).unwrap_err();
        assert!(said("{").contains("line 1"));
        assert!(said("{}").contains("grpc_nodes"));
        assert!(said(r#"{"grpc_node": []}"#).contains("grpc_node"));
        let nodes = |a: u32, b: u32, port: u16| {
            format!(
                r#"{{"grpc_nodes": [{{"machine_id": {a}, "addr": "h", "port": 1}}, {{"machine_id": {b}, "addr": "h", "port": {port}}}]}}"#
            )
        };
        assert!(said(&nodes(0, 2, 5)).contains("out of place"));
        assert!(said(&nodes(0, 0, 5)).contains("out of place"));
        assert!(said(&nodes(0, 1, 1)).contains("agent 0 and to agent 1"));
        assert!(parse(&nodes(0, 1, 5)).is_ok());
    }
}
