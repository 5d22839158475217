//! The pages of a checkpoint.
//!
//! A CRIU checkpoint is a folder. `pages-N.img` holds nothing but pages, one after the other; for each process
//! `pagemap-PID.img` says which addresses they belong to and `mm-PID.img` what is mapped there. [`Image`] reads
//! these, maps the pages files and numbers the pages: file after file in the order in which the processes name
//! them, 0 to [`Image::pages`]. Holes and pages in a parent checkpoint have no number here; [`Image::at`] finds
//! a page by its address and follows parents.
//!
//! A plain file of whole pages is an image too: pages without addresses.
//!
//! Left out: `ghost-file` and `tmpfs` contents are not memory and are not paged; pre-1.0 images that keep pages
//! and addresses in one file are refused.

mod criu;
mod folder;
mod messages;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use folder::{Blob, Folder};

use super::{Page, as_pages};
use crate::units::PAGE_BYTES;

/// Bytes of a page in address arithmetic.
pub const PAGE: u64 = PAGE_BYTES as u64;

/// What can be wrong with a checkpoint. Offsets are bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The system refused.
    #[error("{file}: {source}")]
    Io {
        /// The file or folder.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that must be there is not.
    #[error("{folder}: no {file}; a checkpoint made by `criu dump` has one (is this its images folder?)")]
    Missing {
        /// The folder.
        folder: String,
        /// The file.
        file: String,
    },
    /// A file is shorter than it says.
    #[error("{file}, offset {offset}: {want} more bytes should follow, {have} do; the file is truncated or foreign")]
    Truncated {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// Bytes that should follow.
        want: u64,
        /// Bytes that do.
        have: u64,
    },
    /// A file of another kind.
    #[error("{file}, offset {offset}: magic number {found:#010x}, expected {expected:#010x}; not a CRIU {kind} image")]
    Magic {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// The number there.
        found: u32,
        /// The number expected.
        expected: u32,
        /// What the file should be.
        kind: &'static str,
    },
    /// An entry that is not the message it should be.
    #[error("{file}, offset {offset}: not a {kind} entry ({source})")]
    Message {
        /// The file.
        file: String,
        /// Where the entry starts.
        offset: u64,
        /// What it should be.
        kind: &'static str,
        /// What the decoder says.
        source: prost::DecodeError,
    },
    /// An entry whose content makes no sense.
    #[error("{file}, offset {offset}: {what}")]
    Invalid {
        /// The file.
        file: String,
        /// Where the entry starts.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A pages file and its pagemap disagree.
    #[error("{file} has {bytes} bytes, but its pagemap names {pages} pages of 4096; {}", other_pages(*bytes, *pages))]
    PagesLength {
        /// The pages file.
        file: String,
        /// Its length.
        bytes: u64,
        /// Pages by the pagemap.
        pages: u64,
    },
    /// A file that is given as pages and nothing else, and is not whole pages.
    #[error(
        "{file} has {bytes} bytes, which is no whole number of pages of 4096, so it is no file of raw pages; of a CRIU checkpoint give the folder with inventory.img"
    )]
    RawLength {
        /// The file.
        file: String,
        /// Its length.
        bytes: u64,
    },
    /// Pages whose parent image is not there.
    #[error("{folder}: pages are in a parent image, but there is no link `parent` beside them")]
    NoParent {
        /// The folder.
        folder: String,
    },
    /// A chain of parents that does not end.
    #[error("{folder}: more than {limit} parent images in a row; do the `parent` links go in a circle?")]
    Parents {
        /// The folder where it was given up.
        folder: String,
        /// The largest number allowed.
        limit: u32,
    },
}

/// Why a pages file may have another length than its pagemap says.
fn other_pages(bytes: u64, pages: u64) -> String {
    let of = bytes / pages.max(1);
    if of > PAGE && of.is_power_of_two() && of * pages == bytes {
        format!(
            "these are pages of {of}: dumps of machines with such pages are not read, dump on one with pages of 4096"
        )
    } else {
        "the file is truncated or foreign, dump again".into()
    }
}

/// What is mapped at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MappingKind {
    /// The heap that `brk` moves.
    Heap,
    /// A stack that grows down.
    Stack,
    /// Anonymous private memory.
    Anonymous,
    /// A shared library: a mapped file whose name has `.so`.
    Library,
    /// Any other mapped file, the executable among them.
    File,
    /// Shared memory.
    Shared,
    /// Pages of the kernel for user space (vDSO, vvar).
    Kernel,
    /// Not known: a raw file of pages.
    Unknown,
}

impl MappingKind {
    /// All kinds, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Heap,
        Self::Anonymous,
        Self::Stack,
        Self::Library,
        Self::File,
        Self::Shared,
        Self::Kernel,
        Self::Unknown,
    ];

    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Stack => "stack",
            Self::Anonymous => "anonymous",
            Self::Library => "library",
            Self::File => "file",
            Self::Shared => "shared",
            Self::Kernel => "kernel",
            Self::Unknown => "unknown",
        }
    }
}

/// A mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The process, as a position in [`Image::processes`].
    pub process: u32,
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Offset in the mapped file.
    pub offset: u64,
    /// What it is.
    pub kind: MappingKind,
    /// Path of the mapped file; empty without one.
    pub path: String,
}

/// Whose pages a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A process, as a position in [`Image::processes`].
    Process(u32),
    /// A shared memory segment by CRIU's id; addresses are offsets in it.
    Shared(u32),
    /// Nobody known: a raw file of pages; addresses are offsets in it.
    Raw,
}

/// Where the content of a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In this image, from this page number on.
    Here(u64),
    /// In the parent image, at the same addresses.
    Parent,
    /// Nowhere: never written, or left for the kernel to bring back.
    Hole,
}

/// Adjacent pages of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Whose.
    pub owner: Owner,
    /// Address of the first page.
    pub start: u64,
    /// How many.
    pub pages: u64,
    /// Where they are.
    pub source: Source,
    /// Whether CRIU can leave them out of a restore, to be filled in over userfaultfd: private anonymous memory.
    pub lazy: bool,
}

/// A process of the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id when it was checkpointed.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
}

/// A file of pages.
#[derive(Clone)]
pub struct PagesFile {
    /// Its name in the folder.
    pub name: String,
    /// Number of its first page.
    pub first: u64,
    blob: Blob,
}

impl PagesFile {
    /// Its pages.
    pub fn pages(&self) -> &[Page] {
        as_pages(self.blob.bytes())
    }
}

/// An open checkpoint. Cheap to share: the pages stay in the mapped files, which must not be changed or
/// truncated while it is open.
#[derive(Clone)]
pub struct Image {
    name: String,
    folder: Option<Folder>,
    files: Vec<PagesFile>,
    processes: Vec<Process>,
    mappings: Vec<Mapping>,
    /// By owner and address.
    segments: Vec<Segment>,
    parent: Option<Arc<Image>>,
    parent_link: Option<PathBuf>,
    pages: u64,
}

impl Image {
    /// Opens a CRIU checkpoint (a folder) or a raw file of pages.
    ///
    /// # Errors
    /// The first thing that is wrong, with file and offset.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        if path.is_dir() {
            return criu::read(&Folder::Disk(path.to_path_buf()), 0);
        }
        let name = path.display().to_string();
        let blob = Blob::map(path).map_err(|source| ImageError::Io { file: name.clone(), source })?;
        Self::raw(&name, blob)
    }

    /// Reads a CRIU checkpoint from files in memory.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn from_folder(folder: &Folder) -> Result<Self, ImageError> {
        criu::read(folder, 0)
    }

    /// An image of plain pages without addresses; `name` is for messages.
    ///
    /// # Errors
    /// [`ImageError::RawLength`] if it is not whole pages.
    pub fn raw(name: &str, blob: Blob) -> Result<Self, ImageError> {
        let bytes = blob.bytes().len() as u64;
        let pages = bytes / PAGE;
        if !bytes.is_multiple_of(PAGE) {
            return Err(ImageError::RawLength { file: name.into(), bytes });
        }
        Ok(Self {
            name: name.into(),
            folder: None,
            files: vec![PagesFile { name: "pages".into(), first: 0, blob }],
            processes: Vec::new(),
            mappings: Vec::new(),
            segments: vec![Segment { owner: Owner::Raw, start: 0, pages, source: Source::Here(0), lazy: false }],
            parent: None,
            parent_link: None,
            pages,
        })
    }

    /// An image of plain pages in memory.
    pub fn from_pages(name: &str, pages: &[Page]) -> Self {
        let bytes = pages.as_flattened().to_vec();
        let count = pages.len() as u64;
        Self {
            name: name.into(),
            folder: None,
            files: vec![PagesFile { name: "pages".into(), first: 0, blob: Blob::Owned(Arc::new(bytes)) }],
            processes: Vec::new(),
            mappings: Vec::new(),
            segments: vec![Segment { owner: Owner::Raw, start: 0, pages: count, source: Source::Here(0), lazy: false }],
            parent: None,
            parent_link: None,
            pages: count,
        }
    }

    /// How messages call it: its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder it was read from; `None` for a raw file of pages.
    pub fn folder(&self) -> Option<&Folder> {
        self.folder.as_ref()
    }

    /// Number of pages in its pages files.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Bytes of those pages.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE
    }

    /// Page number `n`; `None` past the end.
    pub fn page(&self, n: u64) -> Option<&Page> {
        let after = self.files.partition_point(|f| f.first <= n);
        let file = self.files.get(after.checked_sub(1)?)?;
        file.pages().get(usize::try_from(n - file.first).ok()?)
    }

    /// Adjacent pages from number `first` on, as many of `count` as lie in one file; empty past the end.
    pub fn run(&self, first: u64, count: u64) -> &[Page] {
        let after = self.files.partition_point(|f| f.first <= first);
        let Some(file) = after.checked_sub(1).and_then(|i| self.files.get(i)) else { return &[] };
        let pages = file.pages();
        let from = usize::try_from(first - file.first).unwrap_or(usize::MAX).min(pages.len());
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(pages.len() - from);
        &pages[from..from + count]
    }

    /// All pages in order.
    pub fn iter(&self) -> impl Iterator<Item = &Page> {
        self.files.iter().flat_map(PagesFile::pages)
    }

    /// The pages files.
    pub fn files(&self) -> &[PagesFile] {
        &self.files
    }

    /// The processes, in the order of the checkpoint.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// All mappings, by process and address.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// All segments, by owner and address.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The checkpoint that this one is an increment to.
    pub fn parent(&self) -> Option<&Image> {
        self.parent.as_deref()
    }

    /// Where the link to it points.
    pub fn parent_link(&self) -> Option<&Path> {
        self.parent_link.as_deref()
    }

    /// The mapping of a process at an address.
    pub fn mapping(&self, process: u32, address: u64) -> Option<&Mapping> {
        let after = self.mappings.partition_point(|m| (m.process, m.start) <= (process, address));
        let m = self.mappings.get(after.checked_sub(1)?)?;
        (m.process == process && address < m.end).then_some(m)
    }

    /// Number of the page that an owner has at an address, if it is in this image.
    pub fn number(&self, owner: Owner, address: u64) -> Option<u64> {
        match self.segment(owner, address)? {
            Segment { source: Source::Here(first), start, .. } => Some(first + (address - start) / PAGE),
            _ => None,
        }
    }

    /// The page that an owner has at an address, in this image or the nearest parent that has it; `None` for a
    /// hole.
    pub fn at(&self, owner: Owner, address: u64) -> Option<&Page> {
        match self.segment(owner, address)?.source {
            Source::Here(_) => self.page(self.number(owner, address)?),
            Source::Parent => self.parent()?.at(owner, address),
            Source::Hole => None,
        }
    }

    /// Owner, address and kind of mapping of every page, by number.
    pub fn places(&self) -> Vec<Place> {
        let mut out = vec![Place { owner: Owner::Raw, address: 0, kind: MappingKind::Unknown }; self.pages as usize];
        for s in &self.segments {
            let Source::Here(first) = s.source else { continue };
            for i in 0..s.pages {
                let address = s.start + i * PAGE;
                let kind = match s.owner {
                    Owner::Process(p) => self.mapping(p, address).map_or(MappingKind::Anonymous, |m| m.kind),
                    Owner::Shared(_) => MappingKind::Shared,
                    Owner::Raw => MappingKind::Unknown,
                };
                if let Some(place) = out.get_mut((first + i) as usize) {
                    *place = Place { owner: s.owner, address, kind };
                }
            }
        }
        out
    }

    fn segment(&self, owner: Owner, address: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|s| (s.owner, s.start) <= (owner, address));
        let s = self.segments.get(after.checked_sub(1)?)?;
        (s.owner == owner && address - s.start < s.pages * PAGE).then_some(s)
    }
}

/// Where a page belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose it is.
    pub owner: Owner,
    /// Its address.
    pub address: u64,
    /// What is mapped there.
    pub kind: MappingKind,
}

#[cfg(test)]
mod tests;

/// Checkpoints made up for tests.
#[cfg(test)]
pub(crate) mod test_messages {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use prost::Message;

    use super::messages::*;

    fn file(magics: &[u32], messages: &[Vec<u8>]) -> Arc<Vec<u8>> {
        let mut out: Vec<u8> = magics.iter().flat_map(|m| m.to_le_bytes()).collect();
        for m in messages {
            out.extend((m.len() as u32).to_le_bytes());
            out.extend(m);
        }
        Arc::new(out)
    }

    /// One process with a heap and a library of `pages` pages each.
    pub(crate) fn one_process(
        heap: u64,
        library: u64,
        pages: u64,
        bytes: Arc<Vec<u8>>,
    ) -> BTreeMap<String, Arc<Vec<u8>>> {
        let (common, size) = (0x5456_4319, pages * super::PAGE);
        let vma = |start, status, shmid| Vma { start, end: start + size, pgoff: 0, shmid, prot: 3, status };
        let mm = Mm {
            start_stack: 0x7fff_ffff_0000,
            start_brk: heap,
            brk: heap + size,
            exe_file_id: 1,
            vmas: vec![vma(heap, status::HEAP, 0), vma(library, status::FILE_PRIVATE, 2)],
        };
        let run = |vaddr| {
            let present = Some(flags::PRESENT);
            PagemapEntry { vaddr, compat_nr_pages: pages as u32, flags: present, ..PagemapEntry::default() }
        };
        let reg = FileEntry { id: 2, reg: Some(RegFile { id: 2, name: b"/lib/libx.so".to_vec() }) };
        let map =
            [PagemapHead { pages_id: 1 }.encode_to_vec(), run(heap).encode_to_vec(), run(library).encode_to_vec()];
        let files = [
            ("inventory.img", file(&[0x5831_3116], &[Inventory { img_version: 2 }.encode_to_vec()])),
            ("pstree.img", file(&[common, 0x5027_3030], &[PstreeEntry { pid: 9, ppid: 0 }.encode_to_vec()])),
            ("files.img", file(&[common, 0x5630_3138], &[reg.encode_to_vec()])),
            ("mm-9.img", file(&[common, 0x5749_2820], &[mm.encode_to_vec()])),
            ("pagemap-9.img", file(&[common, 0x5608_4025], &map)),
            ("pages-1.img", bytes),
        ];
        files.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect()
    }
}
