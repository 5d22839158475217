use proptest::prelude::*;

use super::*;
use crate::wire::pack_sandbox;

fn id(slot: u32) -> SandboxId {
    SandboxId { generation: 0, slot }
}

fn head(slot: u32, node: u32, pages: u32) -> BaseHead {
    BaseHead { sandbox: pack_sandbox(id(slot)), function: format!("f{slot}"), node, pages, ..BaseHead::default() }
}

/// Pages with the hashes given.
fn part(first: u64, pages: &[&[u64]]) -> RegisterPart {
    let (counts, hashes) = packed(pages);
    RegisterPart { head: None, first, counts, hashes }
}

fn packed(pages: &[&[u64]]) -> (Vec<u8>, Vec<u8>) {
    (
        pages.iter().map(|p| p.len() as u8).collect(),
        pages.iter().flat_map(|p| p.iter()).flat_map(|h| h.to_le_bytes()).collect(),
    )
}

fn enter(index: &PageIndex, slot: u32, node: u32, pages: &[&[u64]]) {
    let mut registration = index.register(head(slot, node, pages.len() as u32)).expect("room");
    registration.part(&part(0, pages)).expect("entered");
    registration.finish().expect("whole");
}

fn ask(index: &PageIndex, node: u32, pages: &[&[u64]]) -> Vec<Option<(u32, u32)>> {
    let (counts, hashes) = packed(pages);
    let batch = LookupBatch { node, function: "f1".into(), first: 0, counts, hashes };
    best(&index.lookup(&batch, &mut Named::default()).expect("a right message"))
}

/// The first candidate of each page: slot of the base's sandbox, page.
fn best(answer: &LookupAnswer) -> Vec<Option<(u32, u32)>> {
    let positions = answer.bases.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
    let pages = answer.pages.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
    let all: Vec<_> = positions.zip(pages).collect();
    let slot = |at: u16| unpack_sandbox(answer.heads[usize::from(at)].sandbox).slot;
    all.chunks(answer.per_page as usize).map(|c| c[0].0.checked_sub(1).map(|at| (slot(at), c[0].1))).collect()
}

#[test]
fn pages_with_most_hashes_in_common_come_first_and_of_equals_the_nearest() {
    let index = PageIndex::default();
    enter(&index, 1, 0, &[&[10, 11, 12], &[], &[20, 21]]);
    enter(&index, 2, 1, &[&[10, 11, 99], &[20, 21]]);
    assert_eq!(
        ask(&index, 0, &[&[10, 11, 12], &[10, 99, 11], &[20, 21], &[7], &[]]),
        [Some((1, 0)), Some((2, 0)), Some((1, 2)), None, None]
    );
    assert_eq!(ask(&index, 1, &[&[20, 21]]), [Some((2, 1))]);
    index.refer(id(1), 3);
    assert_eq!(ask(&index, 7, &[&[20, 21]]), [Some((1, 2))], "local to neither: more depend on the first");
    index.refer(id(1), -3);
    index.refer(id(2), 1);
    assert_eq!(ask(&index, 7, &[&[20, 21]]), [Some((2, 1))]);
}

#[test]
fn by_the_references_score_the_base_decides() {
    let settings = IndexSettings { weights: Some(Weights::default()), ..IndexSettings::default() };
    let index = PageIndex::new(settings);
    enter(&index, 1, 0, &[&[10, 11, 12]]);
    enter(&index, 2, 1, &[&[10]]);
    assert_eq!(ask(&index, 1, &[&[10, 11, 12]]), [Some((2, 0))], "one hash in common, but here");
    index.refer(id(1), 6);
    assert_eq!(ask(&index, 1, &[&[10, 11, 12]]), [Some((1, 0))], "many depend on it");
}

#[test]
fn a_base_that_is_withdrawn_or_lost_is_not_found_and_half_of_one_never_was() {
    let index = PageIndex::default();
    enter(&index, 1, 0, &[&[1], &[2]]);
    enter(&index, 2, 0, &[&[3]]);
    enter(&index, 3, 1, &[&[4]]);
    index.withdraw(id(1));
    let all: [&[u64]; 4] = [&[1], &[2], &[3], &[4]];
    assert_eq!(ask(&index, 0, &all), [None, None, Some((2, 0)), Some((3, 0))]);
    index.node_lost(NodeId(0));
    assert_eq!(ask(&index, 0, &all), [None, None, None, Some((3, 0))]);
    assert_eq!(index.size(), (1, 1));
    let mut half = index.register(head(4, 1, 2)).expect("room");
    half.part(&part(0, &[&[5]])).expect("entered");
    assert_eq!(ask(&index, 0, &[&[5]]), [None], "not yet whole");
    drop(half);
    assert_eq!(index.size(), (1, 1));
    let mut late = index.register(head(5, 1, 1)).expect("room");
    index.node_lost(NodeId(1));
    assert_eq!(late.part(&part(0, &[&[6]])), Err(IndexError::Withdrawn(id(5))));
    assert_eq!(index.size(), (0, 0));
}

#[test]
fn entering_a_base_again_takes_the_place_of_the_first_attempt() {
    let index = PageIndex::default();
    enter(&index, 1, 0, &[&[1]]);
    let first = index.register(head(1, 0, 1)).expect("room");
    enter(&index, 1, 0, &[&[2]]);
    drop(first);
    assert_eq!(ask(&index, 0, &[&[1], &[2]]), [None, Some((1, 0))]);
}

#[test]
fn messages_that_are_not_right_are_refused() {
    let index = PageIndex::new(IndexSettings { most_entries: 3, ..IndexSettings::default() });
    let malformed = |e: IndexError| assert!(matches!(e, IndexError::Malformed(_)), "{e}");
    let mut registration = index.register(head(1, 0, 2)).expect("room");
    malformed(registration.part(&part(1, &[&[1]])).unwrap_err());
    malformed(registration.part(&part(0, &[&[1], &[2], &[3]])).unwrap_err());
    malformed(registration.part(&RegisterPart { hashes: vec![0; 9], ..part(0, &[&[1]]) }).unwrap_err());
    malformed(registration.part(&RegisterPart { counts: vec![65], ..part(0, &[&[1; 65]]) }).unwrap_err());
    malformed(registration.finish().unwrap_err());
    let batch = LookupBatch { counts: vec![1; MAX_BATCH_PAGES + 1], ..LookupBatch::default() };
    malformed(index.lookup(&batch, &mut Named::default()).unwrap_err());
    assert!(matches!(index.register(head(2, 0, 4)), Err(IndexError::Full { .. })));
    let mut many = index.register(head(3, 0, 2)).expect("room");
    let error = many.part(&part(0, &[&[1, 2], &[3, 4]])).unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
}

#[test]
fn scope_says_whose_pages_may_be_shared() {
    let base = |scope| {
        let owners = [("f1".to_string(), "me".to_string()), ("f2".into(), "me".into())].into();
        let index = PageIndex::new(IndexSettings { scope, owners, ..IndexSettings::default() });
        (1..4).for_each(|slot| enter(&index, slot, 0, &[&[u64::from(slot)]]));
        ask(&index, 0, &[&[1], &[2], &[3]]).into_iter().flatten().count()
    };
    assert_eq!([DedupScope::Function, DedupScope::Owner, DedupScope::Cluster].map(base), [1, 2, 3]);
}

proptest! {
    /// Whatever is entered and taken out, only bases that are there are named, each head once a stream.
    #[test]
    fn only_what_is_there_is_named(steps in prop::collection::vec((0u32..5, 0u32..3, 0u8..4, 1usize..6), 1..25)) {
        let index = PageIndex::default();
        let mut there = BTreeMap::new();
        for (slot, node, what, pages) in steps {
            match what {
                0 => { index.withdraw(id(slot)); there.remove(&slot); }
                1 => { index.node_lost(NodeId(node)); there.retain(|_, n| *n != node); }
                _ => {
                    let hashes: Vec<Vec<u64>> = (0..pages as u64).map(|p| vec![p, p + 1]).collect();
                    enter(&index, slot, node, &hashes.iter().map(Vec::as_slice).collect::<Vec<_>>());
                    there.insert(slot, node);
                }
            }
            let mut named = Named::default();
            let (counts, hashes) = packed(&[&[0, 1], &[1, 2], &[5, 6]]);
            let batch = LookupBatch { counts, hashes, ..LookupBatch::default() };
            let first = index.lookup(&batch, &mut named).unwrap();
            for head in &first.heads {
                prop_assert!(there.contains_key(&unpack_sandbox(head.sandbox).slot));
            }
            prop_assert_eq!(best(&first)[0].is_some(), !there.is_empty());
            prop_assert!(index.lookup(&batch, &mut named).unwrap().heads.is_empty(), "named before");
            prop_assert_eq!(index.size().0, there.len());
        }
    }
}
