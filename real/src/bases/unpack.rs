//! A packed image's pages.
//!
//! Blocks of 256 pages are unpacked by several threads: each reads the base pages of a block in one batch, straight into the transport's memory,
//! and decodes. With bases on other nodes there are two threads more than processors, so that some blocks are being read while others are being
//! decoded. The first base that is lost ends all.

use std::time::{Duration, Instant};

use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::unpack::{UnpackError, unpack_blocks};

use super::name::BaseName;
use super::{ClusterBases, in_time};
use crate::ops::{Give, OpError, Unpacked};

/// Threads that may wait for other nodes while all processors decode.
const READING: usize = 2;

/// Why unpacking ended.
enum Ended {
    Unpack(UnpackError),
    Give(OpError),
}

impl From<UnpackError> for Ended {
    fn from(error: UnpackError) -> Self {
        Self::Unpack(error)
    }
}

impl ClusterBases {
    pub(super) fn unpack_file(
        &self,
        file: &DedupFile<'_>,
        give: &Give<'_>,
        deadline: Instant,
    ) -> Result<Unpacked, OpError> {
        let names = file.manifest().bases.iter().map(|b| b.name.parse::<BaseName>());
        let reader = self.reader(names.collect::<Result<Vec<_>, _>>()?.into_iter(), deadline);
        let threads = self.settings.threads + if reader.reads_far() { READING } else { 0 };
        let threads = threads.clamp(1, file.blocks().max(1));
        let given = std::sync::atomic::AtomicU64::new(0);
        let started = Instant::now();
        let done = unpack_blocks(file, &reader, threads, |first, pages| {
            in_time("unpacking", deadline).map_err(Ended::Give)?;
            let from = Instant::now();
            let done = give(first, pages).map_err(Ended::Give);
            given.fetch_add(from.elapsed().as_nanos() as u64, std::sync::atomic::Ordering::Relaxed);
            done
        });
        let whole = started.elapsed() * threads as u32;
        match done {
            Ok(()) => {
                let (read, given) = (reader.spent(), Duration::from_nanos(given.into_inner()));
                Ok(Unpacked { read, decode: whole.saturating_sub(read + given), pages: reader.read_pages() })
            }
            Err(Ended::Give(error)) => Err(error),
            Err(Ended::Unpack(error)) => {
                Err(reader.lost().map_or_else(|| OpError::Damaged(error.to_string()), |(_, lost)| lost.clone()))
            }
        }
    }
}
