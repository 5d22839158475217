//! The few messages of CRIU's image files that say where pages belong. Field numbers and types are those of
//! CRIU's image format (versions 1 and 1.1, stable since 2013); fields that are of no use here are left out
//! and skipped by the decoder.

/// `inventory.img`, the first file of a checkpoint.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Inventory {
    /// Version of the image format: 1, or 2 for "1.1".
    #[prost(uint32, required, tag = "1")]
    pub img_version: u32,
}

/// `pstree.img`: one entry a process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PstreeEntry {
    /// The process.
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    /// Its parent, 0 for the root.
    #[prost(uint32, required, tag = "2")]
    pub ppid: u32,
}

/// `mm-PID.img`: the address space.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mm {
    /// Where the initial stack starts.
    #[prost(uint64, required, tag = "5")]
    pub start_stack: u64,
    /// Start of the heap (`brk`).
    #[prost(uint64, required, tag = "6")]
    pub start_brk: u64,
    /// End of the heap.
    #[prost(uint64, required, tag = "7")]
    pub brk: u64,
    /// The file that was executed.
    #[prost(uint32, required, tag = "12")]
    pub exe_file_id: u32,
    /// The mappings, by address.
    #[prost(message, repeated, tag = "14")]
    pub vmas: Vec<Vma>,
}

/// One mapping of an address space.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Vma {
    /// First address.
    #[prost(uint64, required, tag = "1")]
    pub start: u64,
    /// One past the last address.
    #[prost(uint64, required, tag = "2")]
    pub end: u64,
    /// Offset in the mapped file, bytes.
    #[prost(uint64, required, tag = "3")]
    pub pgoff: u64,
    /// Id of the mapped file in `files.img`, or of a shared memory segment.
    #[prost(uint64, required, tag = "4")]
    pub shmid: u64,
    /// Protection, as in `mmap`.
    #[prost(uint32, required, tag = "5")]
    pub prot: u32,
    /// What kind of mapping it is, bits.
    #[prost(uint32, required, tag = "7")]
    pub status: u32,
}

/// Bits of [`Vma::status`].
pub mod status {
    /// The stack.
    pub const STACK: u32 = 1 << 1;
    /// The kernel's code page for user space at its fixed address.
    pub const VSYSCALL: u32 = 1 << 2;
    /// The kernel's code pages for user space.
    pub const VDSO: u32 = 1 << 3;
    /// The heap that `brk` moves.
    pub const HEAP: u32 = 1 << 5;
    /// A private mapping of a file.
    pub const FILE_PRIVATE: u32 = 1 << 6;
    /// A shared mapping of a file.
    pub const FILE_SHARED: u32 = 1 << 7;
    /// Shared memory without a file.
    pub const ANON_SHARED: u32 = 1 << 8;
    /// The kernel's data pages for the vDSO.
    pub const VVAR: u32 = 1 << 12;
}

/// First entry of a pagemap file: which `pages-N.img` it belongs to.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PagemapHead {
    /// The N.
    #[prost(uint32, required, tag = "1")]
    pub pages_id: u32,
}

/// A run of pages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PagemapEntry {
    /// Address of the first one.
    #[prost(uint64, required, tag = "1")]
    pub vaddr: u64,
    /// How many, in images before CRIU 4; still written since.
    #[prost(uint32, required, tag = "2")]
    pub compat_nr_pages: u32,
    /// Whether they are in the parent image, in images before the flags.
    #[prost(bool, optional, tag = "3")]
    pub in_parent: Option<bool>,
    /// Where they are, bits.
    #[prost(uint32, optional, tag = "4")]
    pub flags: Option<u32>,
    /// How many.
    #[prost(uint64, optional, tag = "5")]
    pub nr_pages: Option<u64>,
}

/// Bits of [`PagemapEntry::flags`].
pub mod flags {
    /// In the parent image.
    pub const PARENT: u32 = 1 << 0;
    /// May be filled in after a restore.
    pub const LAZY: u32 = 1 << 1;
    /// In the pages file.
    pub const PRESENT: u32 = 1 << 2;
}

/// `files.img`: one entry an open or mapped file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileEntry {
    /// The id that mappings refer to.
    #[prost(uint32, required, tag = "2")]
    pub id: u32,
    /// A regular file.
    #[prost(message, optional, tag = "3")]
    pub reg: Option<RegFile>,
}

/// A regular file; also the entries of `reg-files.img`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegFile {
    /// The id that mappings refer to.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Its path.
    #[prost(bytes = "vec", required, tag = "6")]
    pub name: Vec<u8>,
}
