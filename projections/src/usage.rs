//! What it cost: counters of each tenant by hour, key, module and outcome.
//!
//! Quotas never read this view; the tenant's entity is authoritative.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    execution::Outcome,
    id::TenantId,
    time::{Millis, Timestamp},
};

mod fold;
mod rows;

pub(crate) use fold::UsageProjection;

use crate::readers::{QueryError, Readers};

/// What usage is summed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageBy {
    /// The hour (UTC) in which executions ended.
    Hour,
    /// The day (UTC) in which executions ended.
    Day,
    /// The key that asked for them.
    Key,
    /// The module that ran: its name, or its digest when it was uploaded with the request.
    Module,
}

/// What one sum is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UsageBucket {
    /// When the hour or the day begins.
    Time(Timestamp),
    /// A key id, a module's name, or a module's digest.
    Label(String),
}

/// The sums of one bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageRow {
    /// What it is the sum of.
    pub bucket: UsageBucket,
    /// How many executions ended, by how they ended.
    pub executions_by_outcome: BTreeMap<Outcome, u64>,
    /// Instructions, as far as they were counted.
    pub fuel: u64,
    /// CPU time.
    pub cpu: Millis,
    /// Time from start to end.
    pub wall: Millis,
    /// The most memory that one execution held.
    pub peak_memory_bytes: u64,
    /// Bytes of standard input.
    pub stdin_bytes: u64,
    /// Bytes of standard output kept.
    pub stdout_bytes: u64,
    /// Bytes of standard error kept.
    pub stderr_bytes: u64,
}

/// The most buckets of one report. Modules that are uploaded with their requests are a bucket each, so labels have no
/// bound of their own.
pub const BUCKETS: usize = 10_000;

/// The answer to a question about usage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageReport {
    /// One row for each bucket in which something ended: times ascending, labels in alphabetical order.
    pub rows: Vec<UsageRow>,
    /// There were more than [`BUCKETS`] buckets; the rest is missing.
    pub truncated: bool,
}

/// Questions to the view.
#[derive(Debug, Clone)]
pub struct Usage {
    readers: Readers,
}

impl Usage {
    pub(crate) const fn new(readers: Readers) -> Self {
        Self { readers }
    }

    /// What the tenant's executions cost that ended in `[from, to)`, by whole hours: the hour of `from` is in, and so is
    /// the hour in which `to` lies, unless `to` begins it.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn usage(
        &self,
        tenant: &TenantId,
        from: Timestamp,
        to: Timestamp,
        by: UsageBy,
    ) -> Result<UsageReport, QueryError> {
        let tenant = tenant.clone();
        self.readers.read(move |connection| rows::report(connection, &tenant, from, to, by)).await
    }
}

#[cfg(test)]
mod tests;
