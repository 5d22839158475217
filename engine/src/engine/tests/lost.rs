//! Nodes and bases that are lost.

use super::*;

#[test]
fn a_lost_base_node_turns_its_dependants_cold_and_answers_requests_elsewhere() {
    let mut h = Hand::new(&[("policy", "heuristic"), ("gamma", "1000"), ("memcap", "250"), ("nodes", "2")], &[100.0]);
    let ids: Vec<_> = (0..3)
        .map(|_| match h.arrive(0)[..] {
            [Action::Spawn { sandbox, .. }] => sandbox,
            ref a => panic!("{a:?}"),
        })
        .collect(); // round robin: nodes 0, 1, 0
    h.at(1.0).run_out(ids[0]);
    h.at(2.0).run_out(ids[1]);
    h.at(60.9).run_out(ids[2]);
    h.at(61.5);
    // No room for the dump on node 0 beside two sandboxes but by eviction of the idle third one.
    assert_eq!(purged(&h.actions()), [(ids[2], PurgeReason::Evicted)]);
    h.tell(Input::Checkpointed { sandbox: ids[0], dump: Bytes::from_mb(100.0) });
    h.at(62.5);
    h.tell(Input::Reduced { sandbox: ids[1], stored: Bytes::from_mb(30.0), bases: vec![ids[0]] });
    h.arrive(0); // runs on the base, node 0
    let actions = h.tell(Input::NodeLost { node: NodeId(0) });
    // The dependant on node 1 goes at once; the request starts cold on node 1.
    assert_eq!(purged(&actions), [(ids[1], PurgeReason::BaseLost)]);
    assert!(matches!(actions.last(), Some(Action::Spawn { node: NodeId(1), request: Some(RequestId(3)), .. })));
    assert_eq!(h.engine.used(NodeId(0)), Bytes::ZERO);
    assert_eq!(h.tell(Input::Finished { sandbox: ids[0], start: Duration::ZERO }), []); // late
    h.tell(Input::NodeBack { node: NodeId(0) });
    assert_eq!(h.engine.population().busy, 1);
}

/// A base on node 0, sandboxes patched against it on nodes 1 and 0: the sandboxes, in this order.
fn with_dependants() -> (Hand, Vec<SandboxId>) {
    let mut h = Hand::new(&[("policy", "heuristic"), ("gamma", "1000"), ("memcap", "2000"), ("nodes", "2")], &[100.0]);
    let ids: Vec<_> = (0..3)
        .map(|_| match h.arrive(0)[..] {
            [Action::Spawn { sandbox, .. }] => sandbox,
            ref a => panic!("{a:?}"),
        })
        .collect(); // round robin: nodes 0, 1, 0
    for (at, id) in (1..).zip(&ids) {
        h.at(f64::from(at)).run_out(*id);
    }
    h.at(61.5);
    h.tell(Input::Checkpointed { sandbox: ids[0], dump: Bytes::from_mb(100.0) });
    h.at(64.0);
    for id in &ids[1..] {
        h.tell(Input::Reduced { sandbox: *id, stored: Bytes::from_mb(30.0), bases: vec![ids[0]] });
    }
    assert_eq!(h.engine.references(ids[0]), Some(2));
    (h, ids)
}

const LOST: Input = Input::BasesLost { reader: NodeId(1), owner: NodeId(0) };

#[test]
fn bases_that_one_node_cannot_read_turn_its_dependants_cold_and_no_others() {
    let (mut h, ids) = with_dependants();
    assert_eq!(h.tell(Input::BasesLost { reader: NodeId(0), owner: NodeId(1) }), []);
    assert_eq!(purged(&h.tell(LOST)), [(ids[1], PurgeReason::BaseLost)]);
    // The base stays, and what is patched against it on its own node.
    assert_eq!(h.engine.references(ids[0]), Some(1));
    assert_eq!(h.engine.population().dedup, 1);
    assert_eq!(h.tell(LOST), [], "nothing is left to lose");
}

#[test]
fn a_request_whose_restore_needs_them_starts_anew_at_once() {
    let (mut h, ids) = with_dependants();
    let first = h.arrive(0); // on the base
    assert!(matches!(first[..], [Action::Run { sandbox, .. }] if sandbox == ids[0]), "{first:?}");
    let both: Vec<Action> = (0..2).flat_map(|_| h.arrive(0)).collect();
    assert!(matches!(both[..], [Action::Restore { .. }, Action::Restore { .. }]), "{both:?}");
    let actions = h.tell(LOST);
    assert_eq!(purged(&actions), [(ids[1], PurgeReason::BaseLost)]);
    assert!(matches!(actions.last(), Some(Action::Spawn { request: Some(_), .. })), "{actions:?}");
    // What is said of the restore now is late.
    assert_eq!(h.tell(Input::Failed { sandbox: ids[1] }), []);
}

#[test]
fn a_sandbox_that_is_awake_loses_its_image_only() {
    let (mut h, ids) = with_dependants();
    h.arrive(0); // on the base
    for _ in 0..2 {
        let restored = h.arrive(0);
        let Some(Action::Restore { sandbox, .. }) = restored.last().copied() else { panic!("{restored:?}") };
        h.tell(Input::Restored { sandbox });
    }
    assert_eq!(h.tell(LOST), []);
    for id in &ids {
        h.tell(Input::Finished { sandbox: *id, start: Duration::ZERO });
    }
    assert_eq!(h.engine.references(ids[0]), Some(1));
    h.at(190.0);
    let again = h.actions().into_iter().filter_map(|a| match a {
        Action::Reduce { sandbox, again, .. } => Some((sandbox, again)),
        _ => None,
    });
    // The one that lost its image needs a new one.
    assert_eq!(again.collect::<BTreeSet<_>>(), [(ids[1], false), (ids[2], true)].into());
}
