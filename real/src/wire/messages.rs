//! The messages. Numbers of fields are the protocol: never change one, add at the end.

use std::fmt;

/// The controller introduces itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// [`super::PROTOCOL`] of the controller.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Which node the agent is expected to be.
    #[prost(uint32, tag = "2")]
    pub node: u32,
    /// Number of the controller's run; no two have the same.
    #[prost(fixed64, tag = "3")]
    pub epoch: u64,
    /// Random bytes that the agent seals, if there is a secret.
    #[prost(bytes = "vec", tag = "4")]
    pub nonce: Vec<u8>,
}

/// The agent's answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    /// [`super::PROTOCOL`] of the agent.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Which node it is.
    #[prost(uint32, tag = "2")]
    pub node: u32,
    /// Number of its process; no two have the same.
    #[prost(fixed64, tag = "3")]
    pub incarnation: u64,
    /// Random bytes for the session's seal.
    #[prost(bytes = "vec", tag = "4")]
    pub nonce: Vec<u8>,
    /// Seal of the agent over both nonces; empty without a secret.
    #[prost(bytes = "vec", tag = "5")]
    pub seal: Vec<u8>,
    /// What cannot be done there, for people; empty if all is well.
    #[prost(string, tag = "6")]
    pub trouble: String,
    /// Whether base pages can be read there over verbs.
    #[prost(bool, tag = "7")]
    pub verbs: bool,
    /// Why not, for people.
    #[prost(string, tag = "8")]
    pub no_verbs: String,
}

/// Ends an agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Terminate {}

/// Done.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Nothing {}

/// What an agent is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum OrderKind {
    /// First of a stream: settings (JSON in `arguments`); with `again` all sandboxes of an earlier stream stay.
    Begin = 0,
    /// `Started`, then `Finished` if there are arguments.
    Spawn = 1,
    /// `Finished`.
    Run = 2,
    /// `Restored`, then `Finished`.
    Restore = 3,
    /// `Checkpointed`.
    Checkpoint = 4,
    /// `Reduced`.
    Reduce = 5,
    /// `Done`.
    GiveUp = 6,
    /// `Done`.
    Purge = 7,
    /// `Done`: every sandbox is purged; the run is over.
    End = 8,
}

/// One thing to do.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Order {
    /// Its id; rising.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What.
    #[prost(enumeration = "OrderKind", tag = "2")]
    pub kind: i32,
    /// [`super::pack_sandbox`].
    #[prost(fixed64, tag = "3")]
    pub sandbox: u64,
    /// Name of the sandbox's function.
    #[prost(string, tag = "4")]
    pub function: String,
    /// The request's arguments, JSON; empty when none is to run.
    #[prost(string, tag = "5")]
    pub arguments: String,
    /// Time for the start (spawn, restore, reduction, checkpoint, waking), ms.
    #[prost(uint32, tag = "6")]
    pub start_ms: u32,
    /// Time for the function's run after it, ms.
    #[prost(uint32, tag = "7")]
    pub run_ms: u32,
    /// Reduce each page alone, without base pages.
    #[prost(bool, tag = "8")]
    pub compress: bool,
    /// Reduce to the first image; begin with what is there.
    #[prost(bool, tag = "9")]
    pub again: bool,
    /// All orders below this are answered: their answers need not be kept.
    #[prost(uint64, tag = "10")]
    pub settled: u64,
}

/// What an agent says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Said {
    /// Of an order.
    #[prost(message, optional, tag = "1")]
    pub step: Option<Step>,
    /// On its own account; also the sign of life.
    #[prost(message, optional, tag = "2")]
    pub memory: Option<Memory>,
    /// With `memory`: the last order that was received when measuring began.
    #[prost(uint64, tag = "3")]
    pub received: u64,
    /// On its own account: the transport lost another agent, with its base pages, or has it again.
    #[prost(message, optional, tag = "4")]
    pub peer: Option<SeenPeer>,
}

/// An agent that another one cannot read from any more, or can again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SeenPeer {
    /// Which node.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// Why it is lost; empty if it is there again.
    #[prost(string, tag = "2")]
    pub lost: String,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum StepKind {
    /// Nothing to say but that it is done.
    Done = 0,
    /// A sandbox can run.
    Started = 1,
    /// A sandbox has its memory back.
    Restored = 2,
    /// The function answered.
    Finished = 3,
    /// A base is registered.
    Checkpointed = 4,
    /// A sandbox is reduced.
    Reduced = 5,
    /// It failed; `text` says why.
    Failed = 6,
}

/// A step of an order. Times are µs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Step {
    /// Of which order.
    #[prost(uint64, tag = "1")]
    pub order: u64,
    /// What happened.
    #[prost(enumeration = "StepKind", tag = "2")]
    pub kind: i32,
    /// The function's answer (JSON), or why it failed.
    #[prost(string, tag = "3")]
    pub text: String,
    /// HTTP status of the answer.
    #[prost(uint32, tag = "4")]
    pub status: u32,
    /// The sandbox is lost.
    #[prost(bool, tag = "5")]
    pub gone: bool,
    /// Memory of a dump, or of what a reduction keeps; bytes.
    #[prost(uint64, tag = "6")]
    pub bytes: u64,
    /// Bases of a reduced image; the base that is gone, of a failure.
    #[prost(fixed64, repeated, tag = "7")]
    pub bases: Vec<u64>,
    /// The step as a whole, at the agent.
    #[prost(uint64, tag = "8")]
    pub took: u64,
    /// Waking, or the resumption of a restored process, or CRIU's part of a checkpoint.
    #[prost(uint64, tag = "9")]
    pub resume: u64,
    /// The function's run, without what it waited for its memory.
    #[prost(uint64, tag = "10")]
    pub run: u64,
    /// Reading base pages; of a run, waiting for them.
    #[prost(uint64, tag = "11")]
    pub read: u64,
    /// Computing pages from patches, or patches from pages; of a run, waiting for that.
    #[prost(uint64, tag = "12")]
    pub patch: u64,
    /// Fingerprints.
    #[prost(uint64, tag = "13")]
    pub fingerprint: u64,
    /// Asking the controller.
    #[prost(uint64, tag = "14")]
    pub lookup: u64,
    /// Bringing a reduced sandbox's process to where it is held.
    #[prost(uint64, tag = "15")]
    pub hold: u64,
    /// Pages: of this node and of others (a restore); same function here, there, other functions here, there (a reduction).
    #[prost(uint64, repeated, tag = "16")]
    pub pages: Vec<u64>,
}

/// Memory of a node as measured, bytes, and the speed of its host.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Memory {
    /// Proportional set size of sandboxes' processes.
    #[prost(uint64, tag = "1")]
    pub sandboxes: u64,
    /// Dumps of bases.
    #[prost(uint64, tag = "2")]
    pub bases: u64,
    /// Packed images.
    #[prost(uint64, tag = "3")]
    pub stored: u64,
    /// The agent itself.
    #[prost(uint64, tag = "4")]
    pub agent: u64,
    /// Orders that change memory were under way while it was measured.
    #[prost(bool, tag = "5")]
    pub moving: bool,
    /// [`crate::host::probe`], ns.
    #[prost(uint64, tag = "6")]
    pub probe_ns: u64,
}

/// A base, as the agent that has it announces it and as readers are told of it. Shown without its key.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct BaseHead {
    /// [`super::pack_sandbox`].
    #[prost(fixed64, tag = "1")]
    pub sandbox: u64,
    /// Name of its function.
    #[prost(string, tag = "2")]
    pub function: String,
    /// Whose pages they are.
    #[prost(uint32, tag = "3")]
    pub node: u32,
    /// Process of the owner.
    #[prost(fixed64, tag = "4")]
    pub incarnation: u64,
    /// Where the owner's transport answers.
    #[prost(string, tag = "5")]
    pub endpoint: String,
    /// What the owner calls the first byte of the region.
    #[prost(fixed64, tag = "6")]
    pub address: u64,
    /// What lets a reader read.
    #[prost(fixed64, tag = "7")]
    pub key: u64,
    /// Pages.
    #[prost(uint32, tag = "8")]
    pub pages: u32,
    /// Where the pages lie in the sandbox's memory, for readers that align theirs; opaque here.
    #[prost(bytes = "vec", tag = "9")]
    pub layout: Vec<u8>,
}

impl fmt::Debug for BaseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sandbox, function, node, incarnation, endpoint, address, key: _, pages, layout } = self;
        f.debug_struct("BaseHead")
            .field("sandbox", sandbox)
            .field("function", function)
            .field("node", node)
            .field("incarnation", incarnation)
            .field("endpoint", endpoint)
            .field("address", address)
            .field("pages", pages)
            .field("layout", &format_args!("{} bytes", layout.len()))
            .finish_non_exhaustive()
    }
}

/// A part of a registration: the head first and alone, then pages in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterPart {
    /// In the first part.
    #[prost(message, optional, tag = "1")]
    pub head: Option<BaseHead>,
    /// Number of the first page of this part.
    #[prost(uint64, tag = "2")]
    pub first: u64,
    /// How many hashes each page has.
    #[prost(bytes = "vec", tag = "3")]
    pub counts: Vec<u8>,
    /// The hashes, 8 bytes each, little-endian, page after page.
    #[prost(bytes = "vec", tag = "4")]
    pub hashes: Vec<u8>,
}

/// A base is entered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterAnswer {
    /// Pages entered.
    #[prost(uint64, tag = "1")]
    pub pages: u64,
}

/// Pages that want base pages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LookupBatch {
    /// Who asks.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// For a sandbox of which function.
    #[prost(string, tag = "2")]
    pub function: String,
    /// Number of the first page.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// How many hashes each page has.
    #[prost(bytes = "vec", tag = "4")]
    pub counts: Vec<u8>,
    /// The hashes, 8 bytes each, little-endian, page after page.
    #[prost(bytes = "vec", tag = "5")]
    pub hashes: Vec<u8>,
}

/// Base pages for a batch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LookupAnswer {
    /// Number of the first page.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// For each candidate 1 + the position of its base in what this stream has named so far, or 0 for none; 2 bytes, little-endian. The
    /// candidates of a page follow each other, the best first.
    #[prost(bytes = "vec", tag = "2")]
    pub bases: Vec<u8>,
    /// For each candidate the base page's number, 4 bytes, little-endian; anything for none.
    #[prost(bytes = "vec", tag = "3")]
    pub pages: Vec<u8>,
    /// Bases that this answer names first.
    #[prost(message, repeated, tag = "4")]
    pub heads: Vec<BaseHead>,
    /// Candidates of each page; 0 counts as 1.
    #[prost(uint32, tag = "5")]
    pub per_page: u32,
}
