//! The serving side: a thread that lets agents of the cluster connect, and one for each connection.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use medes_engine::id::NodeId;

use super::Settings;
use super::stream::Stream;
use super::wire::{self, FRAME, GREETING, Greeting, Nonce, REQUEST, RUN, Refusal, Status};
use crate::memory::SharedMemory;
use crate::transport::regions::Regions;
use crate::transport::{PageRun, PublishError, Region};

/// Connections served at once; each has a thread, which nearly always sleeps.
const MOST_CONNECTIONS: usize = 512;
/// Stack of such a thread, bytes.
const STACK: usize = 256 << 10;

pub(super) struct Owner {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    node: NodeId,
    settings: Settings,
    regions: Regions,
    stopping: AtomicBool,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    /// To shut down from outside: when a region is withdrawn that a reader does not take, and at the end.
    open: BTreeMap<u64, Open>,
}

struct Open {
    socket: TcpStream,
    /// The region being sent.
    sending: Option<u64>,
}

impl Owner {
    pub fn listen(node: NodeId, listener: TcpListener, settings: Settings) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            node,
            settings,
            regions: Regions::new(node)?,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = shared.clone();
        let thread =
            std::thread::Builder::new().name("medes-pages".into()).spawn(move || accept(&accepting, &listener))?;
        Ok(Self { shared, address, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn publish(&self, pages: Arc<SharedMemory>) -> Result<Region, PublishError> {
        self.shared.regions.publish(pages)
    }

    pub fn withdraw(&self, region: &Region) -> bool {
        // Who does not take what it asked for in this time loses the connection.
        let patience = self.shared.settings.peer_timeout;
        self.shared.regions.withdraw(region, patience, || {
            for open in self.shared.lock().open.values().filter(|o| o.sending == Some(region.address)) {
                let _ = open.socket.shutdown(Shutdown::Both);
            }
        })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for open in self.shared.lock().open.values() {
            let _ = open.socket.shutdown(Shutdown::Both);
        }
        // Wakes the thread that accepts.
        let mut to = self.address;
        if to.ip().is_unspecified() {
            to.set_ip(if to.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
        }
        let woken = TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which region a connection is sending.
    fn sending(&self, connection: u64, region: Option<u64>) {
        if let Some(open) = self.lock().open.get_mut(&connection) {
            open.sending = region;
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok((socket, from)) = accepted else {
            // Out of descriptors, most likely: connections that end give some back.
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let Ok(outside) = socket.try_clone() else { continue };
        let number = {
            let mut connections = shared.lock();
            if connections.open.len() >= MOST_CONNECTIONS {
                continue;
            }
            let number = connections.next;
            connections.next += 1;
            connections.open.insert(number, Open { socket: outside, sending: None });
            number
        };
        let serving = shared.clone();
        let started = std::thread::Builder::new().name("medes-pages-to".into()).stack_size(STACK).spawn(move || {
            // A connection's end is the reader's to explain: it sees it too.
            let _ = serve(&serving, number, socket, from);
            serving.lock().open.remove(&number);
        });
        if started.is_err() {
            shared.lock().open.remove(&number);
        }
    }
}

/// Serves a connection until its end.
fn serve(shared: &Shared, number: u64, socket: TcpStream, from: SocketAddr) -> io::Result<()> {
    let limit = shared.settings.peer_timeout;
    let mut stream = Stream::of(socket)?;
    let mut nonce: Nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let until = Instant::now() + limit;
    stream.write(&mut [IoSlice::new(&wire::challenge(&nonce))], until)?;
    let mut greeting = [0; GREETING];
    stream.read(&mut greeting, until)?;
    let answer = match admit(shared, &greeting, &nonce, from) {
        Ok(greeting) => greeting.welcome(&shared.settings.secret, &nonce, shared.regions.incarnation()),
        Err(why) => {
            return stream.write(&mut [IoSlice::new(&wire::refusal(why))], until);
        }
    };
    stream.write(&mut [IoSlice::new(&answer)], until)?;
    loop {
        let mut head = [0; REQUEST];
        stream.read_when_it_comes(&mut head, limit)?;
        let not_ours = || io::Error::from(io::ErrorKind::InvalidData);
        let (address, key, count) = wire::open_request(&head).ok_or_else(not_ours)?;
        let mut runs = vec![0; count * RUN];
        stream.read(&mut runs, Instant::now() + limit)?;
        let runs = wire::open_runs(&runs).ok_or_else(not_ours)?;
        shared.sending(number, Some(address));
        let sent = send(shared, &mut stream, address, key, &runs);
        shared.sending(number, None);
        sent?;
    }
}

fn admit(shared: &Shared, greeting: &[u8; GREETING], nonce: &Nonce, from: SocketAddr) -> Result<Greeting, Refusal> {
    let Settings { peers, secret, .. } = &shared.settings;
    let greeting = Greeting::open(greeting, secret, nonce)?;
    let known = greeting.owner == shared.node && is_of_cluster(peers, greeting.reader, from.ip());
    if known { Ok(greeting) } else { Err(Refusal::Stranger) }
}

/// Whether a node that knows the secret may read from where it comes.
fn is_of_cluster(peers: &BTreeMap<NodeId, SocketAddr>, reader: NodeId, from: IpAddr) -> bool {
    // Over the loopback interface come processes of this host, whatever the cluster file calls it.
    let from = from.to_canonical();
    from.is_loopback() || peers.get(&reader).is_some_and(|a| a.ip() == from)
}

/// Answers a request, frame by frame; the region is held only while a frame is sent.
fn send(shared: &Shared, stream: &mut Stream, address: u64, key: u64, runs: &[PageRun]) -> io::Result<()> {
    let limit = shared.settings.peer_timeout;
    let mut rest: &[PageRun] = runs;
    // Pages of the first run that were sent.
    let mut done = 0;
    while !rest.is_empty() {
        let reading = shared.regions.reading(address, key);
        let mut slices = Vec::with_capacity(1 + rest.len().min(FRAME as usize));
        let mut pages = 0;
        let frame = reading.as_ref().and_then(|reading| {
            while let Some(run) = rest.first().filter(|_| pages < FRAME) {
                let take = (run.pages - done).min(FRAME - pages);
                let first = run.first as usize + done as usize;
                slices.push(IoSlice::new(reading.pages().get(first..first + take as usize)?.as_flattened()));
                pages += take;
                done += take;
                if done == run.pages {
                    (rest, done) = (&rest[1..], 0);
                }
            }
            Some(wire::answer(Status::Pages, pages))
        });
        let Some(head) = frame else {
            return stream.write(&mut [IoSlice::new(&wire::answer(Status::Refused, 0))], Instant::now() + limit);
        };
        slices.insert(0, IoSlice::new(&head));
        stream.write(&mut slices, Instant::now() + limit)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_of_the_cluster_file_from_their_addresses_and_this_host_may_read() {
        let peers = BTreeMap::from([(NodeId(1), "10.0.0.1:4000".parse().expect("an address"))]);
        let may = |node, from: &str| is_of_cluster(&peers, NodeId(node), from.parse().expect("an address"));
        assert!(may(1, "10.0.0.1") && may(1, "::ffff:10.0.0.1") && may(2, "127.0.0.1") && may(2, "::1"));
        assert!(!may(1, "10.0.0.2") && !may(2, "10.0.0.1"));
    }
}
