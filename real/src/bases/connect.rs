//! The transport of an agent, as the settings of a run say.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use medes_engine::id::NodeId;
use tokio::sync::mpsc::UnboundedSender;

use super::Place;
use crate::ops::OpError;
use crate::settings::{Settings, TransportKind};
use crate::transport::tcp::{self, Tcp};
use crate::transport::{PeerEvent, Secret, Transport};

/// The run before this may still be giving up the address.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts it. What it sees of other agents goes to `peers`.
pub(super) fn transport(
    settings: &Settings,
    node: NodeId,
    peers: UnboundedSender<PeerEvent>,
    place: Place,
) -> Result<Arc<dyn Transport>, OpError> {
    // Without a secret, whoever the controller told of this run.
    let secret = place.secret.clone().unwrap_or_else(|| Secret::new(&format!("run {:016x}", settings.epoch)));
    match settings.transport {
        TransportKind::Verbs => verbs(node, place, secret, peers),
        // A controller that leaves the choice open has not looked for devices.
        TransportKind::Tcp | TransportKind::Auto => {
            let failed = |e: io::Error| OpError::Io { path: place.listen.to_string(), reason: e.to_string() };
            let in_use = |e: &io::Error| e.kind() == io::ErrorKind::AddrInUse;
            let listener = patiently(|| TcpListener::bind(place.listen), in_use).map_err(failed)?;
            let settings = tcp::Settings::new(place.peers.clone(), secret);
            let (tcp, events) = Tcp::start(node, listener, settings).map_err(failed)?;
            pass_on(events, peers)?;
            Ok(Arc::new(tcp))
        }
    }
}

/// Tries again while an address is in use.
fn patiently<T, E>(start: impl Fn() -> Result<T, E>, in_use: impl Fn(&E) -> bool) -> Result<T, E> {
    let end = Instant::now() + PATIENCE;
    loop {
        match start() {
            Err(e) if in_use(&e) && Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
            other => return other,
        }
    }
}

/// Says what a transport sees of other agents, until the transport, which has the sender, ends.
fn pass_on(events: Receiver<PeerEvent>, peers: UnboundedSender<PeerEvent>) -> Result<(), OpError> {
    let started = std::thread::Builder::new()
        .name("medes-peers".into())
        .spawn(move || events.into_iter().try_for_each(|event| peers.send(event)));
    match started {
        Ok(_) => Ok(()),
        Err(e) => Err(OpError::Io { path: "a thread for what happens to peers".into(), reason: e.to_string() }),
    }
}

#[cfg(feature = "rdma")]
fn verbs(
    node: NodeId,
    place: Place,
    secret: Secret,
    peers: UnboundedSender<PeerEvent>,
) -> Result<Arc<dyn Transport>, OpError> {
    use crate::transport::verbs::{Settings, Verbs};
    if place.peers.is_empty() {
        let what = "transport = \"verbs\" needs a cluster file whose memory_nodes are the addresses of RDMA devices";
        return Err(OpError::Controller(what.into()));
    }
    let settings = Settings::new(place.listen, place.peers, secret);
    let started = patiently(|| Verbs::start(node, settings.clone()), |e| e.address_in_use());
    let (verbs, events) =
        started.map_err(|e| OpError::Io { path: format!("verbs at {}", place.listen), reason: e.to_string() })?;
    pass_on(events, peers)?;
    Ok(Arc::new(verbs))
}

#[cfg(not(feature = "rdma"))]
fn verbs(_: NodeId, _: Place, _: Secret, _: UnboundedSender<PeerEvent>) -> Result<Arc<dyn Transport>, OpError> {
    Err(OpError::Controller(format!("transport = \"verbs\": {}", crate::transport::NOT_BUILT)))
}
