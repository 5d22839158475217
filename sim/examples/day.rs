//! Simulates a generated day and says how fast: `cargo run --release -p medes-sim --example day -- [key=value]...`
//!
//! `functions`, `invocations`, `minutes`: the trace (default: the 400-function day of 1,500,400 invocations).
//! `constant=1`: every modelled time is its median. `stored=1`: arrivals are drawn beforehand.
//! `repeat=N`: the best of N runs counts. Every other key is a parameter of the run, as in `policy=medes memcap=32000`.

#[path = "../benches/job/mod.rs"]
mod job;

#[expect(clippy::disallowed_methods, reason = "a clock is what this example is about")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Seconds that this thread ran on a core, where the kernel says so: on a machine with other work the better measure.
fn ran() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).map_or(f64::NAN, |ns| ns / 1e9)
}

fn main() {
    let (mut functions, mut invocations, mut minutes, mut repeat) = (400u32, 1_500_400u64, 1440u32, 1u32);
    let (mut constant, mut stored) = (false, false);
    let mut parameters = vec![
        ("policy".to_owned(), "fixed".to_owned()),
        ("nodes".into(), "1".into()),
        ("memcap".into(), job::ENOUGH.into()),
    ];
    for argument in std::env::args().skip(1) {
        let Some((key, value)) = argument.split_once('=') else { panic!("`{argument}` is not `key=value`") };
        let number = || value.parse::<u64>().unwrap_or_else(|_| panic!("`{argument}`: not a whole number"));
        match key {
            "functions" => functions = number() as u32,
            "invocations" => invocations = number(),
            "minutes" => minutes = number() as u32,
            "repeat" => repeat = number() as u32,
            "constant" => constant = number() > 0,
            "stored" => stored = number() > 0,
            _ => parameters.push((key.into(), value.into())),
        }
    }
    let clock = now();
    let trace = job::day(functions, invocations, minutes);
    let parameters: Vec<_> = parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let setup = job::setup(&trace, constant, &parameters);
    let arrivals = if stored { job::collect(&trace, setup.seed) } else { Vec::new() };
    let made = clock.elapsed().as_secs_f64();
    let mut best = f64::INFINITY;
    for _ in 0..repeat.max(1) {
        let (clock, before) = (now(), ran());
        let outcome = if stored { job::stored(&setup, &arrivals) } else { job::streamed(&setup, &trace) };
        let (wall, took) = (clock.elapsed().as_secs_f64(), ran() - before);
        let took = if took.is_nan() { wall } else { took };
        if took < best {
            best = took;
            let s = &outcome.summary;
            println!(
                "{} requests: {} cold, {} warm, {} dedup, {} queued, {} dropped, {} evictions; memory {:.0} MB at most",
                s.requests, s.cold, s.warm, s.dedup, s.queued, s.dropped, s.evictions, s.max_memory_mb
            );
            println!(
                "made {made:.2} s, simulated {took:.3} s of one core ({wall:.3} s by the clock): {:.3} M/s",
                s.requests as f64 / took / 1e6
            );
        }
    }
}
