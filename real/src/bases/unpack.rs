//! A packed image's pages.
//!
//! Blocks of 256 pages are unpacked by several threads: each reads the base pages of a block in one batch, straight into the transport's memory,
//! and decodes. With bases on other nodes there are two threads more than processors, so that some blocks are being read while others are being
//! decoded. Where the process has most of what it needs it has the processors first: one thread goes on in the background, and one is kept for what the
//! process waits for. The first base that is lost ends all.

use std::time::Instant;

use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::turns::Turns;
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
        turns: &Turns,
        give: &Give<'_>,
        deadline: Instant,
    ) -> Result<Unpacked, OpError> {
        let names = file.manifest().bases.iter().map(|b| b.name.parse::<BaseName>());
        let reader = self.reader(names.collect::<Result<Vec<_>, _>>()?.into_iter(), deadline);
        let threads = match turns.keeps_one() {
            true => 1,
            false => self.settings.threads + if reader.reads_far() { READING } else { 0 },
        };
        let threads = threads.clamp(1, file.blocks().max(1));
        let [read_before, decode_before] = turns.spent();
        let done = unpack_blocks(file, &reader, threads, turns, |first, pages| {
            in_time("unpacking", deadline).map_err(Ended::Give)?;
            give(first, pages).map_err(Ended::Give)
        });
        match done {
            Ok(()) => {
                let [read, decode] = turns.spent();
                Ok(Unpacked {
                    read: read.saturating_sub(read_before),
                    decode: decode.saturating_sub(decode_before),
                    pages: reader.read_pages(),
                })
            }
            Err(Ended::Give(error)) => Err(error),
            Err(Ended::Unpack(error)) => {
                Err(reader.lost().map_or_else(|| OpError::Damaged(error.to_string()), |(_, lost)| lost.clone()))
            }
        }
    }
}
