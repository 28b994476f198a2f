//! What becomes of an execution whose run is left before its end is known to be recorded.
//!
//! Only the node that runs an execution knows that nobody runs it any more. If it leaves the run for whatever reason, an error or
//! a panic, the execution would stay open until its deadline: it would count against its tenant, and whoever sends the same
//! request again would be told for as long that it is still being worked on.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmwiz_events::id::{ExecutionId, TenantId};

use super::Shared;
use crate::{metrics, tenant::Command};

/// Tenants that are asked to see to an execution at the same time, by all of a node: fewer than one node answers others. Each is
/// asked for some minutes at most; what comes on top while a log is away for long is left to the deadlines of the executions.
const NUDGES_MAX: usize = 512;

/// Of those, of one tenant: one whose history cannot be read takes nobody's places.
const NUDGES_OF_A_TENANT_MAX: usize = 32;

/// An execution that this node runs, from before its admission is asked for. When this is dropped while the execution may be open,
/// its tenant is asked to declare it lost.
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

    /// Its end is in the log, or its admission certainly is not, or another life runs it.
    pub(super) fn is_settled(&self) {
        self.may_be_open.store(false, Ordering::Relaxed);
    }
}

impl Drop for Unended {
    fn drop(&mut self) {
        if *self.may_be_open.get_mut() {
            let (node, boot) = (self.shared.deps.node.clone(), self.shared.deps.boot);
            self.shared.see_to(&self.tenant, Command::Lose { execution_id: self.id, node, boot });
        }
    }
}

/// The places for tenants that are asked to see to an execution.
pub(super) struct Nudges {
    places: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantId, usize>>,
}

impl Default for Nudges {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(NUDGES_MAX)), tenants: Mutex::default() }
    }
}

/// One of them, until it is dropped.
struct Place {
    shared: Arc<Shared>,
    tenant: TenantId,
    _place: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut tenants = self.shared.nudges.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = tenants.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                tenants.remove(&self.tenant);
            }
        }
    }
}

impl Shared {
    /// Has a command given until it is decided, in a task of its own, if there is a place.
    pub(super) fn see_to(self: &Arc<Self>, tenant: &TenantId, command: Command) {
        // Without a runtime this life of the node ends, and the next one sees to what this one ran.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let Some(place) = self.nudge_place(tenant) else {
            ::metrics::counter!(metrics::SHED_TOTAL, "bound" => "nudges").increment(1);
            tracing::warn!(tenant.id = %tenant, "too many executions are to be seen to; this one ends by its deadline");
            return;
        };
        let nudge = Arc::clone(self).nudge(tenant.clone(), command);
        runtime.spawn(async move {
            let _place = place;
            nudge.await;
        });
    }

    fn nudge_place(self: &Arc<Self>, tenant: &TenantId) -> Option<Place> {
        let place = Arc::clone(&self.nudges.places).try_acquire_owned().ok()?;
        let mut tenants = self.nudges.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let count = tenants.entry(tenant.clone()).or_default();
        if *count >= NUDGES_OF_A_TENANT_MAX {
            return None;
        }
        *count += 1;
        Some(Place { shared: Arc::clone(self), tenant: tenant.clone(), _place: place })
    }
}
