//! What came of running an execution again from its record.

use serde::{Deserialize, Serialize};

use crate::{
    id::ExecutionId,
    time::{Millis, Timestamp},
};

/// The most characters of either side of a difference.
pub const SIDE_MAX_CHARS: usize = 200;

/// What of an end is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// How it ended.
    Outcome,
    /// The guest's exit code.
    ExitCode,
    /// The bytes of standard output that were kept, and whether there were more.
    Stdout,
    /// The same of standard error.
    Stderr,
    /// What the guest did that the engine stopped; of those that trapped.
    Trap,
    /// The most memory it held.
    PeakMemory,
    /// What its end depended on.
    Reproducibility,
    /// Instructions, when they were counted both times.
    Fuel,
}

impl Aspect {
    /// Its name in the API and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outcome => "outcome",
            Self::ExitCode => "exit_code",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Trap => "trap",
            Self::PeakMemory => "peak_memory",
            Self::Reproducibility => "reproducibility",
            Self::Fuel => "fuel",
        }
    }
}

/// Something that is not as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What.
    pub what: Aspect,
    /// As the record has it; at most [`SIDE_MAX_CHARS`] characters.
    pub recorded: String,
    /// As it was now.
    pub found: String,
}

/// An execution was run again from its record, and its end compared with the recorded one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The execution.
    pub execution_id: ExecutionId,
    /// Version and settings of the engine that ran it again, as a short fingerprint: the recorded one.
    pub engine: String,
    /// Was everything the same?
    pub reproduced: bool,
    /// What was not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// CPU time of the second run.
    pub cpu_ms: Millis,
    /// The state of the tenant's bucket of executions after this one, if its tier limits them: a guest ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket_full_at: Option<Timestamp>,
}
