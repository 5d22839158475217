//! Writes the first corpus: valid inputs of every target, which the fuzzer changes from there.
//! Run by `scripts/fuzz --seeds`; the corpus is kept in the repository.

use std::fs;
use std::path::Path;

use medes_engine::dedup::file::{DedupFile, Manifest};
use medes_engine::dedup::fingerprint::Fingerprinter;
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{BaseSet, Options, pack};
use medes_engine::dedup::patch::{Codecs, Method};
use prost::Message;

mod decoder;
mod names;

fn save(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new("fuzz/corpus").join(target);
    fs::create_dir_all(&folder).expect("the corpus folder");
    fs::write(folder.join(name), bytes).expect("a corpus file");
}

fn main() {
    let targets = [
        ("byte_diff", Method::ByteDiff),
        ("zstd_prefix", Method::ZstdPrefix),
        ("xdelta3", Method::Xdelta3),
        ("zstd", Method::Zstd),
        ("lz4", Method::Lz4),
    ];
    let mut codecs = Codecs::default();
    for choice in 0..3u8 {
        let base = decoder::base(choice);
        let mut edited = base;
        for at in (7..4096).step_by(301) {
            edited[at] ^= 0x55;
        }
        let mut shifted = base;
        shifted.rotate_left(40);
        for (name, page) in [("edited", edited), ("shifted", shifted), ("constant", [7; 4096])] {
            for (target, method) in targets {
                let mut input = vec![choice];
                if codecs.encode(method, &page, Some(&base), usize::MAX, &mut input) && input.len() < 1500 {
                    save(target, &format!("{name}-{choice}"), &input);
                }
            }
        }
    }
    // A dedup file, whole and in its parts.
    let base: Vec<_> = (0..16).map(|i| [i; 4096]).collect();
    let mut pages = base.clone();
    pages[3][100] = 9;
    pages[9] = decoder::base(1);
    let mut set = BaseSet::new(Fingerprinter::default(), true);
    set.add(Image::from_pages("base", &base), 1).expect("a base");
    let packed = pack(&Image::from_pages("image", &pages), &set, &Options::default()).expect("packs");
    let mut input = vec![0];
    input.extend(&packed.file);
    save("dedup_file", "whole", &input);
    let file = DedupFile::open("seed", &packed.file).expect("opens");
    let block = file.manifest().blocks[0];
    let (from, table) = (block.offset as usize, block.table as usize);
    let manifest = Manifest { blocks: Vec::new(), ..file.manifest().clone() }.encode_to_vec();
    let mut input = vec![1];
    for part in [&manifest[..], &packed.file[from..from + table]] {
        input.extend((part.len() as u16).to_le_bytes());
        input.extend(part);
    }
    input.extend(&packed.file[from + table..from + table + block.patches as usize]);
    save("dedup_file", "parts", &input);
    // A checkpoint, from files given as arguments if there are any: FOLDER PID.
    let mut arguments = std::env::args().skip(1);
    if let (Some(folder), Some(pid)) = (arguments.next(), arguments.next()) {
        let mut input = Vec::new();
        for (i, name) in names::NAMES.iter().enumerate() {
            let on_disk = name.replace("-1.img", &format!("-{pid}.img"));
            let on_disk = if name.starts_with("pages-") { name.to_string() } else { on_disk };
            let Ok(bytes) = fs::read(Path::new(&folder).join(on_disk)) else { continue };
            let content = if name.starts_with("pages-") { vec![1; bytes.len() / 4096] } else { bytes };
            input.push(i as u8);
            input.extend((content.len() as u16).to_le_bytes());
            input.extend(content);
        }
        save("image", "real", &input);
    }
}
