//! What an owner has published: regions by address, each with a key that only those know who were told, and how many read it just now.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use medes_engine::dedup::Page;
use medes_engine::id::NodeId;
use medes_engine::units::PAGE_BYTES;

use super::{PublishError, Region};
use crate::memory::SharedMemory;

/// Regions of this process.
pub(super) struct Regions {
    node: NodeId,
    incarnation: u64,
    table: Mutex<Table>,
    /// Told when a reading ends.
    ended: Condvar,
}

#[derive(Default)]
struct Table {
    next_address: u64,
    published: BTreeMap<u64, Published>,
}

struct Published {
    key: u64,
    pages: Arc<SharedMemory>,
    /// Readings under way.
    readings: usize,
    withdrawn: bool,
}

/// Pages held in place while they are read: withdrawal waits for the end of it.
pub(super) struct Reading<'a> {
    regions: &'a Regions,
    address: u64,
    pages: Arc<SharedMemory>,
}

impl Reading<'_> {
    /// All pages of the region.
    pub fn pages(&self) -> &[Page] {
        self.pages.pages()
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut table = self.regions.lock();
        if let Some(published) = table.published.get_mut(&self.address) {
            published.readings -= 1;
        }
        self.regions.ended.notify_all();
    }
}

impl Regions {
    /// No regions yet, of a new process.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(node: NodeId) -> std::io::Result<Self> {
        let random = || {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(u64::from_le_bytes(bytes))
        };
        // Another first address in every process: an old descriptor names nothing.
        let table = Table { next_address: random()? >> 16 << 12, ..Table::default() };
        Ok(Self { node, incarnation: random()?, table: Mutex::new(table), ended: Condvar::new() })
    }

    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a region.
    pub fn publish(&self, pages: Arc<SharedMemory>) -> Result<Region, PublishError> {
        let bytes = pages.len();
        let fail = |reason: String| PublishError { bytes, reason };
        let count = u32::try_from(bytes / PAGE_BYTES).map_err(|_| fail("more pages than a region can have".into()))?;
        let mut key = [0; 8];
        getrandom::fill(&mut key).map_err(|e| fail(e.to_string()))?;
        let key = u64::from_le_bytes(key);
        let mut table = self.lock();
        let address = table.next_address;
        table.next_address += (bytes as u64).next_multiple_of(PAGE_BYTES as u64) + PAGE_BYTES as u64;
        table.published.insert(address, Published { key, pages, readings: 0, withdrawn: false });
        Ok(Region { owner: self.node, incarnation: self.incarnation, address, key, pages: count })
    }

    /// Holds a region for reading; nothing if it is not there or the key is another.
    pub fn reading(&self, address: u64, key: u64) -> Option<Reading<'_>> {
        let mut table = self.lock();
        let published = table.published.get_mut(&address).filter(|p| p.key == key && !p.withdrawn)?;
        published.readings += 1;
        Some(Reading { regions: self, address, pages: published.pages.clone() })
    }

    /// Takes a region back and waits until nobody reads it. After `patience`, `hurry` is called once, which makes readings end.
    pub fn withdraw(&self, region: &Region, patience: Duration, hurry: impl FnOnce()) -> bool {
        if region.incarnation != self.incarnation {
            return false;
        }
        let mut table = self.lock();
        match table.published.get_mut(&region.address) {
            Some(published) if !published.withdrawn => published.withdrawn = true,
            _ => return false,
        }
        let (until, mut hurry) = (Instant::now() + patience, Some(hurry));
        while table.published.get(&region.address).is_some_and(|p| p.readings > 0) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero()
                && let Some(hurry) = hurry.take()
            {
                drop(table);
                hurry();
                table = self.lock();
                continue;
            }
            let wait = if left.is_zero() { Duration::from_secs(1) } else { left };
            table = self.ended.wait_timeout(table, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        table.published.remove(&region.address).is_some()
    }
}
