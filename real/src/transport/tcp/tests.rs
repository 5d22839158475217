use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use medes_engine::units::PAGE_BYTES;

use super::wire::{ANSWER, CHALLENGE, GREETING, Greeting, REQUEST, RUN, Status};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const ALL: [PageRun; 1] = [PageRun { first: 0, pages: 64 }];

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")
}

fn settings(owner: SocketAddr) -> Settings {
    let reader = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Settings {
        peer_timeout: Duration::from_millis(300),
        reconnect: Duration::ZERO,
        ..Settings::new([(NodeId(0), owner), (NodeId(1), reader)].into(), Secret::new("ours"))
    }
}

fn start(node: u32, listener: TcpListener, settings: Settings) -> Tcp {
    Tcp::start(NodeId(node), listener, settings).expect("threads").0
}

/// Owner and reader.
fn pair() -> (Tcp, Tcp) {
    let listener_of_owner = listener();
    let settings = settings(listener_of_owner.local_addr().expect("an address"));
    (start(0, listener_of_owner, settings.clone()), start(1, listener(), settings))
}

fn publish(owner: &Tcp, fill: u8) -> Region {
    let memory = SharedMemory::filled("medes-test", 64 * PAGE_BYTES, |bytes| {
        bytes.fill(fill);
        Ok(())
    });
    owner.publish(Arc::new(memory.expect("memory"))).expect("published")
}

/// What all bytes of the region are.
fn read(reader: &Tcp, region: &Region) -> Result<u8, TransportError> {
    let mut into = vec![0; 64 * PAGE_BYTES];
    reader.read(region, &ALL, &mut into, Instant::now() + PATIENCE)?;
    assert!(into.iter().all(|b| *b == into[0]));
    Ok(into[0])
}

#[test]
fn the_end_of_an_owner_is_seen_and_its_next_process_has_none_of_its_regions() {
    let (owner, reader) = pair();
    let old = publish(&owner, 1);
    assert_eq!(read(&reader, &old), Ok(1));
    let address = owner.address();
    drop(owner);
    let error = read(&reader, &old).expect_err("the owner is gone");
    assert!(matches!(error, TransportError::PeerLost { .. }), "{error}");
    let next = start(0, TcpListener::bind(address).expect("its port"), settings(address));
    let new = publish(&next, 2);
    let error = read(&reader, &old).expect_err("of another process");
    assert!(matches!(error, TransportError::Refused { .. }), "{error}");
    assert_eq!(read(&reader, &new), Ok(2));
}

#[test]
fn the_agent_is_told_who_is_lost_and_who_is_back_once_each() {
    let listener_of_owner = listener();
    let settings = settings(listener_of_owner.local_addr().expect("an address"));
    let owner = start(0, listener_of_owner, settings.clone());
    let (reader, events) = Tcp::start(NodeId(1), listener(), settings.clone()).expect("threads");
    let region = publish(&owner, 1);
    read(&reader, &region).expect("read");
    assert!(events.try_recv().is_err(), "nothing has happened");
    let address = owner.address();
    drop(owner);
    for _ in 0..2 {
        read(&reader, &region).expect_err("the owner is gone");
    }
    let lost = events.try_recv();
    assert!(matches!(lost, Ok(PeerEvent::Lost(NodeId(0), _))), "{lost:?}");
    assert!(events.try_recv().is_err(), "it is said once");
    let next = start(0, TcpListener::bind(address).expect("its port"), settings);
    assert_eq!(read(&reader, &publish(&next, 2)), Ok(2));
    assert_eq!(events.try_recv(), Ok(PeerEvent::Back(NodeId(0))));
}

#[test]
fn an_owner_started_anew_is_reached_over_the_broken_connections() {
    let (owner, reader) = pair();
    let old = publish(&owner, 1);
    read(&reader, &old).expect("read");
    let address = owner.address();
    drop(owner);
    let next = start(0, TcpListener::bind(address).expect("its port"), settings(address));
    assert_eq!(read(&reader, &publish(&next, 2)), Ok(2));
}

#[test]
fn who_has_another_secret_reads_nothing() {
    let (owner, reader) = pair();
    let region = publish(&owner, 1);
    let ours = settings(owner.address());
    let thief = start(1, listener(), Settings { secret: Secret::new("theirs"), ..ours });
    let error = read(&thief, &region).expect_err("refused").to_string();
    assert!(error.contains("secret"), "{error}");
    let unknown = Region { owner: NodeId(9), ..region };
    assert!(matches!(read(&reader, &unknown), Err(TransportError::Failed { .. })));
    read(&reader, &region).expect("the right one reads");
}

/// An owner of our making: greets as one should, then does as `then` says.
fn false_owner(then: impl FnOnce(&mut TcpStream) + Send + 'static) -> (Tcp, Region) {
    let false_listener = listener();
    let ours = settings(false_listener.local_addr().expect("an address"));
    let secret = ours.secret.clone();
    std::thread::spawn(move || {
        let (mut stream, _) = false_listener.accept().expect("a reader");
        let nonce = [5; 16];
        stream.write_all(&wire::challenge(&nonce)).expect("challenge");
        let mut greeting = [0; GREETING];
        stream.read_exact(&mut greeting).expect("a greeting");
        let greeting = Greeting::open(&greeting, &secret, &nonce).expect("a right one");
        stream.write_all(&greeting.welcome(&secret, &nonce, 3)).expect("welcome");
        stream.read_exact(&mut [0; REQUEST + RUN]).expect("a request");
        then(&mut stream);
    });
    let region = Region { owner: NodeId(0), incarnation: 3, address: 0, key: 0, pages: 64 };
    (start(1, listener(), ours), region)
}

#[test]
fn an_owner_that_says_nothing_is_lost_and_one_that_says_too_much_is_not_believed() {
    let (silent, region) = false_owner(|stream| {
        // Until the reader gives up.
        let _ = stream.read(&mut [0]);
    });
    let error = read(&silent, &region).expect_err("no answer");
    assert!(matches!(error, TransportError::PeerLost { .. }), "{error}");
    for head in [wire::answer(Status::Pages, 65), wire::answer(Status::Pages, u32::MAX), [9; ANSWER]] {
        let (reader, region) = false_owner(move |stream| stream.write_all(&head).expect("an answer"));
        let error = read(&reader, &region).expect_err("nonsense");
        assert!(matches!(error, TransportError::Failed { .. }), "{error}");
    }
    let (cut, region) = false_owner(|stream| {
        stream.write_all(&wire::answer(Status::Pages, 64)).expect("an answer");
        stream.write_all(&[1; 5 * PAGE_BYTES]).expect("some of the pages");
    });
    let error = read(&cut, &region).expect_err("cut off");
    assert!(matches!(error, TransportError::PeerLost { .. }), "{error}");
}

#[test]
fn a_reader_that_takes_nothing_does_not_hold_up_a_withdrawal() {
    let (owner, _reader) = pair();
    let memory = SharedMemory::zeroed("medes-test", 4096 * PAGE_BYTES).expect("memory");
    let region = owner.publish(Arc::new(memory)).expect("published");
    let mut lazy = TcpStream::connect(owner.address()).expect("connected");
    let mut challenge = [0; CHALLENGE];
    lazy.read_exact(&mut challenge).expect("a challenge");
    let nonce = wire::open_challenge(&challenge).expect("ours");
    let greeting = Greeting { reader: NodeId(1), owner: NodeId(0), nonce: [1; 16] };
    lazy.write_all(&greeting.sealed(&Secret::new("ours"), &nonce)).expect("greeted");
    let all = wire::request(region.address, region.key, &[PageRun { first: 0, pages: 4096 }]);
    lazy.write_all(&all).expect("asked");
    assert!(owner.withdraw(&region));
}

#[test]
fn bytes_that_are_no_greeting_get_nothing() {
    let (owner, reader) = pair();
    let region = publish(&owner, 1);
    let mut noise = TcpStream::connect(owner.address()).expect("connected");
    noise.write_all(&[0xff; GREETING]).expect("written");
    let mut answer = Vec::new();
    noise.read_to_end(&mut answer).expect("the end");
    assert_eq!(answer.get(CHALLENGE), Some(&(wire::Refusal::NotUnderstood as u8)));
    read(&reader, &region).expect("others read");
}
