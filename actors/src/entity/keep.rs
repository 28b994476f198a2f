//! Keeping the state of a tenant now and then, so that waking it reads no more than what came after.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmwiz_events::{id::TenantId, revision::Revision, time::Moment};

use super::Rehydrated;
use crate::{
    codec::snapshot::Snapshot,
    metrics,
    snapshots::{SnapshotConfig, Snapshots},
};

/// States that are written at the same time. A tenant without a place is kept after its next commit, if it has one: what leaves
/// memory with many others at once may not be.
const WRITING_MAX: usize = 2;

/// The snapshots of a node's tenants, and when there is to be another.
#[derive(Clone)]
pub(crate) struct Kept {
    snapshots: Option<Arc<dyn Snapshots>>,
    config: SnapshotConfig,
    writing: Arc<Semaphore>,
}

impl Kept {
    /// Without a place, or without a number of events, none is kept or read.
    pub(crate) fn new(snapshots: Option<Arc<dyn Snapshots>>, config: SnapshotConfig) -> Self {
        let snapshots = snapshots.filter(|_| config.every_events > 0);
        Self { snapshots, config, writing: Arc::new(Semaphore::new(WRITING_MAX)) }
    }

    /// Has so much happened that the next one does not wait for a moment without load?
    pub(super) fn is_overdue(&self, folded: &Rehydrated) -> bool {
        self.snapshots.is_some() && !folded.has_unknown && since(folded) >= self.config.every_events
    }

    /// Keeps the state of a tenant that stands where the log does, if enough has happened.
    pub(super) fn while_awake(&self, folded: &mut Rehydrated, now: Moment) {
        self.after(self.config.every_events, folded, now);
    }

    /// The same of one that leaves memory.
    pub(super) fn at_rest(&self, folded: &mut Rehydrated, now: Moment) {
        self.after(self.config.at_rest_events.min(self.config.every_events), folded, now);
    }

    fn after(&self, events: u64, folded: &mut Rehydrated, now: Moment) {
        let Some(snapshots) = &self.snapshots else { return };
        // A later version would know more of such a past than this one has folded.
        if since(folded) < events.max(1) || folded.has_unknown {
            return;
        }
        let Ok(place) = Arc::clone(&self.writing).try_acquire_owned() else { return };
        folded.kept = folded.head.revision;
        let (snapshot, snapshots, keep) = (Snapshot::of(folded, now), Arc::clone(snapshots), self.config.keep);
        tokio::task::spawn_blocking(move || {
            let (tenant, revision) = (snapshot.tenant.id(), snapshot.head.revision);
            let bytes = snapshot.encode().map_err(|error| error.to_string());
            let written = bytes
                .and_then(|bytes| snapshots.write(tenant, revision, &bytes, keep).map_err(|error| error.to_string()));
            match written {
                Ok(()) => ::metrics::counter!(metrics::SNAPSHOTS_WRITTEN_TOTAL).increment(1),
                // The next one may succeed; until then waking reads more.
                Err(error) => tracing::warn!(tenant.id = %tenant, %error, "the state of a tenant cannot be kept"),
            }
            drop(place);
        });
    }

    /// The newest state before `before` that is whole. One that is not is said, and removed.
    pub(super) fn newest(&self, tenant: &TenantId, before: Revision) -> Option<Snapshot> {
        let revisions = self.snapshots.as_ref()?.revisions(tenant);
        let revisions = revisions.inspect_err(|error| ignored(tenant, None, "unreadable", error)).unwrap_or_default();
        revisions.into_iter().filter(|revision| *revision < before).find_map(|revision| self.read(tenant, revision))
    }

    fn read(&self, tenant: &TenantId, revision: Revision) -> Option<Snapshot> {
        let bytes = self.snapshots.as_ref()?.read(tenant, revision);
        let bytes = bytes.inspect_err(|error| ignored(tenant, Some(revision), "unreadable", error)).ok()?;
        match Snapshot::decode(&bytes, tenant) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                self.useless(tenant, revision, error.reason(), &error);
                None
            }
        }
    }

    /// Passes a state over, and removes it: it would be in the way of those that are of use.
    pub(super) fn useless(
        &self,
        tenant: &TenantId,
        revision: Revision,
        reason: &'static str,
        error: &dyn std::fmt::Display,
    ) {
        ignored(tenant, Some(revision), reason, error);
        // What cannot be removed is passed over again.
        let _ = self.snapshots.as_ref().map(|snapshots| snapshots.remove(tenant, revision));
    }
}

/// Events since the state was last kept.
fn since(folded: &Rehydrated) -> u64 {
    folded.head.revision.get().saturating_sub(folded.kept.get())
}

/// Says that a state is passed over, and why.
fn ignored(tenant: &TenantId, revision: Option<Revision>, reason: &'static str, error: &dyn std::fmt::Display) {
    ::metrics::counter!(metrics::SNAPSHOTS_IGNORED_TOTAL, "reason" => reason).increment(1);
    let revision = revision.map(Revision::get);
    tracing::warn!(tenant.id = %tenant, revision, reason, %error, "a snapshot is ignored; its tenant is read from the log");
}
