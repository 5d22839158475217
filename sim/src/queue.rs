//! The event queue: what happens next, in the order of time and, at one instant, of scheduling.
//!
//! What happens soon lies in a sorted array, the *front*, and everything later in a wheel of wheels (Varghese and Lauck, SOSP 1987)
//! over the digits, base 64, of the time in µs. Time never goes back: every event in the wheel is at or after `base`, and lies at the level
//! of the highest digit in which its time differs from `base`, in the slot of its own digit there. So the next events are those of the first
//! slot in use of the lowest level in use. When the front is empty, that slot becomes the front if it has few events, and otherwise
//! its events move down a level. Events scheduled before the end of the slot that is the front are put into it, at their place; a
//! front that becomes long gives its later half back to the wheel.
//!
//! Events come out of the front one after the other without a look at the wheel, and those after the next are known. With few events under
//! way the front is all there is; with many a slot of some milliseconds is sorted at a time. An event moves once or twice whatever the
//! distance. Slots are first in, first out, moving and sorting keep the order; so events of one instant come out as they were scheduled.

use medes_engine::ahead;
use medes_engine::id::SandboxId;
use medes_engine::units::Instant;

/// Something that will happen to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Started,
    Restored,
    Finished,
    Checkpointed,
    Reduced,
    /// A warm sandbox wakes to a request, which runs then.
    Woken,
    /// Work has waited and goes on on cores.
    Waited,
    /// The node with this number measures its memory.
    Measured,
    /// Work on the cores with this number is done, or was to be before other work came.
    Cores,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub at: Instant,
    pub sandbox: SandboxId,
    pub kind: Kind,
}

/// Bits of a slot of the engine's table in an entry; the kind has the rest. A table with more slots would take 50 GB.
const SLOT_BITS: u32 = 28;

/// An event, packed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Entry {
    at: u64,
    generation: u32,
    slot_and_kind: u32,
}

impl Entry {
    #[inline]
    fn new(at: Instant, sandbox: SandboxId, kind: Kind) -> Self {
        debug_assert!(sandbox.slot < 1 << SLOT_BITS, "too many sandboxes for the event queue");
        let slot_and_kind = sandbox.slot | (kind as u32) << SLOT_BITS;
        Self { at: at.as_micros(), generation: sandbox.generation, slot_and_kind }
    }

    #[inline]
    fn slot(self) -> u32 {
        self.slot_and_kind & ((1 << SLOT_BITS) - 1)
    }

    #[inline]
    fn event(self) -> Event {
        let kind = match self.slot_and_kind >> SLOT_BITS {
            0 => Kind::Started,
            1 => Kind::Restored,
            2 => Kind::Finished,
            3 => Kind::Checkpointed,
            4 => Kind::Reduced,
            5 => Kind::Woken,
            6 => Kind::Waited,
            7 => Kind::Measured,
            _ => Kind::Cores,
        };
        let sandbox = SandboxId { generation: self.generation, slot: self.slot() };
        Event { at: Instant::from_micros(self.at), sandbox, kind }
    }
}

/// Bits of a digit.
const DIGIT: u32 = 6;
/// Slots of a level: one for each digit.
const SLOTS: usize = 1 << DIGIT;
/// Levels: digits of a time of 64 bits.
const LEVELS: usize = 64usize.div_ceil(DIGIT as usize);
/// No entry.
const NIL: u32 = u32::MAX;

/// A slot with so many events or fewer becomes the front. Their places in it have so many bits.
const FEW: u32 = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 6;
/// A front with so many events gives half of them back before it takes another.
const LONG: usize = 128;

/// Events of a node.
const ROOM: usize = 7;

/// Some events of one slot: two cache lines, so that a long slot is read as fast as memory gives it. All nodes of a slot but the last are full: how full
/// that one is follows from the slot's count, and nothing of it is read to put an event into it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Node {
    next: u32,
    entries: [Entry; ROOM],
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    head: u32,
    tail: u32,
    /// The earliest of its events, µs.
    min: u64,
    count: u32,
}

const EMPTY: Slot = Slot { head: NIL, tail: NIL, min: u64::MAX, count: 0 };

#[derive(Debug)]
pub(crate) struct Queue {
    /// When the next event is; `FAR` without one.
    next_at: Instant,
    /// Every event before `front_end`, the next one last.
    front: Vec<Entry>,
    front_end: u64,
    /// How often the front was filled, and what it is sorted from.
    fills: u32,
    unsorted: Vec<Entry>,
    /// Start of the slot that was looked into last.
    base: u64,
    levels_in_use: u32,
    /// Slots in use, a bit each.
    in_use: [u64; LEVELS],
    slots: Box<[Slot; LEVELS * SLOTS]>,
    nodes: Vec<Node>,
    /// Nodes that are free, linked.
    vacant: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            next_at: Instant::FAR,
            front: Vec::with_capacity(LONG),
            front_end: 0,
            fills: 0,
            unsorted: Vec::with_capacity(FEW as usize),
            base: 0,
            levels_in_use: 0,
            in_use: [0; LEVELS],
            slots: Box::new([EMPTY; LEVELS * SLOTS]),
            nodes: Vec::new(),
            vacant: NIL,
        }
    }
}

impl Queue {
    /// Schedules an event; `at` is not before the last event that was taken out.
    #[inline]
    pub fn push(&mut self, at: Instant, sandbox: SandboxId, kind: Kind) {
        let entry = Entry::new(at, sandbox, kind);
        if entry.at < self.front_end {
            self.insert(entry);
        } else {
            self.append(entry);
        }
        self.next_at = self.next_at.min(at);
    }

    /// When the next event is; `FAR` without one.
    #[inline]
    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    /// Takes the next event out.
    #[inline]
    pub fn pop(&mut self) -> Option<Event> {
        if self.front.is_empty() {
            self.refill();
        }
        let entry = self.front.pop()?;
        self.next_at = match self.front.last() {
            Some(next) => Instant::from_micros(next.at),
            None => self.first_slot().map_or(Instant::FAR, |slot| Instant::from_micros(self.slots[slot].min)),
        };
        Some(entry.event())
    }

    /// The slot of the sandbox whose event is the `n`-th from now, 0 being the next, if that is known.
    #[inline]
    pub fn upcoming(&self, n: usize) -> Option<u32> {
        self.front.len().checked_sub(n + 1).and_then(|at| self.front.get(at)).map(|entry| entry.slot())
    }

    /// How often the front was filled: when it is, nobody could know what is in it before.
    #[inline]
    pub fn fills(&self) -> u32 {
        self.fills
    }

    /// Puts an event into the front.
    #[inline]
    fn insert(&mut self, entry: Entry) {
        if self.front.len() >= LONG {
            self.give_back();
            if entry.at >= self.front_end {
                return self.append(entry);
            }
        }
        let later = self.front.partition_point(|other| other.at > entry.at);
        self.front.insert(later, entry);
    }

    /// Moves the later half of the front to the wheel, unless everything in it is of one instant.
    #[cold]
    fn give_back(&mut self) {
        let end = self.front[self.front.len() / 2].at;
        let given = self.front.partition_point(|entry| entry.at >= end);
        if given < self.front.len() {
            self.front_end = end;
            for i in (0..given).rev() {
                self.append(self.front[i]);
            }
            self.front.drain(..given);
        }
    }

    /// The first slot in use of the lowest level in use.
    #[inline]
    fn first_slot(&self) -> Option<usize> {
        if self.levels_in_use == 0 {
            return None;
        }
        let level = self.levels_in_use.trailing_zeros() as usize % LEVELS;
        Some(level * SLOTS + self.in_use[level].trailing_zeros() as usize % SLOTS)
    }

    /// Fills the front, which is empty, with the first events of the wheel.
    fn refill(&mut self) {
        while let Some(place) = self.first_slot() {
            let Slot { mut head, min, count, .. } = std::mem::replace(&mut self.slots[place], EMPTY);
            let (level, digit) = (place / SLOTS, place % SLOTS);
            self.in_use[level] &= !(1 << digit);
            if self.in_use[level] == 0 {
                self.levels_in_use &= !(1 << level);
            }
            let width = 1u64 << (level as u32 * DIGIT);
            self.base = min & !(width - 1);
            let few = count <= FEW || level == 0;
            let mut left = count as usize;
            while let Some(&node) = self.nodes.get(head as usize) {
                ahead::fetch(&self.nodes, node.next as usize);
                // Free at once: what is appended may have it.
                self.nodes[head as usize].next = std::mem::replace(&mut self.vacant, head);
                let entries = &node.entries[..left.min(ROOM)];
                left -= entries.len();
                if few {
                    self.unsorted.extend_from_slice(entries);
                } else {
                    entries.iter().for_each(|entry| self.append(*entry));
                }
                head = node.next;
            }
            if few {
                self.front_end = self.base.saturating_add(width);
                self.fills = self.fills.wrapping_add(1);
                self.sort(level);
                return;
            }
        }
    }

    /// Makes the front of events that all are of one slot of a level.
    #[inline]
    fn sort(&mut self, level: usize) {
        let unsorted = &mut self.unsorted;
        if level > 0 && level as u32 * DIGIT + PLACE_BITS <= u64::BITS {
            // Time and place in one number: half the bytes of the events themselves to move, and no need of a stable sort.
            let mut keys = [0u64; FEW as usize];
            let keys = &mut keys[..unsorted.len()];
            for ((key, entry), place) in keys.iter_mut().zip(unsorted.iter()).zip(0..) {
                *key = (entry.at - self.base) << PLACE_BITS | place;
            }
            keys.sort_unstable();
            let at = |key: &u64| unsorted[(key % u64::from(FEW)) as usize];
            self.front.extend(keys.iter().rev().map(at));
        } else {
            // Of one instant and as they were scheduled; or further away than anything that happens.
            unsorted.sort_by_key(|entry| entry.at);
            self.front.extend(unsorted.iter().rev());
        }
        unsorted.clear();
    }

    /// Puts an event at the end of the slot that its time gives.
    #[inline]
    fn append(&mut self, entry: Entry) {
        debug_assert!(entry.at >= self.base, "an event in the past");
        let level = ((entry.at ^ self.base) | 1).ilog2() / DIGIT;
        let digit = (entry.at >> (level * DIGIT)) as usize % SLOTS;
        let level = level as usize;
        let slot = &mut self.slots[level * SLOTS + digit];
        slot.min = slot.min.min(entry.at);
        let (tail, full) = (slot.tail, slot.count as usize % ROOM);
        slot.count += 1;
        if full > 0 {
            self.nodes[tail as usize].entries[full] = entry;
            return;
        }
        let number = self.vacant;
        let number = match self.nodes.get_mut(number as usize) {
            Some(node) => {
                self.vacant = std::mem::replace(&mut node.next, NIL);
                node.entries[0] = entry;
                number
            }
            None => {
                ahead::make_room(&mut self.nodes);
                self.nodes.push(Node { next: NIL, entries: [entry; ROOM] });
                self.nodes.len() as u32 - 1
            }
        };
        slot.tail = number;
        if tail == NIL {
            slot.head = number;
            self.in_use[level] |= 1 << digit;
            self.levels_in_use |= 1 << level;
        } else {
            self.nodes[tail as usize].next = number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    #[test]
    fn an_event_of_each_kind_comes_out_as_it_went_in() {
        use Kind::*;
        let kinds = [Started, Restored, Finished, Checkpointed, Reduced, Woken, Waited, Measured, Cores];
        let mut queue = Queue::default();
        let sandbox = SandboxId { generation: u32::MAX, slot: (1 << SLOT_BITS) - 1 };
        for (at, kind) in kinds.into_iter().enumerate() {
            assert_eq!(kind as usize, at, "a kind that is not tested");
            queue.push(Instant::from_micros(at as u64), sandbox, kind);
        }
        for (at, kind) in kinds.into_iter().enumerate() {
            assert_eq!(queue.pop(), Some(Event { at: Instant::from_micros(at as u64), sandbox, kind }));
        }
    }

    proptest! {
        #[test]
        fn events_come_out_as_a_heap_would_give_them(
            // What is scheduled after each event that comes out: distances of all sizes, many of them alike.
            steps in prop::collection::vec(prop::collection::vec((0u32..64, 0u64..4), 0..4), 1..200),
            start in prop::sample::select(vec![0u64, 63, 4095, 1 << 40, u64::MAX - 70]),
        ) {
            let (mut queue, mut heap, mut number, mut now) = (Queue::default(), BinaryHeap::new(), 0u32, start);
            let mut steps = steps.into_iter();
            loop {
                for (shift, more) in steps.next().unwrap_or_default() {
                    let at = now.saturating_add((1u64 << shift) - 1).saturating_add(more);
                    queue.push(Instant::from_micros(at), SandboxId { generation: 0, slot: number }, Kind::Finished);
                    heap.push(Reverse((at, number)));
                    number += 1;
                }
                let expected = heap.pop().map(|Reverse((at, number))| (at, number));
                prop_assert_eq!(queue.next_at().as_micros(), expected.map_or(u64::MAX, |e| e.0));
                let got = queue.pop().map(|e| (e.at.as_micros(), e.sandbox.slot));
                prop_assert_eq!(got, expected);
                match expected {
                    Some((at, _)) => now = at,
                    None if steps.len() == 0 => break,
                    None => {}
                }
            }
            prop_assert!(queue.nodes.len() <= number as usize);
        }
    }
}
