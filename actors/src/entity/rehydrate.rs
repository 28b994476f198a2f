//! Folding a stream back into a live tenant, and checking its chain on the way.
//!
//! It begins at the newest snapshot that is whole and that the log agrees with, or else at the first event. A commit that cannot be
//! folded ends it, unless an operator has skipped that one and the stream goes on behind it.
//!
//! A long past is read in stages: what was folded is kept now and then, and when folding is broken off, so that the
//! next fold of the stream begins there. However often it is broken off, it comes to an end.

use std::sync::Arc;

use ractor::{ActorRef, ActorStatus};
use wasmwiz_events::{
    commit::Recorded,
    event::Event,
    id::TenantId,
    ledger::{Broken, Fault, Verifier, chain_hash},
    log::{ReadError, ReadLimit},
    revision::{Position, Revision},
    time::Moment,
};

use super::{Message, Places, Rehydrated, World};
use crate::{codec::snapshot::Snapshot, metrics, tenant::Tenant};

/// How often a fold that takes long keeps its state and tells how far it has come, in milliseconds: about as much work
/// is lost with a process that is killed, and keeping is a small part of it.
const STAGE_MS: u64 = 5_000;

/// Reads and folds in a task of its own and reports to `entity`.
pub(super) fn begin(id: TenantId, world: Arc<World>, entity: ActorRef<Message>) {
    tokio::spawn(async move {
        let begun = world.clock.steady();
        let is_wanted = || matches!(entity.get_status(), ActorStatus::Starting | ActorStatus::Running);
        let folded = fold_stream(&id, &world, &is_wanted).await;
        match &folded {
            Ok(folded) => {
                let (took_ms, kept) = (world.clock.steady().ms_since(begun), folded.kept);
                ::metrics::counter!(metrics::REHYDRATIONS_TOTAL).increment(1);
                let revision = folded.head.revision;
                tracing::debug!(tenant.id = %id, %revision, %kept, took_ms, "the entity is rehydrated");
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
    let mut fold = Fold { after: begin.position, folded: begin, verifier, now, has_skipped: false };
    let mut stage = world.clock.steady();
    loop {
        if !is_wanted() {
            fold.keep(world);
            return Err("nobody waits for it any more".into());
        }
        // A turn is a page, so that a few long streams do not keep all others waiting until they are through.
        let turn = world.rehydrations.acquire().await.map_err(|_| Arc::from("the node is stopping"))?;
        let from = fold.verifier.head().revision.next();
        let commits = match world.log.read_stream_behind(id, from, fold.after, ReadLimit::default()).await {
            Ok(commits) => commits,
            Err(ReadError::Damaged { position, what }) => {
                let reason = format!("the log is damaged at position {position}: {what}");
                fold.pass_over(id, world, Unfolded { at: Some(position), reason: reason.into() }).await?;
                continue;
            }
            Err(error) => {
                fold.keep(world);
                return Err(error.to_string().into());
            }
        };
        if commits.is_empty() {
            if fold.has_skipped {
                return Err("its newest commit was skipped: nothing that can be read says where the stream ends".into());
            }
            let Fold { mut folded, verifier, .. } = fold;
            folded.tenant.resume(world.clock.steady());
            folded.head = *verifier.head();
            return Ok(folded);
        }
        // Decoding and hashing a long stream is work for a thread that may be busy.
        let folded = tokio::task::spawn_blocking(move || fold.all(&commits)).await;
        let (further, came) = folded.map_err(|error| Arc::from(error.to_string()))?;
        fold = further;
        if let Err(unfolded) = came {
            fold.pass_over(id, world, unfolded).await?;
        }
        drop(turn);
        let now = world.clock.steady();
        if now.ms_since(stage) >= STAGE_MS {
            stage = now;
            fold.keep(world);
            tell(id, world, fold.folded.head.revision).await;
        }
    }
}

/// Says how far a fold that takes long has come.
async fn tell(id: &TenantId, world: &World, revision: Revision) {
    // A log that does not say where the stream ends is no reason to say nothing.
    let end = world.log.head(id).await.ok().map(|head| head.revision.get());
    tracing::info!(tenant.id = %id, %revision, end, "a long past is being read");
}

/// The newest state that is whole and stands on a commit that the log has.
async fn from_snapshot(id: &TenantId, world: &World, now: Moment) -> Result<Option<Rehydrated>, Arc<str>> {
    let _turn = world.rehydrations.acquire().await.map_err(|_| Arc::from("the node is stopping"))?;
    let mut before = Revision::new(u64::MAX);
    loop {
        let (kept, tenant) = (world.kept.clone(), id.clone());
        let newest = tokio::task::spawn_blocking(move || kept.newest(&tenant, before)).await;
        let Some(snapshot) = newest.map_err(|error| Arc::from(error.to_string()))? else { return Ok(None) };
        let what = match world.log.read_at(snapshot.position).await {
            Ok(Some(recorded)) if stands_on(&snapshot, &recorded) => return Ok(Some(snapshot.wake(now))),
            Ok(_) => "the log does not have the commit that it stands on",
            // An older one may stand on a commit that can be read.
            Err(ReadError::Damaged { .. }) => "the commit that it stands on is damaged",
            Err(error @ ReadError::Unavailable(_)) => return Err(error.to_string().into()),
        };
        before = snapshot.head.revision;
        let (kept, tenant) = (world.kept.clone(), id.clone());
        let removed = tokio::task::spawn_blocking(move || kept.useless(&tenant, before, "other_history", &what));
        removed.await.map_err(|error| Arc::from(error.to_string()))?;
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
    /// What lies behind it is read next.
    after: Position,
    /// Was a commit passed over, and none folded since?
    has_skipped: bool,
}

/// Why folding does not go on.
struct Unfolded {
    /// The commit that cannot be folded; `None` where commits are missing, so that there is none that could be skipped.
    at: Option<Position>,
    reason: Arc<str>,
}

impl Fold {
    /// Folds commits up to the first that cannot be.
    fn all(mut self, commits: &[Arc<Recorded>]) -> (Self, Result<(), Unfolded>) {
        for recorded in commits {
            if let Err(unfolded) = self.one(recorded) {
                return (self, Err(unfolded));
            }
        }
        (self, Ok(()))
    }

    fn one(&mut self, recorded: &Recorded) -> Result<(), Unfolded> {
        let commit = &recorded.commit;
        if self.has_skipped {
            let mut behind = self.verifier.clone();
            let stepped = behind.pass_over(commit).and_then(|()| behind.step(commit));
            stepped.map_err(|broken| self.unfolded(recorded, &broken))?;
            (self.verifier, self.has_skipped) = (behind, false);
        } else {
            let stepped = self.verifier.step(commit);
            stepped.map_err(|broken| self.unfolded(recorded, &broken))?;
        }
        let events = commit.events().map_err(|error| {
            let reason = format!("at position {}: {error}", recorded.position);
            Unfolded { at: Some(recorded.position), reason: reason.into() }
        })?;
        for envelope in events.iter() {
            self.folded.tenant.fold(envelope, self.now.of_record(envelope.time).steady);
            self.folded.places.note(&envelope.event, recorded.position);
            self.folded.has_unknown |= matches!(envelope.event, Event::Unknown(_));
        }
        (self.folded.position, self.after) = (recorded.position, recorded.position);
        Ok(())
    }

    /// Keeps the state as of what is folded. Its times are seen from where the history is looked at, and not from this moment.
    fn keep(&mut self, world: &World) {
        self.folded.head = *self.verifier.head();
        world.kept.midway(&mut self.folded, self.now);
    }

    /// Where a commit does not begin at the revision that follows and is as it was sealed, it is sound: others are missing before it.
    fn unfolded(&self, recorded: &Recorded, broken: &Broken) -> Unfolded {
        let (commit, position) = (&recorded.commit, recorded.position);
        let is_sealed = chain_hash(commit.header(), commit.body()) == commit.hash();
        if matches!(broken.fault, Fault::Gap { .. }) && is_sealed {
            let reason = format!(
                "commits of the stream are missing between positions {} and {position}, where no skip helps: {broken}",
                self.after
            );
            return Unfolded { at: None, reason: reason.into() };
        }
        Unfolded { at: Some(position), reason: format!("at position {position}: {broken}").into() }
    }

    /// Goes on behind a commit that cannot be folded, if an operator has skipped it.
    async fn pass_over(
        &mut self,
        id: &TenantId,
        world: &World,
        Unfolded { at, reason }: Unfolded,
    ) -> Result<(), Arc<str>> {
        let Some(position) = at.filter(|position| *position > self.after) else { return Err(reason) };
        if !world.skips.hold(&*world.log, id, position).await? {
            return Err(reason);
        }
        // A place that another tenant's commit has is none of this stream, whatever was skipped.
        let whose = world.log.tenant_at(position).await;
        let whose = whose.map_err(|error| -> Arc<str> { error.to_string().into() })?;
        if whose.as_ref() != Some(id) {
            return Err(reason);
        }
        tracing::warn!(tenant.id = %id, %position, %reason, "the entity passes over a commit that an operator has skipped");
        (self.after, self.has_skipped) = (position, true);
        // What it said is not known. Once it can be read again, it counts again: no state without it is kept.
        self.folded.has_unknown = true;
        Ok(())
    }
}
