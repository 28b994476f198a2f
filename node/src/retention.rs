//! Payloads that are older than they are to be kept: they are released by their tenants, and what nothing names any more is removed.
//!
//! ```text
//! each tenant owned here: ReleasePayloads ─► payloads.released, durable
//!     ─► the log is read from its beginning: what names each blob that there is, up to where each tenant has released what
//!     ─► blobs that nothing names are removed ─► payloads that ride with commits are forgotten, some commits at a time
//! ```
//! Nothing is kept of a sweep: whatever ends it, the next one finds in the log what may go, and on the disk what is still there.
//! **Must never be true**: something is removed before the event that releases it is durable. And no tenant is asked in the sweep that
//! finds the wall clock ahead of the time that has passed.

use std::time::Duration;

use wasmwiz_actors::{
    aggregate::Authority,
    bus::CommandBus,
    handle::{Ask, AskError, Origin},
    ids::Ids,
    tenant::Command,
};
use wasmwiz_events::{
    id::TenantId,
    shard::Shard,
    time::{Clock as _, SystemClock},
};
use wasmwiz_projections::{Page, Views};

use self::{
    clocks::Clocks,
    removal::{Pace, Removal},
};
use crate::store::Store;

mod clocks;
pub mod config;
mod removal;
#[cfg(test)]
mod tests;

pub use config::RetentionConfig;

/// The longest time from the start to the first sweep: a node that is started often sweeps, too.
const FIRST_AFTER_MAX: Duration = Duration::from_secs(300);

/// Between two bounded steps, so that others have the log and the processor.
const PAUSE: Duration = Duration::from_millis(5);

/// Tenants that are listed at a time.
const TENANTS_AT_ONCE: u32 = 200;

/// One task of a node.
pub(crate) struct Retain {
    views: Views,
    bus: CommandBus,
    removal: Removal,
    every: Duration,
}

impl Retain {
    pub(crate) fn new(views: Views, bus: CommandBus, store: &Store, every: Duration) -> Self {
        let removal = Removal::new(store.log.clone(), store.blobs.clone(), Pace::Pauses(PAUSE));
        Self { views, bus, removal, every }
    }

    /// Goes on for as long as the node. May be dropped at any time.
    pub(crate) async fn run(self) {
        let mut clocks = Clocks::new(SystemClock.moment());
        tokio::time::sleep(self.every.min(FIRST_AFTER_MAX)).await;
        loop {
            self.sweep(&mut clocks).await;
            tokio::time::sleep(self.every).await;
        }
    }

    async fn sweep(&self, clocks: &mut Clocks) {
        if let Err(error) = self.release(clocks).await {
            tracing::warn!(%error, "the tenants could not be listed: what they keep no longer is released later");
        }
        match self.removal.run().await {
            Ok(removed) if removed.is_nothing() => tracing::debug!("there was nothing to remove"),
            Ok(removed) => tracing::info!(
                blobs = removed.blobs,
                blob_bytes = removed.blob_bytes,
                payload_bytes = removed.payload_bytes,
                "what nothing names any more was removed"
            ),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "a sweep has ended early; the next one goes on"),
        }
    }

    /// Has each tenant that is owned here release what it keeps no longer. One that does not answer is asked by the next sweep, and so is
    /// everyone who is not asked yet when the wall clock is found to be ahead: until then it can be set right.
    async fn release(&self, clocks: &mut Clocks) -> anyhow::Result<()> {
        let mut page = Page::first(TENANTS_AT_ONCE);
        loop {
            if !clocks.are_believed(SystemClock.moment()) {
                tracing::warn!(
                    next_sweep_after_s = self.every.as_secs(),
                    "the wall clock went ahead by more than an hour, and no tenant is asked to release anything in this sweep. The next one goes \
                     by the clock as it is then, for good: if it is wrong, set it right, or leave retention.*_days out and start the node again"
                );
                return Ok(());
            }
            let listed = self.views.keys().list_tenants(page).await?;
            for tenant in listed.items {
                if !self.bus.region().owns(Shard::of(&tenant.id)) {
                    continue;
                }
                if let Err(error) = self.ask(&tenant.id).await {
                    tracing::warn!(tenant.id = %tenant.id, %error, "a tenant does not release what it keeps no longer");
                }
            }
            let Some(next) = listed.next else { return Ok(()) };
            page = Page::following(TENANTS_AT_ONCE, next);
        }
    }

    async fn ask(&self, tenant: &TenantId) -> Result<(), AskError> {
        let (command, origin) = (Command::ReleasePayloads, Origin::internal(Ids.command()));
        self.bus.ask(tenant, Ask { command, by: Authority::System, origin, payloads: vec![] }).await.map(drop)
    }
}
