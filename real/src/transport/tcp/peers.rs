//! The reading side: connections to each owner, kept for the next read. A read has a connection to itself.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use medes_engine::id::NodeId;
use medes_engine::units::PAGE_BYTES;

use super::Settings;
use super::stream::Stream;
use super::wire::{self, ANSWER, CHALLENGE, Greeting, Status, WELCOME};
use crate::transport::{PageRun, PeerEvent, Region, TransportError};

/// Connections to one owner that are kept while nobody reads.
const KEPT: usize = 8;

pub(super) struct Peers {
    node: NodeId,
    settings: Settings,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    events: Mutex<Sender<PeerEvent>>,
}

#[derive(Default)]
struct Peer {
    idle: Vec<Connection>,
    /// Until when it is taken as lost without asking, and why.
    down: Option<(Instant, String)>,
    /// Where it answers, if somebody told.
    address: Option<SocketAddr>,
    /// It was reported lost, and not yet back.
    lost: bool,
}

struct Connection {
    stream: Stream,
    incarnation: u64,
}

/// Why a read failed.
enum Failure {
    /// The connection is of no use any more.
    Broken(io::Error),
    Refused,
    /// The owner speaks another language.
    Nonsense,
}

impl Peers {
    pub fn new(node: NodeId, settings: Settings, events: Sender<PeerEvent>) -> Self {
        Self { node, settings, peers: Mutex::default(), events: Mutex::new(events) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: PeerEvent) {
        // Nobody may be listening (any more).
        let _ = self.events.lock().unwrap_or_else(PoisonError::into_inner).send(event);
    }

    pub fn read(
        &self,
        region: &Region,
        runs: &[PageRun],
        into: &mut [u8],
        deadline: Instant,
    ) -> Result<(), TransportError> {
        let peer = region.owner;
        if Instant::now() >= deadline {
            return Err(TransportError::Timeout { peer });
        }
        let requests = wire::requests(runs);
        let into = &mut into[..wire::bytes_of(runs)];
        // An owner that was started anew leaves connections to its earlier process, or that break when they are used: then with a
        // new one.
        while let Some(mut connection) = self.kept(peer) {
            if connection.incarnation != region.incarnation {
                continue;
            }
            match self.ask(&mut connection, region, &requests, into, deadline) {
                Err(Failure::Broken(e)) if e.kind() != io::ErrorKind::TimedOut => {}
                done => return self.conclude(connection, region, done, deadline),
            }
        }
        let mut connection = self.connect(peer, deadline)?;
        let done = self.ask(&mut connection, region, &requests, into, deadline);
        self.conclude(connection, region, done, deadline)
    }

    /// Takes down where an owner answers. Of one in the cluster file only the port is news; any other must be on this host.
    pub fn reach(&self, peer: NodeId, mut address: SocketAddr) {
        match self.settings.peers.get(&peer) {
            Some(known) => address.set_ip(known.ip()),
            None if address.ip().is_loopback() => {}
            None => return,
        }
        let mut peers = self.lock();
        let entry = peers.entry(peer).or_default();
        if entry.address != Some(address) {
            *entry = Peer { address: Some(address), lost: entry.lost, ..Peer::default() };
        }
    }

    fn kept(&self, peer: NodeId) -> Option<Connection> {
        self.lock().get_mut(&peer)?.idle.pop()
    }

    fn conclude(
        &self,
        connection: Connection,
        region: &Region,
        done: Result<(), Failure>,
        deadline: Instant,
    ) -> Result<(), TransportError> {
        let peer = region.owner;
        match done {
            Ok(()) | Err(Failure::Refused) => {
                let mut peers = self.lock();
                let idle = &mut peers.entry(peer).or_default().idle;
                if idle.len() < KEPT {
                    idle.push(connection);
                }
                done.map_err(|_| TransportError::Refused { region: *region })
            }
            Err(Failure::Nonsense) => {
                Err(TransportError::Failed { peer, reason: "its answer is none; is it of another version?".into() })
            }
            Err(Failure::Broken(e)) => {
                let slow = e.kind() == io::ErrorKind::TimedOut;
                Err(self.broken(peer, &e, deadline, !slow))
            }
        }
    }

    /// What a failure of the system means: too late for this read, or the end of the owner, which is told if it is sure.
    fn broken(&self, peer: NodeId, error: &io::Error, deadline: Instant, sure: bool) -> TransportError {
        if error.kind() == io::ErrorKind::TimedOut && Instant::now() >= deadline {
            return TransportError::Timeout { peer };
        }
        let reason = if error.kind() == io::ErrorKind::TimedOut {
            format!("no answer in {} ms", self.settings.peer_timeout.as_millis())
        } else {
            error.to_string()
        };
        let mut peers = self.lock();
        let entry = peers.entry(peer).or_default();
        entry.idle.clear();
        entry.down = Some((Instant::now() + self.settings.reconnect, reason.clone()));
        if sure && !std::mem::replace(&mut entry.lost, true) {
            self.tell(PeerEvent::Lost(peer, reason.clone()));
        }
        TransportError::PeerLost { peer, reason }
    }

    fn connect(&self, peer: NodeId, deadline: Instant) -> Result<Connection, TransportError> {
        let down = self.lock().get(&peer).and_then(|p| p.down.clone());
        if let Some((_, reason)) = down.filter(|(until, _)| Instant::now() < *until) {
            return Err(TransportError::PeerLost { peer, reason });
        }
        let failed = |reason: String| TransportError::Failed { peer, reason };
        let told = self.lock().get(&peer).and_then(|p| p.address);
        let address = told.or_else(|| self.settings.peers.get(&peer).copied());
        let address = address.ok_or_else(|| failed("not in the cluster file".into()))?;
        let until = deadline.min(Instant::now() + self.settings.peer_timeout);
        match self.greet(peer, address, until) {
            Ok(Ok(connection)) => {
                let mut peers = self.lock();
                let entry = peers.entry(peer).or_default();
                entry.down = None;
                if std::mem::take(&mut entry.lost) {
                    self.tell(PeerEvent::Back(peer));
                }
                Ok(connection)
            }
            Ok(Err(reason)) => Err(failed(reason)),
            Err(e) => Err(self.broken(peer, &e, deadline, true)),
        }
    }

    /// Connects and greets; within, why the owner (or this side) does not want to.
    fn greet(&self, peer: NodeId, address: SocketAddr, until: Instant) -> io::Result<Result<Connection, String>> {
        let secret = &self.settings.secret;
        let mut stream = Stream::connect(address, until)?;
        let mut challenge = [0; CHALLENGE];
        stream.read(&mut challenge, until)?;
        let Some(owners) = wire::open_challenge(&challenge) else {
            return Ok(Err(format!("at {address} is no agent of this version")));
        };
        let mut greeting = Greeting { reader: self.node, owner: peer, nonce: [0; 16] };
        getrandom::fill(&mut greeting.nonce).map_err(io::Error::other)?;
        stream.write(&mut [IoSlice::new(&greeting.sealed(secret, &owners))], until)?;
        let mut welcome = [0; WELCOME];
        stream.read(&mut welcome, until)?;
        Ok(match greeting.open_welcome(&welcome, secret, &owners) {
            Ok(incarnation) => Ok(Connection { stream, incarnation }),
            Err(refusal) => Err(format!("{address} refuses: {refusal}")),
        })
    }

    /// Sends all requests, each before the answer to the one before is read, and reads the pages to where they belong.
    fn ask(
        &self,
        connection: &mut Connection,
        region: &Region,
        requests: &[Vec<PageRun>],
        into: &mut [u8],
        deadline: Instant,
    ) -> Result<(), Failure> {
        if connection.incarnation != region.incarnation {
            return Err(Failure::Refused);
        }
        let stream = &mut connection.stream;
        let mut ahead = requests.iter();
        let mut rest = into;
        let until = || deadline.min(Instant::now() + self.settings.peer_timeout);
        for (i, request) in requests.iter().enumerate() {
            let sent = if i == 0 { 2 } else { 1 };
            for next in ahead.by_ref().take(sent) {
                let bytes = wire::request(region.address, region.key, next);
                stream.write(&mut [IoSlice::new(&bytes)], until()).map_err(Failure::Broken)?;
            }
            let (mut part, behind) = rest.split_at_mut(wire::bytes_of(request));
            while !part.is_empty() {
                let mut head = [0; ANSWER];
                stream.read(&mut head, until()).map_err(Failure::Broken)?;
                let (status, pages) = wire::open_answer(&head).ok_or(Failure::Nonsense)?;
                if status == Status::Refused {
                    return self.refused(stream, requests.len() - i - 1, deadline);
                }
                let bytes = (pages as usize).saturating_mul(PAGE_BYTES);
                if bytes == 0 || bytes > part.len() {
                    return Err(Failure::Nonsense);
                }
                let (now, later) = part.split_at_mut(bytes);
                stream.read(now, until()).map_err(Failure::Broken)?;
                part = later;
            }
            rest = behind;
        }
        Ok(())
    }

    /// After a refusal: the one request that may have been sent ahead is refused as well.
    fn refused(&self, stream: &mut Stream, after: usize, deadline: Instant) -> Result<(), Failure> {
        if after > 0 {
            let mut head = [0; ANSWER];
            let until = deadline.min(Instant::now() + self.settings.peer_timeout);
            stream.read(&mut head, until).map_err(Failure::Broken)?;
            if wire::open_answer(&head).is_none_or(|(status, _)| status != Status::Refused) {
                return Err(Failure::Nonsense);
            }
        }
        Err(Failure::Refused)
    }
}
