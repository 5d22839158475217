//! `medes dedup` on dumps made up here; real ones are in the test of the scripts.

use crate::support::{Place, skip};

/// An image of pages that have most of their bytes in common with those of another `instance`.
fn dump(instance: u8) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut bytes: Vec<u8> = (0..64 * 4096)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    for page in bytes.chunks_mut(4096).skip(8) {
        page[100] = instance;
    }
    bytes[..8 * 4096].fill(0);
    bytes
}

fn place() -> Option<Place> {
    let place = Place::new();
    if !place.medes("dedup --help").output().unwrap().status.success() {
        skip("this binary has no `medes dedup`");
        return None;
    }
    std::fs::write(place.path("a.mem"), dump(1)).unwrap();
    std::fs::write(place.path("b.mem"), dump(2)).unwrap();
    Some(place)
}

#[test]
fn packed_and_unpacked_it_is_the_same() {
    let Some(place) = place() else { return };
    place.works("dedup pack b.mem --base a.mem -o b.dedup");
    let packed = std::fs::metadata(place.path("b.dedup")).unwrap().len();
    assert!(packed < 64 * 4096 / 4, "{packed} B for pages that differ by a byte");
    place.works("dedup unpack b.dedup --base a.mem -o c.mem");
    assert!(place.read("b.mem") == place.read("c.mem"));
    let damaged = place.path("b.dedup");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let output = place.medes("dedup unpack b.dedup --base a.mem -o d.mem").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)) && !said.contains("panicked"), "{said}");
}

#[test]
fn analyze_and_sweep_print_json() {
    let Some(place) = place() else { return };
    assert!(place.json("dedup analyze f=a.mem f=b.mem --json").is_object());
    assert!(!place.json("dedup sweep b.mem --base a.mem --json").is_null());
    let said = place.ends(2, "dedup analyze nowhere");
    assert!(said.err.contains("nowhere"), "{}", said.err);
    assert_eq!(said.err.matches("No such file").count(), 1, "{}", said.err);
}
