use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;

use super::messages::*;
use super::*;

const COMMON: u32 = 0x5456_4319;

fn entries(magics: &[u32], messages: &[Vec<u8>]) -> Arc<Vec<u8>> {
    let mut out: Vec<u8> = magics.iter().flat_map(|m| m.to_le_bytes()).collect();
    for m in messages {
        out.extend((m.len() as u32).to_le_bytes());
        out.extend(m);
    }
    Arc::new(out)
}

fn vma(start: u64, end: u64, status: u32, shmid: u64) -> Vma {
    Vma { start, end, pgoff: 0, shmid, prot: 3, status }
}

fn run(vaddr: u64, pages: u32, flags: u32) -> Vec<u8> {
    PagemapEntry { vaddr, compat_nr_pages: pages, flags: Some(flags), ..PagemapEntry::default() }.encode_to_vec()
}

fn pages(count: u8, first: u8) -> Arc<Vec<u8>> {
    Arc::new((0..count).flat_map(|i| [first + i; PAGE_BYTES]).collect())
}

/// Two processes, a hole, shared memory: as CRIU writes them.
fn checkpoint() -> BTreeMap<String, Arc<Vec<u8>>> {
    let mm = |vmas: Vec<Vma>| Mm { start_stack: 0x7fff_1000, start_brk: 0x2000, brk: 0x8000, exe_file_id: 1, vmas };
    let first = mm(vec![
        vma(0x1000, 0x2000, status::FILE_PRIVATE, 1),
        vma(0x2000, 0x8000, status::HEAP, 0),
        vma(0x10000, 0x13000, status::FILE_PRIVATE, 2),
        vma(0x7fff_0000, 0x7fff_2000, status::STACK, 0),
    ]);
    let second = mm(vec![vma(0x2000, 0x4000, 1, 0), vma(0x20000, 0x21000, status::VDSO, 0)]);
    let file = |id: u32, name: &str| {
        FileEntry { id, reg: Some(RegFile { id, name: name.as_bytes().to_vec() }) }.encode_to_vec()
    };
    let head = |pages_id| PagemapHead { pages_id }.encode_to_vec();
    let pid = |pid, ppid| PstreeEntry { pid, ppid }.encode_to_vec();
    let files = [
        ("inventory.img", entries(&[0x5831_3116], &[Inventory { img_version: 2 }.encode_to_vec()])),
        ("pstree.img", entries(&[COMMON, 0x5027_3030], &[pid(10, 0), pid(11, 10)])),
        ("files.img", entries(&[COMMON, 0x5630_3138], &[file(1, "/bin/python"), file(2, "/lib/libx.so.6")])),
        ("mm-10.img", entries(&[COMMON, 0x5749_2820], &[first.encode_to_vec()])),
        ("mm-11.img", entries(&[COMMON, 0x5749_2820], &[second.encode_to_vec()])),
        (
            "pagemap-10.img",
            entries(
                &[COMMON, 0x5608_4025],
                &[head(1), run(0x2000, 2, flags::PRESENT), run(0x5000, 1, 0), run(0x10000, 1, flags::PRESENT)],
            ),
        ),
        ("pagemap-11.img", entries(&[COMMON, 0x5608_4025], &[head(2), run(0x2000, 2, flags::PRESENT)])),
        ("pagemap-shmem-77.img", entries(&[COMMON, 0x5608_4025], &[head(3), run(0x1000, 1, flags::PRESENT)])),
        ("pages-1.img", pages(3, 1)),
        ("pages-2.img", pages(2, 11)),
        ("pages-3.img", pages(1, 21)),
    ];
    files.into_iter().map(|(n, b)| (n.to_string(), b)).collect()
}

fn read(files: &BTreeMap<String, Arc<Vec<u8>>>) -> Result<Image, ImageError> {
    Image::from_folder(&Folder::Memory(files.clone()))
}

#[test]
fn pages_are_numbered_and_placed() {
    let image = read(&checkpoint()).unwrap();
    assert_eq!(image.pages(), 6);
    assert_eq!(image.iter().map(|p| p[0]).collect::<Vec<_>>(), [1, 2, 3, 11, 12, 21]);
    assert_eq!(image.page(4).unwrap()[9], 12);
    assert!(image.page(6).is_none());
    assert_eq!((image.run(1, 9).len(), image.run(3, 1).len(), image.run(6, 1).len()), (2, 1, 0));
    assert_eq!(image.number(Owner::Process(0), 0x3000), Some(1));
    assert_eq!(image.number(Owner::Process(0), 0x5000), None, "a hole");
    assert!(image.at(Owner::Process(0), 0x5000).is_none());
    assert_eq!(image.at(Owner::Shared(77), 0x1000).unwrap()[0], 21);
    let kinds: Vec<_> = image.places().iter().map(|p| p.kind).collect();
    use MappingKind::*;
    assert_eq!(kinds, [Heap, Heap, Library, Heap, Heap, Shared]);
    assert_eq!(image.mapping(0, 0x1fff).unwrap().path, "/bin/python");
    assert_eq!(image.mapping(0, 0x1fff).unwrap().kind, File);
    assert_eq!(image.mapping(0, 0x7fff_0000).unwrap().kind, Stack);
    assert_eq!(image.mapping(1, 0x20000).unwrap().kind, Kernel);
    assert!(image.mapping(0, 0x9000).is_none() && image.mapping(1, 0x4000).is_none());
}

#[test]
fn errors_name_file_and_offset() {
    type Files = BTreeMap<String, Arc<Vec<u8>>>;
    let says = |change: &dyn Fn(&mut Files), what: &[&str]| {
        let mut files = checkpoint();
        change(&mut files);
        let message = read(&files).err().expect("must be refused").to_string();
        assert!(what.iter().all(|w| message.contains(w)), "{message}");
    };
    says(&|f| drop(f.remove("inventory.img")), &["inventory.img", "criu dump"]);
    says(&|f| drop(f.remove("pages-2.img")), &["pages-2.img"]);
    says(&|f| drop(f.insert("pages-1.img".into(), pages(2, 1))), &["pages-1.img", "8192 bytes", "3 pages"]);
    // Three pages of 64 KiB, as on some ARM machines.
    says(
        &|f| drop(f.insert("pages-1.img".into(), pages(48, 1))),
        &["pages-1.img", "pages of 65536", "dump on one with"],
    );
    says(&|f| drop(f.insert("mm-10.img".into(), entries(&[COMMON, 1], &[]))), &["mm-10.img, offset 4", "0x57492820"]);
    says(&|f| drop(f.insert("pstree.img".into(), Arc::new(vec![9; 3]))), &["pstree.img, offset 0", "3 do"]);
    let twice = PagemapHead { pages_id: 1 }.encode_to_vec();
    let twice = entries(&[COMMON, 0x5608_4025], &[twice]);
    says(&|f| drop(f.insert("pagemap-11.img".into(), twice.clone())), &["pagemap-11.img, offset 8", "two pagemaps"]);
    let head = PagemapHead { pages_id: 1 }.encode_to_vec();
    let bad = entries(&[COMMON, 0x5608_4025], &[head.clone(), run(0x3000, 1, 4), run(0x2000, 1, 4)]);
    says(&|f| drop(f.insert("pagemap-10.img".into(), bad.clone())), &["pagemap-10.img, offset 25", "0x2000"]);
    let parent = entries(&[COMMON, 0x5608_4025], &[head, run(0x2000, 1, 1), run(0x4000, 3, 4)]);
    says(&|f| drop(f.insert("pagemap-10.img".into(), parent.clone())), &["parent"]);
}

#[test]
fn a_truncated_or_damaged_file_never_panics() {
    let good = checkpoint();
    for name in good.keys() {
        let bytes = &good[name];
        for cut in 0..bytes.len().min(300) {
            let mut files = good.clone();
            files.insert(name.clone(), Arc::new(bytes[..cut].to_vec()));
            let _ = read(&files);
        }
        for at in 0..bytes.len().min(300) {
            for bit in 0..8 {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1 << bit;
                let mut files = good.clone();
                files.insert(name.clone(), Arc::new(damaged));
                if let Ok(image) = read(&files) {
                    image.places();
                    image.iter().count();
                }
            }
        }
    }
}

#[test]
fn pages_in_a_parent_are_found_there() {
    let dir = std::env::temp_dir().join(format!("medes-image-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let write = |to: &std::path::Path, files: &BTreeMap<String, Arc<Vec<u8>>>| {
        std::fs::create_dir_all(to).unwrap();
        for (name, bytes) in files {
            std::fs::write(to.join(name), &bytes[..]).unwrap();
        }
    };
    let mut files = checkpoint();
    write(&dir.join("one"), &files);
    let head = PagemapHead { pages_id: 1 }.encode_to_vec();
    let new = run(0x3000, 1, flags::PRESENT);
    files.insert("pagemap-10.img".into(), entries(&[COMMON, 0x5608_4025], &[head, run(0x2000, 1, flags::PARENT), new]));
    files.insert("pages-1.img".into(), pages(1, 99));
    write(&dir.join("two"), &files);
    std::os::unix::fs::symlink("../one", dir.join("two/parent")).unwrap();
    let image = Image::open(&dir.join("two")).unwrap();
    assert_eq!(image.at(Owner::Process(0), 0x2000).unwrap()[0], 1, "from the parent");
    assert_eq!(image.at(Owner::Process(0), 0x3000).unwrap()[0], 99);
    assert_eq!((image.pages(), image.number(Owner::Process(0), 0x2000)), (4, None));
    // A link to itself ends in an error.
    std::fs::remove_file(dir.join("two/parent")).unwrap();
    std::os::unix::fs::symlink("../two", dir.join("two/parent")).unwrap();
    assert!(matches!(Image::open(&dir.join("two")), Err(ImageError::Parents { .. })));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_plain_file_is_whole_pages() {
    let image = Image::raw("x", Blob::Owned(pages(2, 5))).unwrap();
    assert_eq!((image.pages(), image.at(Owner::Raw, 0x1000).unwrap()[0]), (2, 6));
    let odd = Image::raw("x", Blob::Owned(Arc::new(vec![0; 4097])));
    let odd = odd.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        odd.contains("4097 bytes") && odd.contains("folder with inventory.img") && !odd.contains("pagemap"),
        "{odd}"
    );
}
