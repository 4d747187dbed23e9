//! What a compaction came to.

use std::time::Duration;

use refpage::moves::Refused;

use crate::carry::Way;

/// A compaction whose every object was verified.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How pages were carried.
    pub way: Way,
    /// OS pages of the heap before.
    pub pages_before: usize,
    /// OS pages after.
    pub pages_after: usize,
    /// Populated pages, which went whole.
    pub whole: usize,
    /// Pages that objects were gathered in.
    pub gathered: usize,
    /// Pages that were moved: what was not done otherwise.
    pub moved: usize,
    /// Pages that were put in place by UFFDIO_COPY.
    pub copied: usize,
    /// Pages that were put in place by mremap.
    pub remapped: usize,
    /// Whether the kernel refused more mappings, and the rest was copied.
    pub mappings_full: bool,
    /// Moves that a shared or pinned page stopped, which was copied.
    pub not_movable: usize,
    /// Moves that were tried again because the kernel was busy.
    pub short: usize,
    /// Moves that anything else stopped; the page was copied.
    pub other_stops: usize,
    /// Faults that were told of, by however many threads.
    pub faults: usize,
    /// Pages that were prepared for a fault.
    pub answered: usize,
    /// From the flip to the last page, and the last one dropped.
    pub wall: Duration,
    /// How long the mutators stood still for the flip.
    pub pause: Duration,
    /// CPU time of the compactor.
    pub compactor_cpu: Duration,
    /// CPU time of who answered faults.
    pub answerer_cpu: Duration,
    /// Pages that the kernel allocated meanwhile, for all processes, page tables included.
    pub allocated: Option<u64>,
    /// Minor faults of this process meanwhile.
    pub minor_faults: u64,
    /// Mappings of both arenas before.
    pub vmas_before: usize,
    /// Mappings of both arenas after.
    pub vmas_after: usize,
    /// How often mutators set out from a root.
    pub walks: u64,
    /// How often they wrote to an object.
    pub writes: u64,
    /// Objects that were verified in the end.
    pub objects: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Outcome {
    /// CPU time of the compaction.
    pub fn cpu(&self) -> Duration {
        self.compactor_cpu + self.answerer_cpu
    }
}

/// Why there is no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The kernel did not do something.
    Refused(Refused),
    /// Something is not what it should be.
    Wrong(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(why) => why.fmt(f),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Refused> for Failure {
    fn from(why: Refused) -> Self {
        Self::Refused(why)
    }
}
