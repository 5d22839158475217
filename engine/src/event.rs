//! The engine's whole vocabulary: what a world tells it, and what it asks a world to do.
//!
//! A world carries out the actions of one node in the order in which they come; memory that a
//! [`Action::Purge`] or [`Action::GiveUp`] frees may be taken by the action after it. It answers each other action with
//! exactly one of the inputs named there, or with [`Input::Failed`], or with [`Input::NodeLost`] for its node.
//! Answers about a sandbox that is gone are ignored: they were under way when it went.

use crate::id::{FunctionId, NodeId, RequestId, SandboxId};
use crate::units::{Bytes, Duration, Instant};

/// One request of a trace: what a world turns into [`Input::Arrived`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// When it arrives, from the start of the trace.
    pub at: Instant,
    /// Whom it calls.
    pub function: FunctionId,
    /// How long the function's own code runs, start-up not included.
    pub run: Duration,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A request for a function arrived. Request numbers rise.
    Arrived {
        /// Its number.
        request: RequestId,
        /// The function asked for.
        function: FunctionId,
    },
    /// A spawned sandbox can run (answers [`Action::Spawn`]); with a request, it runs it from now on.
    Started {
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// A dedup sandbox has its memory back and runs its request from now on (answers [`Action::Restore`]).
    Restored {
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// The function returned (answers [`Action::Run`]; follows `Started` and `Restored` where they had a request).
    Finished {
        /// The sandbox.
        sandbox: SandboxId,
        /// From the action until the function began to run.
        start: Duration,
    },
    /// The checkpoint of a base is in memory, its pages are registered (answers [`Action::Checkpoint`]).
    Checkpointed {
        /// The sandbox, now a base.
        sandbox: SandboxId,
        /// Memory of the dump.
        dump: Bytes,
    },
    /// A sandbox is reduced (answers [`Action::Reduce`]).
    Reduced {
        /// The sandbox.
        sandbox: SandboxId,
        /// Memory of what is kept of its pages.
        stored: Bytes,
        /// Base sandboxes that a restore will read from, each once.
        bases: Vec<SandboxId>,
    },
    /// The action under way on a sandbox failed. A failed checkpoint or reduction leaves the sandbox warm;
    /// any other failure ends it.
    Failed {
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// Memory in use on a node, as measured. What it has over the engine's own account is kept free of sandboxes.
    NodeMemory {
        /// The node.
        node: NodeId,
        /// Measured.
        used: Bytes,
    },
    /// One node cannot read the bases of another any more, though both may be there.
    BasesLost {
        /// Who cannot read.
        reader: NodeId,
        /// Whose bases.
        owner: NodeId,
    },
    /// A node is gone with all its sandboxes.
    NodeLost {
        /// The node.
        node: NodeId,
    },
    /// A node is there, empty.
    NodeBack {
        /// The node.
        node: NodeId,
    },
}

/// How a sandbox is reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Patches against base pages.
    Patches,
    /// Each page compressed alone.
    Compression,
}

/// Why a sandbox is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeReason {
    /// The policy decided so.
    Policy,
    /// Room was needed.
    Evicted,
    /// A base page it needs is gone.
    BaseLost,
    /// Its start, run or restore failed.
    Failed,
}

/// What a world shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create a sandbox and, with a request, run it there. Answer: `Started`, then `Finished` with a request.
    Spawn {
        /// The sandbox to be.
        sandbox: SandboxId,
        /// Where.
        node: NodeId,
        /// Of which function.
        function: FunctionId,
        /// The request that waits for it; none when it is created ahead of one.
        request: Option<RequestId>,
    },
    /// Wake a warm sandbox and run a request. Answer: `Finished`.
    Run {
        /// The sandbox.
        sandbox: SandboxId,
        /// Where it is.
        node: NodeId,
        /// Its function.
        function: FunctionId,
        /// The request.
        request: RequestId,
    },
    /// Give a dedup sandbox its memory back and run a request. Answer: `Restored`, then `Finished`.
    Restore {
        /// The sandbox.
        sandbox: SandboxId,
        /// Where it is.
        node: NodeId,
        /// Its function.
        function: FunctionId,
        /// The request.
        request: RequestId,
    },
    /// Checkpoint a warm sandbox without stopping it and register its pages. Answer: `Checkpointed`.
    Checkpoint {
        /// The sandbox.
        sandbox: SandboxId,
        /// Where it is.
        node: NodeId,
        /// Its function.
        function: FunctionId,
    },
    /// Reduce a warm sandbox to patches or compressed pages. Answer: `Reduced`.
    Reduce {
        /// The sandbox.
        sandbox: SandboxId,
        /// Where it is.
        node: NodeId,
        /// Its function.
        function: FunctionId,
        /// How.
        method: Method,
        /// It was reduced before and its first image is still there: go back to that one.
        again: bool,
    },
    /// Give a base up: drop its dump and forget its pages; the sandbox stays, warm. No answer.
    GiveUp {
        /// The sandbox.
        sandbox: SandboxId,
        /// Where it is.
        node: NodeId,
        /// Its function.
        function: FunctionId,
    },
    /// Remove a sandbox, its dump and its image. No answer.
    Purge {
        /// The sandbox.
        sandbox: SandboxId,
        /// Where it is.
        node: NodeId,
        /// Its function.
        function: FunctionId,
        /// Why.
        reason: PurgeReason,
    },
}
