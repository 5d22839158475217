//! The last resort of a request that waits for memory: bases that others depend on are given up for it.
//!
//! A base that sandboxes are patched against is out of eviction's reach, so bases can fill a node and leave a request no room on it
//! though nothing runs there. After [`PATIENCE`] the request takes it: on the node where the fewest sandboxes have to go, what depends
//! on enough of its idle bases turns cold (a reduced sandbox is purged, any other only loses its kept image), and then these
//! bases can be evicted like anything else. Most waits end sooner, because a running sandbox falls idle; so what is looked at, all sandboxes,
//! costs nothing that matters.

use std::cmp::Reverse;

use super::{Engine, PURGED};
use crate::event::PurgeReason;
use crate::id::{FunctionId, SandboxId};
use crate::sandbox::{List, State, Transition};
use crate::units::{Bytes, Duration, Instant};

/// How long a request waits before bases are given up for it, and how long after an attempt that found none the next one is made.
const PATIENCE: Duration = Duration::from_secs(1);

impl Engine {
    /// When bases are to be given up for a request that waits since `arrived`; `FAR` while there are none.
    pub(super) fn unpin_due(&self, arrived: Instant) -> Instant {
        if self.bases == 0 { Instant::FAR } else { (arrived + PATIENCE).max(self.unpin_after) }
    }

    /// Gives up bases for requests that have waited long enough, and starts them.
    pub(super) fn unpin_for_waiting(&mut self, now: Instant) {
        while let Some((request, waiting)) = self.waiting.first_key_value().map(|(r, w)| (*r, *w))
            && self.unpin_due(waiting.arrived) <= now
        {
            if !self.unpin(now, waiting.function) || !self.try_start(now, request, waiting) {
                self.unpin_after = now + PATIENCE;
                return;
            }
            self.forget_waiting(request, waiting);
            self.serve_waiting(now);
        }
    }

    /// Makes room for a sandbox of `function` by giving up bases; `false`, and nothing changed, if that is not enough anywhere.
    fn unpin(&mut self, now: Instant, function: FunctionId) -> bool {
        let need = self.functions[function.index()].spec.memory;
        let mut pinned: Vec<usize> = self.pinned_bases();
        // Of each node those with the fewest dependants first.
        pinned.sort_by_key(|slot| {
            let s = &self.sandboxes[*slot];
            (s.node, s.references, s.idle_since, Reverse(s.charged))
        });
        let mut best: Option<(u32, Vec<SandboxId>)> = None;
        for of_node in pinned.chunk_by(|a, b| self.sandboxes[*a].node == self.sandboxes[*b].node) {
            let node = &self.nodes[self.sandboxes[of_node[0]].node.index()];
            let mut short = (node.used + node.foreign + need).saturating_sub(node.cap + node.evictable);
            let (mut dependants, mut taken) = (0, Vec::new());
            for slot in of_node {
                if short == Bytes::ZERO {
                    break;
                }
                let s = &self.sandboxes[*slot];
                short = short.saturating_sub(s.charged);
                dependants += s.references;
                taken.push(self.id(*slot));
            }
            if short == Bytes::ZERO && best.as_ref().is_none_or(|(fewest, _)| dependants < *fewest) {
                best = Some((dependants, taken));
            }
        }
        let Some((_, bases)) = best else { return false };
        let Some(node) = bases.first().and_then(|base| self.get(*base)).map(|s| s.node) else { return false };
        self.turn_dependants_cold(now, &bases);
        self.make_room(now, node, need)
    }

    /// Idle bases that only a dependant keeps, none of which is just being restored or reduced.
    fn pinned_bases(&self) -> Vec<usize> {
        let mut needed = vec![false; self.sandboxes.len()];
        for s in self.sandboxes.iter().filter(|s| s.state != PURGED) {
            if matches!(s.state, State::InTransition(Transition::Restoring | Transition::Reducing)) {
                for base in s.image.iter().flat_map(|i| &i.bases) {
                    needed[base.slot as usize] = true;
                }
            }
        }
        let pinned = |slot: &usize| {
            let s = &self.sandboxes[*slot];
            s.state != PURGED && s.list == List::Base && s.references > 0 && self.nodes[s.node.index()].alive
        };
        (0..self.sandboxes.len()).filter(pinned).filter(|slot| !needed[*slot]).collect()
    }

    fn turn_dependants_cold(&mut self, now: Instant, bases: &[SandboxId]) {
        for slot in 0..self.sandboxes.len() {
            let s = &self.sandboxes[slot];
            let depends = s.image.as_ref().is_some_and(|i| i.bases.iter().any(|b| bases.contains(b)));
            if !depends || s.state == PURGED {
                continue;
            }
            if s.state == State::Dedup {
                self.counters.evictions += 1;
                self.purge(now, slot, PurgeReason::Evicted);
            } else {
                self.release_image(slot);
                self.settle_account(slot);
            }
        }
    }
}
