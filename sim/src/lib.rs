//! The simulated world: carries out the engine's actions in virtual time.
//!
//! [`world::simulate`] takes a configuration, functions with their profiles, and a stream of arrivals; it gives back counts, latency
//! percentiles, memory and a timeline, and hands each request's row to the caller. [`oracle::bound`] gives rows of the same form
//! for the policy that is computed and not simulated.
//!
//! A run uses one thread, no clock and no entropy: the same setup and arrivals give the same bytes.

pub mod check;
mod cores;
mod cost;
pub mod fault;
mod feed;
mod memory;
mod net;

pub mod oracle;
mod queue;
mod resident;
pub mod setup;
pub mod world;

pub use cores::HostSpeed;
pub use medes_engine::event::Arrival;
pub use medes_engine::metrics::{BasePages, Outcome};
pub use setup::{Setup, SimError, SimFunction};
pub use world::{simulate, simulate_in_parts};
