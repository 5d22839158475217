//! The serving side: registers base pages and lets agents of the cluster connect. After that the device answers; no thread of this
//! process sees a read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use medes_engine::id::NodeId;
use rustix::event::{EventfdFlags, eventfd};

use super::greeting::{Greeting, Refusal, Welcome};
use super::sys::{
    Access, CmId, CompletionQueue, Domain, Event, EventChannel, EventKind, Limits, Parameters, Registration, Sizes,
    wait_readable,
};
use super::{Settings, SetupError};
use crate::memory::SharedMemory;

/// Connections kept for one reader: a new one takes the place of the oldest, whose reader has probably died without a word.
const PER_READER: usize = 4;
/// Regions start at multiples of this, as their readers name them, with as much of nothing behind each.
const SLOT: u64 = 1 << 30;

/// A registered region, as its readers know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    pub address: u64,
    pub key: u32,
}

pub(super) struct Owner {
    shared: Arc<Shared>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
    address: SocketAddr,
}

struct Shared {
    node: NodeId,
    settings: Settings,
    domain: Arc<Domain>,
    limits: Limits,
    incarnation: u64,
    regions: Mutex<Regions>,
}

struct Regions {
    next_address: u64,
    registered: BTreeMap<u64, Registration>,
}

impl Owner {
    /// Listens on an id that is bound, for readers among the peers of `settings`.
    pub fn listen(
        node: NodeId,
        settings: Settings,
        channel: Arc<EventChannel>,
        listener: CmId,
        domain: Arc<Domain>,
    ) -> Result<Self, SetupError> {
        let limits = domain.limits()?;
        let completed = Arc::new(CompletionQueue::new(&domain, 16)?);
        listener.listen(64)?;
        let mut address = settings.listen;
        address.set_port(listener.port());
        let random = |bytes: &mut [u8]| getrandom::fill(bytes).map_err(|e| SetupError::Entropy(e.to_string()));
        let (mut incarnation, mut start) = ([0; 8], [0; 4]);
        random(&mut incarnation)?;
        random(&mut start)?;
        // A fresh place for every region, and another one in every process: a reader with an old descriptor names bytes that no
        // region of today has, even if the device gives the same key again.
        let next_address = (1 << 46) + u64::from(u32::from_le_bytes(start) >> 18) * SLOT;
        let shared = Arc::new(Shared {
            node,
            settings,
            domain,
            limits,
            incarnation: u64::from_le_bytes(incarnation),
            regions: Mutex::new(Regions { next_address, registered: BTreeMap::new() }),
        });
        let stop =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| SetupError::Thread(e.into()))?;
        let stopped = stop.try_clone().map_err(SetupError::Thread)?;
        let server = Server { shared: shared.clone(), channel, completed, readers: Vec::new(), _listener: listener };
        let thread = std::thread::Builder::new()
            .name("medes-verbs-owner".into())
            .spawn(move || server.run(&stopped))
            .map_err(SetupError::Thread)?;
        Ok(Self { shared, stop, thread: Some(thread), address })
    }

    /// Where it listens, with the port that it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn incarnation(&self) -> u64 {
        self.shared.incarnation
    }

    /// Registers pages for reading by peers.
    pub fn publish(&self, pages: Arc<SharedMemory>) -> Result<Published, SetupError> {
        let slots = (pages.len() as u64).div_ceil(SLOT) * 2;
        let address = {
            let mut regions = self.shared.regions.lock().unwrap_or_else(PoisonError::into_inner);
            regions.next_address += slots * SLOT;
            regions.next_address - slots * SLOT
        };
        let registration = Registration::new(&self.shared.domain, pages, address, Access::RemoteRead)?;
        let published = Published { address, key: registration.remote_key() };
        self.shared.regions.lock().unwrap_or_else(PoisonError::into_inner).registered.insert(address, registration);
        Ok(published)
    }

    /// Takes a region back; false if there is none. Reads that are under way fail; memory is given back when this returns, unless somebody
    /// else holds it.
    pub fn withdraw(&self, address: u64) -> bool {
        let gone = self.shared.regions.lock().unwrap_or_else(PoisonError::into_inner).registered.remove(&address);
        gone.is_some()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // An eventfd takes a number at any time, but the largest one.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread that answers requests to connect.
struct Server {
    shared: Arc<Shared>,
    channel: Arc<EventChannel>,
    completed: Arc<CompletionQueue>,
    readers: Vec<(NodeId, CmId)>,
    _listener: CmId,
}

impl Server {
    fn run(mut self, stop: &OwnedFd) {
        loop {
            let ready = wait_readable(&[stop.as_fd(), self.channel.as_fd()], Instant::now() + Duration::from_secs(60));
            if ready[0] {
                return;
            }
            while let Ok(Some(event)) = self.channel.next() {
                self.handle(event);
            }
        }
    }

    fn handle(&mut self, mut event: Event) {
        match event.kind {
            EventKind::Request => {
                let Some(mut id) = event.request.take() else { return };
                match self.admit(&mut id, &event) {
                    Ok(reader) => self.keep(reader, id),
                    Err(why) => {
                        let _ = id.reject(why as u8);
                    }
                }
            }
            EventKind::Established => {}
            // Disconnected, or it never came about. The peer of a connection that is dropped hears of it.
            _ => self.readers.retain(|(_, id)| id.name() != event.about),
        }
    }

    /// Accepts a reader that may read.
    fn admit(&self, id: &mut CmId, event: &Event) -> Result<NodeId, Refusal> {
        let Shared { settings, domain, limits, node, incarnation, .. } = &*self.shared;
        let from = id.peer().ok_or(Refusal::Stranger)?;
        if !settings.peers.values().any(|a| a.ip() == from.ip()) {
            return Err(Refusal::Stranger);
        }
        let greeting = Greeting::open(&event.data, &settings.secret)?;
        if greeting.owner != *node || settings.peers.get(&greeting.reader).is_none_or(|a| a.ip() != from.ip()) {
            return Err(Refusal::Stranger);
        }
        let trouble = |_| Refusal::Trouble;
        if id.context() != domain.context() {
            return Err(Refusal::Trouble);
        }
        id.create_queue(domain, &self.completed, Sizes { depth: 1, scatter: 1 }).map_err(trouble)?;
        let welcome = Welcome { incarnation: *incarnation }.sealed(&greeting, &settings.secret);
        // This side never reads on the connection, and its queue stays empty.
        let agreed =
            Parameters { data: &welcome, reads_in: event.reads_in.min(limits.reads_in), reads_out: 0, retries: 0 };
        id.accept(&agreed).map_err(trouble)?;
        Ok(greeting.reader)
    }

    fn keep(&mut self, reader: NodeId, id: CmId) {
        let of_reader = self.readers.iter().filter(|(r, _)| *r == reader).count();
        if of_reader >= PER_READER
            && let Some(oldest) = self.readers.iter().position(|(r, _)| *r == reader)
        {
            self.readers.remove(oldest);
        }
        self.readers.push((reader, id));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for (_, id) in &self.readers {
            id.disconnect();
        }
    }
}
