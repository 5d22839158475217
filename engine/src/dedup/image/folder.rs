//! Where an image's files come from: a folder on disk, mapped and not copied, or files in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The bytes of a file.
#[derive(Clone)]
pub enum Blob {
    /// Mapped.
    Map(Arc<memmap2::Mmap>),
    /// In memory.
    Owned(Arc<Vec<u8>>),
}

impl Blob {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }

    /// Maps a file.
    ///
    /// # Errors
    /// What the system says of opening or mapping it.
    pub fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self::Owned(Arc::default()));
        }
        // SAFETY: the mapping is private and only read. The bytes may change under us if someone writes to the
        // file meanwhile; they are plain bytes and every use of them is checked, so this gives wrong pages (which
        // the checksums find) and nothing worse. Someone who truncates the file takes the process down with
        // SIGBUS: a checkpoint must stay as it is while it is open, as `Image::open` says.
        Ok(Self::Map(Arc::new(unsafe { memmap2::Mmap::map(&file)? })))
    }
}

/// A folder of files, on disk or in memory.
#[derive(Clone)]
pub enum Folder {
    /// On disk.
    Disk(PathBuf),
    /// In memory: content by name.
    Memory(BTreeMap<String, Arc<Vec<u8>>>),
}

impl Folder {
    /// How messages call it.
    pub fn name(&self) -> String {
        match self {
            Self::Disk(path) => path.display().to_string(),
            Self::Memory(_) => "(in memory)".into(),
        }
    }

    /// How messages call one of its files.
    pub fn name_of(&self, file: &str) -> String {
        match self {
            Self::Disk(path) => path.join(file).display().to_string(),
            Self::Memory(_) => file.into(),
        }
    }

    /// Names of its regular files, sorted.
    ///
    /// # Errors
    /// What the system says of reading the folder.
    pub fn list(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Memory(files) => Ok(files.keys().cloned().collect()),
            Self::Disk(path) => {
                let mut names = Vec::new();
                for entry in std::fs::read_dir(path)? {
                    let entry = entry?;
                    if entry.file_type()?.is_file()
                        && let Ok(name) = entry.file_name().into_string()
                    {
                        names.push(name);
                    }
                }
                names.sort();
                Ok(names)
            }
        }
    }

    /// Opens a file; `None` if it is not there.
    ///
    /// # Errors
    /// Any other failure of the system.
    pub fn open(&self, name: &str) -> io::Result<Option<Blob>> {
        match self {
            Self::Memory(files) => Ok(files.get(name).map(|bytes| Blob::Owned(bytes.clone()))),
            Self::Disk(path) => match Blob::map(&path.join(name)) {
                Ok(blob) => Ok(Some(blob)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            },
        }
    }

    /// Target of the link `parent`, by which an incremental checkpoint names the one before it.
    ///
    /// # Errors
    /// Any failure but that it is absent.
    pub fn parent(&self) -> io::Result<Option<PathBuf>> {
        let Self::Disk(path) = self else { return Ok(None) };
        match std::fs::read_link(path.join("parent")) {
            Ok(target) => Ok(Some(target)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
