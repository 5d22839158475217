//! The dedup file reader, and unpacking what it reads. Input: an even first byte and a file; or an odd one and a manifest
//! (two bytes of length, protobuf) followed by a block's table (two bytes of length) and its patches, from which a file with
//! the right checksums is made, since a fuzzer does not guess them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medes_engine::dedup::file::{DedupFile, Manifest, write};
use medes_engine::dedup::image::Image;
use medes_engine::dedup::unpack::{LocalBases, unpack};
use medes_engine::dedup::{Page, ZERO_PAGE};
use prost::Message;

fn part<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return &[] };
    let (part, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    *data = rest;
    part
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, mut data)) = data.split_first() else { return };
    let made;
    let bytes = if kind % 2 == 0 {
        data
    } else {
        let Ok(mut manifest) = Manifest::decode(part(&mut data)) else { return };
        manifest.blocks.clear();
        let pages = manifest.files.iter().fold(0u64, |sum, f| sum.saturating_add(f.pages));
        made = write(pages, &[(part(&mut data).to_vec(), data.to_vec())], manifest);
        &made[..]
    };
    let Ok(file) = DedupFile::open("fuzz", bytes) else { return };
    if file.pages() > 4096 {
        return;
    }
    let base: Vec<Page> = (0..16).map(|i| [i; 4096]).collect();
    let image = Image::from_pages("base", &base);
    let images = vec![&image; file.manifest().bases.len().min(8)];
    let mut out = vec![ZERO_PAGE; file.pages() as usize];
    let _ = unpack(&file, &LocalBases::new(&images), 1, &mut out);
});
