//! Removing what the log says may go. It needs no tenant, and remembers nothing from one time to the next.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use wasmwiz_events::{
    blobs::Blobs,
    digest::Digest,
    event::Event,
    id::TenantId,
    log::{EventLog, ReadLimit},
    retention::{References, Through, payloads_of},
    revision::Position,
};

/// Blobs that are asked about at a time: their names are in memory, and the log is read once for them.
const BLOBS_AT_ONCE: usize = 100_000;

/// Commits whose payloads are forgotten in one transaction of the log, which appends wait for.
const COMMITS_AT_ONCE: usize = 64;

/// For how long blobs are removed after the log was read: shorter than a blob stays that was put while it was read.
const REMOVES_FOR: Duration = Duration::from_secs(1_800);

/// What goes on between two steps.
#[derive(Debug)]
pub(super) enum Pace {
    /// So much time.
    Pauses(Duration),
    /// So many steps, and then the end, as if the process had died.
    #[cfg(test)]
    Ends(std::sync::atomic::AtomicU64),
}

impl Pace {
    async fn step(&self) -> anyhow::Result<()> {
        match self {
            Self::Pauses(pause) => tokio::time::sleep(*pause).await,
            #[cfg(test)]
            Self::Ends(left) => {
                let ordering = std::sync::atomic::Ordering::Relaxed;
                let next = left.load(ordering).checked_sub(1);
                let Some(next) = next else { anyhow::bail!("the process has died") };
                left.store(next, ordering);
            }
        }
        Ok(())
    }
}

/// What was removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Removed {
    pub(super) blobs: u64,
    pub(super) blob_bytes: u64,
    /// Of payloads that rode with commits.
    pub(super) payload_bytes: u64,
}

impl Removed {
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A log, and the blobs that it names.
pub(super) struct Removal {
    log: Arc<dyn EventLog>,
    blobs: Arc<dyn Blobs>,
    pace: Pace,
}

impl Removal {
    pub(super) const fn new(log: Arc<dyn EventLog>, blobs: Arc<dyn Blobs>, pace: Pace) -> Self {
        Self { log, blobs, pace }
    }

    /// Removes what may go. Safe to end anywhere, and to begin again.
    pub(super) async fn run(&self) -> anyhow::Result<Removed> {
        let (mut removed, mut after, mut released) = (Removed::default(), None, Vec::new());
        let mut is_their_log = false;
        loop {
            let asked = self.blobs.list(after, BLOBS_AT_ONCE).await?;
            let (is_first, is_last) = (after.is_none(), asked.len() < BLOBS_AT_ONCE);
            after = asked.last().copied();
            if asked.is_empty() && !is_first {
                break;
            }
            let references = self.survey(asked).await?;
            if !references.is_understood() {
                tracing::warn!("the log lacks commits, or has events that this version does not know: nothing goes");
                return Ok(removed);
            }
            if is_first {
                released = references.released().map(|(tenant, through)| (tenant.clone(), through)).collect();
            }
            is_their_log |= references.has_named_any();
            let unnamed = references.unnamed();
            if is_their_log {
                self.remove(unnamed, &mut removed).await?;
            } else if !unnamed.is_empty() {
                // A log that was begun anew, or is another's. What it says of its own commits holds all the same.
                let blobs = unnamed.len();
                tracing::warn!(
                    blobs,
                    "the log has never named any of the blobs that are there, and they stay: start the node with the log that belongs to them"
                );
            }
            if is_last {
                break;
            }
        }
        // Last: it writes to the log's disk before it frees anything there, and a blob only frees.
        for (tenant, through) in &released {
            self.forget(tenant, *through, &mut removed).await?;
        }
        Ok(removed)
    }

    /// Reads the log, from its first commit to its last.
    async fn survey(&self, asked: Vec<Digest>) -> anyhow::Result<References> {
        let tail = self.log.tail().await?;
        let (mut references, mut after) = (References::of(asked), Position::START);
        loop {
            let commits = self.log.read_all(after, ReadLimit::default()).await?;
            if commits.is_empty() {
                anyhow::ensure!(after >= tail, "the log ends at position {after}, and not at {tail}");
                return Ok(references);
            }
            for recorded in &commits {
                // What is missing may name anything. SQLite, the one log that forgets, leaves no gaps.
                let (position, next) = (recorded.position, after.next());
                anyhow::ensure!(position == next, "the log has position {position} where {next} follows");
                references.fold(recorded)?;
                after = position;
            }
            self.pace.step().await?;
        }
    }

    async fn remove(&self, unnamed: Vec<Digest>, removed: &mut Removed) -> anyhow::Result<()> {
        let begun = Instant::now();
        for digest in unnamed {
            if begun.elapsed() >= REMOVES_FOR {
                tracing::info!("the rest of what nothing names is removed by the next sweep");
                break;
            }
            self.pace.step().await?;
            if let Some(bytes) = self.blobs.remove(digest).await? {
                removed.blobs += 1;
                removed.blob_bytes += bytes;
            }
        }
        Ok(())
    }

    /// Has the log forget what a tenant has released of what rides with its commits.
    async fn forget(&self, tenant: &TenantId, through: Through, removed: &mut Removed) -> anyhow::Result<()> {
        let (Some(last), mut after) = (through.last(), Position::START) else { return Ok(()) };
        loop {
            let places = self.log.with_payloads(tenant, last, after, COMMITS_AT_ONCE).await?;
            let Some(end) = places.last().copied() else { return Ok(()) };
            after = end;
            let mut kept = Vec::new();
            for place in places {
                kept.extend(self.staying(place, through).await?.map(|staying| (place, staying)));
            }
            self.pace.step().await?;
            if !kept.is_empty() {
                removed.payload_bytes += self.log.keep_payloads(kept).await?;
            }
        }
    }

    /// Which of the payloads stay that ride with a commit; `None`: all of them. What one of its events has released and another has
    /// not stays.
    async fn staying(&self, place: Position, through: Through) -> anyhow::Result<Option<Vec<Digest>>> {
        let Some(recorded) = self.log.read_at(place).await? else { return Ok(None) };
        let (mut gone, mut named) = (Vec::new(), Vec::new());
        for envelope in recorded.commit.events()?.iter() {
            if matches!(envelope.event, Event::Unknown(_)) {
                return Ok(None);
            }
            for (class, digest) in payloads_of(&envelope.event) {
                let list = if through.has_released(class, envelope.revision) { &mut gone } else { &mut named };
                list.push(digest);
            }
        }
        gone.retain(|digest| !named.contains(digest));
        if gone.is_empty() {
            return Ok(None);
        }
        let riding: Vec<Digest> = self.log.payloads(place).await?.iter().map(|payload| payload.digest()).collect();
        let staying: Vec<Digest> = riding.iter().copied().filter(|digest| !gone.contains(digest)).collect();
        Ok((staying.len() < riding.len()).then_some(staying))
    }
}
