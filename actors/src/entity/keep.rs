//! Keeping the state of a tenant now and then, so that waking it reads no more than what came after.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wasmwiz_events::{id::TenantId, revision::Revision, time::Moment};

use super::Rehydrated;
use crate::{
    codec::snapshot::Snapshot,
    metrics,
    snapshots::{SnapshotConfig, Snapshots},
};

/// Tenants of which a state is written at the same time. One without a place is kept after its next commit, if it has one: what
/// leaves memory with many others at once may not be.
const WRITING_MAX: usize = 2;

/// Tenants of which a state is being written, and the newer one of each that is written next.
///
/// One after the other: a second writer would take the first one's file for what a crash has left, and an older state that is
/// late would have a newer one removed as if it were of a history that is no more.
type Writing = HashMap<TenantId, Option<Due>>;

/// A state that is to be written.
struct Due {
    snapshot: Snapshot,
    /// Is it one of a fold that has not come to its end? Another fold of the stream may have come further meanwhile.
    is_midway: bool,
}

/// The snapshots of a node's tenants, and when there is to be another.
#[derive(Clone)]
pub(crate) struct Kept {
    snapshots: Option<Arc<dyn Snapshots>>,
    config: SnapshotConfig,
    writing: Arc<Mutex<Writing>>,
}

impl Kept {
    /// Without a place, or without a number of events, none is kept or read.
    pub(crate) fn new(snapshots: Option<Arc<dyn Snapshots>>, config: SnapshotConfig) -> Self {
        let snapshots = snapshots.filter(|_| config.every_events > 0);
        Self { snapshots, config, writing: Arc::default() }
    }

    /// Has so much happened that the next one does not wait for a moment without load?
    pub(super) fn is_overdue(&self, folded: &Rehydrated) -> bool {
        self.snapshots.is_some() && !folded.has_unknown && since(folded) >= self.config.every_events
    }

    /// Keeps the state of a tenant that stands where the log does, if enough has happened.
    pub(super) fn while_awake(&self, folded: &mut Rehydrated, now: Moment) {
        self.after(self.config.every_events, false, folded, now);
    }

    /// The same of one that leaves memory.
    pub(super) fn at_rest(&self, folded: &mut Rehydrated, now: Moment) {
        self.after(self.config.at_rest_events.min(self.config.every_events), false, folded, now);
    }

    /// Keeps the state of one whose past is being read, as far as that has come: the next reading begins there. `now`
    /// is the moment from which the history is looked at.
    pub(super) fn midway(&self, folded: &mut Rehydrated, now: Moment) {
        self.after(self.config.at_rest_events.min(self.config.every_events), true, folded, now);
    }

    fn after(&self, events: u64, is_midway: bool, folded: &mut Rehydrated, now: Moment) {
        let Some(snapshots) = &self.snapshots else { return };
        // A later version would know more of such a past than this one has folded.
        if since(folded) < events.max(1) || folded.has_unknown {
            return;
        }
        let mut writing = self.writing();
        if let Some(next) = writing.get_mut(folded.tenant.id()) {
            // What another fold of the stream has left may be newer.
            if next.as_ref().is_none_or(|due| due.snapshot.head.revision < folded.head.revision) {
                folded.kept = folded.head.revision;
                *next = Some(Due { snapshot: Snapshot::of(folded, now), is_midway });
            }
            return;
        }
        if writing.len() >= WRITING_MAX {
            return;
        }
        writing.insert(folded.tenant.id().clone(), None);
        drop(writing);
        folded.kept = folded.head.revision;
        let first = Due { snapshot: Snapshot::of(folded, now), is_midway };
        let (snapshots, keep) = (Arc::clone(snapshots), self.config.keep);
        let writer = Writer { kept: self.clone(), tenant: folded.tenant.id().clone() };
        tokio::task::spawn_blocking(move || {
            let mut next = Some(first);
            while let Some(due) = next {
                write(&due, &*snapshots, keep);
                next = writer.next();
            }
        });
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        // It is whole after every statement.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Whoever writes the states of one tenant.
struct Writer {
    kept: Kept,
    tenant: TenantId,
}

impl Writer {
    /// What came meanwhile. Without anything, the next state of the tenant has another writer.
    fn next(&self) -> Option<Due> {
        let mut writing = self.kept.writing();
        let next = writing.get_mut(&self.tenant)?.take();
        if next.is_none() {
            writing.remove(&self.tenant);
        }
        next
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Otherwise the tenant, and its place, would be waited for without end. One that has ended has given them back.
        if std::thread::panicking() {
            self.kept.writing().remove(&self.tenant);
        }
    }
}

fn write(Due { snapshot, is_midway }: &Due, snapshots: &dyn Snapshots, keep: usize) {
    let (tenant, revision) = (snapshot.tenant.id(), snapshot.head.revision);
    // Whoever begins to read removes what does not stand on the log: what is newer is of a fold that came further.
    let is_behind = || snapshots.revisions(tenant).is_ok_and(|kept| kept.iter().any(|kept| *kept > revision));
    if *is_midway && is_behind() {
        return;
    }
    let bytes = snapshot.encode().map_err(|error| error.to_string());
    let written =
        bytes.and_then(|bytes| snapshots.write(tenant, revision, &bytes, keep).map_err(|error| error.to_string()));
    match written {
        Ok(()) => ::metrics::counter!(metrics::SNAPSHOTS_WRITTEN_TOTAL).increment(1),
        // The next one may succeed; until then waking reads more.
        Err(error) => tracing::warn!(tenant.id = %tenant, %error, "the state of a tenant cannot be kept"),
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
