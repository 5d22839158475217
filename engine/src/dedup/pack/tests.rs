use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::dedup::fingerprint::{Fingerprinter, HashKind, Sampling};
use crate::dedup::image::{Blob, Folder};
use crate::dedup::unpack::{BasePages, FetchError, LocalBases, Run, Scratch, UnpackError, unpack};
use crate::dedup::{Page, ZERO_PAGE, file::DedupFile};

fn noise(seed: u64) -> Page {
    let mut x = seed.wrapping_mul(2) | 1;
    std::array::from_fn(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x & 0x3f) as u8
    })
}

#[derive(Clone, Debug)]
enum Kind {
    Zero,
    Same(u8),
    Edited(u8, Vec<(u16, u8)>),
    New(u64),
}

fn kind() -> impl Strategy<Value = Kind> {
    let edits = proptest::collection::vec((0u16..4096, any::<u8>()), 1..30);
    prop_oneof![
        1 => Just(Kind::Zero),
        3 => any::<u8>().prop_map(Kind::Same),
        4 => (any::<u8>(), edits).prop_map(|(p, e)| Kind::Edited(p, e)),
        2 => any::<u64>().prop_map(Kind::New),
    ]
}

fn build(base: &[Page], kinds: &[Kind]) -> Vec<Page> {
    let of_base = |i: &u8| base.get(usize::from(*i) % base.len().max(1)).copied().unwrap_or(ZERO_PAGE);
    let page = |k: &Kind| match k {
        Kind::Zero => ZERO_PAGE,
        Kind::Same(i) => of_base(i),
        Kind::Edited(i, edits) => {
            let mut page = of_base(i);
            for (at, b) in edits {
                page[usize::from(*at)] = *b;
            }
            page
        }
        Kind::New(seed) => noise(*seed),
    };
    kinds.iter().map(page).collect()
}

fn set(bases: &[&[Page]], relocate: bool) -> BaseSet {
    let mut set = BaseSet::new(Fingerprinter::default(), relocate);
    for (i, pages) in bases.iter().enumerate() {
        set.add(Image::from_pages(&format!("base {i}"), pages), 1).unwrap();
    }
    set
}

fn restore(packed: &Packed, set: &BaseSet, threads: usize) -> Result<Vec<Page>, UnpackError> {
    let file = DedupFile::open("test", &packed.file)?;
    let images: Vec<&Image> = set.bases().iter().filter_map(|b| b.image()).collect();
    let mut out = vec![noise(77); file.pages() as usize];
    unpack(&file, &LocalBases::new(&images), threads, &mut out).map(|()| out)
}

fn options(choose: Choose, coding: Coding) -> Options {
    Options { choose, coding, ..Options::default() }
}

const CHOICES: [Choose; 4] =
    [Choose::Reference(Weights { dup: 1.0, refcount: 2.0, local: 10.0 }), Choose::Votes, Choose::Nearest, Choose::Best];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every choice and every way of coding gives the image back, and `auto` never takes more than any method
    /// alone, with any number of threads the same bytes.
    #[test]
    fn images_come_back_and_auto_is_smallest(seeds in proptest::collection::vec(any::<u64>(), 0..40), kinds in proptest::collection::vec(kind(), 0..600)) {
        let base: Vec<Page> = seeds.iter().map(|s| noise(*s)).collect();
        let pages = build(&base, &kinds);
        let image = Image::from_pages("image", &pages);
        let (half, rest) = base.split_at(base.len() / 2);
        let none = BaseSet::new(Fingerprinter::default(), false);
        let set = set(&[half, rest], true);
        for choose in CHOICES {
            let budgets = [None, Some(0), Some(2_000)];
            let autos = budgets.map(|budget_ns| {
                // The number of threads must not show.
                let options = Options { threads: 1 + usize::from(budget_ns.is_some()), ..options(choose, Coding::Auto { budget_ns }) };
                pack(&image, &set, &options).unwrap()
            });
            for auto in &autos {
                prop_assert!(restore(auto, &set, 1).unwrap() == pages);
            }
            for method in [Method::Whole, Method::ByteDiff, Method::ZstdPrefix, Method::Xdelta3, Method::Zstd, Method::Lz4] {
                let one = pack(&image, &set, &options(choose, Coding::One(method))).unwrap();
                prop_assert!(restore(&one, &set, 2).unwrap() == pages);
                for auto in &autos {
                    prop_assert!(auto.file.len() <= one.file.len(), "{method:?} {:?} {:?}", auto.report, one.report);
                }
            }
            for method in [Method::Zstd, Method::Lz4] {
                let alone = pack(&image, &none, &options(choose, Coding::One(method))).unwrap();
                for auto in &autos {
                    prop_assert!(auto.file.len() <= alone.file.len(), "{method:?} {:?} {:?}", auto.report, alone.report);
                }
            }
        }
        let one = pack(&image, &set, &Options::default()).unwrap();
        let three = pack(&image, &set, &Options { threads: 3, ..Options::default() }).unwrap();
        prop_assert!(one.file == three.file, "the number of threads shows in the file");
        prop_assert_eq!(one.report.pages, pages.len() as u64);
        prop_assert_eq!(one.report.methods.values().map(|p| p.pages).sum::<u64>(), pages.len() as u64);
    }

    /// Any damage to the file, or to a base, is an error or leaves the pages as they were.
    #[test]
    fn damage_is_never_restored(kinds in proptest::collection::vec(kind(), 1..300), at in any::<usize>(), bit in 0u8..8, cut in any::<bool>()) {
        let base: Vec<Page> = (0..20).map(noise).collect();
        let pages = build(&base, &kinds);
        let set = set(&[&base], false);
        let mut packed = pack(&Image::from_pages("image", &pages), &set, &Options::default()).unwrap();
        let at = at % packed.file.len();
        if cut {
            packed.file.truncate(at);
        } else {
            packed.file[at] ^= 1 << bit;
        }
        match restore(&packed, &set, 2) {
            Ok(back) => prop_assert!(back == pages),
            Err(e) => prop_assert!(e.to_string().contains("test"), "{e}"),
        }
    }
}

#[test]
fn another_base_is_an_error_that_names_the_page() {
    let base: Vec<Page> = (0..9).map(noise).collect();
    let mut pages = base.clone();
    pages[4][100] ^= 1;
    let set = set(&[&base], false);
    let packed = pack(&Image::from_pages("image", &pages), &set, &Options::default()).unwrap();
    let mut other = base.clone();
    other[6][0] ^= 1;
    let wrong = Image::from_pages("other", &other);
    let file = DedupFile::open("f.dedup", &packed.file).unwrap();
    let mut out = vec![ZERO_PAGE; 9];
    let error = unpack(&file, &LocalBases::new(&[&wrong]), 1, &mut out).unwrap_err().to_string();
    assert!(
        error.contains("f.dedup, page 6 (pages, offset 24576)") && error.contains("page 6 of base base 0"),
        "{error}"
    );
    // And is not taken for the right one by its digest.
    let error = LocalBases::matching(&file, &[wrong]).err().unwrap().to_string();
    assert!(error.contains("base 0") && error.contains("--base"), "{error}");
    let right = [Image::from_pages("renamed", &base)];
    unpack(&file, &LocalBases::matching(&file, &right).unwrap(), 1, &mut out).unwrap();
    assert!(out == pages);
    let short = Image::from_pages("short", &base[..3]);
    let error = unpack(&file, &LocalBases::new(&[&short]), 1, &mut out).unwrap_err().to_string();
    assert!(error.contains("has only 3 pages"), "{error}");
}

/// A transport that loses a run, or gives less than asked.
struct Lossy<'a>(&'a Image, bool);

impl BasePages for Lossy<'_> {
    fn fetch<'a>(&'a self, runs: &[Run], _: &'a mut Scratch) -> Result<Vec<&'a [Page]>, FetchError> {
        let mut out: Vec<&[Page]> = runs.iter().map(|r| self.0.run(r.first.into(), r.pages.into())).collect();
        if self.1 {
            let run = *runs.last().unwrap();
            return Err(FetchError { run, reason: "timed out".into() });
        }
        out.pop();
        Ok(out)
    }
}

#[test]
fn a_missing_run_is_an_error_that_names_the_pages() {
    let base: Vec<Page> = (0..9).map(noise).collect();
    let set = set(&[&base], false);
    let packed = pack(&Image::from_pages("image", &base), &set, &Options::default()).unwrap();
    let file = DedupFile::open("f", &packed.file).unwrap();
    let image = set.bases()[0].image().unwrap();
    let mut out = vec![ZERO_PAGE; 9];
    for (late, says) in [(true, "timed out"), (false, "0 pages came")] {
        let error = unpack(&file, &Lossy(image, late), 1, &mut out).unwrap_err().to_string();
        assert!(error.contains("pages 0 to 8") && error.contains(says), "{error}");
    }
    assert!(matches!(
        unpack(&file, &LocalBases::new(&[image]), 1, &mut out[..5]),
        Err(UnpackError::Room { pages: 9, room: 5, .. })
    ));
}

/// A checkpoint of one process whose heap points into itself and into a library, placed at given addresses.
fn process(heap: u64, library: u64, seed: u64) -> Image {
    use crate::dedup::image::test_messages as m;
    let pages = 64u64;
    let mut bytes = Vec::new();
    for n in 0..2 * pages {
        let mut page = noise(n + 1);
        for i in 0..60 {
            let at = (i * 64 + (n as usize % 7) * 8) / 8 * 8;
            let target = if i % 3 == 0 { library } else { heap };
            let pointer = target + (n * 7919 + i as u64 * 104_729) % (pages * 4096);
            page[at..at + 8].copy_from_slice(&pointer.to_le_bytes());
        }
        page[4000] = seed as u8;
        bytes.extend(page);
    }
    let files = m::one_process(heap, library, pages, Arc::new(bytes));
    Image::from_folder(&Folder::Memory(files)).unwrap()
}

#[test]
fn pointers_are_corrected_whatever_the_addresses() {
    let base = process(0x5555_0000_0000, 0x7f00_1234_5000, 1);
    let image = process(0x5612_3450_0000, 0x7fab_0000_1000, 2);
    let saved = |relocate: bool, coding| {
        let mut set = BaseSet::new(Fingerprinter::default(), relocate);
        set.add(base.clone(), 2).unwrap();
        let packed = pack(&image, &set, &options(Choose::Nearest, coding)).unwrap();
        let back = restore(&packed, &set, 2).unwrap();
        assert!(back.iter().eq(image.iter()));
        packed.report
    };
    let diff = Coding::One(Method::ByteDiff);
    let (plain, moved) = (saved(false, diff), saved(true, diff));
    // One byte differs in each page beside the pointers: a token of three bytes and the byte.
    assert_eq!((moved.methods["byte-diff"].pages, moved.placed), (128, 128), "{moved:?}");
    assert!(moved.patch_bytes <= 128 * 4 && plain.patch_bytes > 128 * 60 * 3, "{plain:?} {moved:?}");
    assert!(moved.shifts >= 2);
}

#[test]
fn patch_threshold_and_other_fingerprints() {
    let base: Vec<Page> = (0..30).map(noise).collect();
    let mut pages = base.clone();
    for (i, page) in pages.iter_mut().enumerate() {
        for at in 0..i {
            page[4095 - at * 20] ^= 1;
        }
    }
    let image = Image::from_pages("image", &pages);
    for sampling in Sampling::ALL {
        for hash in [HashKind::Fold(9), HashKind::Sha1] {
            let mut set = BaseSet::new(Fingerprinter::new(sampling, 4, hash).unwrap(), false);
            set.add(Image::from_pages("base", &base), 1).unwrap();
            let o = Options { patch_threshold: 31, ..options(Choose::Votes, Coding::One(Method::ByteDiff)) };
            let packed = pack(&image, &set, &o).unwrap();
            // Three bytes a site, four for the first one: up to nine sites fit in 31 bytes.
            assert!(restore(&packed, &set, 1).unwrap() == pages);
            let methods = &packed.report.methods;
            assert!(methods["byte-diff"].bytes <= 31 * methods["byte-diff"].pages, "{methods:?}");
            assert!(methods["whole"].pages >= 15, "{methods:?}");
        }
    }
}

#[test]
fn a_whole_checkpoint_comes_back_byte_for_byte() {
    use crate::dedup::unpack::unpack_to;
    let dir = std::env::temp_dir().join(format!("medes-pack-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let image = process(0x5555_0000_0000, 0x7f00_1234_5000, 1);
    let Some(Folder::Memory(files)) = image.folder().cloned() else { panic!("in memory") };
    std::fs::create_dir_all(dir.join("in")).unwrap();
    for (name, bytes) in &files {
        std::fs::write(dir.join("in").join(name), &bytes[..]).unwrap();
    }
    std::fs::write(dir.join("in/dump.log"), b"(00.01) fine\n").unwrap();
    std::os::unix::fs::symlink("../before", dir.join("in/parent")).unwrap();
    let image = Image::open(&dir.join("in")).unwrap();
    let set = set(&[], true);
    let packed = pack(&image, &set, &Options::default()).unwrap();
    let file = DedupFile::open("f", &packed.file).unwrap();
    unpack_to(&file, &LocalBases::new(&[]), 2, &dir.join("out")).unwrap();
    let read = |of: &str| -> BTreeMap<_, _> {
        let entries = std::fs::read_dir(dir.join(of)).unwrap().map(|e| e.unwrap());
        entries
            .filter(|e| e.file_type().unwrap().is_file())
            .map(|e| (e.file_name(), std::fs::read(e.path()).unwrap()))
            .collect()
    };
    assert!(read("in") == read("out"));
    assert_eq!(std::fs::read_link(dir.join("out/parent")).unwrap(), std::path::Path::new("../before"));
    assert!(
        unpack_to(&file, &LocalBases::new(&[]), 2, &dir.join("out")).unwrap_err().to_string().contains("not empty")
    );
    // What cannot be finished leaves nothing: a flipped bit in the last page's patch is found after all others were written.
    let mut damaged = packed.file.clone();
    let block = *file.manifest().blocks.last().unwrap();
    damaged[block.offset as usize + (block.table + block.patches) as usize - 1] ^= 1;
    let damaged = DedupFile::open("f", &damaged).unwrap();
    std::fs::create_dir(dir.join("empty")).unwrap();
    for (to, stays) in [("failed", false), ("empty", true)] {
        let to = dir.join(to);
        let error = unpack_to(&damaged, &LocalBases::new(&[]), 2, &to).unwrap_err().to_string();
        assert!(error.contains("f, page 127"), "{error}");
        assert_eq!(to.exists(), stays);
        assert!(!stays || std::fs::read_dir(&to).unwrap().next().is_none());
    }
    // A plain file of pages is one again.
    let raw = Image::raw("raw", Blob::Owned(Arc::new(noise(1).to_vec()))).unwrap();
    let packed = pack(&raw, &set, &Options::default()).unwrap();
    let file = DedupFile::open("f", &packed.file).unwrap();
    unpack_to(&file, &LocalBases::new(&[]), 1, &dir.join("raw")).unwrap();
    assert_eq!(std::fs::read(dir.join("raw")).unwrap(), noise(1));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_manifest_that_leads_out_of_the_folder_is_refused() {
    let manifest =
        Manifest { attachments: vec![Attachment { name: "../../evil".into(), bytes: vec![1] }], ..Manifest::default() };
    assert!(!manifest.encode_to_vec().is_empty());
    let bytes = file::write(0, &[], manifest);
    let error = DedupFile::open("f", &bytes).err().unwrap().to_string();
    assert!(error.contains("evil"), "{error}");
}

/// Pages that a byte difference makes small and compression alone smaller still: bases that are noisier than the image.
#[test]
fn a_budget_does_not_keep_from_what_must_be_tried() {
    let pages: Vec<Page> = (0..600u32).map(|n| std::array::from_fn(|i| (i as u32 / 512 + n) as u8)).collect();
    let mut base = pages.clone();
    for (n, page) in base.iter_mut().enumerate() {
        for i in 0..120 {
            page[(i * 34 + n) % 4096] ^= noise(n as u64)[i] | 1;
        }
    }
    let (image, set) = (Image::from_pages("image", &pages), set(&[&base], true));
    let size = |coding| {
        let packed = pack(&image, &set, &options(Choose::Nearest, coding)).unwrap();
        assert!(restore(&packed, &set, 2).unwrap() == pages);
        packed.file.len()
    };
    let (diff, alone) = (size(Coding::One(Method::ByteDiff)), size(Coding::One(Method::Zstd)));
    assert!(alone < diff / 4, "{alone} {diff}");
    for budget_ns in [Some(0), Some(100), Some(1_000), None] {
        let auto = size(Coding::Auto { budget_ns });
        assert!(auto <= alone, "{budget_ns:?}: {auto}, zstd alone {alone}");
    }
}
