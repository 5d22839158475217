//! Packs and unpacks one dump against another and says how fast, beside a copy of the same pages:
//! `cargo run --release -p medes-engine --example image -- BASE DUMP [repeat=N] [only=TEXT]`
//!
//! Times are those of this thread on a core, where the kernel says so, and not by the clock: the better measure on a machine with other
//! work. The best of N trials (default 5) counts. `only` takes the settings whose names contain the text.

use std::hint::black_box;
use std::path::Path;

use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::fingerprint::Fingerprinter;
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{BaseSet, Coding, Options, pack};
use medes_engine::dedup::patch::Method;
use medes_engine::dedup::unpack::{LocalBases, unpack};
use medes_engine::dedup::{Page, ZERO_PAGE, checksum, vector};

/// Seconds that this thread ran on a core.
#[expect(clippy::disallowed_methods, reason = "a clock is what this example is about")]
fn ran() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let on_core = stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).map(|ns| ns / 1e9);
    on_core.unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
    })
}

/// Seconds of the best of `repeat` trials, each of so many passes that the kernel's steps of a few ms do not show.
fn best(repeat: u32, mut work: impl FnMut()) -> f64 {
    let once = |_| {
        let (before, mut passes) = (ran(), 0);
        loop {
            work();
            passes += 1;
            let took = ran() - before;
            if took > 0.06 {
                break took / f64::from(passes);
            }
        }
    };
    (0..repeat.max(1)).map(once).fold(f64::INFINITY, f64::min)
}

fn main() {
    let (mut repeat, mut only) = (5u32, String::new());
    let mut paths = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("repeat", n)) => repeat = n.parse().unwrap_or_else(|_| panic!("`{argument}`: not a whole number")),
            Some(("only", text)) => only = text.into(),
            _ => paths.push(argument),
        }
    }
    let [base, dump] = &paths[..] else { panic!("give two dumps: BASE DUMP") };
    let open = |path: &str| Image::open(Path::new(path)).unwrap_or_else(|e| panic!("{e}"));
    let (base, image) = (open(base), open(dump));
    let mut out: Vec<Page> = vec![ZERO_PAGE; image.pages() as usize];
    let line = |name: &str, seconds: f64, more: &str| {
        println!("{name:28} {:7.2} ms  {:6.2} GB/s  {more}", seconds * 1e3, image.bytes() as f64 / seconds / 1e9);
    };
    let copied = best(repeat, || {
        for (to, page) in out.iter_mut().zip(image.iter()) {
            vector::copy(to, page);
        }
        black_box(&out);
    });
    line("copy", copied, "");
    let read = best(repeat, || {
        black_box(image.iter().fold(0, |x, page| x ^ checksum(page)));
    });
    line("checksum", read, "");
    let mut set = BaseSet::new(Fingerprinter::default(), true);
    set.add(base.clone(), 1).unwrap_or_else(|e| panic!("{e}"));
    for coding in [
        Coding::One(Method::ByteDiff),
        Coding::Auto { budget_ns: Some(0) },
        Coding::Auto { budget_ns: Some(1_000) },
        Coding::Auto { budget_ns: Some(4_000) },
        Coding::Auto { budget_ns: None },
        Coding::One(Method::ZstdPrefix),
        Coding::One(Method::Xdelta3),
        Coding::One(Method::Zstd),
        Coding::One(Method::Lz4),
    ] {
        let name = coding.name();
        if !name.contains(&only) {
            continue;
        }
        let options = Options { coding, ..Options::default() };
        let mut packed = pack(&image, &set, &options).unwrap_or_else(|e| panic!("{e}"));
        let took = best(repeat, || packed = pack(&image, &set, &options).unwrap_or_else(|e| panic!("{e}")));
        let stored = format!("{} bytes, {:.2} % saved", packed.file.len(), 100.0 * packed.report.saved());
        line(&format!("pack {name}"), took, &format!("{:.2} copies; {stored}", took / copied));
        let file = DedupFile::open("packed", &packed.file).unwrap_or_else(|e| panic!("{e}"));
        let images = [&base];
        let bases = LocalBases::new(&images);
        let took = best(repeat, || unpack(&file, &bases, 1, &mut out).unwrap_or_else(|e| panic!("{e}")));
        assert!(out.iter().eq(image.iter()), "the image came back differently");
        line(&format!("unpack {name}"), took, &format!("{:.2} copies", took / copied));
    }
}
