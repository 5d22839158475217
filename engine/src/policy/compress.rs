//! Compression of idle sandboxes: the rival of deduplication. A sandbox idle for `idletime` is compressed
//! page by page, without any base page, and purged `keepdedup` after its last request; a request on it
//! decompresses its memory. Until then it is kept like a warm one. There are no bases, so nothing is read
//! over the network and no memory is held for others (MEASURED, section 4: with address randomisation on,
//! this saves more than patches do).

use super::{ClusterView, Entry, Form, FunctionView, Idle, Kind, Policy, SandboxView, Verdict};
use crate::config::Config;
use crate::id::FunctionId;
use crate::units::{Duration, Instant};

pub(super) const ENTRY: Entry = Entry {
    name: "compress",
    about: "Compresses the pages of a sandbox idle for idletime, without base pages; purges it keepdedup after its last request.",
    source: "rival of deduplication",
    reference_number: None,
    eviction: "lru",
    reduces: true,
    kind: Kind::Online(|config, _| Box::new(Compress::new(config))),
};

struct Compress {
    idletime: Duration,
    keep: Duration,
}

impl Compress {
    fn new(config: &Config) -> Self {
        Self { idletime: config.idletime, keep: config.keepdedup }
    }
}

impl Policy for Compress {
    fn on_idle(&mut self, _: Instant, _: FunctionId, _: bool) -> Idle {
        Idle::ask_in(self.idletime.min(self.keep))
    }

    fn decide(&mut self, _: Instant, s: &SandboxView, _: &FunctionView<'_>, _: &ClusterView) -> Verdict {
        if s.idle >= self.keep {
            Verdict::Purge
        } else if s.form == Form::Warm && !s.blacklisted {
            Verdict::Compress
        } else {
            Verdict::Stay(self.keep.saturating_sub(s.idle))
        }
    }

    fn after_transition(&self, _: FunctionId, _: Form) -> Duration {
        self.keep.saturating_sub(self.idletime)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn compresses_after_idletime_and_purges_after_keepdedup() {
        let s = spec();
        let mut p = make(&ENTRY, &Config::default(), &s);
        let mut ask = |form, secs| p.decide(Instant::ZERO, &idle(form, secs), &view(&s), &cluster());
        assert_eq!(ask(Form::Warm, 60), Verdict::Compress);
        assert_eq!(ask(Form::Dedup, 840), Verdict::Stay(Duration::from_secs(60)));
        assert_eq!(ask(Form::Dedup, 900), Verdict::Purge);
    }

    #[test]
    fn a_blacklisted_sandbox_stays_as_it_is() {
        let s = spec();
        let mut p = make(&ENTRY, &Config::default(), &s);
        let sandbox = SandboxView { blacklisted: true, ..idle(Form::Warm, 60) };
        assert_eq!(p.decide(Instant::ZERO, &sandbox, &view(&s), &cluster()), Verdict::Stay(Duration::from_secs(840)));
    }
}
