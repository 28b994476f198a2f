//! Folding a stream back into a live tenant, and checking its chain on the way.
//!
//! It begins at the newest snapshot that is whole and that the log agrees with, or else at the first event.

use std::sync::Arc;

use ractor::{ActorRef, ActorStatus};
use wasmwiz_events::{
    commit::Recorded,
    event::Event,
    id::TenantId,
    ledger::{Verifier, chain_hash},
    log::ReadLimit,
    revision::Revision,
    time::Moment,
};

use super::{Message, Places, Rehydrated, World};
use crate::{codec::snapshot::Snapshot, metrics, tenant::Tenant};

/// Reads and folds in a task of its own and reports to `entity`.
pub(super) fn begin(id: TenantId, world: Arc<World>, entity: ActorRef<Message>) {
    tokio::spawn(async move {
        let begun = world.clock.steady();
        let is_wanted = || matches!(entity.get_status(), ActorStatus::Starting | ActorStatus::Running);
        let folded = fold_stream(&id, &world, &is_wanted).await;
        match &folded {
            Ok(folded) => {
                let (took_ms, from) = (world.clock.steady().ms_since(begun), folded.kept);
                ::metrics::counter!(metrics::REHYDRATIONS_TOTAL).increment(1);
                let revision = folded.head.revision;
                tracing::debug!(tenant.id = %id, %revision, snapshot = %from, took_ms, "the entity is rehydrated");
            }
            Err(reason) if !is_wanted() => {
                tracing::debug!(tenant.id = %id, %reason, "the entity is not wanted any more")
            }
            Err(reason) => tracing::error!(tenant.id = %id, %reason, "the entity cannot be rehydrated"),
        }
        // An entity that has gone needs no report.
        let _ = entity.send_message(Message::Rehydrated(folded.map(Box::new)));
    });
}

async fn fold_stream(id: &TenantId, world: &World, is_wanted: &impl Fn() -> bool) -> Result<Rehydrated, Arc<str>> {
    let now = world.clock.moment();
    let begin = match from_snapshot(id, world, now).await? {
        Some(folded) => folded,
        None => Rehydrated::genesis(id),
    };
    let verifier = Verifier::resume(id.clone(), begin.head);
    let mut fold = Fold { folded: begin, verifier, now };
    loop {
        if !is_wanted() {
            return Err("nobody waits for it any more".into());
        }
        // A turn is a page, so that a few long streams do not keep all others waiting until they are through.
        let _turn = world.rehydrations.acquire().await.map_err(|_| Arc::from("the node is stopping"))?;
        let from = fold.verifier.head().revision.next();
        let commits = world.log.read_stream(id, from, ReadLimit::default()).await;
        let commits = commits.map_err(|error| Arc::from(error.to_string()))?;
        if commits.is_empty() {
            let Fold { mut folded, verifier, .. } = fold;
            folded.tenant.resume(world.clock.steady());
            folded.head = *verifier.head();
            return Ok(folded);
        }
        // Decoding and hashing a long stream is work for a thread that may be busy.
        let folded = tokio::task::spawn_blocking(move || fold.all(&commits)).await;
        fold = folded.map_err(|error| Arc::from(error.to_string()))??;
    }
}

/// The newest state that is whole and stands on a commit that the log has.
async fn from_snapshot(id: &TenantId, world: &World, now: Moment) -> Result<Option<Rehydrated>, Arc<str>> {
    let _turn = world.rehydrations.acquire().await.map_err(|_| Arc::from("the node is stopping"))?;
    let mut before = Revision::new(u64::MAX);
    loop {
        let (kept, tenant) = (world.kept.clone(), id.clone());
        let newest = tokio::task::spawn_blocking(move || kept.newest(&tenant, before)).await;
        let Some(snapshot) = newest.map_err(|error| Arc::from(error.to_string()))? else { return Ok(None) };
        let found = world.log.read_at(snapshot.position).await;
        match found.map_err(|error| Arc::from(error.to_string()))? {
            Some(recorded) if stands_on(&snapshot, &recorded) => return Ok(Some(snapshot.wake(now))),
            _ => {
                before = snapshot.head.revision;
                let (kept, tenant) = (world.kept.clone(), id.clone());
                let removed = tokio::task::spawn_blocking(move || {
                    let what = "the log does not have the commit that it stands on";
                    kept.useless(&tenant, before, "other_history", &what);
                });
                removed.await.map_err(|error| Arc::from(error.to_string()))?;
            }
        }
    }
}

/// Is it the commit that the state was taken at? Its hash says of which tenant it is, and what came before it.
fn stands_on(snapshot: &Snapshot, recorded: &Recorded) -> bool {
    let commit = &recorded.commit;
    commit.head() == snapshot.head && chain_hash(commit.header(), commit.body()) == commit.hash()
}

impl Rehydrated {
    /// Before the first event.
    fn genesis(id: &TenantId) -> Self {
        Self {
            tenant: Tenant::new(id.clone()),
            head: wasmwiz_events::ledger::Head::genesis(id),
            position: wasmwiz_events::revision::Position::START,
            places: Places::default(),
            kept: Revision::NONE,
            has_unknown: false,
        }
    }
}

struct Fold {
    folded: Rehydrated,
    verifier: Verifier,
    /// From when the history is looked at.
    now: Moment,
}

impl Fold {
    fn all(mut self, commits: &[Arc<Recorded>]) -> Result<Self, Arc<str>> {
        for recorded in commits {
            self.verifier.step(&recorded.commit).map_err(|broken| Arc::from(broken.to_string()))?;
            let events = recorded.commit.events().map_err(|error| Arc::from(error.to_string()))?;
            for envelope in events.iter() {
                self.folded.tenant.fold(envelope, self.now.of_record(envelope.time).steady);
                self.folded.places.note(&envelope.event, recorded.position);
                self.folded.has_unknown |= matches!(envelope.event, Event::Unknown(_));
            }
            self.folded.position = recorded.position;
        }
        Ok(self)
    }
}
