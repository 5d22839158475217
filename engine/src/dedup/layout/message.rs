//! A layout as a message: it travels with a base, so that any node can lay an image over it.

use prost::Message;

use super::{Layout, Region, Space};
use crate::dedup::image::PAGE;

/// Pages that a base may have.
const MOST_PAGES: u64 = u32::MAX as u64;

/// A message that is no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the layout of an image: {0}")]
pub struct BadLayout(String);

#[derive(Clone, PartialEq, Message)]
struct LayoutMessage {
    #[prost(message, repeated, tag = "1")]
    spaces: Vec<SpaceMessage>,
    /// Runs of pages at adjacent addresses of one process.
    #[prost(message, repeated, tag = "2")]
    runs: Vec<RunMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SpaceMessage {
    #[prost(message, repeated, tag = "1")]
    regions: Vec<RegionMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct RegionMessage {
    #[prost(fixed64, tag = "1")]
    start: u64,
    #[prost(fixed64, tag = "2")]
    end: u64,
    #[prost(fixed64, tag = "3")]
    key: u64,
    #[prost(fixed64, tag = "4")]
    class: u64,
    #[prost(fixed64, tag = "5")]
    anchor: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct RunMessage {
    #[prost(uint32, tag = "1")]
    process: u32,
    #[prost(fixed64, tag = "2")]
    address: u64,
    #[prost(uint64, tag = "3")]
    pages: u64,
}

impl Layout {
    /// For the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let region = |r: &Region| {
            let Region { start, end, key, class, anchor } = *r;
            RegionMessage { start, end, key, class, anchor }
        };
        let spaces = self.spaces.iter().map(|s| SpaceMessage { regions: s.regions.iter().map(region).collect() });
        let mut runs: Vec<RunMessage> = Vec::new();
        for (process, address) in self.process.iter().zip(&self.address) {
            match runs.last_mut() {
                Some(r) if r.process == *process && r.address.wrapping_add(r.pages * PAGE) == *address => r.pages += 1,
                _ => runs.push(RunMessage { process: *process, address: *address, pages: 1 }),
            }
        }
        LayoutMessage { spaces: spaces.collect(), runs }.encode_to_vec()
    }

    /// From the wire.
    ///
    /// # Errors
    /// Bytes that are no layout of `pages` pages.
    pub fn from_bytes(bytes: &[u8], pages: u64) -> Result<Self, BadLayout> {
        let bad = |what: &str| BadLayout(what.into());
        let message = LayoutMessage::decode(bytes).map_err(|e| BadLayout(e.to_string()))?;
        let said = message.runs.iter().try_fold(0_u64, |sum, r| sum.checked_add(r.pages));
        if said != Some(pages) || pages >= MOST_PAGES {
            return Err(BadLayout(format!("it has {said:?} pages, not {pages}")));
        }
        let mut out = Self::default();
        for space in message.spaces {
            let mut last = 0;
            let mut regions = Vec::with_capacity(space.regions.len());
            for RegionMessage { start, end, key, class, anchor } in space.regions {
                if start < last || end <= start {
                    return Err(bad("its regions are not in order"));
                }
                last = end;
                regions.push(Region { start, end, key, class, anchor });
            }
            out.spaces.push(Space { regions });
        }
        for run in message.runs {
            for n in 0..run.pages {
                out.process.push(run.process);
                out.address.push(run.address.wrapping_add(n * PAGE));
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout() -> impl Strategy<Value = Layout> {
        let region = (1_u64..9, 1_u64..9, any::<u64>(), any::<u64>(), any::<u64>());
        let space = prop::collection::vec(region, 0..5).prop_map(|parts| {
            let mut at = 0;
            let regions = parts.into_iter().map(|(gap, length, key, class, anchor)| {
                let start = at + gap * PAGE;
                at = start + length * PAGE;
                Region { start, end: at, key, class, anchor }
            });
            Space { regions: regions.collect() }
        });
        let run = (prop_oneof![0_u32..3, Just(u32::MAX)], any::<u32>(), 1_u64..6);
        (prop::collection::vec(space, 0..3), prop::collection::vec(run, 0..6)).prop_map(|(spaces, runs)| {
            let mut out = Layout { spaces, ..Layout::default() };
            for (process, page, pages) in runs {
                for n in 0..pages {
                    out.process.push(process);
                    out.address.push((u64::from(page) + n) * PAGE);
                }
            }
            out
        })
    }

    proptest! {
        #[test]
        fn a_layout_survives_the_wire(layout in layout()) {
            let bytes = layout.to_bytes();
            let back = Layout::from_bytes(&bytes, layout.pages()).unwrap();
            prop_assert_eq!(&back.spaces, &layout.spaces);
            prop_assert_eq!((&back.process, &back.address), (&layout.process, &layout.address));
            prop_assert!(Layout::from_bytes(&bytes, layout.pages() + 1).is_err());
        }

        #[test]
        fn any_bytes_are_refused_or_make_a_layout_of_the_size_asked(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(layout) = Layout::from_bytes(&bytes, 7) {
                prop_assert_eq!(layout.pages(), 7);
            }
        }
    }
}
