//! The engine of Medes: it decides, and never does anything.

pub mod id;
pub mod profile;
pub mod record;
pub mod units;
