//! An execution run again from its record, and what came of it recorded.
//!
//! ```text
//! would it be let in? ─► a place in the lane ─► the record, read from the log ─► module and input, by their digests
//!                                                   ─► slot ─► guest ─► compared ─► ExecutionVerified ─► answer
//! ```
//! If the process dies on the way, nothing is recorded, and nothing has to be: it may be asked for again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use wasmwiz_events::{
    event::Event,
    execution::{Accepted, Content, Finished},
    id::{ExecutionId, TenantId},
    log::ReadError,
    reproducibility::Reproducibility,
    revision::Position,
    time::{Millis, Timestamp},
    verification::{Aspect, Verified},
};

use super::{DispatchError, Hold, Shared};
use crate::{
    aggregate::Authority,
    executor::{CodeId, Prepared, Profile},
    handle::{Ask, AskError, Decided, Origin},
    region::unavailable,
    tenant::{Command, Refusal},
    verify::{self, NotVerifiable},
};

/// Guests that are run again at the same time, of the whole node: the others are somebody's work.
const AT_ONCE: usize = 4;

/// Of those, of one tenant: others find places whatever it asks for.
const OF_A_TENANT_AT_ONCE: usize = 2;

/// Verifications of one tenant that run or wait for a place.
const OF_A_TENANT_MAX: usize = 8;

/// How often a result is offered to a tenant whose rate has been used up meanwhile.
const OFFERS: u32 = 5;

/// The longest pause between those, in milliseconds.
const OFFER_PAUSE_MAX_MS: u64 = 5_000;

/// How long one waits for a place.
const PLACE_WITHIN: Duration = Duration::from_secs(5);

/// When to try again where there was none, in milliseconds.
const BUSY_RETRY_MS: u64 = 1_000;

/// A wish to have an execution run again and compared.
#[derive(Debug)]
pub struct Verify {
    /// Whose it is.
    pub tenant: TenantId,
    /// On whose authority.
    pub by: Authority,
    /// Where the wish comes from.
    pub origin: Origin,
    /// Which.
    pub execution_id: ExecutionId,
    /// The commit that accepted it.
    pub accepted_at: Position,
    /// The commit that holds its end; `None` while it has none.
    pub ended_at: Option<Position>,
    /// Kept until it is answered.
    pub hold: Hold,
}

/// What came of it; recorded.
#[derive(Debug, Clone)]
pub struct Verification {
    /// As it is recorded.
    pub verified: Verified,
    /// What was compared.
    pub checked: Vec<Aspect>,
    /// What the execution's end depended on.
    pub reproducibility: Reproducibility,
    /// When it was recorded.
    pub at: Timestamp,
    /// The commit that holds it.
    pub position: Position,
}

/// The places for verifications of a node.
pub(super) struct Lane {
    places: Semaphore,
    tenants: Mutex<HashMap<TenantId, Line>>,
}

/// Those of one tenant that run or wait. Without any it is forgotten.
struct Line {
    turns: Arc<Semaphore>,
    inside: usize,
}

impl Default for Lane {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE), tenants: Mutex::default() }
    }
}

/// A place in the lane, until it is dropped.
struct Place<'a> {
    _place: SemaphorePermit<'a>,
    _turn: OwnedSemaphorePermit,
    inside: Inside<'a>,
}

impl<'a> Place<'a> {
    /// Lets another one run; it still counts as one of its tenant's.
    fn leave(self) -> Inside<'a> {
        self.inside
    }
}

/// One of a tenant's that run or wait.
struct Inside<'a> {
    lane: &'a Lane,
    tenant: TenantId,
}

impl Lane {
    async fn enter(&self, tenant: &TenantId) -> Option<Place<'_>> {
        let (inside, turns) = self.inside(tenant)?;
        let waiting = async {
            // First its turn among the tenant's own: a tenant never has more than that of the node's places.
            let turn = turns.acquire_owned().await.ok()?;
            let place = self.places.acquire().await.ok()?;
            Some(Place { _place: place, _turn: turn, inside })
        };
        tokio::time::timeout(PLACE_WITHIN, waiting).await.ok()?
    }

    fn inside(&self, tenant: &TenantId) -> Option<(Inside<'_>, Arc<Semaphore>)> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let line = tenants
            .entry(tenant.clone())
            .or_insert_with(|| Line { turns: Arc::new(Semaphore::new(OF_A_TENANT_AT_ONCE)), inside: 0 });
        if line.inside >= OF_A_TENANT_MAX {
            return None;
        }
        line.inside += 1;
        Some((Inside { lane: self, tenant: tenant.clone() }, Arc::clone(&line.turns)))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut tenants = self.lane.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = tenants.get_mut(&self.tenant) {
            line.inside -= 1;
            if line.inside == 0 {
                tenants.remove(&self.tenant);
            }
        }
    }
}

impl Shared {
    pub(super) async fn verify(self: Arc<Self>, verify: Verify) -> Result<Verification, DispatchError> {
        let Verify { tenant, by, origin, execution_id, accepted_at, ended_at, hold: _hold } = verify;
        // What will never be is said at once, and takes nobody's place.
        let ended_at = ended_at.ok_or(NotVerifiable::Running)?;
        let accepted = self.accepted(accepted_at, execution_id).await?;
        let engine = self.deps.executors.fingerprint(Profile::of(accepted.fuel)).to_owned();
        let mut verified = Verified {
            execution_id,
            engine,
            reproduced: true,
            differences: vec![],
            cpu_ms: Millis::default(),
            bucket_full_at: None,
        };
        let finished = self.finished(ended_at, execution_id).await?;
        verify::check(&accepted, &finished, &verified.engine)?;
        let command = |verified: &Verified| Command::RecordVerification(Box::new(verified.clone()));
        self.preview(&tenant, &command(&verified), &by, &origin).await?;
        let place = self.lane.enter(&tenant).await;
        let place = place.ok_or(DispatchError::Busy { retry_after_ms: BUSY_RETRY_MS })?;

        let stdin = self.recorded(accepted_at, accepted.stdin, "standard input").await?;
        let transcript = match finished.transcript() {
            Some(kept) => self.recorded(ended_at, kept, "transcript").await?,
            None => Bytes::new(),
        };
        let prepared = self.prepare_again(&tenant, CodeId::of(&accepted)).await?;
        let slot = self.deps.executors.reserve_for(&tenant).await;
        let slot = slot.map_err(|busy| DispatchError::Busy { retry_after_ms: busy.retry_after_ms })?;
        // Under an id of its own: a node that stops ends it as any other, and nobody cancels it.
        let run = self.runs.of(self.ids.execution());
        let job = verify::job(&accepted, stdin, transcript, run.cancel.clone());
        let ran = self.deps.executors.run_again(slot, &prepared, job).await;
        let compared = verify::compare(&accepted, &finished, &ran)?;
        // A rate that has been used up meanwhile is waited for, and not in a place that others need.
        let _inside = place.leave();

        verified.reproduced = compared.differences.is_empty();
        (verified.differences, verified.cpu_ms) = (compared.differences, ran.cpu);
        if !verified.reproduced {
            tracing::warn!(
                tenant.id = %tenant,
                execution.id = %execution_id,
                differences = ?verified.differences,
                "an execution did not give what is recorded of it"
            );
        }
        let ask = Ask { command: command(&verified), by, origin, payloads: vec![] };
        let decided = self.record_verification(&tenant, ask).await?;
        let (at, position) = (decided.time, decided.position);
        let recorded = decided.events.into_iter().find_map(|event| match event {
            Event::ExecutionVerified(verified) => Some(verified),
            _ => None,
        });
        let verified = recorded.ok_or_else(|| DispatchError::Host("a verification was recorded as nothing".into()))?;
        Ok(Verification { verified, checked: compared.checked, reproducibility: finished.class(), at, position })
    }

    /// Has it recorded. A rate that others have used up meanwhile is waited for: what was found must not be lost for that.
    async fn record_verification(&self, tenant: &TenantId, ask: Ask) -> Result<Decided, AskError> {
        for _ in 1..OFFERS {
            match self.deps.bus.ask(tenant, ask.clone()).await {
                Err(AskError::Refused(Refusal::RateLimited { retry_after_ms, .. })) => {
                    let pause_ms = retry_after_ms.min(OFFER_PAUSE_MAX_MS);
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
                answered => return answered,
            }
        }
        self.deps.bus.ask(tenant, ask).await
    }

    pub(super) async fn accepted(&self, at: Position, id: ExecutionId) -> Result<Accepted, DispatchError> {
        self.event_at(at, |event| match event {
            Event::ExecutionAccepted(accepted) if accepted.execution_id == id => Some((**accepted).clone()),
            _ => None,
        })
        .await
    }

    async fn finished(&self, at: Position, id: ExecutionId) -> Result<Finished, DispatchError> {
        let end = self.event_at(at, |event| match event {
            Event::ExecutionFinished(finished) if finished.execution_id == id => Some(Ok((**finished).clone())),
            Event::ExecutionLost(lost) if lost.execution_id == id => Some(Err(NotVerifiable::Lost)),
            _ => None,
        });
        Ok(end.await??)
    }

    /// What the commit at `at` says.
    async fn event_at<T>(&self, at: Position, pick: impl Fn(&Event) -> Option<T>) -> Result<T, DispatchError> {
        let absent = || DispatchError::Host(format!("the log does not have at position {at} what its view says"));
        let recorded = self.deps.log.read_at(at).await.map_err(unread)?.ok_or_else(absent)?;
        let events = recorded.commit.events().map_err(|error| DispatchError::Host(error.to_string()))?;
        events.iter().find_map(|envelope| pick(&envelope.event)).ok_or_else(absent)
    }

    /// What an event of the commit at `at` names: it rides with the commit, or is a blob. `what` it is, for people.
    pub(super) async fn recorded(
        &self,
        at: Position,
        recorded: Content,
        what: &'static str,
    ) -> Result<Bytes, DispatchError> {
        let Content { digest, size_bytes } = recorded;
        if size_bytes == 0 {
            return Ok(Bytes::new());
        }
        let bytes = match self.deps.log.payload(at, digest).await.map_err(unread)? {
            Some(bytes) => bytes,
            None => self.deps.blobs.get(digest).await?.ok_or(NotVerifiable::Gone(what))?,
        };
        if Content::of(&bytes) != recorded {
            return Err(DispatchError::Host(format!(
                "the {what} kept at position {at} is not the one that is recorded"
            )));
        }
        Ok(bytes)
    }

    /// The recorded module, by its digest: also of a name that was deleted since.
    async fn prepare_again(&self, tenant: &TenantId, code: CodeId) -> Result<Prepared, DispatchError> {
        if self.deps.executors.prepared(code).await.is_none() && !self.deps.blobs.contains(code.digest).await? {
            return Err(NotVerifiable::Gone("module").into());
        }
        self.prepare(tenant, code).await.map_err(DispatchError::NotNow)
    }
}

fn unread(error: ReadError) -> DispatchError {
    match error {
        ReadError::Unavailable(_) => unavailable("the log cannot be read at the moment").into(),
        ReadError::Damaged { .. } => DispatchError::Host(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_so_many_places_and_no_more_and_leaves_them() {
        let (lane, one, two) = (Lane::default(), TenantId::new("t-one").unwrap(), TenantId::new("t-two").unwrap());
        let mut held = Vec::new();
        for _ in 0..OF_A_TENANT_AT_ONCE {
            held.push(lane.enter(&one).await.unwrap());
        }
        let waiting: Vec<_> = (OF_A_TENANT_AT_ONCE..OF_A_TENANT_MAX).map(|_| lane.inside(&one).unwrap()).collect();
        assert!(lane.enter(&one).await.is_none(), "as many as it may");
        drop(waiting);
        assert!(lane.enter(&one).await.is_none(), "its turns are taken, and it is told so in time");
        // Others are not in its way.
        for _ in OF_A_TENANT_AT_ONCE..AT_ONCE {
            held.push(lane.enter(&two).await.unwrap());
        }
        drop(held);
        assert!(lane.tenants.lock().unwrap().is_empty());
    }
}
