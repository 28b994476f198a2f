//! What it cost: counters of each tenant by hour, key, module and outcome; and what each tenant stores.
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
mod histogram;
mod report;
mod rows;
mod storage;
mod stored;

pub(crate) use fold::UsageProjection;

pub use storage::Storage;
pub use stored::{Stored, StoredError, StoredRow, stored};

use crate::{
    page::{Listed, Page},
    readers::{QueryError, Readers},
};

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

/// How long most executions took, each to within 1/64 of the exact nearest-rank percentile.
///
/// From log-linear bins, as in HdrHistogram and Circllhist (arXiv:2001.06561), that are added up over the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half of them took no longer.
    pub p50: Millis,
    /// 95 of a hundred took no longer.
    pub p95: Millis,
    /// 99 of a hundred took no longer.
    pub p99: Millis,
}

/// The sums of one bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageRow {
    /// What it is the sum of.
    pub bucket: UsageBucket,
    /// How many executions ended, by how they ended.
    pub executions_by_outcome: BTreeMap<Outcome, u64>,
    /// Fuel, as far as it was counted.
    pub fuel: u64,
    /// CPU time.
    pub cpu: Millis,
    /// Time from start to end.
    pub wall: Millis,
    /// That of single executions; `None` when all were lost: nobody measured those.
    pub wall_percentiles: Option<Percentiles>,
    /// The most memory that one execution held.
    pub peak_memory_bytes: u64,
    /// Bytes of standard input.
    pub stdin_bytes: u64,
    /// Bytes of standard output kept.
    pub stdout_bytes: u64,
    /// Bytes of standard error kept.
    pub stderr_bytes: u64,
    /// Bytes kept of what guests read from the host's clocks.
    pub transcript_bytes: u64,
}

/// Which time a report is about: executions that ended in `[from, to)`, by whole hours. The hour of `from` is in, and so is
/// the hour in which `to` lies, unless `to` begins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// From this moment on.
    pub from: Timestamp,
    /// Up to this moment.
    pub to: Timestamp,
}

/// Where a page ended. It carries the span, so that the pages of a report that ends "now" are about one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageCursor {
    /// Of the whole report.
    pub span: Span,
    after: After,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum After {
    Hour(i64),
    Label(String),
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

    /// What the tenant's executions cost that ended in `span`: a row for each bucket in which something ended, times
    /// ascending, labels in the order of their bytes. The cursor of `page` is one of the same span and `by`.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn usage(
        &self,
        tenant: &TenantId,
        span: Span,
        by: UsageBy,
        page: Page<UsageCursor>,
    ) -> Result<Listed<UsageRow, UsageCursor>, QueryError> {
        let whose = tenant.clone();
        self.readers.read_of(tenant, move |connection| report::page(connection, &whose, span, by, &page)).await
    }

    /// What the tenant stores now.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn storage(&self, tenant: &TenantId) -> Result<Storage, QueryError> {
        let whose = tenant.clone();
        self.readers.read_of(tenant, move |connection| storage::of(connection, &whose)).await
    }
}

#[cfg(test)]
mod tests;
