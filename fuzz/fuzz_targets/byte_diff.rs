//! The decoder of `ByteDiff` patches.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medes_engine::dedup::patch::Method;

#[path = "../decoder.rs"]
mod decoder;

fuzz_target!(|data: &[u8]| decoder::run(Method::ByteDiff, data));
