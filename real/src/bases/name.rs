//! What a packed image calls a base: who it is, and where its pages are read. It stays on the node that packed it.

use std::fmt;
use std::str::FromStr;

use medes_engine::id::{NodeId, SandboxId};

use crate::ops::OpError;
use crate::transport::Region;
use crate::wire::{BaseHead, pack_sandbox, unpack_sandbox};

/// A base and its region.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BaseName {
    pub id: SandboxId,
    pub region: Region,
    /// Where its owner's transport answers; may be empty.
    pub endpoint: String,
}

impl From<&BaseHead> for BaseName {
    fn from(head: &BaseHead) -> Self {
        let BaseHead { node, incarnation, address, key, pages, .. } = *head;
        let region = Region { owner: NodeId(node), incarnation, address, key, pages };
        Self { id: unpack_sandbox(head.sandbox), region, endpoint: head.endpoint.clone() }
    }
}

impl fmt::Display for BaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Region { owner, incarnation, address, key, pages } = self.region;
        let id = pack_sandbox(self.id);
        write!(f, "{id:x} {:x} {incarnation:x} {address:x} {key:x} {pages:x} {}", owner.0, self.endpoint)
    }
}

impl FromStr for BaseName {
    type Err = OpError;

    fn from_str(s: &str) -> Result<Self, OpError> {
        // Not the name itself: it holds a region's key.
        let bad = || {
            let first = s.split(' ').next().unwrap_or_default();
            OpError::Damaged(format!(
                "the packed image names a base '{first:.16} ...' of {} letters, which says nowhere to read it",
                s.len()
            ))
        };
        let words: Vec<&str> = s.splitn(7, ' ').collect();
        let [id, owner, incarnation, address, key, pages, endpoint] = words[..] else { return Err(bad()) };
        let long = |word: &str| u64::from_str_radix(word, 16).map_err(|_| bad());
        let short = |word: &str| u32::from_str_radix(word, 16).map_err(|_| bad());
        let (incarnation, address, key) = (long(incarnation)?, long(address)?, long(key)?);
        let region = Region { owner: NodeId(short(owner)?), incarnation, address, key, pages: short(pages)? };
        Ok(Self { id: unpack_sandbox(long(id)?), region, endpoint: endpoint.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back() {
        for endpoint in ["127.0.0.1:4000", ""] {
            let region = Region { owner: NodeId(3), incarnation: u64::MAX, address: 4096, key: 0, pages: 7 };
            let name = BaseName { id: SandboxId { generation: 2, slot: 5 }, region, endpoint: endpoint.into() };
            assert_eq!(name.to_string().parse::<BaseName>().unwrap(), name);
        }
        for bad in ["", "base", "1 2 3 4 5 6", "1 2 3 4 5 100000000 x", "1 2 3 4 z 6 x"] {
            assert!(bad.parse::<BaseName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_key_is_shown() {
        let error = "1 2 3 4 5eca3e7 z x".parse::<BaseName>().unwrap_err().to_string();
        assert!(!error.contains("5eca3e7"), "{error}");
        let head = BaseHead { key: 31_415_926_535, address: 4096, function: "vanilla".into(), ..BaseHead::default() };
        let part = crate::wire::RegisterPart { head: Some(head), ..Default::default() };
        let shown = format!("{part:?}");
        assert!(shown.contains("vanilla") && !shown.contains("31415926535"), "{shown}");
    }
}
