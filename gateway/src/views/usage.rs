//! Usage on the wire.

use poem_openapi::Object;
use serde::Serialize;
use wasmwiz_events::execution::Outcome;
use wasmwiz_projections::usage::{self, UsageBucket, UsageRow};

/// Executions that ended, by how they ended.
#[derive(Debug, Default, Serialize, Object)]
pub(crate) struct OutcomeCounts {
    pub(crate) succeeded: u64,
    pub(crate) exited: u64,
    pub(crate) trapped: u64,
    pub(crate) deadline_exceeded: u64,
    pub(crate) out_of_fuel: u64,
    pub(crate) out_of_memory: u64,
    pub(crate) cancelled: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
}

/// The sums of one bucket.
#[derive(Debug, Serialize, Object)]
pub(crate) struct UsageSum {
    /// When the hour or day begins, or the key's id, or the module's name or digest.
    pub(crate) bucket: String,
    /// How many executions ended.
    pub(crate) executions: u64,
    /// Of them, by outcome.
    pub(crate) outcomes: OutcomeCounts,
    /// Fuel, as far as it was counted.
    pub(crate) fuel: u64,
    /// CPU time, in milliseconds.
    pub(crate) cpu_ms: f64,
    /// Time from start to end, in milliseconds: the sum.
    pub(crate) wall_ms: f64,
    /// Half of the executions took no longer, in milliseconds; within 1/64 of the exact nearest-rank percentile. Null when
    /// all were lost, whose time nobody measured.
    pub(crate) wall_ms_p50: Option<f64>,
    /// 95 of a hundred took no longer, in milliseconds; likewise.
    pub(crate) wall_ms_p95: Option<f64>,
    /// 99 of a hundred took no longer, in milliseconds; likewise.
    pub(crate) wall_ms_p99: Option<f64>,
    /// The most memory that one execution held, in bytes.
    pub(crate) peak_memory_bytes: u64,
    /// Standard input, in bytes.
    pub(crate) stdin_bytes: u64,
    /// Standard output kept, in bytes.
    pub(crate) stdout_bytes: u64,
    /// Standard error kept, in bytes.
    pub(crate) stderr_bytes: u64,
    /// Kept of what guests read from the host's clocks, in bytes.
    pub(crate) transcript_bytes: u64,
}

impl From<UsageRow> for UsageSum {
    fn from(row: UsageRow) -> Self {
        let of = |outcome| row.executions_by_outcome.get(&outcome).copied().unwrap_or_default();
        let outcomes = OutcomeCounts {
            succeeded: of(Outcome::Succeeded),
            exited: of(Outcome::Exited),
            trapped: of(Outcome::Trapped),
            deadline_exceeded: of(Outcome::DeadlineExceeded),
            out_of_fuel: of(Outcome::OutOfFuel),
            out_of_memory: of(Outcome::OutOfMemory),
            cancelled: of(Outcome::Cancelled),
            failed: of(Outcome::Failed),
            lost: of(Outcome::Lost),
        };
        Self {
            bucket: match row.bucket {
                UsageBucket::Time(time) => time.to_string(),
                UsageBucket::Label(label) => label,
            },
            executions: row.executions_by_outcome.values().sum(),
            outcomes,
            fuel: row.fuel,
            cpu_ms: row.cpu.as_ms(),
            wall_ms: row.wall.as_ms(),
            wall_ms_p50: row.wall_percentiles.map(|wall| wall.p50.as_ms()),
            wall_ms_p95: row.wall_percentiles.map(|wall| wall.p95.as_ms()),
            wall_ms_p99: row.wall_percentiles.map(|wall| wall.p99.as_ms()),
            peak_memory_bytes: row.peak_memory_bytes,
            stdin_bytes: row.stdin_bytes,
            stdout_bytes: row.stdout_bytes,
            stderr_bytes: row.stderr_bytes,
            transcript_bytes: row.transcript_bytes,
        }
    }
}

/// What the tenant stores now, whatever time the report is about.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Storage {
    /// Bytes of everything.
    pub(crate) bytes: u64,
    /// Of these, bytes of modules: each once for all live versions that have them. Those of versions that were deleted are counted on.
    pub(crate) module_bytes: u64,
    /// Of these, bytes of inputs and outputs of executions, and of what their guests read from the host's clocks.
    pub(crate) payload_bytes: u64,
    /// The most that there may be by the tenant's tier, with what open executions may still write. Null when there is no limit.
    pub(crate) limit_bytes: Option<u64>,
}

impl Storage {
    /// What is stored, under that limit.
    pub(crate) const fn new(stored: usage::Storage, limit_bytes: Option<u64>) -> Self {
        let usage::Storage { module_bytes, payload_bytes } = stored;
        Self { bytes: stored.bytes(), module_bytes, payload_bytes, limit_bytes }
    }
}

/// What the tenant's executions cost.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Usage {
    /// From this moment on, by whole hours.
    pub(crate) from: String,
    /// Up to this moment, by whole hours.
    pub(crate) to: String,
    /// What is summed by: hour, day, key or module.
    pub(crate) by: String,
    /// One row for each bucket in which something ended.
    pub(crate) items: Vec<UsageSum>,
    /// There are more buckets: next_cursor is not null.
    pub(crate) truncated: bool,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
    /// What the tenant stores now.
    pub(crate) storage: Storage,
}
