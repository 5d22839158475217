//! The engine of Medes: it decides, and never does anything.
//!
//! [`engine::Engine`] is a sans-IO state machine: a world tells it what happened ([`event::Input`]), it says what is
//! to be done ([`event::Action`]) and what is to be written down ([`record`]). It has no clock, no I/O, no threads and no entropy,
//! so one line drives it in the simulated and in the real world, and the same inputs give the same outputs.
//!
//! Where to look: [`event`] is the vocabulary, [`policy`] what becomes of idle sandboxes, [`placement`] and [`eviction`] where new
//! ones go and which old ones leave, [`config`] the registry of parameters, [`profile`] the data that functions are modelled with,
//! [`dedup`] the deduplication of real bytes.

pub mod ahead;
pub mod config;
pub mod dedup;
pub mod engine;
pub mod event;
pub mod eviction;
pub mod hist;
pub mod id;
mod latency;
pub mod metrics;
pub mod placement;
pub mod policy;
pub mod profile;
mod rate;
pub mod record;
pub mod sandbox;
pub mod units;
