//! What becomes of an execution whose run is left before its end is known to be recorded.
//!
//! Only the node that runs an execution knows that nobody runs it any more. If it leaves the run for whatever reason, an error or
//! a panic, the execution would stay open until its deadline: it would count against its tenant, and whoever sends the same
//! request again would be told for as long that it is still being worked on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use wasmwiz_events::id::{ExecutionId, TenantId};

use super::Shared;
use crate::tenant::Command;

/// Executions that are being declared lost at the same time. Each is asked for some minutes at most, and what comes on top of these
/// while a log is away for long is left to the deadlines of the executions.
pub(super) const LOSING_MAX: usize = 1_024;

/// An execution that somebody waits for, from before its admission is asked for. When this is dropped while the execution may be
/// open, its tenant is asked to declare it lost.
pub(super) struct Unended {
    shared: Arc<Shared>,
    tenant: TenantId,
    id: ExecutionId,
    may_be_open: AtomicBool,
}

impl Unended {
    /// Nothing is admitted yet.
    pub(super) const fn new(shared: Arc<Shared>, tenant: TenantId, id: ExecutionId) -> Self {
        Self { shared, tenant, id, may_be_open: AtomicBool::new(false) }
    }

    /// Its admission is in the log, or may be.
    pub(super) fn may_be_open(&self) {
        self.may_be_open.store(true, Ordering::Relaxed);
    }

    /// Its end is in the log, or its admission certainly is not.
    pub(super) fn is_settled(&self) {
        self.may_be_open.store(false, Ordering::Relaxed);
    }
}

impl Drop for Unended {
    fn drop(&mut self) {
        if !*self.may_be_open.get_mut() {
            return;
        }
        // Without a runtime this life of the node ends, and the next one declares lost what this one ran.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let Ok(place) = Arc::clone(&self.shared.losing).try_acquire_owned() else { return };
        let (node, boot) = (self.shared.deps.node.clone(), self.shared.deps.boot);
        let lose = Command::Lose { execution_id: self.id, node, boot };
        let nudge = Arc::clone(&self.shared).nudge(self.tenant.clone(), lose);
        runtime.spawn(async move {
            let _place = place;
            nudge.await;
        });
    }
}
