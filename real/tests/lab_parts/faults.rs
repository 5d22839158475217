//! What goes wrong on a network, and what readers then see.

use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::Trial;
use medes_engine::id::NodeId;
use medes_real::transport::verbs::{Completions, Settings, Verbs};
use medes_real::transport::{PageRun, PeerEvent, Region, Secret, Transport, TransportError};

use super::owner::Orders;
use super::reader::{Remote, meet};
use super::settings;
use crate::common::Content;
use crate::common::conformance::read;

/// Longer than anything here should take on a slow machine: what is tested is that an error comes before it.
const LIMIT: Duration = Duration::from_secs(30);

type Events = Arc<Mutex<Receiver<PeerEvent>>>;
type Fault = fn(&Remote, &Orders, &Events);

const FAULTS: &[(&str, Fault)] = &[
    ("adjacent_runs_are_one_read_and_few_reads_report", adjacent_runs_are_one_read_and_few_reads_report),
    ("a_full_queue_is_waited_for", a_full_queue_is_waited_for),
    ("completions_can_be_polled", completions_can_be_polled),
    ("strangers_and_wrong_secrets_are_refused", strangers_and_wrong_secrets_are_refused),
    ("a_fork_changes_nothing", a_fork_changes_nothing),
    ("a_lossy_network_is_only_slow", a_lossy_network_is_only_slow),
    (
        "an_owner_killed_in_a_read_is_lost_and_comes_back_as_another",
        an_owner_killed_in_a_read_is_lost_and_comes_back_as_another,
    ),
    ("a_link_lost_in_a_read_is_an_error_and_is_made_again", a_link_lost_in_a_read_is_an_error_and_is_made_again),
    ("a_machine_that_dies_is_missed_though_nobody_reads", a_machine_that_dies_is_missed_though_nobody_reads),
];

/// The fault tests, as trials.
pub fn trials(bed: &'static Remote, other: &Arc<Orders>, events: Receiver<PeerEvent>) -> Vec<Trial> {
    let events: Events = Arc::new(Mutex::new(events));
    let trial = |(name, fault): &(&str, Fault)| {
        let (fault, other, events) = (*fault, other.clone(), events.clone());
        Trial::test(format!("verbs::{name}"), move || {
            fault(bed, &other, &events);
            Ok(())
        })
    };
    FAULTS.iter().map(trial).collect()
}

const ALL: fn(u32) -> [PageRun; 1] = |pages| [PageRun { first: 0, pages }];

fn check(verbs: &Verbs, region: &Region, content: Content) -> Result<(), TransportError> {
    let bytes = read(verbs, region, &ALL(content.pages), LIMIT)?;
    assert_eq!(content.wrong_page(0..content.pages, &bytes), None);
    Ok(())
}

fn next(events: &Events) -> PeerEvent {
    events.lock().expect("events").recv_timeout(LIMIT).expect("an event")
}

fn lost(event: PeerEvent, who: u32) {
    assert!(matches!(&event, PeerEvent::Lost(n, _) if *n == NodeId(who)), "{event:?}");
}

/// A second transport on this node.
fn another(change: impl FnOnce(&mut Settings)) -> Verbs {
    let mut settings = settings(0);
    settings.listen.set_port(0);
    change(&mut settings);
    Verbs::start(NodeId(0), settings).expect("verbs").0
}

fn adjacent_runs_are_one_read_and_few_reads_report(bed: &Remote, _: &Orders, _: &Events) {
    let content = Content { seed: 100, pages: 200 };
    let region = bed.owner.publish(content);
    // Numbers are those of a link: of one that was made anew between they say nothing.
    let counted = |runs: &[PageRun]| {
        for _ in 0..5 {
            check(&bed.verbs, &region, content).expect("read");
            let before = bed.verbs.counts(NodeId(1)).expect("connected");
            read(&bed.verbs, &region, runs, LIMIT).expect("read");
            let after = bed.verbs.counts(NodeId(1)).expect("connected");
            if after.reads > before.reads {
                return (after.reads - before.reads, after.signalled - before.signalled);
            }
        }
        panic!("five links were lost");
    };
    // 60 neighbours in any order are one read of 30 parts and one more.
    let shuffled: Vec<PageRun> = (0..60).map(|i| PageRun { first: 17 * i % 60, pages: 1 }).collect();
    assert_eq!(counted(&shuffled), (2, 1));
    // 100 pages with gaps are 100 reads, in batches.
    let gaps: Vec<PageRun> = (0..100).map(|i| PageRun { first: 2 * i, pages: 1 }).collect();
    assert_eq!(counted(&gaps), (100, 4));
    bed.owner.withdraw(&region);
}

fn a_full_queue_is_waited_for(bed: &Remote, _: &Orders, _: &Events) {
    let content = Content { seed: 101, pages: 128 };
    let region = bed.owner.publish(content);
    let narrow = another(|s| s.depth = 4);
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (narrow, region) = (&narrow, &region);
            scope.spawn(move || {
                let gaps: Vec<PageRun> = (0..60).map(|i| PageRun { first: (2 * i + reader) % 128, pages: 1 }).collect();
                let bytes = read(narrow, region, &gaps, LIMIT).expect("read");
                assert_eq!(content.wrong_page(gaps.iter().map(|r| r.first), &bytes), None);
            });
        }
    });
    let counts = narrow.counts(NodeId(1)).expect("connected");
    assert_eq!((counts.reads, counts.most_outstanding), (240, 4));
    bed.owner.withdraw(&region);
}

fn completions_can_be_polled(bed: &Remote, _: &Orders, _: &Events) {
    let content = Content { seed: 102, pages: 300 };
    let region = bed.owner.publish(content);
    let polling = another(|s| s.completions = Completions::Polled);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| check(&polling, &region, content).expect("read"));
        }
    });
    bed.owner.withdraw(&region);
}

fn strangers_and_wrong_secrets_are_refused(bed: &Remote, _: &Orders, _: &Events) {
    let content = Content { seed: 103, pages: 4 };
    let region = bed.owner.publish(content);
    let reason = |verbs: &Verbs| match check(verbs, &region, content) {
        Err(TransportError::Failed { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let guessing = another(|s| s.secret = Secret::new("a guess"));
    assert!(reason(&guessing).contains("secret differs"));
    // A node that the cluster has, but not at this address.
    let mut settings = settings(0);
    settings.listen.set_port(0);
    let (posing, _events) = Verbs::start(NodeId(2), settings).expect("verbs");
    assert!(reason(&posing).contains("not in the cluster file"));
    check(&bed.verbs, &region, content).expect("those who belong to it still read");
    bed.owner.withdraw(&region);
}

fn a_fork_changes_nothing(bed: &Remote, _: &Orders, _: &Events) {
    let content = Content { seed: 104, pages: 256 };
    let region = bed.owner.publish(content);
    let mut buffer = bed.verbs.buffer(256 * 4096).expect("a buffer");
    let soon = || std::time::Instant::now() + LIMIT;
    bed.verbs.read(&region, &ALL(256), &mut buffer, soon()).expect("read");
    // Descriptors of the device must not reach programs that this process starts, sandboxes and CRIU among them.
    let listing = Command::new("ls").args(["-l", "/proc/self/fd"]).output().expect("ls");
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    assert!(!listing.contains("infiniband") && !listing.contains("memfd"), "{listing}");
    for round in 0..3 {
        // SAFETY: the child calls only what may be called after a fork of a process with threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // Neither the buffers nor the base pages are the child's: it lives on while the parent's are written.
            let seen = child_sees_registered_memory();
            // SAFETY: plain system calls.
            unsafe {
                libc::usleep(300_000);
                libc::_exit(seen)
            }
        }
        assert!(child > 0);
        for _ in 0..4 {
            bed.verbs.read(&region, &ALL(256), &mut buffer, soon()).expect("read beside a child");
            assert_eq!(content.wrong_page(0..256, &buffer), None, "round {round}");
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child saw registered memory, or died");
    }
    bed.owner.withdraw(&region);
}

/// 1 if a mapping of this process is registered memory of the parent's. No allocation: the process is the child of one with threads.
fn child_sees_registered_memory() -> i32 {
    let Ok(maps) = std::fs::File::open("/proc/self/maps") else { return 2 };
    let mut window = [0_u8; 4096];
    let mut kept = 0;
    loop {
        // SAFETY: reads at most as many bytes as there is room.
        let n = unsafe { libc::read(maps.as_raw_fd(), window[kept..].as_mut_ptr().cast(), window.len() - kept) };
        let Ok(n @ 1..) = usize::try_from(n) else { return 0 };
        if window[..kept + n].windows(12).any(|w| w == b"memfd:medes-") {
            return 1;
        }
        kept = (kept + n).min(11);
        let end = window.len().min(n + kept);
        window.copy_within(end - kept..end, 0);
    }
}

/// Packets of this node are lost: `loss` is what tc calls it.
fn netem(loss: &str) {
    let tc = |arguments: &[&str]| Command::new("tc").args(arguments).status().expect("tc").success();
    assert!(tc(&["qdisc", "replace", "dev", "eth0", "root", "netem", "loss", loss]));
}

fn a_lossy_network_is_only_slow(bed: &Remote, _: &Orders, events: &Events) {
    let content = Content { seed: 105, pages: 64 };
    let region = bed.owner.publish(content);
    netem("3%");
    for _ in 0..5 {
        check(&bed.verbs, &region, content).expect("read");
    }
    netem("0%");
    assert!(events.lock().expect("events").try_recv().is_err(), "nobody was lost");
    bed.owner.withdraw(&region);
}

/// Reads until `harm` is done and the reads fail, and gives the error.
fn reads_until_harmed(verbs: &Verbs, region: &Region, content: Content, harm: impl FnOnce()) -> TransportError {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            loop {
                match check(verbs, region, content) {
                    Ok(()) => drop(tell.send(())),
                    Err(e) => return e,
                }
            }
        });
        told.recv().expect("a first read");
        harm();
        reader.join().expect("the reader")
    })
}

fn an_owner_killed_in_a_read_is_lost_and_comes_back_as_another(bed: &Remote, _: &Orders, events: &Events) {
    let content = Content { seed: 106, pages: 512 };
    let region = bed.owner.publish(content);
    let error = reads_until_harmed(&bed.verbs, &region, content, || drop(bed.owner.give("kill")));
    assert!(matches!(error, TransportError::PeerLost { .. }), "{error}");
    lost(next(events), 1);
    bed.owner.give("start");
    assert_eq!(next(events), PeerEvent::Back(NodeId(1)));
    let error = check(&bed.verbs, &region, content).expect_err("bases of the process before");
    assert!(matches!(error, TransportError::Refused { .. }), "{error}");
    let region = bed.owner.publish(content);
    check(&bed.verbs, &region, content).expect("the new process's bases");
    bed.owner.withdraw(&region);
}

fn a_link_lost_in_a_read_is_an_error_and_is_made_again(bed: &Remote, _: &Orders, events: &Events) {
    let content = Content { seed: 107, pages: 512 };
    let region = bed.owner.publish(content);
    let error = reads_until_harmed(&bed.verbs, &region, content, || netem("100%"));
    assert!(matches!(error, TransportError::PeerLost { .. }), "{error}");
    lost(next(events), 1);
    let error = check(&bed.verbs, &region, content).expect_err("still no link");
    assert!(matches!(error, TransportError::PeerLost { .. }), "{error}");
    netem("0%");
    assert_eq!(next(events), PeerEvent::Back(NodeId(1)));
    check(&bed.verbs, &region, content).expect("the same process, the same bases");
    bed.owner.withdraw(&region);
}

fn a_machine_that_dies_is_missed_though_nobody_reads(bed: &Remote, other: &Orders, events: &Events) {
    meet(&bed.verbs, other, &events.lock().expect("events"));
    let content = Content { seed: 108, pages: 16 };
    let region = other.publish(content);
    check(&bed.verbs, &region, content).expect("read");
    other.give_the_last("die");
    lost(next(events), 2);
    let error = check(&bed.verbs, &region, content).expect_err("it is dead");
    assert!(matches!(error, TransportError::PeerLost { .. }), "{error}");
}
