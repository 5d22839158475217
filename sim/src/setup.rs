//! What a simulation needs: configuration, functions with their profiles, faults, a seed.

use std::sync::Arc;

use medes_engine::config::Config;
use medes_engine::id::FunctionId;
use medes_engine::policy::FunctionSpec;
use medes_engine::profile::{CodecKind, FunctionProfile, Latency, ProfileSet};
use medes_engine::units::{Bytes, Duration, Instant};

use crate::cores::HostSpeed;
use crate::fault::Fault;

/// A function of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct SimFunction {
    /// Its name.
    pub name: String,
    /// Its owner, for `dedup_scope`.
    pub owner: u32,
    /// Position in the profile set of the profile that gives its times and its classes of pages.
    pub profile: usize,
    /// Memory of a warm sandbox; the profile's classes are shares of it.
    pub memory: Bytes,
    /// Expected run time, for the policies.
    pub run: Duration,
}

/// Everything but the arrivals.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Parameters.
    pub config: Config,
    /// Profiles, codecs and costs.
    pub profiles: Arc<ProfileSet>,
    /// Functions by number.
    pub functions: Arc<Vec<SimFunction>>,
    /// Nodes that are lost and come back.
    pub faults: Vec<Fault>,
    /// Seed of modelled times.
    pub seed: u64,
    /// Length of the trace: memory is averaged over it.
    pub length: Duration,
    /// Length of a timeline interval.
    pub interval: Duration,
    /// Whether the outside checker watches (slower by far).
    pub check: bool,
    /// How fast the hosts' cores are over time; `None`: always as when the profiles were measured. Counts where cores are limited.
    pub host: Option<HostSpeed>,
}

/// Why a simulation cannot be run, or is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] medes_engine::engine::EngineError),
    /// No such codec.
    #[error("profile set `{set}` has no codec `{codec}`; it has {known}")]
    Codec {
        /// The set.
        set: String,
        /// What was asked for.
        codec: String,
        /// What there is.
        known: String,
    },
    /// A codec that cannot do what the policy needs.
    #[error(
        "policy `medes` and its kin patch pages, and codec `{codec}` only compresses them alone; choose a patch codec or policy `compress`"
    )]
    NotAPatch {
        /// The codec.
        codec: String,
    },
    /// A function without a profile.
    #[error("function {function} refers to profile {profile} of {count}")]
    Profile {
        /// Its name.
        function: String,
        /// The position.
        profile: usize,
        /// How many there are.
        count: usize,
    },
    /// Arrivals out of order, or of a function that is none.
    #[error("arrival {number} at {at} of function {function}: {what}")]
    Arrival {
        /// Its number from 0.
        number: u64,
        /// Its time.
        at: Instant,
        /// Its function.
        function: FunctionId,
        /// What is wrong.
        what: &'static str,
    },
    /// The checker found that something does not add up: a defect of this program.
    #[error("the checker at {at}: {what} (please report this, with the command)")]
    Check {
        /// When.
        at: Instant,
        /// What.
        what: String,
    },
}

impl Setup {
    /// What the engine is told of each function.
    pub fn specs(&self) -> Vec<FunctionSpec> {
        self.functions
            .iter()
            .map(|f| {
                let p = &self.profiles.function[f.profile];
                FunctionSpec {
                    name: f.name.clone(),
                    owner: f.owner,
                    memory: f.memory,
                    keep_alive: Duration::from_secs_f64(p.keep_alive_s),
                    run: f.run,
                    cold_start: mean(&p.cold),
                    warm_start: mean(&p.warm),
                    advantage: p.advantage,
                    dump: f.memory.scale(p.dump_ratio),
                    paused: Bytes::from_mb(p.paused_mb).min(f.memory),
                }
            })
            .collect()
    }

    /// The profile of a function.
    pub fn profile(&self, function: FunctionId) -> &FunctionProfile {
        &self.profiles.function[self.functions[function.index()].profile]
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// A profile or codec that is not there or does not serve.
    pub fn check(&self) -> Result<(), SimError> {
        let count = self.profiles.function.len();
        if let Some(f) = self.functions.iter().find(|f| f.profile >= count) {
            return Err(SimError::Profile { function: f.name.clone(), profile: f.profile, count });
        }
        let Some(codec) = self.profiles.codec.get(&self.config.codec) else {
            let known = self.profiles.codec.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(SimError::Codec { set: self.profiles.name.clone(), codec: self.config.codec.clone(), known });
        };
        let patches = ["medes", "heuristic", "heuristic-openwhisk"].contains(&self.config.policy);
        if patches && codec.kind == CodecKind::Alone {
            return Err(SimError::NotAPatch { codec: self.config.codec.clone() });
        }
        Ok(())
    }
}

/// Mean of a lognormal distribution.
fn mean(l: &Latency) -> Duration {
    let sigma = l.sigma();
    Duration::from_millis_f64(l.median_ms * (sigma * sigma / 2.0).exp())
}
