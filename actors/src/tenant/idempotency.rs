//! Requests that may be sent again, and what came of each: a request is done once for as long as it is remembered.
//!
//! A record is made by the events themselves, which carry the digests of the key and of the request. So it is durable
//! with what was done, neither before nor after, and it is there wherever the tenant is read back. A request of which no
//! event came, because it was refused or because all was so already, leaves none: nothing happened that could happen twice.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    digest::Digest,
    envelope::Envelope,
    event::Event,
    id::{ExecutionId, KeyId},
    idempotency::Idempotency,
    time::{Moment, Steady, Timestamp},
};

use super::{Command, Refusal, Standing, Tenant};
use crate::aggregate::Context;

/// How long a request is remembered, in milliseconds: a day, from the contract at the HTTP edge.
pub const KEPT_MS: u64 = 86_400_000;

/// What came of a request, as far as an answer needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Came {
    /// An execution was accepted.
    Execution(ExecutionId),
    /// A key was issued, or got a new secret.
    Key(KeyId),
    /// Something else was changed: the request itself says what.
    Change,
}

impl Came {
    fn of(event: &Event) -> Self {
        match event {
            Event::ExecutionAccepted(accepted) => Self::Execution(accepted.execution_id),
            Event::KeyIssued(issued) => Self::Key(issued.key_id.clone()),
            Event::KeyRotated(rotated) => Self::Key(rotated.key_id.clone()),
            Event::TenantRegistered(_)
            | Event::TenantRenamed(_)
            | Event::TenantTierChanged(_)
            | Event::TenantSuspended(_)
            | Event::TenantResumed(_)
            | Event::KeyRevoked(_)
            | Event::ModulePublished(_)
            | Event::ModuleRejected(_)
            | Event::ModuleDeleted(_)
            | Event::ExecutionStarted(_)
            | Event::ExecutionFinished(_)
            | Event::ExecutionLost(_)
            | Event::ExecutionVerified(_)
            | Event::RequestsDenied(_)
            | Event::CommitSkipped(_)
            | Event::PayloadsReleased(_)
            | Event::Unknown(_) => Self::Change,
        }
    }
}

/// What a request that was sent again came to the first time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// What came of it.
    pub came: Came,
    /// Has it not ended yet? Only an execution goes on after it was recorded.
    pub running: bool,
    /// When it was decided.
    pub at: Timestamp,
}

/// What follows from a command that may come again.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// These events.
    Events(Vec<Event>),
    /// Nothing: it was done before.
    Replayed(Replayed),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    request: Digest,
    at: Moment,
    came: Came,
}

/// The requests of a tenant that are remembered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Requests {
    by_key: BTreeMap<Digest, Record>,
    /// In the order in which they were made.
    oldest_first: VecDeque<(Moment, Digest)>,
}

fn is_kept(at: Moment, now: Steady) -> bool {
    now.ms_since(at.steady) < KEPT_MS
}

impl Requests {
    /// The record of this request, if it was done before.
    fn find(&self, asked: &Idempotency, now: Steady) -> Result<Option<&Record>, Refusal> {
        match self.by_key.get(&asked.key).filter(|record| is_kept(record.at, now)) {
            Some(record) if record.request != asked.request => Err(Refusal::IdempotencyKeyReused),
            found => Ok(found),
        }
    }

    /// Refuses when there is no room for one more.
    fn check_room(&self, limit: u32, now: Steady) -> Result<(), Refusal> {
        let room = (self.oldest_first.len() as u64).checked_sub(u64::from(limit));
        let Some(over) = room else { return Ok(()) };
        // As many as are too many must have been forgotten by now, and one more, in the order in which they go.
        let leaves = usize::try_from(over).ok().and_then(|over| self.oldest_first.get(over));
        match leaves {
            Some((at, _)) if is_kept(*at, now) => {
                let retry_after_ms = KEPT_MS.saturating_sub(now.ms_since(at.steady));
                Err(Refusal::TooManyIdempotencyKeys { limit, retry_after_ms })
            }
            _ => Ok(()),
        }
    }

    /// Moves every time onto a clock that is ahead by `ms`.
    pub(super) fn shift(&mut self, ms: i64) {
        let Self { by_key, oldest_first } = self;
        let records = by_key.values_mut().map(|Record { at, request: _, came: _ }| at);
        for at in records.chain(oldest_first.iter_mut().map(|(at, _)| at)) {
            at.steady = at.steady.shifted_ms(ms);
        }
    }

    /// Remembers what came of a request, and forgets those whose time has passed.
    fn came(&mut self, asked: &Idempotency, event: &Event, at: Moment) {
        while let Some((oldest, key)) = self.oldest_first.front().copied()
            && !is_kept(oldest, at.steady)
        {
            self.oldest_first.pop_front();
            if self.by_key.get(&key).is_some_and(|record| record.at == oldest) {
                self.by_key.remove(&key);
            }
        }
        let came = Came::of(event);
        match self.by_key.get_mut(&asked.key) {
            // One more event of the same command: what it names is what the answer needs.
            Some(record) if record.request == asked.request && record.at == at => {
                if came != Came::Change {
                    record.came = came;
                }
            }
            _ => {
                self.by_key.insert(asked.key, Record { request: asked.request, at, came });
                self.oldest_first.push_back((at, asked.key));
            }
        }
    }
}

impl Tenant {
    /// Decides a command that may come again: at most once for each idempotency key. Without one, as [`Tenant::decide`].
    ///
    /// # Errors
    /// [`Refusal`]. Nothing follows from a refused command, and nothing is remembered of it.
    pub fn decide_once(&self, command: Command, context: &Context<'_>) -> Result<Decision, Refusal> {
        let Some(asked) = context.once else { return self.decide(command, context).map(Decision::Events) };
        if let Some(replayed) = self.recall(&command, asked, context)? {
            return Ok(Decision::Replayed(replayed));
        }
        let events = self.decide(command, context)?;
        if !events.is_empty() {
            self.requests.check_room(context.policy.idempotency_keys_max, context.steady)?;
        }
        Ok(Decision::Events(events))
    }

    /// What came of the request before. Whoever may not give the command now is not told.
    fn recall(
        &self,
        command: &Command,
        asked: &Idempotency,
        context: &Context<'_>,
    ) -> Result<Option<Replayed>, Refusal> {
        if self.standing == Standing::Unregistered {
            // There is nothing to be remembered, and its keys are not known: the decision says so.
            return Ok(None);
        }
        match self.check_standing(command, context) {
            // It may be this request that registered it.
            Ok(()) | Err(Refusal::AlreadyRegistered) => {}
            Err(refusal) => return Err(refusal),
        }
        self.authorise(command, context)?;
        let found = self.requests.find(asked, context.steady)?;
        Ok(found.map(|record| Replayed {
            came: record.came.clone(),
            running: matches!(record.came, Came::Execution(id) if self.executions.is_open(id)),
            at: record.at.wall,
        }))
    }

    /// Remembers an event as the log has it: what happened, and which request it was. `seen` is when that was in this life
    /// of the process.
    pub fn fold(&mut self, envelope: &Envelope, seen: Steady) {
        let at = Moment { wall: envelope.time, steady: seen };
        if let Some(asked) = &envelope.cause.idempotency {
            self.requests.came(asked, &envelope.event, at);
        }
        self.reach(envelope.revision, envelope.time);
        self.apply(&envelope.event, at);
        self.note_revision(envelope);
    }
}

#[cfg(test)]
mod tests;
