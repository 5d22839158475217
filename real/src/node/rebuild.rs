//! A checkpoint's folder written back from a packed image, straight to where CRIU reads it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use medes_engine::dedup::Page;
use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::image::PAGE;
use medes_engine::dedup::turns::Turns;

use crate::ops::{Bases, OpError, Unpacked};

/// Writes the checkpoint that `file` holds to a new folder.
///
/// # Errors
/// No room, or what [`Bases::unpack`] says.
pub fn rebuild(bases: &dyn Bases, file: &DedupFile<'_>, folder: &Path, deadline: Instant) -> Result<Unpacked, OpError> {
    fs::create_dir(folder).map_err(|e| OpError::io(folder, &e))?;
    let manifest = file.manifest();
    for attachment in &manifest.attachments {
        let path = folder.join(&attachment.name);
        fs::write(&path, &attachment.bytes).map_err(|e| OpError::io(&path, &e))?;
    }
    // First page, pages, file.
    let mut files: Vec<(u64, u64, File)> = Vec::new();
    let mut first = 0;
    for entry in &manifest.files {
        let path = folder.join(&entry.name);
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        let made = made.and_then(|f| f.set_len(entry.pages * PAGE).map(|()| f)).map_err(|e| OpError::io(&path, &e))?;
        files.push((first, entry.pages, made));
        first += entry.pages;
    }
    let give = |first: u64, pages: &[Page]| {
        let end = first + pages.len() as u64;
        for (start, count, to) in &files {
            let (from, until) = (first.max(*start), end.min(start + count));
            if from < until {
                let slice = pages.get((from - first) as usize..(until - first) as usize).unwrap_or_default();
                to.write_all_at(slice.as_flattened(), (from - start) * PAGE).map_err(|e| OpError::io(folder, &e))?;
            }
        }
        Ok(())
    };
    bases.unpack(file, &Turns::in_order(file), &give, deadline)
}
