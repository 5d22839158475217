//! Reading CRIU's files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use super::messages::{FileEntry, Inventory, Mm, PagemapEntry, PagemapHead, PstreeEntry, RegFile, Vma, flags, status};
use super::{Blob, Folder, Image, ImageError, Mapping, MappingKind, Owner, PAGE, PagesFile, Process, Segment, Source};

const COMMON: u32 = 0x5456_4319;
const INVENTORY: u32 = 0x5831_3116;
const PSTREE: u32 = 0x5027_3030;
const PAGEMAP: u32 = 0x5608_4025;
const MM: u32 = 0x5749_2820;
const FILES: u32 = 0x5630_3138;
const REG_FILES: u32 = 0x5036_3636;
const MOST_PARENTS: u32 = 64;

/// A file of entries: magic numbers, then messages, each after its length.
struct Entries {
    file: String,
    blob: Blob,
    at: usize,
}

impl Entries {
    fn open(folder: &Folder, name: &str, magic: u32, kind: &'static str) -> Result<Option<Self>, ImageError> {
        let file = folder.name_of(name);
        let Some(blob) = folder.open(name).map_err(|source| ImageError::Io { file: file.clone(), source })? else {
            return Ok(None);
        };
        let mut entries = Self { file, blob, at: 0 };
        let mut offset = 0;
        let mut found = entries.number()?;
        // Since format 1.1 every file but the inventory starts with a common number.
        if found == COMMON && magic != INVENTORY {
            offset = 4;
            found = entries.number()?;
        }
        if found == magic {
            Ok(Some(entries))
        } else {
            Err(ImageError::Magic { file: entries.file, offset, found, expected: magic, kind })
        }
    }

    fn require(folder: &Folder, name: &str, magic: u32, kind: &'static str) -> Result<Self, ImageError> {
        Self::open(folder, name, magic, kind)?
            .ok_or_else(|| ImageError::Missing { folder: folder.name(), file: name.into() })
    }

    fn take(&mut self, want: usize) -> Result<&[u8], ImageError> {
        let rest = self.blob.bytes().get(self.at..).unwrap_or_default();
        if rest.len() < want {
            let (file, offset) = (self.file.clone(), self.at as u64);
            return Err(ImageError::Truncated { file, offset, want: want as u64, have: rest.len() as u64 });
        }
        self.at += want;
        Ok(&rest[..want])
    }

    fn number(&mut self) -> Result<u32, ImageError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    /// The next entry with its offset; `None` at the end.
    fn next<M: Message + Default>(&mut self, kind: &'static str) -> Result<Option<(u64, M)>, ImageError> {
        if self.at == self.blob.bytes().len() {
            return Ok(None);
        }
        let offset = self.at as u64;
        let length = self.number()? as usize;
        match M::decode(self.take(length)?) {
            Ok(message) => Ok(Some((offset, message))),
            Err(source) => Err(ImageError::Message { file: self.file.clone(), offset, kind, source }),
        }
    }

    fn require_next<M: Message + Default>(&mut self, kind: &'static str) -> Result<(u64, M), ImageError> {
        let (file, offset) = (self.file.clone(), self.at as u64);
        self.next(kind)?.ok_or(ImageError::Truncated { file, offset, want: 4, have: 0 })
    }
}

/// Reads a checkpoint; `depth` counts the parents on the way to it.
pub(super) fn read(folder: &Folder, depth: u32) -> Result<Image, ImageError> {
    if depth > MOST_PARENTS {
        return Err(ImageError::Parents { folder: folder.name(), limit: MOST_PARENTS });
    }
    let io = |source| ImageError::Io { file: folder.name(), source };
    let mut entries = Entries::require(folder, "inventory.img", INVENTORY, "inventory")?;
    let (offset, inventory): (u64, Inventory) = entries.require_next("inventory")?;
    if !(1..=2).contains(&inventory.img_version) {
        let what = format!("image format version {}; versions 1 and 1.1 (written 2) are known", inventory.img_version);
        return Err(ImageError::Invalid { file: entries.file, offset, what });
    }
    let mut image = Image {
        name: folder.name(),
        folder: Some(folder.clone()),
        files: Vec::new(),
        processes: Vec::new(),
        mappings: Vec::new(),
        segments: Vec::new(),
        parent: None,
        parent_link: folder.parent().map_err(io)?,
        pages: 0,
    };
    let mut entries = Entries::require(folder, "pstree.img", PSTREE, "process tree")?;
    let mut seen = BTreeSet::new();
    while let Some((offset, p)) = entries.next::<PstreeEntry>("process tree")? {
        if !seen.insert(p.pid) {
            let what = format!("process {} is listed twice", p.pid);
            return Err(ImageError::Invalid { file: entries.file, offset, what });
        }
        image.processes.push(Process { pid: p.pid, ppid: p.ppid });
    }
    let paths = paths(folder)?;
    let mut ids = BTreeSet::new();
    for i in 0..image.processes.len() {
        let pid = image.processes[i].pid;
        // A zombie has neither memory nor pages.
        let name = format!("mm-{pid}.img");
        if let Some(mut entries) = Entries::open(folder, &name, MM, "memory map")? {
            let (offset, mm) = entries.require_next("memory map")?;
            mappings(&mut image, i as u32, &mm, &paths, &entries.file, offset)?;
        }
        pagemap(&mut image, folder, Owner::Process(i as u32), &format!("pagemap-{pid}.img"), &mut ids)?;
    }
    for name in folder.list().map_err(io)? {
        if let Some(id) = name.strip_prefix("pagemap-shmem-").and_then(|n| n.strip_suffix(".img"))
            && let Ok(id) = id.parse()
        {
            pagemap(&mut image, folder, Owner::Shared(id), &name, &mut ids)?;
        }
    }
    image.segments.sort_by_key(|s| (s.owner, s.start));
    if image.segments.iter().any(|s| s.source == Source::Parent) {
        let (Folder::Disk(path), Some(link)) = (folder, &image.parent_link) else {
            return Err(ImageError::NoParent { folder: folder.name() });
        };
        image.parent = Some(Arc::new(read(&Folder::Disk(path.join(link)), depth + 1)?));
    }
    Ok(image)
}

/// Paths of mapped files by id.
fn paths(folder: &Folder) -> Result<BTreeMap<u64, String>, ImageError> {
    let mut out = BTreeMap::new();
    let path = |file: RegFile| String::from_utf8_lossy(&file.name).into_owned();
    if let Some(mut entries) = Entries::open(folder, "files.img", FILES, "files")? {
        while let Some((_, file)) = entries.next::<FileEntry>("file")? {
            if let Some(reg) = file.reg {
                out.insert(u64::from(file.id), path(reg));
            }
        }
    } else if let Some(mut entries) = Entries::open(folder, "reg-files.img", REG_FILES, "files")? {
        while let Some((_, file)) = entries.next::<RegFile>("file")? {
            out.insert(u64::from(file.id), path(file));
        }
    }
    Ok(out)
}

fn mappings(
    image: &mut Image,
    process: u32,
    mm: &Mm,
    paths: &BTreeMap<u64, String>,
    file: &str,
    offset: u64,
) -> Result<(), ImageError> {
    let mut last = 0;
    for vma in &mm.vmas {
        if vma.start < last || vma.end <= vma.start {
            let what = format!("mapping {:#x}-{:#x} overlaps the one before it or is empty", vma.start, vma.end);
            return Err(ImageError::Invalid { file: file.into(), offset, what });
        }
        last = vma.end;
        let mapped = vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0;
        let path = if mapped { paths.get(&vma.shmid).cloned().unwrap_or_default() } else { String::new() };
        let kind = kind(vma, mm, &path);
        image.mappings.push(Mapping { process, start: vma.start, end: vma.end, offset: vma.pgoff, kind, path });
    }
    Ok(())
}

fn kind(vma: &Vma, mm: &Mm, path: &str) -> MappingKind {
    let has = |bits| vma.status & bits != 0;
    if has(status::VDSO | status::VVAR | status::VSYSCALL) {
        MappingKind::Kernel
    } else if has(status::FILE_PRIVATE | status::FILE_SHARED) {
        let file = path.rsplit('/').next().unwrap_or_default();
        if file.ends_with(".so") || file.contains(".so.") { MappingKind::Library } else { MappingKind::File }
    } else if has(status::ANON_SHARED) {
        MappingKind::Shared
    } else if has(status::HEAP) || (vma.start >= mm.start_brk && vma.end <= mm.brk) {
        MappingKind::Heap
    } else if has(status::STACK) || (vma.start <= mm.start_stack && mm.start_stack < vma.end) {
        MappingKind::Stack
    } else {
        MappingKind::Anonymous
    }
}

fn pagemap(
    image: &mut Image,
    folder: &Folder,
    owner: Owner,
    name: &str,
    ids: &mut BTreeSet<u32>,
) -> Result<(), ImageError> {
    let Some(mut entries) = Entries::open(folder, name, PAGEMAP, "pagemap")? else { return Ok(()) };
    let (offset, head): (u64, PagemapHead) = entries.require_next("pagemap head")?;
    if !ids.insert(head.pages_id) {
        let what = format!("pages-{}.img is claimed by two pagemaps", head.pages_id);
        return Err(ImageError::Invalid { file: entries.file, offset, what });
    }
    let pages_name = format!("pages-{}.img", head.pages_id);
    let first = image.pages;
    let mut end = 0;
    while let Some((offset, e)) = entries.next::<PagemapEntry>("pagemap")? {
        let pages = e.nr_pages.unwrap_or(u64::from(e.compat_nr_pages));
        let bytes = pages.checked_mul(PAGE).and_then(|b| e.vaddr.checked_add(b));
        let (Some(past), true, true) = (bytes, e.vaddr % PAGE == 0, e.vaddr >= end) else {
            let what = format!("{pages} pages at {:#x}: not at a page, or over the entry before, or too many", e.vaddr);
            return Err(ImageError::Invalid { file: entries.file, offset, what });
        };
        end = past;
        let source = match e.flags {
            _ if e.in_parent == Some(true) => Source::Parent,
            Some(flags) if flags & flags::PARENT != 0 => Source::Parent,
            Some(flags) if flags & flags::PRESENT == 0 => Source::Hole,
            _ => Source::Here(image.pages),
        };
        if matches!(source, Source::Here(_)) {
            image.pages = image.pages.saturating_add(pages);
        }
        if pages > 0 {
            let lazy = e.flags.is_some_and(|f| f & flags::LAZY != 0);
            image.segments.push(Segment { owner, start: e.vaddr, pages, source, lazy });
        }
    }
    let count = image.pages - first;
    let file = folder.name_of(&pages_name);
    let blob = match folder.open(&pages_name).map_err(|source| ImageError::Io { file: file.clone(), source })? {
        Some(blob) => blob,
        None if count == 0 => return Ok(()),
        None => return Err(ImageError::Missing { folder: folder.name(), file: pages_name }),
    };
    let bytes = blob.bytes().len() as u64;
    if count.checked_mul(PAGE) != Some(bytes) {
        return Err(ImageError::PagesLength { file, bytes, pages: count });
    }
    image.files.push(PagesFile { name: pages_name, first, blob });
    Ok(())
}
