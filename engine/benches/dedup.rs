//! What deduplication costs, beside what it is measured against: the reference's way (SHA-1 hex strings in a map, xdelta3 level 1, one
//! page at a time), compression alone, and a copy as the limit.
//!
//! With MEDES_DUMPS set (see `scripts/make-dumps`) the images are instances 0 and 1 of rnnmodel, about 40 MB, with address
//! randomisation off and on; without, made-up pages. Throughput is of the image's bytes (or of entries), on one thread.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::fingerprint::{CHUNK, Fingerprinter, HashKind, STEP, Sampling};
use medes_engine::dedup::image::Image;
use medes_engine::dedup::index::{Index, PageRef};
use medes_engine::dedup::layout::{Alignment, Layout};
use medes_engine::dedup::pack::{BUDGET_NS, BaseSet, Choose, Coding, Options, pack};
use medes_engine::dedup::patch::{Codecs, Method};
use medes_engine::dedup::unpack::{LocalBases, unpack};
use medes_engine::dedup::{Page, ZERO_PAGE, checksum, zero};
use sha1::{Digest, Sha1};

struct Pair {
    name: &'static str,
    base: Image,
    image: Image,
}

fn pairs() -> Vec<Pair> {
    let root = std::env::var_os("MEDES_DUMPS").map(PathBuf::from);
    let open =
        |mode: &str, instance: &str| Image::open(&root.as_ref()?.join(mode).join("rnnmodel").join(instance)).ok();
    let pair = |name: &'static str| Some(Pair { name, base: open(name, "0")?, image: open(name, "1")? });
    let real: Vec<Pair> = ["noaslr", "aslr"].into_iter().filter_map(pair).collect();
    if real.is_empty() { vec![made_up()] } else { real }
}

/// 10,000 pages: of ten, four are equal to the base's, five have some edits, one is new.
fn made_up() -> Pair {
    let noise = |seed: u64| -> Page {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        std::array::from_fn(|i| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if i % 8 < 3 { 0 } else { (x >> 58) as u8 }
        })
    };
    let base: Vec<Page> = (0..10_000).map(noise).collect();
    let image: Vec<Page> = (0..10_000u64)
        .map(|n| match n % 10 {
            0..4 => base[n as usize],
            4..9 => {
                let mut page = base[n as usize];
                for i in 0..(n % 97) as usize {
                    page[i * 41] ^= 0x11;
                }
                page
            }
            _ => noise(n + 1_000_000),
        })
        .collect();
    Pair { name: "made-up", base: Image::from_pages("base", &base), image: Image::from_pages("image", &image) }
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group
}

/// The reference's fingerprint: SHA-1 as a hex string, a heap allocation each.
fn reference_fingerprint(page: &Page, n: usize) -> Vec<String> {
    let mut out = Vec::new();
    for at in (0..=page.len() - CHUNK).step_by(STEP) {
        let chunk = &page[at..at + CHUNK];
        if chunk.iter().all(|b| *b == 0) {
            continue;
        }
        let mut hex = String::new();
        for byte in Sha1::digest(chunk) {
            let _ = write!(hex, "{byte:02x}");
        }
        if u32::from_str_radix(&hex[39..], 16).is_ok_and(|d| d % 2 == 0) {
            out.push(hex);
        }
        if out.len() == n {
            break;
        }
    }
    out
}

fn fingerprints(c: &mut Criterion) {
    let pair = pairs().remove(0);
    let mut g = group(c, &format!("fingerprint/{}", pair.name));
    g.throughput(Throughput::Bytes(pair.image.bytes()));
    for (hash, chunks) in [(HashKind::Fold(1), 5), (HashKind::Fold(1), 40), (HashKind::Sha1, 5)] {
        let fingerprinter = Fingerprinter::new(Sampling::ValueSampled, chunks, hash).expect("chunks");
        let mut out = Vec::new();
        g.bench_function(format!("{} {chunks}", hash.name()), |b| {
            b.iter(|| {
                for page in pair.image.iter() {
                    out.clear();
                    fingerprinter.page(page, &mut out);
                    black_box(&out);
                }
            });
        });
    }
    g.bench_function("baseline reference 5", |b| {
        b.iter(|| pair.image.iter().map(|p| reference_fingerprint(p, 5).len()).sum::<usize>());
    });
    g.bench_function("zero test", |b| b.iter(|| pair.image.iter().filter(|p| zero::is_zero(p)).count()));
    g.bench_function("checksum", |b| b.iter(|| pair.image.iter().fold(0, |x, p| x ^ checksum(p))));
    let mut to = ZERO_PAGE;
    g.bench_function("limit memcpy", |b| {
        b.iter(|| {
            for page in pair.image.iter() {
                to = *page;
                black_box(&to);
            }
        });
    });
}

fn index(c: &mut Criterion) {
    const N: u64 = 4_000_000;
    let hash = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i >> 7).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mut g = group(c, "index of 4 M entries");
    g.throughput(Throughput::Elements(N));
    let mut filled = Index::with_capacity(N as usize);
    let base = filled.add_base().expect("a base");
    let entries: Vec<_> = (0..N).map(|i| (hash(i), PageRef { base, page: (i / 5) as u32 })).collect();
    let hashes: Vec<u64> = (0..N).map(|i| hash(i * 2_654_435_761 % N)).collect();
    g.bench_function("insert", |b| {
        b.iter_batched_ref(
            || {
                let mut index = Index::with_capacity(N as usize);
                let _ = index.add_base();
                index
            },
            |index| entries.chunks(4096).for_each(|part| index.insert(part)),
            criterion::BatchSize::PerIteration,
        );
    });
    filled.insert(&entries);
    g.bench_function("lookup", |b| {
        b.iter(|| {
            let mut hits = 0u64;
            hashes.chunks(4096).for_each(|part| filled.lookup(part, |_, p| hits += u64::from(p.page & 1)));
            hits
        });
    });
    drop(filled);
    // As much memory read line by line in the same order, each line asked for ahead: what memory allows.
    let lines = vec![[1u64; 8]; N as usize / 3];
    let at = |hash: &u64| ((u128::from(*hash) * lines.len() as u128) >> 64) as usize;
    g.bench_function("limit reading lines at random", |b| {
        b.iter(|| hashes.iter().map(|h| lines[at(h)][0]).sum::<u64>())
    });
    drop(lines);
    // The reference's: hex strings in a map of vectors.
    let strings: Vec<String> = hashes.iter().take(400_000).map(|h| format!("{h:040x}")).collect();
    let mut map: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (i, s) in strings.iter().enumerate() {
        map.entry(s.clone()).or_default().push(i as u64);
    }
    g.throughput(Throughput::Elements(strings.len() as u64));
    g.bench_function("baseline strings in a map, lookup in 0.4 M", |b| {
        b.iter(|| strings.iter().filter_map(|s| map.get(s)).map(Vec::len).sum::<usize>());
    });
}

fn codecs(c: &mut Criterion) {
    for pair in pairs() {
        let (layout, of_base) = (Layout::of(&pair.image), Layout::of(&pair.base));
        let alignment = Alignment::new(&pair.image, &layout, &of_base, true);
        let moved = |n: u64| -> Option<(Page, Page)> {
            let at = alignment.place(n)?;
            let (page, mut base) = (*pair.image.page(n)?, *pair.base.page(at.into())?);
            if let Some(relocation) = alignment.relocation(at) {
                relocation.apply(&mut base);
            }
            (page != base && !zero::is_zero(&page)).then_some((page, base))
        };
        let pages: Vec<(Page, Page)> = (0..pair.image.pages()).filter_map(moved).step_by(5).collect();
        let mut g = group(c, &format!("codec/{}", pair.name));
        g.throughput(Throughput::Elements(pages.len() as u64));
        let (mut codecs, mut out) = (Codecs::default(), Vec::new());
        for method in Method::CODING {
            g.bench_function(format!("encode {}", method.name()), |b| {
                b.iter(|| {
                    for (page, base) in &pages {
                        out.clear();
                        black_box(codecs.encode(method, page, Some(base), 4096, &mut out));
                    }
                });
            });
            let encoded: Vec<(Vec<u8>, &Page)> = pages
                .iter()
                .filter_map(|(page, base)| {
                    let mut patch = Vec::new();
                    codecs.encode(method, page, Some(base), 4096, &mut patch).then_some((patch, base))
                })
                .collect();
            let mut page = ZERO_PAGE;
            g.bench_function(format!("decode {}", method.name()), |b| {
                b.iter(|| {
                    for (patch, base) in &encoded {
                        let _ = black_box(codecs.decode(method, patch, Some(base), &mut page));
                    }
                });
            });
        }
    }
}

/// The reference's way over a whole image.
fn reference_pack(image: &Image, table: &BTreeMap<String, Vec<u64>>, base: &Image) -> usize {
    let mut stored = 0;
    for page in image.iter() {
        let hit = reference_fingerprint(page, 5).iter().find_map(|h| table.get(h)?.first().copied());
        let mut patch = Vec::new();
        let mut codecs = Codecs::default();
        let done = hit
            .and_then(|n| base.page(n))
            .is_some_and(|of_base| codecs.encode(Method::Xdelta3, page, Some(of_base), 4096, &mut patch));
        stored += if done { patch.len() } else { page.len() };
    }
    stored
}

fn whole_images(c: &mut Criterion) {
    for pair in pairs() {
        let mut g = group(c, &format!("image/{}", pair.name));
        g.throughput(Throughput::Bytes(pair.image.bytes()));
        let mut set = BaseSet::new(Fingerprinter::default(), true);
        set.add(pair.base.clone(), 1).expect("a base");
        for coding in [
            Coding::One(Method::ByteDiff),
            Coding::Auto { budget_ns: Some(0) },
            Coding::Auto { budget_ns: Some(BUDGET_NS) },
            Coding::Auto { budget_ns: None },
            Coding::One(Method::ZstdPrefix),
            Coding::One(Method::Xdelta3),
            Coding::One(Method::Zstd),
            Coding::One(Method::Lz4),
        ] {
            let options = Options { choose: Choose::Nearest, coding, ..Options::default() };
            let name = coding.name();
            g.bench_function(format!("pack {name}"), |b| {
                b.iter(|| pack(&pair.image, &set, &options).map(|p| p.file.len()));
            });
            let packed = pack(&pair.image, &set, &options).expect("packs");
            println!("{}: {name} saves {:.2} %", pair.name, 100.0 * packed.report.saved());
            let file = DedupFile::open("bench", &packed.file).expect("opens");
            let images = [&pair.base];
            let mut out: Vec<Page> = vec![ZERO_PAGE; pair.image.pages() as usize];
            g.bench_function(format!("unpack {name}"), |b| {
                b.iter(|| unpack(&file, &LocalBases::new(&images), 1, &mut out));
            });
        }
        let mut table: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (n, page) in pair.base.iter().enumerate() {
            for h in reference_fingerprint(page, 5) {
                table.entry(h).or_default().push(n as u64);
            }
        }
        g.bench_function("baseline reference pack", |b| b.iter(|| reference_pack(&pair.image, &table, &pair.base)));
        let mut out: Vec<Page> = vec![ZERO_PAGE; pair.image.pages() as usize];
        g.bench_function("limit memcpy", |b| {
            b.iter(|| {
                for (to, page) in out.iter_mut().zip(pair.image.iter()) {
                    *to = *page;
                }
                black_box(&out);
            });
        });
    }
}

criterion_group!(benches, fingerprints, index, codecs, whole_images);
criterion_main!(benches);
