//! `local` and `tcp` on this machine: the body that every transport has to pass.

mod common;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use medes_engine::id::NodeId;
use medes_engine::units::PAGE_BYTES;
use medes_real::memory::SharedMemory;
use medes_real::transport::local::Local;
use medes_real::transport::tcp::{Settings, Tcp};
use medes_real::transport::{Region, Secret, Transport};

use common::Content;
use common::conformance::{Bed, CASES};

/// One transport publishes, another (or the same) reads.
struct Pair<T> {
    owner: Arc<T>,
    reader: Arc<T>,
}

impl<T: Transport> Bed for Pair<T> {
    fn publish(&self, content: Content) -> Region {
        let fill = |bytes: &mut [u8]| {
            content.fill(bytes);
            Ok(())
        };
        let memory = SharedMemory::filled("medes-test", content.pages as usize * PAGE_BYTES, fill).expect("memory");
        self.owner.publish(Arc::new(memory)).expect("published")
    }

    fn withdraw(&self, region: &Region) {
        assert!(self.owner.withdraw(region));
        assert!(!self.owner.withdraw(region), "only once");
    }

    fn reader(&self) -> &dyn Transport {
        &*self.reader
    }
}

#[test]
fn local_passes_the_body() {
    let local = Arc::new(Local::new(NodeId(0)).expect("random numbers"));
    let bed = Pair { owner: local.clone(), reader: local };
    for (name, case) in CASES {
        println!("local::{name}");
        case(&bed);
    }
}

#[test]
fn tcp_passes_the_body() {
    let listeners = [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    let addresses = listeners.iter().map(|l| l.local_addr().expect("an address"));
    let peers: BTreeMap<_, _> = (0..).map(NodeId).zip(addresses).collect();
    let settings = Settings::new(peers, Secret::new("between us"));
    let [owner, reader] = listeners;
    let start = |node, listener| Arc::new(Tcp::start(NodeId(node), listener, settings.clone()).expect("threads").0);
    let bed = Pair { owner: start(0, owner), reader: start(1, reader) };
    for (name, case) in CASES {
        println!("tcp::{name}");
        case(&bed);
    }
}
