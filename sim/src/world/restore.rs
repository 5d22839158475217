//! Dedup starts: what a request waits for, and what comes behind the process.

use medes_engine::id::{FunctionId, NodeId, RequestId, SandboxId};
use medes_engine::record::{RequestRecord, StartParts};
use medes_engine::units::{Duration, Instant};

use super::World;
use crate::check::Watch;
use crate::cores::Work;
use crate::queue::Kind;

impl<S: FnMut(&RequestRecord, &StartParts), W: Watch> World<'_, S, W> {
    pub(super) fn restore(
        &mut self,
        now: Instant,
        sandbox: SandboxId,
        node: NodeId,
        function: FunctionId,
        request: RequestId,
    ) {
        let setup = self.setup;
        let run = self.run_of(request);
        let laws = *self.laws_of(function);
        let (base, pages, decode) = match &self.slot(sandbox).reduced {
            Some(r) => (r.base, r.pages_read(), r.decode_time(setup)),
            None => (None, 0.0, Duration::ZERO),
        };
        let profile = setup.profile(function);
        // Without a held process nothing comes behind one.
        let now_part = profile.behind.filter(|_| !setup.config.nopause).unwrap_or(1.0);
        let rest = (1.0 - now_part).max(0.0);
        let read = base.map_or(now, |(_, from)| self.network.read(now, from, node, pages * now_part));
        if let Some((_, from)) = base {
            *(if from == node { &mut self.base_pages.local } else { &mut self.base_pages.remote }) += pages;
        }
        let times = |part: f64, time: Duration| Duration::from_millis_f64(time.as_millis_f64() * part);
        let (control, resume) = (laws.control.draw(request.0), laws.resume.draw(request.0));
        if let Some(reduced) = &mut self.slot(sandbox).reduced {
            reduced.rest = times(rest, decode) + times(rest * profile.resume.cores, resume);
        }
        let (resume, decode) = (times(now_part, resume), times(now_part, decode));
        let read = read.since(now);
        let mut work = Work::of(control, laws.control_cores) + Work::of(decode, 1.0);
        work = work + Work::of(resume, profile.resume.cores) + Work::waits(read + self.ending(now, node));
        if setup.config.nopause {
            work = work + Work::of(laws.restore.draw(request.0), profile.restore.cores);
        }
        let start = work.alone();
        self.part(request, start, StartParts { control, read, patch: decode, resume: Duration::ZERO });
        self.slot(sandbox).serve(request, run, start);
        self.begin(now, sandbox, node, Kind::Restored, work);
    }

    /// The pages that its request did not wait for come behind a process.
    #[inline]
    pub(super) fn fills(&mut self, now: Instant, sandbox: SandboxId) {
        let slot = &mut self.slots[sandbox.slot as usize];
        let (Some(reduced), Some(cores)) = (&mut slot.reduced, &mut self.cores) else { return };
        let rest = std::mem::take(&mut reduced.rest);
        if rest > Duration::ZERO {
            cores.burden(now, &mut self.queue, NodeId(slot.node), rest);
        }
    }

    /// Notes where the time of a start goes, if somebody asks; what is left of it is the sandbox's own.
    pub(super) fn part(&mut self, request: RequestId, start: Duration, mut of: StartParts) {
        if let Some(parts) = &mut self.parts {
            of.resume = start.saturating_sub(of.control + of.read + of.patch);
            parts.insert(request, of);
        }
    }
}
