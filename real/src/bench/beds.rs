//! Readers and owners for the benchmark: both in this process, or the owner on another machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use medes_engine::id::NodeId;
use medes_engine::units::PAGE_BYTES;

use crate::memory::SharedMemory;
use crate::transport::local::Local;
use crate::transport::tcp::{self, Tcp};
use crate::transport::{Region, Secret, Transport};

/// The transports, by name.
pub const TRANSPORTS: [&str; 3] = ["local", "tcp", "verbs"];

/// A reader, and the region that it is to read.
pub struct Bed {
    /// Name of the transport.
    pub name: &'static str,
    /// Reads.
    pub reader: Arc<dyn Transport>,
    /// Is read.
    pub region: Region,
    /// The owner, if it is in this process.
    _owner: Option<Arc<dyn Transport>>,
}

/// Name of a transport, the region it offers, and the transport, which has to be kept.
pub type Offered = (String, Region, Arc<dyn Transport>);

/// A transport that cannot be had here.
#[derive(Debug, thiserror::Error)]
#[error("{transport}: {reason}")]
pub struct BedError {
    /// Its name.
    pub transport: String,
    /// Why, and how to get it.
    pub reason: String,
}

/// Where this process stands in a cluster.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its node.
    pub node: NodeId,
    /// Where pages of each node are read.
    pub pages: BTreeMap<NodeId, SocketAddr>,
    /// Known to all.
    pub secret: Secret,
    /// Whether completions of `verbs` are polled for.
    pub polled: bool,
}

impl Place {
    fn transport(&self, name: &str) -> Result<(&'static str, Arc<dyn Transport>), BedError> {
        let fail = |reason: String| BedError { transport: name.into(), reason };
        let own =
            self.pages.get(&self.node).ok_or_else(|| fail(format!("{} has no address for its pages", self.node)))?;
        match name {
            "local" => Local::new(self.node)
                .map(|t| ("local", Arc::new(t) as Arc<dyn Transport>))
                .map_err(|e| fail(e.to_string())),
            "tcp" => {
                let listener = TcpListener::bind(own).map_err(|e| fail(format!("{own}: {e}")))?;
                let settings = tcp::Settings::new(self.pages.clone(), self.secret.clone());
                let (started, _events) = Tcp::start(self.node, listener, settings).map_err(|e| fail(e.to_string()))?;
                Ok(("tcp", Arc::new(started)))
            }
            "verbs" => self.verbs(*own).map(|t| ("verbs", t)).map_err(fail),
            other => Err(fail(format!("no such transport as {other}; there are {}", TRANSPORTS.join(", ")))),
        }
    }

    #[cfg(feature = "rdma")]
    fn verbs(&self, own: SocketAddr) -> Result<Arc<dyn Transport>, String> {
        use crate::transport::verbs::{Completions, Settings, Verbs};
        let completions = if self.polled { Completions::Polled } else { Completions::Events };
        let settings = Settings { completions, ..Settings::new(own, self.pages.clone(), self.secret.clone()) };
        let (started, _events) = Verbs::start(self.node, settings).map_err(|e| e.to_string())?;
        Ok(Arc::new(started))
    }

    #[cfg(not(feature = "rdma"))]
    fn verbs(&self, _own: SocketAddr) -> Result<Arc<dyn Transport>, String> {
        Err(crate::transport::NOT_BUILT.into())
    }
}

/// Pages to read: every one another.
fn pages(count: u32) -> Result<Arc<SharedMemory>, String> {
    let number = |bytes: &mut [u8]| {
        for (n, page) in (0_u64..).zip(bytes.chunks_exact_mut(PAGE_BYTES)) {
            page[..8].copy_from_slice(&n.to_le_bytes());
        }
        Ok(())
    };
    SharedMemory::filled("medes-bench", count as usize * PAGE_BYTES, number).map(Arc::new).map_err(|e| e.to_string())
}

/// Owner and reader in this process, over the loopback device, or for `verbs` over the RDMA device with `address`.
///
/// # Errors
/// The transport is not to be had here.
pub fn here(name: &str, count: u32, address: Option<IpAddr>, polled: bool) -> Result<Bed, BedError> {
    let fail = |reason: String| BedError { transport: name.into(), reason };
    let ip = match (name, address) {
        ("verbs", None) => {
            return Err(fail(
                "say with --address which address this machine's RDMA device has ('rdma link' shows it)".into(),
            ));
        }
        (_, address) => address.unwrap_or(Ipv4Addr::LOCALHOST.into()),
    };
    // Ports that were free a moment ago.
    let port = || TcpListener::bind((ip, 0)).and_then(|l| l.local_addr()).map_err(|e| fail(format!("{ip}: {e}")));
    let both = [port()?, port()?];
    let place = |node: u32| Place {
        node: NodeId(node),
        pages: (0..).map(NodeId).zip(both).collect(),
        secret: Secret::new("one process"),
        polled,
    };
    let (name, owner) = place(0).transport(name)?;
    let region = owner.publish(pages(count).map_err(fail)?).map_err(|e| fail(e.to_string()))?;
    let reader = if name == "local" { owner.clone() } else { place(1).transport(name)?.1 };
    Ok(Bed { name, reader, region, _owner: Some(owner) })
}

/// The owners of a server, and what each offers.
///
/// # Errors
/// A transport is not to be had here.
pub fn offers(place: &Place, names: &[String], count: u32) -> Result<Vec<Offered>, BedError> {
    let offer = |name: &String| {
        let fail = |reason: String| BedError { transport: name.clone(), reason };
        let (_, owner) = place.transport(name)?;
        let region = owner.publish(pages(count).map_err(fail)?).map_err(|e| fail(e.to_string()))?;
        Ok((name.clone(), region, owner))
    };
    names.iter().map(offer).collect()
}

/// A reader here of what a server offers.
///
/// # Errors
/// The transport is not to be had here.
pub fn toward(place: &Place, name: &str, region: Region) -> Result<Bed, BedError> {
    let (name, reader) = place.transport(name)?;
    Ok(Bed { name, reader, region, _owner: None })
}
