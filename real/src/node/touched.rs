//! What a function touches of its memory when it answers.
//!
//! Of the memory of the ten functions a request touches 10 to 20 %, and of one function nearly the same each time (Ustiugov et al., Benchmarking, analysis,
//! and optimization of serverless function snapshots, ASPLOS 2021, say the same of theirs). So what the first dedup start of a function is seen
//! to touch is given to all later ones before they go on, and what two of these have missed as well: what one misses may lie elsewhere in every sandbox, and a
//! record of all that was ever missed would come to be most of the image. It is known by address: sandboxes of one function have the same objects at the same
//! places where addresses are not randomised. Where they are, a sandbox goes by what it touched itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::lock;

/// A record has at most this part of the image's pages: one of more has gathered what is touched now and then.
const AT_MOST: f64 = 0.75;

/// Pages that were touched, with those that came with them: process of the checkpoint, and address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched(BTreeSet<(usize, u64)>);

impl Touched {
    /// Adds pages by their addresses in the checkpoint.
    pub fn extend(&mut self, pages: impl Iterator<Item = (usize, u64)>) {
        self.0.extend(pages);
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
    known: Arc<Touched>,
    /// Missed by one start since.
    once: BTreeSet<(usize, u64)>,
}

/// What is known of each function, or of each sandbox.
#[derive(Debug, Default)]
pub struct Records(Mutex<BTreeMap<String, Record>>);

impl Records {
    /// What is known of `whom`.
    pub fn of(&self, whom: &str) -> Option<Arc<Touched>> {
        lock(&self.0).get(whom).map(|record| record.known.clone())
    }

    /// Adds what was seen: all of it where nothing is known, else what was missed before. A record that comes to three quarters of an image of `pages` pages
    /// is given up, and what is touched learnt anew.
    pub fn add(&self, whom: &str, seen: &Touched, pages: u64) {
        let mut records = lock(&self.0);
        let record = match records.remove(whom) {
            None => Record { known: Arc::new(seen.clone()), once: BTreeSet::new() },
            Some(Record { known, mut once }) => {
                let mut all = Touched::clone(&known);
                for page in seen.0.difference(&known.0) {
                    if once.remove(page) {
                        all.0.insert(*page);
                    } else {
                        once.insert(*page);
                    }
                }
                Record { known: Arc::new(all), once }
            }
        };
        if record.known.0.len() as f64 <= AT_MOST * pages as f64 {
            records.insert(whom.to_owned(), record);
        }
    }

    /// From now on that is known of `whom`, or nothing. What was.
    pub fn exchange(&self, whom: &str, known: Option<Arc<Touched>>) -> Option<Arc<Touched>> {
        let mut records = lock(&self.0);
        let before = match known {
            Some(known) => records.insert(whom.to_owned(), Record { known, once: BTreeSet::new() }),
            None => records.remove(whom),
        };
        before.map(|record| record.known)
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
}
