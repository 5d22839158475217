//! What a function touches of its memory when it answers.
//!
//! Of the memory of the ten functions a request touches 10 to 20 %, and of one function nearly the same each time (Ustiugov et al., Benchmarking, analysis,
//! and optimization of serverless function snapshots, ASPLOS 2021, say the same of theirs). So what the first run of a function on a node is seen
//! to touch ([`super::watch`]) is given to all its dedup starts before they go on, and what two of these have missed as well: what one misses may lie elsewhere in every
//! sandbox, and a record of all that was ever missed would come to be most of the image. It is known by address: sandboxes of one function have the same objects at the same
//! places where addresses are not randomised, most of them at least. So a
//! sandbox goes by what it missed itself as well, and where addresses are randomised by what it touched itself alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::lock;

/// A record has at most this part of the image's pages: where more is touched, or has been now and then, all pages are as well pushed first.
const AT_MOST: f64 = 0.75;
/// How often at most it is looked anew what is touched.
const LOOKS: u32 = 3;

/// Pages that were touched, with those that came with them: process of the checkpoint, and address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched(BTreeSet<(usize, u64)>);

impl Touched {
    /// Adds pages by their addresses in the checkpoint.
    pub fn extend(&mut self, pages: impl Iterator<Item = (usize, u64)>) {
        self.0.extend(pages);
    }

    /// These and others.
    pub fn and(&self, others: &Self) -> Self {
        Self(self.0.union(&others.0).copied().collect())
    }

    /// Their numbers in an image, ascending; `page_at` knows where the image has a page.
    pub fn pages(&self, page_at: impl Fn(usize, u64) -> Option<u64>) -> Vec<u64> {
        let pages: BTreeSet<u64> = self.0.iter().filter_map(|(process, at)| page_at(*process, *at)).collect();
        pages.into_iter().collect()
    }
}

/// What is known of a function, or of a sandbox.
#[derive(Debug, Default)]
struct Record {
    /// Nothing, or too much to be of use.
    known: Option<Arc<Touched>>,
    /// Missed by one start since.
    once: BTreeSet<(usize, u64)>,
    /// How often it was looked.
    looks: u32,
    /// Somebody looks.
    looking: bool,
}

/// What is known of each function, or of each sandbox.
#[derive(Debug, Default)]
pub struct Records(Mutex<BTreeMap<String, Record>>);

impl Records {
    /// What is known of `whom`.
    pub fn of(&self, whom: &str) -> Option<Arc<Touched>> {
        lock(&self.0).get(whom)?.known.clone()
    }

    /// Whether somebody should look what `whom` touches: then it is the caller, who says by [`Self::add`] what was seen.
    pub fn begin(&self, whom: &str) -> bool {
        let mut records = lock(&self.0);
        let record = records.entry(whom.to_owned()).or_default();
        let begins = record.known.is_none() && !record.looking && record.looks < LOOKS;
        if begins {
            record.looks += 1;
            record.looking = true;
        }
        begins
    }

    /// Nothing was seen after all.
    pub fn give_up(&self, whom: &str) {
        if let Some(record) = lock(&self.0).get_mut(whom) {
            record.looking = false;
        }
    }

    /// Adds what was seen: all of it where nothing is known, else what was missed before. A record that comes to three quarters of an image of `pages` pages
    /// is given up.
    pub fn add(&self, whom: &str, seen: &Touched, pages: u64) {
        let mut records = lock(&self.0);
        let record = records.entry(whom.to_owned()).or_default();
        record.looking = false;
        let all = match &record.known {
            None => seen.clone(),
            Some(known) => {
                let mut all = Touched::clone(known);
                for page in seen.0.difference(&known.0) {
                    if record.once.remove(page) {
                        all.0.insert(*page);
                    } else {
                        record.once.insert(*page);
                    }
                }
                all
            }
        };
        let useful = all.0.len() as f64 <= AT_MOST * pages as f64;
        record.known = useful.then(|| Arc::new(all));
        if !useful {
            record.once.clear();
        }
    }

    /// From now on that is known of `whom`, or nothing. What was.
    pub fn exchange(&self, whom: &str, known: Option<Arc<Touched>>) -> Option<Arc<Touched>> {
        let mut records = lock(&self.0);
        let before = match known {
            Some(known) => records.insert(whom.to_owned(), Record { known: Some(known), ..Record::default() }),
            None => records.remove(whom),
        };
        before?.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(addresses: &[u64]) -> Touched {
        Touched(addresses.iter().map(|at| (0, *at)).collect())
    }

    #[test]
    fn pages_are_found_in_another_image() {
        let touched = Touched([(0, 0x5000), (0, 0x4000), (1, 0x9000), (0, 0x8000)].into());
        // Of the first process addresses from 0x5000 on are in the image, of the second all.
        let page_at = |process: usize, at: u64| match process {
            0 => at.checked_sub(0x5000).map(|a| a / 0x1000),
            _ => Some(100 + at / 0x1000),
        };
        assert_eq!(touched.pages(page_at), [0, 3, 109]);
    }

    #[test]
    fn records_grow_until_they_are_most_of_the_image() {
        let records = Records::default();
        let known = || records.of("f").map(|known| Touched::clone(&known));
        records.add("f", &seen(&[1, 2]), 6);
        records.add("f", &seen(&[2, 3, 4]), 6);
        assert_eq!(known(), Some(seen(&[1, 2])), "missed once");
        records.add("f", &seen(&[3, 5]), 6);
        assert_eq!(known(), Some(seen(&[1, 2, 3])));
        records.add("f", &seen(&[4, 6]), 6);
        assert_eq!(known(), Some(seen(&[1, 2, 3, 4])));
        records.add("f", &seen(&[5]), 6);
        assert_eq!(known(), None, "most of the image");
        records.add("f", &seen(&[5]), 6);
        assert_eq!(records.exchange("f", None).as_deref(), Some(&seen(&[5])));
        assert_eq!((records.of("f"), records.of("g")), (None, None));
        assert_eq!(records.exchange("g", Some(Arc::new(seen(&[7])))), None);
        assert_eq!(records.of("g").as_deref(), Some(&seen(&[7])));
    }

    #[test]
    fn one_looks_at_a_time_and_a_few_in_all() {
        let records = Records::default();
        assert!(records.begin("f") && !records.begin("f") && records.begin("g"));
        records.add("f", &seen(&[1]), 6);
        assert!(!records.begin("f"), "known");
        // Of no use, twice more.
        for again in [true, true, false] {
            records.add("f", &seen(&[1, 2, 3, 4, 5]), 6);
            records.add("f", &seen(&[1, 2, 3, 4, 5]), 6);
            assert_eq!(records.begin("f"), again);
        }
        records.give_up("g");
        assert!(records.begin("g"), "nothing was seen");
        // Nothing can be seen: what is missed is learnt.
        records.add("g", &seen(&[]), 0);
        assert_eq!((records.of("g").as_deref(), records.begin("g")), (Some(&seen(&[])), false));
    }
}
