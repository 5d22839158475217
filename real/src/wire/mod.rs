//! What goes between controller and agents: gRPC (tonic), messages of a bounded size, a version, a shared secret.
//!
//! | service | call | reference | |
//! |---|---|---|---|
//! | `Agent` | `Hello` | | version, who is there, who knows the secret |
//! | | `Work` | `Spawn`, `Restore`, `Restart`, `Purge` | orders there, steps and measured memory back, one stream while both live |
//! | | `Terminate` | `Terminate` | ends the agent |
//! | `Controller` | `RegisterPages` | `RegisterPages` | a base's head and fingerprints, streamed |
//! | | `LookupPages` | `GetBaseContainers` | base pages for fingerprints, batch after batch |
//!
//! One stream for all orders of a node keeps them in order without a call waiting for another, and its end is the first sign of a
//! node that is lost. The controller decides by itself when a sandbox is idle, so the reference's `GetDecision`, `UpdateStatus`,
//! `UpdateRefcount` and `Blacklist` have no counterpart; `UpdateAvailableMemory` is a report on the `Work` stream.
//!
//! An order has an id that no other of the controller's run has. After a broken stream the controller sends what is unanswered again; an
//! agent that knows the id repeats the answer and does nothing twice.

mod messages;
pub mod seal;

pub use messages::*;

use medes_engine::id::SandboxId;

/// The protocol of this build. Controller and agents of a cluster have the same.
pub const PROTOCOL: u32 = 3;

/// Largest message, bytes: a batch of hashes or a function's answer is far below.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Pages in one message of fingerprints or of base pages, at most.
pub const MAX_BATCH_PAGES: usize = 2048;

/// What `tonic-build` makes of the services.
#[allow(missing_docs, clippy::all, reason = "generated")]
mod services {
    include!(concat!(env!("OUT_DIR"), "/medes.v1.Agent.rs"));
    include!(concat!(env!("OUT_DIR"), "/medes.v1.Controller.rs"));
}

pub use services::{agent_client, agent_server, controller_client, controller_server};

/// A sandbox as one number, for messages.
pub const fn pack_sandbox(id: SandboxId) -> u64 {
    (id.generation as u64) << 32 | id.slot as u64
}

/// Back from [`pack_sandbox`].
pub const fn unpack_sandbox(packed: u64) -> SandboxId {
    SandboxId { generation: (packed >> 32) as u32, slot: packed as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_the_same_on_both_sides() {
        let id = SandboxId { generation: 7, slot: u32::MAX - 1 };
        assert_eq!(unpack_sandbox(pack_sandbox(id)), id);
    }
}
