//! What ran: one row an execution, open or ended.
//!
//! Bytes of streams are not here, only digests and sizes; the positions of the two events say where the log has the
//! bytes that rode with them. A tenant's rows are in the order in which its stream has their acceptance: ids are drawn by the
//! clocks of several nodes, and clocks step.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    execution::{Content, ModuleRef, Outcome, Output},
    id::{ExecutionId, KeyId, ModuleName, TenantId},
    reproducibility::Reproducibility,
    revision::{Position, Revision},
    time::{Millis, Timestamp},
};

mod fold;
mod rows;

pub(crate) use fold::ExecutionsProjection;
pub(crate) use rows::{outcome_code, outcome_of};

use crate::{
    page::{Listed, Page},
    readers::{QueryError, Readers},
};

/// An execution, as its events say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionRecord {
    /// Its id.
    pub id: ExecutionId,
    /// Its current attempt.
    pub attempt: u32,
    /// What runs, or ran.
    pub module: ModuleRef,
    /// Which key asked.
    pub key_id: KeyId,
    /// Its input.
    pub stdin: Content,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The commit that accepted it: the log has a small input there.
    pub accepted_position: Position,
    /// The execution of whose record it was made, if it was.
    pub rerun_of: Option<ExecutionId>,
    /// How much fuel its guest is given, if it is metered.
    pub fuel: Option<u64>,
    /// When its current attempt began; `None` while an asynchronous one waits for its first.
    pub started_at: Option<Timestamp>,
    /// How it ended; `None` while it is open.
    pub end: Option<ExecutionEnd>,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionEnd {
    /// How.
    pub outcome: Outcome,
    /// The guest's exit code, when it ended by itself.
    pub exit_code: Option<i32>,
    /// Its standard output; `None` when it was lost.
    pub stdout: Option<Output>,
    /// Its standard error; `None` when it was lost.
    pub stderr: Option<Output>,
    /// How much fuel it used up; `None` when that was not counted.
    pub fuel: Option<u64>,
    /// CPU time.
    pub cpu: Millis,
    /// Time from start to end.
    pub wall: Millis,
    /// The most memory it held.
    pub peak_memory_bytes: u64,
    /// What its end depended on.
    pub reproducibility: Reproducibility,
    /// Why it ended as it did, for people.
    pub message: Option<String>,
    /// When its end was recorded.
    pub finished_at: Timestamp,
    /// The commit that ended it: the log has small outputs there.
    pub finished_position: Position,
}

/// Which executions a list shows. Conditions are joined by "and".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecutionFilter {
    /// Of this module, in any version.
    pub module: Option<ModuleName>,
    /// Ended like this.
    pub outcome: Option<Outcome>,
    /// Asked for with this key.
    pub key: Option<KeyId>,
    /// Accepted at this moment or later.
    pub from: Option<Timestamp>,
    /// Accepted before this moment.
    pub to: Option<Timestamp>,
}

/// Where a list of executions goes on: executions accepted before this event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionCursor {
    /// The event that accepted the last execution that was looked at.
    pub before: Revision,
}

/// Questions to the view.
#[derive(Debug, Clone)]
pub struct Executions {
    readers: Readers,
}

impl Executions {
    pub(crate) const fn new(readers: Readers) -> Self {
        Self { readers }
    }

    /// One execution of this tenant.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn get(&self, tenant: &TenantId, id: ExecutionId) -> Result<Option<ExecutionRecord>, QueryError> {
        let whose = tenant.clone();
        self.readers.read_of(tenant, move |connection| rows::get(connection, &whose, id)).await
    }

    /// Executions of this tenant, the last accepted first.
    ///
    /// One call looks at no more than [`SCANNED_ROWS`] executions, and at a row for each thousand revisions in between: a filter that few rows pass gives a short page, even an
    /// empty one, and a cursor that goes on from there. Times are of acceptance, as recorded; stretches of the history of
    /// which all times are outside of those wanted are not even looked at.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn list(
        &self,
        tenant: &TenantId,
        filter: ExecutionFilter,
        page: Page<ExecutionCursor>,
    ) -> Result<Listed<ExecutionRecord, ExecutionCursor>, QueryError> {
        let whose = tenant.clone();
        self.readers.read_of(tenant, move |connection| rows::list(connection, &whose, &filter, &page)).await
    }

    /// The tenants that have executions without an end. At start-up, after the view has caught up with the log, these are
    /// the tenants whose entities must declare them lost.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn open_tenants(&self) -> Result<Vec<TenantId>, QueryError> {
        let mut tenants = self.readers.read(rows::open_tenants).await?;
        // What they have accepted since is not known here; their entities may know.
        let aside = self.readers.quarantine().all().into_iter().map(|aside| aside.tenant);
        tenants.extend(aside.filter(|tenant| !tenants.contains(tenant)).collect::<Vec<_>>());
        Ok(tenants)
    }
}

/// The most rows that one list call looks at: a few milliseconds.
pub const SCANNED_ROWS: u32 = 5_000;

#[cfg(test)]
mod tests;
