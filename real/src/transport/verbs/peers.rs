//! The reading side: one link to each owner, made when it is first wanted, watched while it is idle, made again after it is lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use medes_engine::id::NodeId;

use super::Settings;
use super::greeting::{Greeting, Refusal, Welcome};
use super::link::{Counts, Failure, Link};
use super::sys::{
    CallError, CmId, CompletionQueue, Domain, Event, EventChannel, EventKind, Limits, Parameters, Sizes, wait_readable,
};
use crate::transport::PeerEvent;

/// Tries after the first before a peer is taken for lost. (7 means for ever on some devices.)
const RETRIES: u8 = 6;
/// The connection manager's code for "rejected by the other program", which then says why; others mean that nobody listens.
const REJECTED_BY_PROGRAM: i32 = 28;

/// A link and what goes with it.
#[derive(Clone)]
pub(super) struct Up {
    pub link: Arc<Link>,
    /// The owner's process.
    pub incarnation: u64,
    channel: Arc<EventChannel>,
}

pub(super) struct Peers {
    node: NodeId,
    settings: Settings,
    domain: Arc<Domain>,
    limits: Limits,
    peers: BTreeMap<NodeId, Peer>,
    events: Mutex<Sender<PeerEvent>>,
    /// Wakes the watch.
    wake: OwnedFd,
}

struct Peer {
    address: SocketAddr,
    state: Mutex<PeerState>,
    changed: Condvar,
}

#[derive(Default)]
struct PeerState {
    up: Option<Up>,
    connecting: bool,
    /// The last attempt failed, then and so.
    failed: Option<(Instant, Failure)>,
    /// There was a link: when there is none, one is made again, whether somebody reads or not.
    wanted: bool,
    /// It was reported lost, and not yet back.
    lost: bool,
}

impl Peers {
    pub fn new(
        node: NodeId,
        settings: Settings,
        domain: Arc<Domain>,
        limits: Limits,
        events: Sender<PeerEvent>,
        wake: OwnedFd,
    ) -> Self {
        let peer = |address: &SocketAddr| Peer { address: *address, state: Mutex::default(), changed: Condvar::new() };
        let peers = settings.peers.iter().map(|(n, a)| (*n, peer(a))).collect();
        Self { node, settings, domain, limits, peers, events: Mutex::new(events), wake }
    }

    /// A link to a peer that is not known to be broken, made if there is none.
    pub fn link(&self, to: NodeId, deadline: Instant) -> Result<Up, Failure> {
        let peer = self.peers.get(&to).ok_or_else(|| Failure::Local(format!("{to} is not in the cluster file")))?;
        let mut state = peer.lock();
        loop {
            if let Some(up) = &state.up {
                match up.link.broken() {
                    None => return Ok(up.clone()),
                    Some(why) => self.drop_link(to, &mut state, &why),
                }
            }
            if state.connecting {
                let now = Instant::now();
                if now >= deadline {
                    return Err(Failure::TooSlow);
                }
                state = peer.changed.wait_timeout(state, deadline - now).map_or_else(|e| e.into_inner().0, |(s, _)| s);
                continue;
            }
            // A peer that could not be had a moment ago is not waited for by everybody in turn.
            if let Some((when, failure)) = &state.failed
                && when.elapsed() < self.settings.reconnect
            {
                return Err(failure.clone());
            }
            state.connecting = true;
            drop(state);
            let patience = Instant::now() + self.settings.peer_timeout;
            let made = self.connect(to, peer.address, deadline.min(patience));
            state = peer.lock();
            state.connecting = false;
            peer.changed.notify_all();
            match made {
                Ok(up) => {
                    state.failed = None;
                    if std::mem::take(&mut state.lost) {
                        self.tell(PeerEvent::Back(to));
                    }
                    state.up = Some(up);
                    state.wanted = true;
                    // An eventfd takes a number at any time, but the largest one.
                    let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
                }
                // The caller was in a hurry: that says nothing about the peer.
                Err(Failure::Lost(_)) if deadline < patience && Instant::now() >= deadline => {
                    return Err(Failure::TooSlow);
                }
                Err(why) => {
                    state.failed = Some((Instant::now(), why.clone()));
                    self.drop_link(to, &mut state, &why);
                    return Err(why);
                }
            }
        }
    }

    /// Numbers of the link to a peer, if there is one.
    pub fn counts(&self, of: NodeId) -> Option<Counts> {
        self.peers.get(&of)?.lock().up.as_ref().map(|up| up.link.counts())
    }

    /// A link turned out to be broken: forgets it, and says so if it means that the peer is lost.
    pub fn broke(&self, of: NodeId, link: &Arc<Link>, why: &Failure) {
        let Some(peer) = self.peers.get(&of) else { return };
        let mut state = peer.lock();
        if state.up.as_ref().is_some_and(|up| Arc::ptr_eq(&up.link, link)) {
            self.drop_link(of, &mut state, why);
        }
    }

    fn drop_link(&self, of: NodeId, state: &mut PeerState, why: &Failure) {
        state.up = None;
        if let Failure::Lost(reason) = why
            && !std::mem::replace(&mut state.lost, true)
        {
            self.tell(PeerEvent::Lost(of, reason.clone()));
        }
    }

    fn tell(&self, event: PeerEvent) {
        // Nobody may be listening (any more).
        let _ = self.events.lock().unwrap_or_else(PoisonError::into_inner).send(event);
    }

    fn connect(&self, to: NodeId, address: SocketAddr, deadline: Instant) -> Result<Up, Failure> {
        let local = |e: CallError| Failure::Local(e.to_string());
        let channel = EventChannel::new().map_err(local)?;
        let mut id = CmId::new(&channel).map_err(local)?;
        let left = || deadline.saturating_duration_since(Instant::now());
        let from = SocketAddr::new(self.settings.listen.ip(), 0);
        let unreachable = |e: CallError| Failure::Lost(e.to_string());
        id.resolve_address(from, address, left()).map_err(unreachable)?;
        expect(&channel, EventKind::AddressResolved, deadline, address)?;
        if id.context() != self.domain.context() {
            return Err(Failure::Local(format!(
                "{address} is reached by another device than the one of {}",
                from.ip()
            )));
        }
        id.set_ack_timeout(self.settings.ack_exponent(RETRIES)).map_err(local)?;
        id.resolve_route(left()).map_err(unreachable)?;
        expect(&channel, EventKind::RouteResolved, deadline, address)?;
        let depth = self.settings.depth.clamp(1, self.limits.queue_depth);
        // Failed work reports whether it was to report or not: room for all of it.
        let completed = Arc::new(CompletionQueue::new(&self.domain, depth + 1).map_err(local)?);
        let scatter = self.settings.scatter.clamp(1, self.limits.scatter);
        id.create_queue(&self.domain, &completed, Sizes { depth, scatter }).map_err(local)?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|e| Failure::Local(e.to_string()))?;
        let greeting = Greeting { reader: self.node, owner: to, nonce };
        let words = greeting.sealed(&self.settings.secret);
        let wanted = Parameters { data: &words, reads_in: 0, reads_out: self.limits.reads_out, retries: RETRIES };
        id.connect(&wanted).map_err(unreachable)?;
        let answer = expect(&channel, EventKind::Established, deadline, address)?;
        let welcome = Welcome::open(&answer.data, &greeting, &self.settings.secret)
            .ok_or_else(|| Failure::Local(format!("{address} does not know the cluster's secret")))?;
        let link = Arc::new(Link::new(id, completed, depth, self.settings.completions));
        Ok(Up { link, incarnation: welcome.incarnation, channel })
    }

    /// Watches all links until `stop`: notices who hangs up, asks those that are silent, connects again to those that were lost.
    pub fn watch(self: &Arc<Self>, stop: &OwnedFd) {
        loop {
            let ups: Vec<(NodeId, Up)> =
                self.peers.iter().filter_map(|(n, p)| p.lock().up.clone().map(|up| (*n, up))).collect();
            let mut fds = vec![stop.as_fd(), self.wake.as_fd()];
            fds.extend(ups.iter().map(|(_, up)| up.channel.as_fd()));
            let ready = wait_readable(&fds, Instant::now() + self.settings.heartbeat / 4);
            if ready[0] {
                return;
            }
            if ready[1] {
                let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
            }
            for (node, up) in &ups {
                while let Ok(Some(event)) = up.channel.next() {
                    if event.kind != EventKind::Established {
                        up.link.hang_up(Failure::Lost("it closed the connection".into()));
                    }
                }
                if let Some(why) = up.link.tend(self.settings.heartbeat, self.settings.peer_timeout) {
                    self.broke(*node, &up.link, &why);
                }
            }
            self.connect_again();
        }
    }

    /// Connects to peers whose links broke, each in a thread of its own that ends with the attempt. Whether a peer is lost shows here
    /// even if its link broke for another reason.
    fn connect_again(self: &Arc<Self>) {
        for (node, peer) in &self.peers {
            let state = peer.lock();
            let due = state.failed.as_ref().is_none_or(|(when, _)| when.elapsed() >= self.settings.reconnect);
            if state.wanted && state.up.is_none() && !state.connecting && due {
                drop(state);
                let (peers, node) = (self.clone(), *node);
                let attempt = move || drop(peers.link(node, Instant::now() + peers.settings.peer_timeout));
                // Where no thread is to be had, the next round tries again.
                let _ = std::thread::Builder::new().name("medes-verbs-connect".into()).spawn(attempt);
            }
        }
    }
}

impl Peer {
    fn lock(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next event, which has to be of this kind.
fn expect(channel: &Arc<EventChannel>, kind: EventKind, deadline: Instant, peer: SocketAddr) -> Result<Event, Failure> {
    let event = channel.wait(deadline).map_err(|e| Failure::Local(e.to_string()))?;
    let Some(event) = event else {
        return Err(Failure::Lost(format!("{peer} does not answer")));
    };
    match event.kind {
        k if k == kind => Ok(event),
        EventKind::Rejected if event.status == REJECTED_BY_PROGRAM => {
            Err(Failure::Local(match event.data.first().map(|n| Refusal::from_number(*n)) {
                Some(Refusal::Stranger) => {
                    format!("{peer} refuses this node: it is not in the cluster file there, or has another address")
                }
                Some(Refusal::WrongSecret) => format!("{peer} refuses this node: its secret differs"),
                Some(Refusal::NotUnderstood) => format!("{peer} refuses this node: it is of another version"),
                _ => format!("{peer} could not make a connection"),
            }))
        }
        EventKind::Rejected => Err(Failure::Lost(format!("nobody listens at {peer}"))),
        other => Err(Failure::Lost(format!("no connection to {peer} ({other:?}, status {})", event.status))),
    }
}
