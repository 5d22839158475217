//! Two agents in one process: bases published, found, packed against, read over `tcp` and on the same node, lost.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::fingerprint::Fingerprinter;
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{Choose, Coding};
use medes_engine::dedup::turns::Turns;
use medes_engine::dedup::{Page, ZERO_PAGE};
use medes_engine::event::Method;
use medes_engine::id::{NodeId, SandboxId};
use medes_engine::units::PAGE_BYTES;
use medes_real::bases::client::GrpcIndex;
use medes_real::bases::index::{IndexSettings, PageIndex};
use medes_real::bases::service::IndexService;
use medes_real::bases::{ClusterBases, PackSettings};
use medes_real::ops::{Bases, OpError, Packed, Unpacked};
use medes_real::transport::local::Local;
use medes_real::transport::tcp::{Settings, Tcp};
use medes_real::transport::{Secret, Transport};
use medes_real::wire::controller_server::ControllerServer;
use proptest::prelude::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn id(slot: u32) -> SandboxId {
    SandboxId { generation: 1, slot }
}

fn pack_settings() -> PackSettings {
    PackSettings {
        fingerprinter: Fingerprinter::default(),
        relocate: true,
        coding: Coding::Auto { budget_ns: Some(4_000) },
        choose: Choose::Nearest,
        patch_threshold: PAGE_BYTES as u32,
        threads: 2,
    }
}

struct Cluster {
    index: Arc<PageIndex>,
    agents: Vec<ClusterBases>,
    transports: Vec<Arc<Tcp>>,
}

/// Agents with TCP between them; each with its own secret.
fn cluster(secrets: &[&str]) -> Cluster {
    let index = Arc::new(PageIndex::new(IndexSettings::default()));
    let listeners: Vec<_> =
        secrets.iter().map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
    let address = |l: &TcpListener| l.local_addr().expect("an address");
    let peers: BTreeMap<NodeId, SocketAddr> = (0..).map(NodeId).zip(listeners.iter().map(address)).collect();
    let start = |(n, (listener, secret)): (u32, (TcpListener, &&str))| {
        let settings =
            Settings { peer_timeout: Duration::from_millis(500), ..Settings::new(peers.clone(), Secret::new(secret)) };
        Arc::new(Tcp::start(NodeId(n), listener, settings).expect("threads").0)
    };
    let transports: Vec<_> = (0..).zip(listeners.into_iter().zip(secrets)).map(start).collect();
    let agent = |(n, t): (u32, &Arc<Tcp>)| ClusterBases::new(NodeId(n), t.clone(), index.clone(), pack_settings());
    let agents = (0..).zip(&transports).map(agent).collect();
    Cluster { index, agents, transports }
}

fn noise(seed: u64) -> Page {
    let mut x = seed.wrapping_mul(2) | 1;
    std::array::from_fn(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    })
}

fn pages(seed: u64, count: usize) -> Vec<Page> {
    (0..count as u64).map(|n| if n % 7 == 6 { ZERO_PAGE } else { noise(seed << 32 | n) }).collect()
}

/// Some pages changed a little, some moved.
fn edited(of: &[Page], seed: usize) -> Vec<Page> {
    let mut out = of.to_vec();
    for (n, page) in out.iter_mut().enumerate() {
        if n % 3 == seed % 3 {
            page[(n * 37 + seed) % PAGE_BYTES] ^= 0x55;
        }
    }
    let half = out.len() / 2;
    out.rotate_left(seed % half.max(1));
    out
}

fn register(agent: &ClusterBases, slot: u32, function: &str, pages: &[Page]) {
    let registered = agent.register(id(slot), function, &Image::from_pages("base", pages), soon());
    assert_eq!(registered.expect("registered").pages, pages.len() as u64);
}

fn pack(agent: &ClusterBases, pages: &[Page]) -> Packed {
    agent.pack(&Image::from_pages("image", pages), "f", Method::Patches, soon()).expect("packed")
}

fn unpack(agent: &ClusterBases, packed: &Packed) -> Result<(Vec<Page>, Unpacked), OpError> {
    let file = DedupFile::open("packed", &packed.file).expect("a dedup file");
    let out = Mutex::new(vec![ZERO_PAGE; file.pages() as usize]);
    let give = |first: u64, pages: &[Page]| {
        out.lock().expect("no panic")[first as usize..first as usize + pages.len()].copy_from_slice(pages);
        Ok(())
    };
    let unpacked = agent.unpack(&file, &Turns::in_order(&file), &give, soon())?;
    Ok((out.into_inner().expect("no panic"), unpacked))
}

#[test]
fn an_image_is_packed_against_bases_here_and_there_and_comes_back() {
    let Cluster { index, agents, .. } = cluster(&["ours", "ours"]);
    let (one, two) = (pages(1, 700), pages(2, 600));
    register(&agents[0], 1, "f", &one);
    register(&agents[1], 2, "g", &two);
    let image: Vec<Page> = edited(&one, 4).into_iter().chain(edited(&two, 5)).chain(pages(3, 20)).collect();
    for (agent, here) in agents.iter().zip([0, 1]) {
        let packed = pack(agent, &image);
        assert!(packed.file.len() < 40 * PAGE_BYTES, "{} bytes", packed.file.len());
        let mut bases = packed.bases.clone();
        bases.sort();
        assert_eq!(bases, [id(1), id(2)]);
        // Same function here, there, other functions here, there; zero pages refer to none.
        let [same_here, same_there, other_here, other_there] = packed.times.base_pages;
        let (same, other) = if here == 0 { (same_here, other_there) } else { (same_there, other_here) };
        assert!((600..700).contains(&same) && (515..600).contains(&other), "{same} {other}");
        assert_eq!(same_here + same_there + other_here + other_there, same + other);
        let (back, unpacked) = unpack(agent, &packed).expect("unpacked");
        assert!(back == image);
        assert!(unpacked.pages.iter().all(|n| *n > 500), "{unpacked:?}");
    }
    assert_eq!(index.size().0, 2);
}

#[test]
fn compression_asks_nobody() {
    let Cluster { agents, index, .. } = cluster(&["ours", "ours"]);
    let image = pages(1, 100);
    register(&agents[0], 1, "f", &image);
    let packed = agents[1].pack(&Image::from_pages("image", &image), "f", Method::Compression, soon()).expect("packed");
    assert_eq!((packed.bases.len(), packed.times.lookup), (0, Duration::ZERO));
    index.node_lost(NodeId(0));
    assert!(unpack(&agents[1], &packed).expect("unpacked").0 == image);
}

#[test]
fn a_withdrawn_base_is_lost_to_restores_and_packing_does_without() {
    let Cluster { agents, index, .. } = cluster(&["ours", "ours"]);
    let image = pages(1, 300);
    register(&agents[0], 1, "f", &image);
    let packed = pack(&agents[1], &image);
    let packed_there = pack(&agents[0], &image);
    agents[0].withdraw(id(1));
    for (agent, packed) in [(&agents[1], &packed), (&agents[0], &packed_there)] {
        match unpack(agent, packed).expect_err("lost") {
            OpError::BaseLost { base, .. } => assert_eq!(base, id(1)),
            other => panic!("{other}"),
        }
    }
    // The controller has not heard of it yet: what it names cannot be read.
    let alone = pack(&agents[1], &image);
    assert_eq!(alone.bases, []);
    assert!(unpack(&agents[1], &alone).expect("unpacked").0 == image);
    index.withdraw(id(1));
    assert_eq!(pack(&agents[1], &image).bases, []);
}

#[test]
fn a_dead_owner_is_lost_at_once() {
    let mut cluster = cluster(&["ours", "ours"]);
    let image = pages(1, 300);
    register(&cluster.agents[0], 1, "f", &image);
    let packed = pack(&cluster.agents[1], &image);
    let survivor = cluster.agents.pop().expect("an agent");
    cluster.agents.clear();
    drop(cluster.transports.remove(0));
    let error = unpack(&survivor, &packed).expect_err("lost");
    assert!(matches!(error, OpError::BaseLost { base, .. } if base == id(1)), "{error}");
}

#[test]
fn with_another_secret_nothing_is_read() {
    let Cluster { agents, .. } = cluster(&["ours", "ours", "theirs"]);
    let image = pages(1, 300);
    register(&agents[0], 1, "f", &image);
    let packed = pack(&agents[1], &image);
    let error = unpack(&agents[2], &packed).expect_err("refused").to_string();
    assert!(error.contains("secret"), "{error}");
    assert_eq!(pack(&agents[2], &image).bases, [], "packed alone");
}

#[test]
fn a_flipped_bit_or_a_late_call_never_gives_pages() {
    let Cluster { agents, .. } = cluster(&["ours", "ours"]);
    let base = pages(1, 300);
    register(&agents[0], 1, "f", &base);
    let image = edited(&base, 4);
    let packed = pack(&agents[1], &image);
    // Behind the header, where tables and patches are.
    for at in (64..packed.file.len()).step_by(packed.file.len() / 60) {
        let mut damaged = packed.clone();
        damaged.file[at] ^= 4;
        let Ok(file) = DedupFile::open("damaged", &damaged.file) else { continue };
        let wrong = |first: u64, pages: &[Page]| {
            assert!(*pages == image[first as usize..first as usize + pages.len()], "byte {at}");
            Ok(())
        };
        let _ = agents[1].unpack(&file, &Turns::in_order(&file), &wrong, soon());
    }
    let file = DedupFile::open("packed", &packed.file).expect("a dedup file");
    let late = agents[1].unpack(&file, &Turns::in_order(&file), &|_, _| Ok(()), Instant::now()).expect_err("late");
    assert!(matches!(late, OpError::Late { .. }), "{late}");
    let late = agents[1].pack(&Image::from_pages("image", &image), "f", Method::Patches, Instant::now());
    assert!(matches!(late, Err(OpError::Late { .. })));
    let full = |_: u64, _: &[Page]| Err(OpError::Damaged("no room".into()));
    assert_eq!(
        agents[1].unpack(&file, &Turns::in_order(&file), &full, soon()).expect_err("as told").to_string(),
        "no room"
    );
}

#[test]
fn over_local_a_node_packs_against_its_own_bases() {
    let local = Arc::new(Local::new(NodeId(0)).expect("random numbers"));
    let agent = ClusterBases::new(NodeId(0), local.clone(), Arc::new(PageIndex::default()), pack_settings());
    let base = pages(1, 300);
    register(&agent, 1, "f", &base);
    let image = edited(&base, 7);
    let packed = pack(&agent, &image);
    assert_eq!(packed.bases, [id(1)]);
    let (back, unpacked) = unpack(&agent, &packed).expect("unpacked");
    assert!(back == image && unpacked.pages[0] > 200 && unpacked.pages[1] == 0);
}

#[test]
fn the_controller_is_asked_by_grpc() {
    let threads =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let (runtime, controller) = (threads(), threads());
    let index = Arc::new(PageIndex::new(IndexSettings::default()));
    let listener = controller.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let service = ControllerServer::new(IndexService(index.clone()));
    controller.spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
    });
    let local: Arc<dyn Transport> = Arc::new(Local::new(NodeId(0)).expect("random numbers"));
    let client = GrpcIndex::new(&address, Default::default(), runtime.handle().clone()).expect("an address");
    let agent = ClusterBases::new(NodeId(0), local, client, pack_settings());
    // Several batches of 1024 pages.
    let base = pages(1, 2500);
    register(&agent, 1, "f", &base);
    let image = edited(&base, 4);
    let packed = pack(&agent, &image);
    assert_eq!(packed.bases, [id(1)]);
    assert!(unpack(&agent, &packed).expect("unpacked").0 == image);
    controller.shutdown_background();
    let gone =
        agent.pack(&Image::from_pages("image", &image), "f", Method::Patches, Instant::now() + Duration::from_secs(2));
    assert!(matches!(gone, Err(OpError::Controller(_) | OpError::Late { .. })), "{gone:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever images there are on either node, what was packed comes back.
    #[test]
    fn any_image_comes_back(
        bases in prop::collection::vec((0_u64..3, 1_usize..300), 0..4),
        parts in prop::collection::vec((0_u64..4, 1_usize..200, 0_usize..9), 1..4),
    ) {
        let Cluster { agents, .. } = cluster(&["ours", "ours"]);
        for (slot, (seed, count)) in (0..).zip(&bases) {
            register(&agents[slot as usize % 2], slot, "f", &pages(*seed, *count));
        }
        let image: Vec<Page> = parts.iter().flat_map(|(seed, n, e)| edited(&pages(*seed, *n), *e)).collect();
        for agent in &agents {
            let packed = pack(agent, &image);
            prop_assert!(unpack(agent, &packed).expect("unpacked").0 == image);
        }
    }
}
