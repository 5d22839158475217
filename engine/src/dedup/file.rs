//! The dedup file: a whole image in little, and all that is needed to write the checkpoint back.
//!
//! ```text
//! header      64 bytes: magic "MEDESDDP" | u32 version = 1 | u32 page size = 4096 | u64 pages
//!             | u64 manifest offset | u64 manifest length | u64 its length decompressed | u64 XXH3 of the manifest
//!             | u64 XXH3 of the 56 bytes before
//! blocks      of up to 256 pages, one after the other: a table, then the patches
//! manifest    protobuf messages (below), compressed with zstd
//! ```
//!
//! All numbers are little-endian. The manifest names the checkpoint's pages files and their sizes, the bases, the
//! blocks (offset, lengths, XXH3 of the table), the relocations of the bases' pointers, and holds the checkpoint's
//! other files.
//!
//! A block's table has an entry for each page:
//!
//! ```text
//! entry := kind [base] [page] [length] [checksum]
//! kind      byte: method (see `patch::Method`) in the lower four bits, base in the upper four; 15: base follows
//! base      varint, if the upper bits are 15
//! page      varint, methods with a base page: its number less the one expected, zigzag; expected is one more than the last
//!           one in this block of the same base, 0 at first
//! length    varint, methods that write bytes: those of the patch
//! checksum  8 bytes, XXH3 of the page; not for pages of zeros
//! ```
//!
//! The patches follow in the order of the pages. A flipped bit in the header, the manifest or a table is found by
//! their checksums; one in a patch by the page's.

use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::layout::{BadShift, Relocation, Shift};
use super::patch::Method;
use crate::units::PAGE_BYTES;

/// First bytes of a dedup file.
pub const MAGIC: [u8; 8] = *b"MEDESDDP";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER: usize = 64;
/// Pages in a block, but the last.
pub const BLOCK: usize = 256;
/// Largest manifest, decompressed.
pub const MOST_MANIFEST: u64 = 1 << 28;

/// The manifest.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Manifest {
    /// The checkpoint's pages files, in order of their pages.
    #[prost(message, repeated, tag = "1")]
    pub files: Vec<PagesEntry>,
    /// The bases that patches refer to, by position.
    #[prost(message, repeated, tag = "2")]
    pub bases: Vec<BaseEntry>,
    /// Where the blocks are.
    #[prost(message, repeated, tag = "3")]
    pub blocks: Vec<BlockEntry>,
    /// Relocations of base pages.
    #[prost(message, repeated, tag = "4")]
    pub moves: Vec<MoveEntry>,
    /// The checkpoint's other files.
    #[prost(message, repeated, tag = "5")]
    pub attachments: Vec<Attachment>,
    /// Target of the link `parent`.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub parent: Option<Vec<u8>>,
    /// The image was a plain file of pages.
    #[prost(bool, tag = "7")]
    pub raw: bool,
}

/// A pages file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PagesEntry {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its number of pages.
    #[prost(uint64, tag = "2")]
    pub pages: u64,
}

/// A base.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BaseEntry {
    /// How it was called when the file was written.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its number of pages.
    #[prost(uint64, tag = "2")]
    pub pages: u64,
    /// What it is known by: see `pack::digest`.
    #[prost(fixed64, tag = "3")]
    pub digest: u64,
}

/// A block.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct BlockEntry {
    /// Offset in the file.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Bytes of the table.
    #[prost(uint32, tag = "2")]
    pub table: u32,
    /// Bytes of the patches.
    #[prost(uint32, tag = "3")]
    pub patches: u32,
    /// XXH3 of the table.
    #[prost(fixed64, tag = "4")]
    pub checksum: u64,
}

/// Relocation of the pointers in some pages of a base.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MoveEntry {
    /// The base.
    #[prost(uint32, tag = "1")]
    pub base: u32,
    /// Its first page.
    #[prost(uint64, tag = "2")]
    pub first: u64,
    /// How many pages.
    #[prost(uint64, tag = "3")]
    pub pages: u64,
    /// Start of each range less the end of the one before.
    #[prost(uint64, repeated, tag = "4")]
    pub gaps: Vec<u64>,
    /// Length of each range.
    #[prost(uint64, repeated, tag = "5")]
    pub lengths: Vec<u64>,
    /// What is added, for each range.
    #[prost(sint64, repeated, tag = "6")]
    pub deltas: Vec<i64>,
}

impl MoveEntry {
    /// The relocation of pages `first..first + pages` of a base.
    pub fn new(base: u32, first: u64, pages: u64, relocation: &Relocation) -> Self {
        let mut out = Self { base, first, pages, ..Self::default() };
        let mut last = 0;
        for s in relocation.shifts() {
            out.gaps.push(s.start - last);
            out.lengths.push(s.end - s.start);
            out.deltas.push(s.delta.cast_signed());
            last = s.end;
        }
        out
    }

    /// The relocation.
    ///
    /// # Errors
    /// [`BadShift`] if it is none.
    pub fn relocation(&self) -> Result<Relocation, BadShift> {
        let n = self.gaps.len();
        if self.lengths.len() != n || self.deltas.len() != n {
            return Err(BadShift(n));
        }
        let mut last = 0u64;
        let mut shifts = Vec::with_capacity(n);
        for (i, ((gap, length), delta)) in self.gaps.iter().zip(&self.lengths).zip(&self.deltas).enumerate() {
            let start = last.checked_add(*gap).ok_or(BadShift(i))?;
            let end = start.checked_add(*length).ok_or(BadShift(i))?;
            shifts.push(Shift { start, end, delta: delta.cast_unsigned() });
            last = end;
        }
        Relocation::new(shifts)
    }
}

/// A file of the checkpoint that is not memory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attachment {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its content.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
}

/// What can be wrong with a dedup file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Not a dedup file.
    #[error("{file}: not a dedup file (it does not start with MEDESDDP)")]
    Magic {
        /// The file.
        file: String,
    },
    /// A version this program does not know.
    #[error(
        "{file}: dedup file of version {version} with pages of {page} bytes; this program reads version {VERSION} with pages of {PAGE_BYTES}"
    )]
    Version {
        /// The file.
        file: String,
        /// Its version.
        version: u32,
        /// Its page size.
        page: u32,
    },
    /// A part lies outside the file.
    #[error("{file}: {part} should be at offset {offset}, {length} bytes, but the file has {size}; it is truncated")]
    Truncated {
        /// The file.
        file: String,
        /// Which part.
        part: String,
        /// Where it should be.
        offset: u64,
        /// How long it should be.
        length: u64,
        /// Size of the file.
        size: u64,
    },
    /// A part does not have its checksum.
    #[error("{file}, offset {offset}: {part} is damaged (its checksum does not match); make the file anew")]
    Checksum {
        /// The file.
        file: String,
        /// Which part.
        part: String,
        /// Where it is.
        offset: u64,
    },
    /// A part with the right checksum whose content makes no sense: written wrongly, or forged.
    #[error("{file}, offset {offset}: {part}: {what}")]
    Invalid {
        /// The file.
        file: String,
        /// Which part.
        part: String,
        /// Where it is.
        offset: u64,
        /// What is wrong.
        what: String,
    },
}

/// How one page is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The method.
    pub method: Method,
    /// The base page (base, number); meaningful only where the method needs one.
    pub base: (u32, u32),
    /// Bytes of the patch.
    pub length: u32,
    /// Checksum of the page; 0 for a page of zeros.
    pub checksum: u64,
}

fn write_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn read_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

/// Writes a block's table.
pub fn write_table(entries: &[Entry], out: &mut Vec<u8>) {
    let mut last: Vec<(u32, u32)> = Vec::new();
    for e in entries {
        let high = if e.method.needs_base() { e.base.0.min(15) as u8 } else { 0 };
        out.push(e.method as u8 | high << 4);
        if e.method.needs_base() {
            if high == 15 {
                write_varint(u64::from(e.base.0), out);
            }
            let expected = expect(&mut last, e.base.0);
            let step = i64::from(e.base.1) - i64::from(*expected);
            write_varint((step << 1 ^ step >> 63).cast_unsigned(), out);
            *expected = e.base.1.wrapping_add(1);
        }
        if has_length(e.method) {
            write_varint(u64::from(e.length), out);
        }
        if e.method != Method::Zero {
            out.extend_from_slice(&e.checksum.to_le_bytes());
        }
    }
}

fn has_length(method: Method) -> bool {
    !matches!(method, Method::Zero | Method::Identical | Method::Whole)
}

/// The number expected next for a base.
fn expect(last: &mut Vec<(u32, u32)>, base: u32) -> &mut u32 {
    let at = last.iter().position(|(b, _)| *b == base).unwrap_or_else(|| {
        last.push((base, 0));
        last.len() - 1
    });
    &mut last[at].1
}

/// Reads a block's table of `pages` entries for `bases` bases; says what is wrong otherwise.
///
/// # Errors
/// The page (counted in the block) and what is wrong with its entry.
pub fn read_table(bytes: &[u8], pages: usize, bases: &[BaseEntry]) -> Result<Vec<Entry>, (usize, &'static str)> {
    let mut out = Vec::with_capacity(pages);
    let mut last: Vec<(u32, u32)> = Vec::new();
    let mut at = 0;
    for i in 0..pages {
        let kind = *bytes.get(at).ok_or((i, "the table ends too early"))?;
        at += 1;
        let method = Method::from_number(kind & 15).ok_or((i, "no such method"))?;
        let mut varint = || read_varint(bytes, &mut at).ok_or((i, "the table ends too early"));
        let mut base = (0, 0);
        if method.needs_base() {
            let number = if kind >> 4 == 15 { varint()? } else { u64::from(kind >> 4) };
            let entry = usize::try_from(number).ok().and_then(|n| bases.get(n)).ok_or((i, "no such base"))?;
            base.0 = number as u32;
            let step = varint()?;
            let step = (step >> 1).cast_signed() ^ -((step & 1).cast_signed());
            let expected = expect(&mut last, base.0);
            let page = i64::from(*expected).checked_add(step).and_then(|p| u32::try_from(p).ok());
            base.1 = page.filter(|p| u64::from(*p) < entry.pages).ok_or((i, "no such base page"))?;
            *expected = base.1.wrapping_add(1);
        }
        let length = match method {
            Method::Whole => PAGE_BYTES as u64,
            m if has_length(m) => varint()?,
            _ => 0,
        };
        let length = u32::try_from(length).map_err(|_| (i, "the patch is too long"))?;
        let mut checksum = 0;
        if method != Method::Zero {
            let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>).ok_or((i, "the table ends too early"))?;
            checksum = u64::from_le_bytes(*bytes);
            at += 8;
        }
        out.push(Entry { method, base, length, checksum });
    }
    if at == bytes.len() { Ok(out) } else { Err((pages, "bytes are left over")) }
}

/// Puts a file together: the blocks (table, patches) and the manifest, whose `blocks` are filled in.
pub fn write(pages: u64, blocks: &[(Vec<u8>, Vec<u8>)], mut manifest: Manifest) -> Vec<u8> {
    let body: usize = blocks.iter().map(|(t, p)| t.len() + p.len()).sum();
    let mut out = Vec::with_capacity(HEADER + body + 4096);
    out.resize(HEADER, 0);
    for (table, patches) in blocks {
        manifest.blocks.push(BlockEntry {
            offset: out.len() as u64,
            table: table.len() as u32,
            patches: patches.len() as u32,
            checksum: xxh3_64(table),
        });
        out.extend_from_slice(table);
        out.extend_from_slice(patches);
    }
    let plain = manifest.encode_to_vec();
    let mut packed = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    // Cannot fail: the buffer is as large as zstd asks for. Were it to, the file would hold no manifest and be refused.
    let _ = zstd_safe::compress(&mut packed, &plain, 3);
    let offset = out.len() as u64;
    out.extend_from_slice(&packed);
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
    for n in [pages, offset, packed.len() as u64, plain.len() as u64, xxh3_64(&packed)] {
        header.extend_from_slice(&n.to_le_bytes());
    }
    let checksum = xxh3_64(&header);
    header.extend_from_slice(&checksum.to_le_bytes());
    out[..HEADER].copy_from_slice(&header);
    out
}

/// An open dedup file.
pub struct DedupFile<'a> {
    name: String,
    bytes: &'a [u8],
    pages: u64,
    manifest: Manifest,
    /// By base and first page.
    moves: Vec<(u32, u64, u64, Relocation)>,
}

impl<'a> DedupFile<'a> {
    /// Opens a file; `name` is for messages. Header and manifest are checked now, each block when it is read.
    ///
    /// # Errors
    /// The first thing that is wrong, with its offset.
    pub fn open(name: &str, bytes: &'a [u8]) -> Result<Self, FileError> {
        let file = || name.to_string();
        let invalid = |offset: u64, part: &str, what: String| FileError::Invalid {
            file: file(),
            part: part.into(),
            offset,
            what,
        };
        let truncated = |part: &str, offset: u64, length: u64| FileError::Truncated {
            file: file(),
            part: part.into(),
            offset,
            length,
            size: bytes.len() as u64,
        };
        if !bytes.starts_with(&MAGIC) {
            return Err(FileError::Magic { file: file() });
        }
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or_else(|| truncated("the header", 0, HEADER as u64))?;
        let number =
            |at: usize| header.get(at..).and_then(<[u8]>::first_chunk::<8>).map_or(0, |b| u64::from_le_bytes(*b));
        let versions = number(8);
        let (version, page) = (versions as u32, (versions >> 32) as u32);
        if version != VERSION || page != PAGE_BYTES as u32 {
            return Err(FileError::Version { file: file(), version, page });
        }
        if xxh3_64(&header[..56]) != number(56) {
            return Err(FileError::Checksum { file: file(), part: "the header".into(), offset: 0 });
        }
        let (pages, offset, length, plain) = (number(16), number(24), number(32), number(40));
        let packed = slice(bytes, offset, length).ok_or_else(|| truncated("the manifest", offset, length))?;
        if xxh3_64(packed) != number(48) {
            return Err(FileError::Checksum { file: file(), part: "the manifest".into(), offset });
        }
        if plain > MOST_MANIFEST {
            let what = format!("{plain} bytes decompressed; at most {MOST_MANIFEST} are read");
            return Err(invalid(offset, "the manifest", what));
        }
        let mut manifest = Vec::with_capacity(plain as usize);
        zstd_safe::decompress(&mut manifest, packed)
            .map_err(|code| invalid(offset, "the manifest", zstd_safe::get_error_name(code).into()))?;
        let manifest = Manifest::decode(&manifest[..]).map_err(|e| invalid(offset, "the manifest", e.to_string()))?;
        let of_files = manifest.files.iter().try_fold(0u64, |sum, f| sum.checked_add(f.pages));
        if of_files != Some(pages) || pages.div_ceil(BLOCK as u64) != manifest.blocks.len() as u64 {
            let what = format!("it does not account for {pages} pages");
            return Err(invalid(offset, "the manifest", what));
        }
        for (i, b) in manifest.blocks.iter().enumerate() {
            let length = u64::from(b.table) + u64::from(b.patches);
            if slice(bytes, b.offset, length).is_none() {
                return Err(truncated(&format!("block {i}"), b.offset, length));
            }
        }
        for name in manifest.files.iter().map(|f| &f.name).chain(manifest.attachments.iter().map(|a| &a.name)) {
            if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
                return Err(invalid(offset, "the manifest", format!("{name:?} is not a file's name")));
            }
        }
        let mut moves = Vec::new();
        for m in &manifest.moves {
            let relocation = m.relocation().map_err(|e| invalid(offset, "the manifest", e.to_string()))?;
            moves.push((m.base, m.first, m.first.saturating_add(m.pages), relocation));
        }
        moves.sort_by_key(|m| (m.0, m.1));
        Ok(Self { name: name.into(), bytes, pages, manifest, moves })
    }

    /// How messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Pages of the image.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.manifest.blocks.len()
    }

    /// The relocation of a base page.
    pub fn relocation(&self, base: u32, page: u32) -> Option<&Relocation> {
        let page = u64::from(page);
        let after = self.moves.partition_point(|m| (m.0, m.1) <= (base, page));
        let m = self.moves.get(after.checked_sub(1)?)?;
        (m.0 == base && page < m.2).then_some(&m.3)
    }

    /// Entries and patches of block `i`, its table checked.
    ///
    /// # Errors
    /// Damage, with the pages concerned.
    pub fn block(&self, i: usize) -> Result<(Vec<Entry>, &'a [u8]), FileError> {
        let first = (i * BLOCK) as u64;
        let pages = self.pages.saturating_sub(first).min(BLOCK as u64);
        let part = || format!("the table of pages {first} to {}", (first + pages).saturating_sub(1));
        let b = self.manifest.blocks.get(i).copied().unwrap_or_default();
        let length = u64::from(b.table) + u64::from(b.patches);
        let bytes = slice(self.bytes, b.offset, length).unwrap_or_default();
        let (table, patches) = bytes.split_at_checked(b.table as usize).unwrap_or_default();
        if xxh3_64(table) != b.checksum {
            return Err(FileError::Checksum { file: self.name.clone(), part: part(), offset: b.offset });
        }
        let invalid = |(page, what): (usize, &str)| FileError::Invalid {
            file: self.name.clone(),
            part: part(),
            offset: b.offset,
            what: format!("page {}: {what}", first + page as u64),
        };
        let entries = read_table(table, pages as usize, &self.manifest.bases).map_err(invalid)?;
        let sum: u64 = entries.iter().map(|e| u64::from(e.length)).sum();
        if sum != patches.len() as u64 {
            return Err(invalid((pages as usize, "the lengths of its patches do not add up")));
        }
        Ok((entries, patches))
    }
}

fn slice(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}
