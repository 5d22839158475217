//! Where a new sandbox goes: named strategies over the nodes with enough room.
//!
//! Room is kept in a tree of maxima over the nodes, so that each strategy finds its node in O(log nodes).

use crate::id::{FunctionId, NodeId};
use crate::units::Bytes;

/// Names of the strategies; the first is the default.
pub fn names() -> Vec<&'static str> {
    REGISTRY.iter().map(|s| s.name).collect()
}

/// A placement strategy.
#[derive(Debug)]
pub struct Strategy {
    /// Its name.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    pick: fn(&mut Placement, &Room, FunctionId, Bytes) -> Option<NodeId>,
}

/// All strategies.
pub static REGISTRY: &[Strategy] = &[
    Strategy {
        name: "round-robin",
        about: "The next node after the last one chosen that has room (the reference's).",
        pick: |p, room, _, need| {
            let node = room.first_from(p.next, need)?;
            p.next = node.index() + 1;
            Some(node)
        },
    },
    Strategy {
        name: "most-free",
        about: "The node with the most room; of equal ones the first.",
        pick: |_, room, _, need| room.largest(need),
    },
    Strategy {
        name: "locality",
        about: "The first node with room from the one that the function's number hashes to, so that a function's sandboxes keep together.",
        pick: |_, room, function, need| room.first_from(room.home(function), need),
    },
];

/// A strategy at work.
#[derive(Debug)]
pub(crate) struct Placement {
    strategy: &'static Strategy,
    next: usize,
}

impl Placement {
    /// The strategy called `name`; the default if there is none such.
    pub fn new(name: &str) -> Self {
        let strategy = REGISTRY.iter().find(|s| s.name == name).unwrap_or(&REGISTRY[0]);
        Self { strategy, next: 0 }
    }

    /// A node with at least `need` of room.
    pub fn pick(&mut self, room: &Room, function: FunctionId, need: Bytes) -> Option<NodeId> {
        (self.strategy.pick)(self, room, function, need)
    }
}

/// Room of each node under a tree of maxima. A node that is gone has none, not even for zero bytes.
#[derive(Debug)]
pub(crate) struct Room {
    leaves: usize,
    nodes: usize,
    /// `room + 1` of each node from `leaves` on, zero if gone; inner entries the larger of their two children.
    tree: Vec<u64>,
}

impl Room {
    pub fn new(nodes: usize) -> Self {
        let leaves = nodes.next_power_of_two();
        Self { leaves, nodes, tree: vec![0; 2 * leaves] }
    }

    /// Sets the room of a node; `None` while it is gone.
    pub fn set(&mut self, node: NodeId, room: Option<Bytes>) {
        let mut at = self.leaves + node.index();
        let value = room.map_or(0, |b| b.get().saturating_add(1));
        if self.tree[at] == value {
            return;
        }
        self.tree[at] = value;
        while at > 1 {
            at /= 2;
            let larger = self.tree[2 * at].max(self.tree[2 * at + 1]);
            if self.tree[at] == larger {
                break;
            }
            self.tree[at] = larger;
        }
    }

    fn home(&self, function: FunctionId) -> usize {
        let hash = u64::from(function.0).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (hash as usize) % self.nodes
    }

    /// The node with the most room, if it has at least `need`.
    pub fn largest(&self, need: Bytes) -> Option<NodeId> {
        let most = self.tree[1];
        if most <= need.get() {
            return None;
        }
        let mut at = 1;
        while at < self.leaves {
            at = if self.tree[2 * at] == most { 2 * at } else { 2 * at + 1 };
        }
        Some(NodeId((at - self.leaves) as u32))
    }

    /// The first node with at least `need` from `start` on, going round.
    pub fn first_from(&self, start: usize, need: Bytes) -> Option<NodeId> {
        let start = if start >= self.nodes { 0 } else { start };
        let found = self.first_in(1, 0, self.leaves, start, need.get());
        found.or_else(|| self.first_in(1, 0, self.leaves, 0, need.get())).map(|n| NodeId(n as u32))
    }

    fn first_in(&self, at: usize, lo: usize, hi: usize, start: usize, need: u64) -> Option<usize> {
        if hi <= start || self.tree[at] <= need {
            return None;
        }
        if at >= self.leaves {
            return Some(lo);
        }
        let mid = usize::midpoint(lo, hi);
        self.first_in(2 * at, lo, mid, start, need).or_else(|| self.first_in(2 * at + 1, mid, hi, start, need))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn room(of: &[u64]) -> Room {
        let mut room = Room::new(of.len());
        for (i, b) in of.iter().enumerate() {
            room.set(NodeId(i as u32), Some(Bytes::new(*b)));
        }
        room
    }

    #[test]
    fn each_strategy_picks_as_its_sentence_says() {
        let r = room(&[5, 50, 20, 50, 1]);
        let f = FunctionId(0);
        let mut rr = Placement::new("round-robin");
        let picks: Vec<_> = (0..5).map(|_| rr.pick(&r, f, Bytes::new(20)).unwrap().0).collect();
        assert_eq!(picks, [1, 2, 3, 1, 2]);
        assert_eq!(Placement::new("most-free").pick(&r, f, Bytes::new(20)), Some(NodeId(1)));
        let mut local = Placement::new("locality");
        let home = local.pick(&r, f, Bytes::new(0));
        assert_eq!(home, local.pick(&r, f, Bytes::new(0)));
        assert_eq!(rr.pick(&r, f, Bytes::new(51)), None);
    }

    #[test]
    fn a_lost_node_has_no_room_even_for_nothing() {
        let mut r = room(&[5]);
        r.set(NodeId(0), None);
        assert_eq!(r.largest(Bytes::ZERO), None);
        assert_eq!(r.first_from(0, Bytes::ZERO), None);
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_a_scan_finds(of in prop::collection::vec(0u64..40, 1..40), start in 0usize..50, need in 0u64..45) {
            let r = room(&of);
            let from = if start >= of.len() { 0 } else { start };
            let scan = (0..of.len()).map(|i| (from + i) % of.len()).find(|i| of[*i] >= need);
            prop_assert_eq!(r.first_from(start, Bytes::new(need)).map(NodeId::index), scan);
            let most = of.iter().copied().max().unwrap_or(0);
            let first = of.iter().position(|b| *b == most).filter(|_| most >= need);
            prop_assert_eq!(r.largest(Bytes::new(need)).map(NodeId::index), first);
        }
    }
}
