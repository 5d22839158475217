//! Parameters that are one of a few words.

/// Which of the policy's two constraints holds (Medes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// Least memory with bounded start latency.
    Latency,
    /// Least latency within a memory budget.
    Memory,
}

/// Whose pages a sandbox may be patched against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DedupScope {
    /// Bases of the same function.
    Function,
    /// Bases of functions of the same owner.
    Owner,
    /// Any base.
    Cluster,
}
