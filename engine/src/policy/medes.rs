//! The Medes policy (policy 5 of the reference; Saxena et al., Medes, EuroSys 2022), for each function by itself.
//!
//! W, B, D: its sandboxes warm (running ones too), base, dedup; C = W + B + D. s_W, s_D: moving averages
//! of warm and dedup start latency, ms. R_W = (s_W + exec + reuse) / 1000 and R_D = (s_D + exec + reuse) /
//! 1000: seconds for which one request takes one sandbox. lambda: largest per-minute arrival count in the
//! window / 60. Asked about a sandbox idle for `idletime`:
//!
//! 1. Idle for `keepalive` (600 s) or more: warm -> purge; dedup -> purge from `keepdedup` (900 s).
//! 2. Load: the most dedup sandboxes with which the peak is served,
//!    D_load = (C - lambda R_W) / (1 - R_W / R_D).
//! 3. *Latency constraint* (mean start at most a = `latency_bound` times the warm one): D_load < 0 -> warm.
//!    D_lat = (a R_W lambda - C) / ((s_D / s_W)(R_W / R_D) - 1); D_lat < 0 -> purge; D < min(D_lat, D_load)
//!    -> dedup; else warm.
//! 4. *Memory constraint*: the function's share of memory M = `memory_share` x memory of the cluster x lambda
//!    / sum of all lambdas; D_mem = (C - M / m) / advantage with m its memory per sandbox. D_mem < 0 -> warm;
//!    D_mem > C -> dedup; D_mem < D_load -> (D < D_mem ? dedup : warm); else dedup.
//! 5. Whatever came out ([`settle`]): a base stays a base; if D >= B x `dedupperbase` and the sandbox is not
//!    dedup, it becomes a base; dedup never becomes warm; a blacklisted sandbox stays warm instead.
//!
//! Deviations from the reference, which never gives a base up: a base that nothing depends on is purged
//! once it is idle for 6 x keep-alive, and eviction may take it before. W does not count bases (the
//! reference counts them twice). Where s_W is zero the ratio s_D / s_W is taken with s_W = 0.001 ms.

use super::{
    ClusterView, Entry, Form, FunctionSpec, FunctionView, Idle, Kind, Policy, SandboxView, Verdict, keep_alives,
};
use crate::config::{Config, Constraint};
use crate::id::FunctionId;
use crate::units::{Duration, Instant};

pub(super) const ENTRY: Entry = Entry {
    name: "medes",
    about: "Deduplicates as many idle sandboxes as the latency or memory constraint asks for and the peak load allows.",
    source: "Saxena et al., Medes, EuroSys 2022 (policy 5 of the reference)",
    reference_number: Some(5),
    eviction: "warm-rate",
    reduces: true,
    kind: Kind::Online(|config, functions| Box::new(Medes { common: Reference::new(config, functions) })),
};

/// A base is asked about after this many keep-alives.
const BASE_KEEP_ALIVES: u64 = 6;

/// What the reference's deduplicating policies have in common.
pub(super) struct Reference {
    pub config: Config,
    pub keep_alive: Vec<Duration>,
}

impl Reference {
    pub fn new(config: &Config, functions: &[FunctionSpec]) -> Self {
        Self { config: config.clone(), keep_alive: keep_alives(config, functions) }
    }

    /// R: seconds for which a request takes a sandbox that starts in `start_ms`.
    pub fn reuse_s(&self, f: &FunctionView<'_>, start_ms: f64) -> f64 {
        (start_ms + f.spec.run.as_millis_f64() + self.config.reuseperiod.as_millis_f64()) / 1e3
    }

    pub fn ask_in(&self, function: FunctionId, form: Form) -> Duration {
        match form {
            Form::Base => self.base_keep(function),
            Form::Warm | Form::Dedup => self.config.idletime,
        }
    }

    fn base_keep(&self, function: FunctionId) -> Duration {
        self.keep_alive[function.index()].times(BASE_KEEP_ALIVES)
    }

    /// Rule 5: makes a tentative verdict one that can be carried out.
    pub fn settle(&self, tentative: Verdict, s: &SandboxView, f: &FunctionView<'_>) -> Verdict {
        if s.form == Form::Base {
            let keep = self.base_keep(f.function);
            let given_up = s.references == 0 && s.idle >= keep;
            return if given_up { Verdict::Purge } else { Verdict::Stay(keep) };
        }
        let stay = Verdict::Stay(self.config.idletime);
        let few_bases = u64::from(f.dedup) >= u64::from(f.base) * u64::from(self.config.dedupperbase);
        match tentative {
            Verdict::Dedup if s.form == Form::Dedup || s.blacklisted => stay,
            _ if s.form == Form::Warm && few_bases && !s.blacklisted => Verdict::Base,
            verdict => verdict,
        }
    }
}

struct Medes {
    common: Reference,
}

impl Medes {
    fn tentative(&self, s: &SandboxView, f: &FunctionView<'_>, cluster: &ClusterView) -> Verdict {
        let config = &self.common.config;
        let warm = Verdict::Stay(config.idletime);
        if s.idle >= self.common.keep_alive[f.function.index()] {
            return match s.form {
                Form::Dedup if s.idle < config.keepdedup => Verdict::Dedup,
                Form::Warm | Form::Dedup => Verdict::Purge,
                Form::Base => warm,
            };
        }
        let c = f64::from(f.warm) + f64::from(f.base) + f64::from(f.dedup);
        let d = f64::from(f.dedup);
        let (s_w, s_d) = (f.warm_start_ms.max(1e-3), f.dedup_start_ms);
        let (r_w, r_d) = (self.common.reuse_s(f, s_w), self.common.reuse_s(f, s_d));
        let lambda = f.peak_rate;
        let d_load = load_bound(c, lambda, r_w, r_d);
        match config.constraint {
            Constraint::Latency => {
                if d_load < 0.0 {
                    return warm;
                }
                let d_lat = (config.latency_bound * r_w * lambda - c) / ((s_d / s_w) * (r_w / r_d) - 1.0);
                if d_lat < 0.0 {
                    Verdict::Purge
                } else if d < d_lat.min(d_load) {
                    Verdict::Dedup
                } else {
                    warm
                }
            }
            Constraint::Memory => {
                let share = if cluster.peak_rates > 0.0 { lambda / cluster.peak_rates } else { 0.0 };
                let budget = config.memory_share * cluster.memory.as_mb() * share;
                let advantage = f.spec.advantage.max(1e-6);
                let d_mem = (c - budget / f.spec.memory.as_mb().max(1e-6)) / advantage;
                if d_mem < 0.0 {
                    warm
                } else if d_mem > c || d_mem >= d_load || d < d_mem {
                    Verdict::Dedup
                } else {
                    warm
                }
            }
        }
    }
}

/// D_load; infinite where a dedup start takes no longer than a warm one.
fn load_bound(c: f64, lambda: f64, r_w: f64, r_d: f64) -> f64 {
    let slower = 1.0 - r_w / r_d;
    let spare = c - lambda * r_w;
    if slower > 0.0 {
        spare / slower
    } else if spare < 0.0 {
        f64::NEG_INFINITY
    } else {
        f64::INFINITY
    }
}

impl Policy for Medes {
    fn needs_rates(&self) -> bool {
        true
    }

    fn on_idle(&mut self, _: Instant, function: FunctionId, is_base: bool) -> Idle {
        Idle::ask_in(self.common.ask_in(function, if is_base { Form::Base } else { Form::Warm }))
    }

    fn decide(&mut self, _: Instant, s: &SandboxView, f: &FunctionView<'_>, cluster: &ClusterView) -> Verdict {
        self.common.settle(self.tentative(s, f, cluster), s, f)
    }

    fn after_transition(&self, function: FunctionId, form: Form) -> Duration {
        self.common.ask_in(function, form)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    // exec 500 ms, s_W = 10 ms, s_D = 500 ms: R_W = 0.51 s, R_D = 1.0 s, R_W / R_D = 0.51; m = 100 MB.
    fn ask(config: &Config, sandbox: &SandboxView, edit: impl Fn(&mut FunctionView<'_>)) -> Verdict {
        let s = spec();
        let mut f = view(&s);
        f.dedup_start_ms = 500.0;
        f.base = 1;
        edit(&mut f);
        make(&ENTRY, config, &s).decide(Instant::ZERO, sandbox, &f, &cluster())
    }

    const WARM: Verdict = Verdict::Stay(Duration::from_secs(60));

    fn latency() -> Config {
        Config::default()
    }

    fn memory() -> Config {
        let mut c = Config::default();
        c.set("constraint", "memory").unwrap();
        c
    }

    #[test]
    fn latency_constraint_by_hand() {
        let warm = idle(Form::Warm, 60);
        // C = 11. lambda = 22/s: lambda R_W = 11.22 > C, so D_load < 0: warm.
        assert_eq!(ask(&latency(), &warm, |f| f.peak_rate = 22.0), WARM);
        // lambda = 2: D_load = (11 - 1.02) / 0.49 = 20.4; D_lat = (2.55 - 11) / (50 * 0.51 - 1 = 24.5) < 0: purge.
        assert_eq!(ask(&latency(), &warm, |f| f.peak_rate = 2.0), Verdict::Purge);
        // lambda = 20: D_load = (11 - 10.2) / 0.49 = 1.63; D_lat = (25.5 - 11) / 24.5 = 0.59. D = 0 < 0.59: dedup,
        assert_eq!(ask(&latency(), &warm, |f| f.peak_rate = 20.0), Verdict::Dedup);
        // and with one dedup already (C the same): warm.
        let one = |f: &mut FunctionView<'_>| (f.peak_rate, f.warm, f.dedup) = (20.0, 9, 1);
        assert_eq!(ask(&latency(), &warm, one), WARM);
    }

    #[test]
    fn memory_constraint_by_hand() {
        let warm = idle(Form::Warm, 60);
        // M = 0.95 * 10,000 MB * lambda / 1. C = 11 needs 1,100 MB.
        // lambda = 0.2: M = 1,900 MB, D_mem = (11 - 19) / 0.5 < 0: warm.
        assert_eq!(ask(&memory(), &warm, |f| f.peak_rate = 0.2), WARM);
        // lambda = 0.01: M = 95 MB, D_mem = (11 - 0.95) / 0.5 = 20.1 > C: dedup.
        assert_eq!(ask(&memory(), &warm, |f| f.peak_rate = 0.01), Verdict::Dedup);
        // lambda = 0.1: M = 950 MB, D_mem = 3; D_load = (11 - 0.051) / 0.49 = 22.3. D = 0: dedup; D = 3: warm.
        assert_eq!(ask(&memory(), &warm, |f| f.peak_rate = 0.1), Verdict::Dedup);
        assert_eq!(ask(&memory(), &warm, |f| (f.peak_rate, f.warm, f.dedup) = (0.1, 7, 3)), WARM);
    }

    #[test]
    fn an_infeasible_memory_budget_still_deduplicates() {
        // lambda = 19.6 of a sum of 200/s: M = 931 MB, D_mem = (11 - 9.31) / 0.5 = 3.38;
        // D_load = (11 - 9.996) / 0.49 = 2.05 < D_mem: dedup although D = 5 is above both.
        let s = spec();
        let mut f = view(&s);
        (f.dedup_start_ms, f.base, f.warm, f.dedup, f.peak_rate) = (500.0, 1, 5, 5, 19.6);
        let cluster = ClusterView { peak_rates: 200.0, ..cluster() };
        let mut p = make(&ENTRY, &memory(), &s);
        assert_eq!(p.decide(Instant::ZERO, &idle(Form::Warm, 60), &f, &cluster), Verdict::Dedup);
    }

    #[test]
    fn idle_times_purge() {
        let busy = |f: &mut FunctionView<'_>| f.peak_rate = 20.0;
        assert_eq!(ask(&latency(), &idle(Form::Warm, 600), busy), Verdict::Purge);
        assert_eq!(ask(&latency(), &idle(Form::Dedup, 899), busy), WARM);
        assert_eq!(ask(&latency(), &idle(Form::Dedup, 900), busy), Verdict::Purge);
    }

    #[test]
    fn rule_five() {
        let warm = idle(Form::Warm, 60);
        // The first sandbox asked about becomes a base, whatever came out; so does one beyond dedupperbase.
        assert_eq!(ask(&latency(), &warm, |f| (f.peak_rate, f.base) = (2.0, 0)), Verdict::Base);
        assert_eq!(ask(&memory(), &warm, |f| (f.peak_rate, f.dedup) = (0.01, 39)), Verdict::Dedup);
        assert_eq!(ask(&memory(), &warm, |f| (f.peak_rate, f.dedup) = (0.01, 40)), Verdict::Base);
        // Dedup never becomes warm by decision; it stays dedup.
        assert_eq!(ask(&memory(), &idle(Form::Dedup, 60), |f| f.peak_rate = 0.2), WARM);
        // A blacklisted sandbox stays warm instead.
        let listed = SandboxView { blacklisted: true, ..warm };
        assert_eq!(ask(&memory(), &listed, |f| f.peak_rate = 0.01), WARM);
        // A base stays; given up only without dependants after 6 keep-alives.
        let base = |secs, references| SandboxView { references, ..idle(Form::Base, secs) };
        assert_eq!(ask(&memory(), &base(3600, 1), |_| {}), Verdict::Stay(Duration::from_secs(3600)));
        assert_eq!(ask(&memory(), &base(3600, 0), |_| {}), Verdict::Purge);
        assert_eq!(ask(&memory(), &base(3599, 0), |_| {}), Verdict::Stay(Duration::from_secs(3600)));
    }
}
