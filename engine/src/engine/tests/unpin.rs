//! Bases that others depend on, and requests that find no other memory.

use super::*;

/// One node of 300 MB with a base of 100 MB (and its dump) and a sandbox reduced against it; a second function needs 150 MB.
fn full(memcap: &str) -> (Hand, SandboxId, SandboxId) {
    let settings = [("policy", "heuristic"), ("gamma", "1000"), ("memcap", memcap), ("idletime", "5")];
    let mut h = Hand::new(&settings, &[100.0, 150.0]);
    let ids = h.two_idle();
    h.at(6.0);
    h.tell(Input::Checkpointed { sandbox: ids[0], dump: Bytes::from_mb(100.0) });
    h.at(7.0);
    h.actions();
    h.tell(Input::Reduced { sandbox: ids[1], stored: Bytes::from_mb(30.0), bases: vec![ids[0]] });
    assert_eq!(h.engine.used(NodeId(0)), Bytes::from_mb(231.0));
    (h, ids[0], ids[1])
}

#[test]
fn a_base_that_others_need_is_given_up_when_nothing_else_makes_room() {
    let (mut h, base, reduced) = full("300");
    assert_eq!(h.at(8.0).arrive(1), []);
    assert_eq!(h.engine.poll_deadline(), Instant::from_secs_f64(9.0));
    let actions = h.at(9.0).actions();
    // Reduced to what the request needs: the base goes on as a warm sandbox.
    assert_eq!(purged(&actions), [(reduced, PurgeReason::Evicted)]);
    assert!(matches!(actions[1..], [Action::GiveUp { sandbox, .. }, Action::Spawn { .. }] if sandbox == base));
    assert_eq!(h.engine.used(NodeId(0)), Bytes::from_mb(250.0));
    let c = h.engine.counters();
    assert_eq!((c.queued, c.dropped, c.evictions, c.bases_given_up), (1, 0, 1, 1));
}

#[test]
fn a_kept_image_of_a_running_sandbox_is_dropped_with_its_base() {
    let (mut h, base, reduced) = full("330");
    // The base serves one request, the reduced sandbox is restored for another and runs on.
    h.at(8.0).arrive(0);
    h.arrive(0);
    h.tell(Input::Restored { sandbox: reduced });
    h.at(9.0).tell(Input::Finished { sandbox: base, start: Duration::ZERO });
    assert_eq!(h.at(10.0).arrive(1), []);
    let actions = h.at(11.0).actions();
    assert!(matches!(actions[..], [Action::GiveUp { .. }, Action::Purge { .. }, Action::Spawn { .. }]), "{actions:?}");
    assert_eq!(h.engine.used(NodeId(0)), Bytes::from_mb(250.0));
    // It is checkpointed anew: what was kept of its pages cannot be used any more.
    h.at(12.0).tell(Input::Finished { sandbox: reduced, start: Duration::ZERO });
    assert_eq!(h.engine.references(base), None);
    assert_eq!(h.engine.counters().dropped, 0);
}

#[test]
fn a_base_whose_pages_are_being_read_is_kept() {
    let (mut h, base, reduced) = full("330");
    assert!(matches!(h.at(8.0).arrive(0)[..], [Action::Run { sandbox, .. }] if sandbox == base));
    assert!(matches!(h.arrive(0)[..], [Action::Restore { sandbox, .. }] if sandbox == reduced));
    h.tell(Input::Finished { sandbox: base, start: Duration::ZERO });
    assert_eq!(h.arrive(1), []);
    assert_eq!(h.at(11.5).actions(), []);
    assert_eq!(h.engine.references(base), Some(1));
}
