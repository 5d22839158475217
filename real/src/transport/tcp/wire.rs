//! What goes over a connection: a greeting of three messages, then requests and answers. All numbers are little endian.
//!
//! | who | what |
//! |---|---|
//! | owner | `MDT1`, its nonce (16 bytes) |
//! | reader | `MDT1`, its node (u32), the owner's node (u32), its nonce (16), seal over all of this and the owner's nonce (32) |
//! | owner | refusal or 0 (u8), its incarnation (u64), seal over both nonces and the incarnation (32) |
//! | reader | request: address (u64), key (u64), number of runs (u32), runs: first page (u32), pages (u32) |
//! | owner | answer: frames of status (u8), pages (u32) and, with status 0, as many pages, until all are there or a status is not 0 |
//!
//! Both nonces are new for each connection: a recorded greeting opens none. Left out: pages travel unencrypted, as they do by RDMA; whoever can
//! listen on the cluster's network reads them. Whoever can change them there is found out by the pages' checksums only as long as they do not forge
//! those as well.

use medes_engine::id::NodeId;
use medes_engine::units::PAGE_BYTES;

use crate::transport::{PageRun, Secret};

const MAGIC: [u8; 4] = *b"MDT1";
/// Runs in a request at most: what fits a socket's buffer, so that nobody waits for the other to read.
pub(super) const MOST_RUNS: usize = 1024;
/// Pages asked for in a request at most.
pub(super) const MOST_PAGES: u64 = 4096;
/// Pages in a frame at most.
pub(super) const FRAME: u32 = 256;

pub(super) const CHALLENGE: usize = 20;
pub(super) const GREETING: usize = 60;
pub(super) const WELCOME: usize = 41;
pub(super) const REQUEST: usize = 20;
pub(super) const RUN: usize = 8;
pub(super) const ANSWER: usize = 5;

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

/// New for each connection.
pub(super) type Nonce = [u8; 16];

/// The owner's first words.
pub(super) fn challenge(nonce: &Nonce) -> [u8; CHALLENGE] {
    let mut out = [0; CHALLENGE];
    out[..4].copy_from_slice(&MAGIC);
    out[4..].copy_from_slice(nonce);
    out
}

/// The owner's nonce; nothing if it is no owner of pages, or of another version.
pub(super) fn open_challenge(bytes: &[u8; CHALLENGE]) -> Option<Nonce> {
    let (magic, nonce) = bytes.split_first_chunk()?;
    if *magic == MAGIC { nonce.first_chunk().copied() } else { None }
}

/// Who wants to read from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub reader: NodeId,
    pub owner: NodeId,
    pub nonce: Nonce,
}

/// Why an owner says no. The numbers travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub(super) enum Refusal {
    #[error("its cluster file does not have this node at this address")]
    Stranger = 1,
    #[error("its secret is another")]
    WrongSecret = 2,
    #[error("it does not understand; is it of another version?")]
    NotUnderstood = 3,
    #[error("it has too many connections")]
    Full = 4,
}

impl Greeting {
    fn words(&self) -> [u8; 28] {
        let mut out = [0; 28];
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.reader.0.to_le_bytes());
        out[8..12].copy_from_slice(&self.owner.0.to_le_bytes());
        out[12..].copy_from_slice(&self.nonce);
        out
    }

    fn both(&self, owners: &Nonce) -> Vec<u8> {
        [&self.words()[..], owners].concat()
    }

    pub fn sealed(&self, secret: &Secret, owners: &Nonce) -> [u8; GREETING] {
        let mut out = [0; GREETING];
        out[..28].copy_from_slice(&self.words());
        out[28..].copy_from_slice(&secret.seal("tcp reader", &self.both(owners)));
        out
    }

    pub fn open(bytes: &[u8; GREETING], secret: &Secret, owners: &Nonce) -> Result<Self, Refusal> {
        let nonce = bytes[12..].first_chunk().copied().unwrap_or_default();
        let greeting = Self { reader: NodeId(word(bytes, 4)), owner: NodeId(word(bytes, 8)), nonce };
        if bytes[..4] != MAGIC {
            return Err(Refusal::NotUnderstood);
        }
        let known = secret.sealed("tcp reader", &greeting.both(owners), &bytes[28..]);
        if known { Ok(greeting) } else { Err(Refusal::WrongSecret) }
    }

    fn welcome_words(&self, owners: &Nonce, incarnation: u64) -> Vec<u8> {
        [&self.both(owners)[..], &incarnation.to_le_bytes()].concat()
    }

    /// The owner's answer to it.
    pub fn welcome(&self, secret: &Secret, owners: &Nonce, incarnation: u64) -> [u8; WELCOME] {
        let mut out = [0; WELCOME];
        out[1..9].copy_from_slice(&incarnation.to_le_bytes());
        out[9..].copy_from_slice(&secret.seal("tcp owner", &self.welcome_words(owners, incarnation)));
        out
    }

    /// The owner's incarnation, by its answer.
    pub fn open_welcome(&self, bytes: &[u8; WELCOME], secret: &Secret, owners: &Nonce) -> Result<u64, Refusal> {
        let all = [Refusal::Stranger, Refusal::WrongSecret, Refusal::NotUnderstood, Refusal::Full];
        if bytes[0] != 0 {
            return Err(all.into_iter().find(|r| *r as u8 == bytes[0]).unwrap_or(Refusal::NotUnderstood));
        }
        let incarnation = long(bytes, 1);
        let known = secret.sealed("tcp owner", &self.welcome_words(owners, incarnation), &bytes[9..]);
        if known { Ok(incarnation) } else { Err(Refusal::WrongSecret) }
    }
}

/// The owner's answer to a reader that it does not want.
pub(super) fn refusal(why: Refusal) -> [u8; WELCOME] {
    let mut out = [0; WELCOME];
    out[0] = why as u8;
    out
}

/// A request for the pages of some runs.
pub(super) fn request(address: u64, key: u64, runs: &[PageRun]) -> Vec<u8> {
    let mut out = Vec::with_capacity(REQUEST + RUN * runs.len());
    out.extend(address.to_le_bytes());
    out.extend(key.to_le_bytes());
    out.extend((runs.len() as u32).to_le_bytes());
    for run in runs {
        out.extend(run.first.to_le_bytes());
        out.extend(run.pages.to_le_bytes());
    }
    out
}

/// Address, key and number of runs; nothing if that is more than may be asked for.
pub(super) fn open_request(head: &[u8; REQUEST]) -> Option<(u64, u64, usize)> {
    let runs = word(head, 16) as usize;
    (runs <= MOST_RUNS).then_some((long(head, 0), long(head, 8), runs))
}

/// The runs of a request; nothing if they have more pages than may be asked for, or none.
pub(super) fn open_runs(bytes: &[u8]) -> Option<Vec<PageRun>> {
    let runs: Vec<PageRun> =
        bytes.as_chunks::<RUN>().0.iter().map(|b| PageRun { first: word(b, 0), pages: word(b, 4) }).collect();
    let pages: u64 = runs.iter().map(|r| u64::from(r.pages)).sum();
    (pages <= MOST_PAGES && runs.iter().all(|r| r.pages > 0)).then_some(runs)
}

/// What an owner says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    /// Pages follow.
    Pages = 0,
    /// The region is not there, or the key is wrong.
    Refused = 1,
}

/// Head of a frame.
pub(super) fn answer(status: Status, pages: u32) -> [u8; ANSWER] {
    let mut out = [status as u8, 0, 0, 0, 0];
    out[1..].copy_from_slice(&pages.to_le_bytes());
    out
}

/// Status and pages of a frame; nothing if it is none.
pub(super) fn open_answer(bytes: &[u8; ANSWER]) -> Option<(Status, u32)> {
    match bytes[0] {
        0 => Some((Status::Pages, word(bytes, 1))),
        1 => Some((Status::Refused, 0)),
        _ => None,
    }
}

/// Splits runs into requests within the limits.
pub(super) fn requests(runs: &[PageRun]) -> Vec<Vec<PageRun>> {
    let mut out: Vec<Vec<PageRun>> = Vec::new();
    let mut pages = 0; // of the last request
    for run in runs {
        let mut rest = *run;
        while rest.pages > 0 {
            if pages == MOST_PAGES || out.last().is_none_or(|r| r.len() == MOST_RUNS) {
                out.push(Vec::new());
                pages = 0;
            }
            let take = rest.pages.min((MOST_PAGES - pages) as u32);
            if let Some(request) = out.last_mut() {
                match request.last_mut() {
                    Some(last) if last.first.checked_add(last.pages) == Some(rest.first) => last.pages += take,
                    _ => request.push(PageRun { first: rest.first, pages: take }),
                }
            }
            pages += u64::from(take);
            rest = PageRun { first: rest.first + take, pages: rest.pages - take };
        }
    }
    out
}

/// Bytes of the pages of some runs.
pub(super) fn bytes_of(runs: &[PageRun]) -> usize {
    runs.iter().map(|r| r.pages as usize * PAGE_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_same_secret_and_the_same_nonces_open_a_greeting_and_its_welcome() {
        let (ours, theirs) = (Secret::new("correct horse"), Secret::new("battery staple"));
        let owners = [3; 16];
        let greeting = Greeting { reader: NodeId(3), owner: NodeId(1), nonce: [7; 16] };
        let mut wire = greeting.sealed(&ours, &owners);
        assert_eq!(Greeting::open(&wire, &ours, &owners), Ok(greeting));
        assert_eq!(Greeting::open(&wire, &theirs, &owners), Err(Refusal::WrongSecret));
        assert_eq!(Greeting::open(&wire, &ours, &[4; 16]), Err(Refusal::WrongSecret), "a recorded greeting");
        for at in 0..GREETING {
            wire[at] ^= 1;
            assert!(Greeting::open(&wire, &ours, &owners).is_err(), "byte {at}");
            wire[at] ^= 1;
        }
        let mut answer = greeting.welcome(&ours, &owners, 42);
        assert_eq!(greeting.open_welcome(&answer, &ours, &owners), Ok(42));
        assert_eq!(greeting.open_welcome(&answer, &theirs, &owners), Err(Refusal::WrongSecret));
        answer[1] ^= 1;
        assert_eq!(greeting.open_welcome(&answer, &ours, &owners), Err(Refusal::WrongSecret));
        assert_eq!(greeting.open_welcome(&refusal(Refusal::Stranger), &ours, &owners), Err(Refusal::Stranger));
        assert_eq!(open_challenge(&challenge(&owners)), Some(owners));
        assert_eq!(open_challenge(&[0; CHALLENGE]), None);
    }

    #[test]
    fn a_request_for_more_than_may_be_asked_is_not_opened() {
        let run = |first, pages| PageRun { first, pages };
        let wire = request(5, 6, &[run(1, 2), run(3, 4)]);
        let (head, runs) = wire.split_first_chunk().expect("a head");
        assert_eq!(open_request(head), Some((5, 6, 2)));
        assert_eq!(open_runs(runs), Some(vec![run(1, 2), run(3, 4)]));
        let many = request(5, 6, &vec![run(0, 1); MOST_RUNS + 1]);
        assert_eq!(open_request(many.first_chunk().expect("a head")), None);
        assert_eq!(open_runs(&request(5, 6, &[run(0, u32::MAX), run(0, u32::MAX)])[REQUEST..]), None);
        assert_eq!(open_runs(&request(5, 6, &[run(0, 0)])[REQUEST..]), None);
    }

    proptest! {
        #[test]
        fn requests_ask_for_the_same_pages_in_the_same_order(list in prop::collection::vec((0_u32..9000, 1_u32..6000), 0..9)) {
            let runs: Vec<PageRun> = list.iter().map(|(first, pages)| PageRun { first: *first, pages: *pages }).collect();
            let numbers = |runs: &[PageRun]| -> Vec<u32> { runs.iter().flat_map(|r| r.first..r.first + r.pages).collect() };
            let split = requests(&runs);
            for request in &split {
                prop_assert!(open_runs(&super::request(0, 0, request)[REQUEST..]).is_some());
                prop_assert!(request.len() <= MOST_RUNS);
            }
            prop_assert_eq!(numbers(&split.concat()), numbers(&runs));
        }
    }
}
