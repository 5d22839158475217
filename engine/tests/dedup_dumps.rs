//! Round trips on real CRIU dumps: those that `scripts/make-dumps` put into the folder MEDES_DUMPS (MODE/FUNCTION/INSTANCE).
//! Without it the test says so and passes: dumps need root and CRIU.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use medes_engine::dedup::choose::Weights;
use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::fingerprint::{Fingerprinter, HashKind, Sampling};
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{BaseSet, Choose, Coding, Options, Packed, pack};
use medes_engine::dedup::patch::Method;
use medes_engine::dedup::unpack::{LocalBases, unpack, unpack_to};
use medes_engine::dedup::{Page, ZERO_PAGE};

fn folders(of: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(of) else { return Vec::new() };
    let mut out: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
    out.sort();
    out
}

fn restored(packed: &Packed, base: &Image, image: &Image) {
    let file = DedupFile::open("packed", &packed.file).expect("opens");
    let mut out: Vec<Page> = vec![ZERO_PAGE; image.pages() as usize];
    unpack(&file, &LocalBases::new(&[base]), 2, &mut out).expect("unpacks");
    assert!(out.iter().eq(image.iter()), "{} came back differently", image.name());
}

fn set(base: &Image, sampling: Sampling, hash: HashKind, relocate: bool) -> BaseSet {
    let fingerprinter = Fingerprinter::new(sampling, 5, hash).expect("five chunks");
    let mut set = BaseSet::new(fingerprinter, relocate);
    set.add(base.clone(), 2).expect("a base");
    set
}

#[test]
fn dumps_come_back_and_auto_is_smallest() {
    let Some(root) = std::env::var_os("MEDES_DUMPS").map(PathBuf::from) else {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: MEDES_DUMPS names no folder of dumps; scripts/make-dumps makes them (root, CRIU)"
        );
        return;
    };
    let mut seen = 0;
    for mode in folders(&root) {
        for function in folders(&mode) {
            let (zero, one) = (function.join("0"), function.join("1"));
            if !one.join("inventory.img").exists() {
                continue;
            }
            let base = Image::open(&zero).expect("the base");
            let image = Image::open(&one).expect("the dump");
            check(&base, &image);
            whole(&set(&base, Sampling::ValueSampled, HashKind::Fold(0), true), &one, &image);
            seen += 1;
        }
    }
    assert!(seen > 0, "no dumps below {}: MODE/FUNCTION/INSTANCE is expected", root.display());
    println!("{seen} dumps round-tripped");
}

fn check(base: &Image, image: &Image) {
    let reference = Choose::Reference(Weights::default());
    for relocate in [false, true] {
        // Files, with all that they hold.
        let set = set(base, Sampling::ValueSampled, HashKind::Fold(0), relocate);
        for choose in [reference, Choose::Nearest] {
            let run = |coding| {
                let packed = pack(image, &set, &Options { choose, coding, threads: 2, ..Options::default() });
                let packed = packed.expect("packs");
                restored(&packed, base, image);
                packed.file.len()
            };
            // Without a limit only as the tool does by default: it takes long.
            let all =
                if relocate && choose == Choose::Nearest { &[None, Some(0), Some(2_000)][..] } else { &[Some(0)] };
            let autos: Vec<usize> = all.iter().map(|b| run(Coding::Auto { budget_ns: *b })).collect();
            for method in [Method::Xdelta3, Method::ZstdPrefix, Method::ByteDiff, Method::Zstd, Method::Lz4] {
                let alone = run(Coding::One(method));
                assert!(autos.iter().all(|a| *a <= alone), "{}: auto {autos:?}, {method:?} {alone}", image.name());
            }
        }
    }
    for sampling in Sampling::ALL {
        let set = set(base, sampling, HashKind::Sha1, false);
        let options = Options { choose: reference, coding: Coding::One(Method::Xdelta3), ..Options::default() };
        restored(&pack(image, &set, &options).expect("packs"), base, image);
    }
}

/// The whole folder comes back byte for byte.
fn whole(set: &BaseSet, of: &Path, image: &Image) {
    let dir = std::env::temp_dir().join(format!("medes-dumps-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let packed = pack(image, set, &Options { coding: Coding::Auto { budget_ns: Some(0) }, ..Options::default() });
    let packed = packed.expect("packs");
    let file = DedupFile::open("packed", &packed.file).expect("opens");
    unpack_to(&file, &LocalBases::new(&[set.bases()[0].image().expect("at hand")]), 2, &dir).expect("unpacks");
    for entry in std::fs::read_dir(of).expect("the dump").map(|e| e.expect("an entry")) {
        let back = std::fs::read(dir.join(entry.file_name())).expect("the file again");
        assert!(back == std::fs::read(entry.path()).expect("the file"), "{:?} differs", entry.file_name());
    }
    std::fs::remove_dir_all(&dir).expect("a temporary folder");
}
