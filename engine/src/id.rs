//! Names of things as small numbers, each kind its own type so that one cannot pass for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// The number as an index into a dense table.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A function: the position in the run's list of functions.
    FunctionId(u32), "f"
);
id!(
    /// A node of the cluster: the position in the run's list of nodes.
    NodeId(u32), "n"
);
id!(
    /// A request: the order of its arrival, from zero.
    RequestId(u64), "r"
);

/// A sandbox. Slots are used again after a purge; the generation tells the holders of a slot apart, so
/// that a late message about a purged sandbox is known to be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxId {
    /// How many sandboxes held the slot before.
    pub generation: u32,
    /// Position in the engine's table.
    pub slot: u32,
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}.{}", self.slot, self.generation)
    }
}
