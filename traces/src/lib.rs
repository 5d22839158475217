//! Requests to serverless functions, from recorded traces or made like them, as one sorted stream.
//!
//! [`open`] reads a trace named by a [`TraceSpec`] (`azure2019:PATH`, `azure2021:PATH`, `invitro:PATH`,
//! `requests:PATH`, `csv:PATH`, or `azure-like`, which is generated) into a [`Trace`]: its functions with
//! their trigger, memory and run times, its length, a [`ReadReport`] of every odd row and what was done
//! about it, and the requests, as counts a minute or as events. [`Trace::arrivals`] streams them in order
//! of time; the same seed gives the same arrivals on every machine and with any number of threads.
//!
//! ```
//! use medes_traces::{TraceOptions, open};
//!
//! let options = TraceOptions { functions: 50, minutes: 30, ..TraceOptions::default() };
//! let trace = open(&"azure-like".parse()?, &options)?;
//! let (mut arrivals, mut batch, mut seen) = (trace.arrivals(7), Vec::new(), 0);
//! while arrivals.next_batch(&mut batch) {
//!     seen += batch.len() as u64;
//!     batch.clear();
//! }
//! assert_eq!(seen, trace.requests());
//! # Ok::<(), medes_traces::TraceError>(())
//! ```
//!
//! Around it: [`mapping`] drives a few benchmark functions with the arrivals of many recorded ones,
//! [`sample`] takes a part of the functions, [`stats`] says what a trace is like beside what is published,
//! [`synth`] makes one, [`mod@write`] writes the files of any of these formats.

mod arrivals;
mod azure2019;
mod azure2021;
mod dataset;
mod error;
mod events;
mod invocations;
mod law;
pub mod mapping;
mod options;
mod report;
pub mod sample;
mod spec;
pub mod stats;
pub mod synth;
mod table;
mod trace;
pub mod write;

pub use arrivals::Arrivals;
pub use error::TraceError;
pub use law::{RunLaw, RunRow};
pub use medes_engine::event::Arrival;
pub use options::{ABOUT as OPTIONS, AppMemory, MINUTES_PER_DAY, MemoryFigure, Spread, TraceOptions, Window};
pub use report::{FileRead, Oddity, ReadReport, Tally};
pub use spec::{TraceKind, TraceSpec, open};
pub use trace::{Function, MemoryRow, Trace, Trigger};
