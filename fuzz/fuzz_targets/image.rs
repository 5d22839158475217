//! The image reader. Input: files, each as a byte for its name, two for its length (little-endian), its content.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use medes_engine::dedup::image::{Folder, Image, Owner};
use medes_engine::dedup::layout::{Alignment, Layout};

#[path = "../names.rs"]
mod names;

fuzz_target!(|data: &[u8]| {
    let mut files = BTreeMap::new();
    let mut rest = data;
    while let [name, low, high, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (content, after) = tail.split_at(length);
        // Pages files are too long to be fuzzed byte by byte: a byte stands for a page of it.
        let name = names::NAMES[usize::from(*name) % names::NAMES.len()];
        let content = match name.starts_with("pages-") {
            true => content.iter().take(64).flat_map(|b| [*b; 4096]).collect(),
            false => content.to_vec(),
        };
        files.insert(name.to_string(), Arc::new(content));
        rest = after;
    }
    let Ok(image) = Image::from_folder(&Folder::Memory(files)) else { return };
    assert_eq!(image.iter().count() as u64, image.pages());
    for (n, place) in image.places().iter().enumerate() {
        assert_eq!(image.number(place.owner, place.address), Some(n as u64));
        assert!(image.at(place.owner, place.address) == image.page(n as u64));
    }
    image.at(Owner::Process(0), 0x1000);
    let layout = Layout::of(&image);
    layout.canonical(0)(0x2000);
    assert!(Alignment::new(&image, &layout, &layout, true).is_still());
});
