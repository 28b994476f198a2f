//! What gathered, decided into one commit.

use std::collections::VecDeque;

use wasmwiz_events::{
    envelope::Envelope,
    event::Event,
    id::ExecutionId,
    ledger::Head,
    payload,
    revision::{Position, Revision},
    time::{Moment, Timestamp},
};

use super::Entity;
use crate::{
    aggregate::{Context, Life},
    ahead,
    handle::{Answer, Decided, Pending},
    json::escaped_size,
    metrics,
    tenant::{
        Command, Configured, Metered, NewVersion, Rerun, Tenant,
        idempotency::{Decision, Replayed},
    },
    trace,
};

/// The most events that are decided into one commit before it is appended. One command gives at most [`crate::tenant::executions::LOST_AT_ONCE`] more,
/// which stays within [`wasmwiz_events::commit::MAX_EVENTS`].
const BATCH_EVENTS: usize = 432;

/// The most bytes of variable length (arguments, names, messages) in one commit, well inside
/// [`wasmwiz_events::commit::MAX_BODY_BYTES`] beside the fixed part of the others.
const BATCH_TEXT_BYTES: usize = 128 * 1_024;

/// What the digests of an idempotency key and its request add to an event, in bytes.
const IDEMPOTENCY_BYTES: usize = 256;

/// What was decided, and is to be one commit.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) now: Moment,
    pub(super) envelopes: Vec<Envelope>,
    pub(super) payloads: Vec<payload::Payload>,
    pub(super) decided: Vec<(Pending, Answer)>,
}

impl Entity {
    /// Decides what waits, in order, as far as one commit holds it.
    pub(super) fn decide(&self, tenant: &mut Tenant, head: Head, waiting: &mut VecDeque<Pending>) -> Batch {
        let mut batch = Batch { now: self.world.clock.moment(), ..Batch::default() };
        let ended = self.world.shards.ended(tenant);
        let (mut payload_bytes, mut text_bytes) = (0, 0);
        while let Some(next) = waiting.front() {
            let bytes: usize = next.ask.payloads.iter().map(|payload| payload.bytes().len()).sum();
            let text = text_size(&next.ask.command) + next.ask.origin.once.map_or(0, |_| IDEMPOTENCY_BYTES);
            let full = batch.envelopes.len() >= BATCH_EVENTS
                || text_bytes + text > BATCH_TEXT_BYTES
                || payload_bytes + bytes > payload::MAX_COMMIT_BYTES;
            if full && !batch.envelopes.is_empty() {
                break;
            }
            let Some(mut pending) = waiting.pop_front() else { break };
            if pending.is_abandoned() {
                // Whoever asked was told that nobody knows: let it be that nothing was done.
                ::metrics::counter!(metrics::SHED_TOTAL, "bound" => "abandoned").increment(1);
                continue;
            }
            let command = pending.ask.command.name();
            text_bytes += text;
            let (once, expected) = (pending.ask.origin.once, pending.ask.origin.expected);
            let (policy, by) = (&self.world.policy, &pending.ask.by);
            let Moment { wall: now, steady } = batch.now;
            let context = Context { now, steady, policy, by, once: once.as_ref(), expected, ended: &ended };
            let cancelled = cancelled(&pending.ask.command);
            // The ask has served its purpose; its command moves into the decision.
            // Its end is when it is dropped: a span that is entered ends, in a trace, when it is left for the last time.
            let deciding = tracing::debug_span!(target: trace::TARGET, parent: &pending.span, "decide");
            let asked = std::mem::replace(&mut pending.ask.command, Command::Expire);
            let decided = deciding.in_scope(|| tenant.decide_once(asked, &context));
            let given = match decided {
                Ok(Decision::Events(events)) => {
                    if !events.is_empty() {
                        payload_bytes += bytes;
                        batch.payloads.append(&mut pending.ask.payloads);
                    }
                    let cause = pending.ask.cause();
                    for event in &events {
                        let envelope = Envelope {
                            id: self.world.ids.event(),
                            tenant: self.id.clone(),
                            revision: head.revision.plus(batch.envelopes.len() as u64 + 1),
                            time: now,
                            cause: cause.clone(),
                            event: event.clone(),
                        };
                        tenant.fold(&envelope, steady);
                        batch.envelopes.push(envelope);
                    }
                    if let Some(ahead) = pending.ahead.take() {
                        ahead::tell(ahead, &events, now, head.revision);
                    }
                    let still_open = cancelled.filter(|_| events.is_empty());
                    let runs_at = still_open.and_then(|id| tenant.executions().runner(id, &ended)).cloned();
                    unplaced(events, None, runs_at, now)
                }
                Ok(Decision::Replayed(replayed)) => unplaced(vec![], Some(replayed), None, now),
                Err(refusal) => {
                    if !refusal.is_asked_again() {
                        ::metrics::counter!(metrics::REFUSALS_TOTAL, "command" => command).increment(1);
                    }
                    Answer::Refused(refusal)
                }
            };
            batch.decided.push((pending, given));
        }
        batch
    }
}

/// An answer before it is known where the log has it.
fn unplaced(events: Vec<Event>, replayed: Option<Replayed>, runs_at: Option<Life>, time: Timestamp) -> Answer {
    let (revision, position) = (Revision::default(), Position::START);
    Answer::Decided(Decided { events, replayed, time, revision, position, runs_at })
}

/// The execution that the command is to cancel.
const fn cancelled(command: &Command) -> Option<ExecutionId> {
    if let Command::Cancel { execution_id } = command { Some(*execution_id) } else { None }
}

/// Bytes that the command's events will hold beside their fixed part, as JSON writes them.
fn text_size(command: &Command) -> usize {
    let all = |texts: &[String]| texts.iter().map(|text| escaped_size(text)).sum();
    match command {
        Command::PublishModule { imports, exports, .. }
        | Command::PublishVersion(NewVersion { imports, exports, .. }) => all(imports) + all(exports),
        Command::Execute(execute)
        | Command::Rerun(Rerun { execute, .. })
        | Command::Metered(Metered { execute, .. })
        | Command::Configured(Configured { execute, .. }) => all(&execute.args),
        Command::Finish(finished) => finished.message.as_deref().map_or(0, escaped_size),
        Command::RecordVerification(verified) => {
            let sides =
                verified.differences.iter().map(|one| escaped_size(&one.recorded) + escaped_size(&one.found) + 64);
            sides.sum()
        }
        Command::Suspend { reason } => reason.as_deref().map_or(0, escaped_size),
        Command::RejectModule { reason, .. } => escaped_size(reason),
        Command::SkipCommit(skipped) => escaped_size(&skipped.reason),
        // Each reason has its number, of at most 20 digits.
        Command::RecordDenials(denied) => denied.counts.keys().map(|reason| escaped_size(reason) + 24).sum(),
        Command::Register { .. }
        | Command::Change { .. }
        | Command::Resume
        | Command::IssueKey(_)
        | Command::RevokeKey { .. }
        | Command::RotateKey { .. }
        | Command::DeleteModule { .. }
        | Command::Preview(_)
        | Command::Authorise(_)
        | Command::Start { .. }
        | Command::Cancel { .. }
        | Command::Reap
        | Command::Lose { .. }
        | Command::Expire
        | Command::ReleasePayloads => 0,
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{
        commit::{MAX_BODY_BYTES, MAX_EVENTS},
        digest::Digest,
        envelope::{self, Actor, Cause},
        execution::{Accepted, Content, Limits, Lost, ModuleRef, Seed},
        id::{BootId, CommandId, EventId, ExecutionId, KeyId, ModuleName, NodeId, RequestId, TenantId},
        settings::{Clock, Sleep},
    };

    use super::*;
    use crate::tenant::executions::LOST_AT_ONCE;

    fn uuid() -> uuid::Uuid {
        uuid::Uuid::from_u128(u128::MAX)
    }

    /// What an event takes as JSON when everything about it is as long as it may be.
    fn longest(event: Event, by: Actor) -> usize {
        let cause = Cause {
            command: CommandId::new(uuid()),
            correlation: Some(RequestId::new(&"r".repeat(64)).unwrap()),
            actor: by,
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            idempotency: None,
        };
        let (tenant, revision) = (TenantId::new(&"t".repeat(40)).unwrap(), Revision::new(u64::from(u32::MAX)));
        let envelope = Envelope { id: EventId::new(uuid()), tenant, revision, time: latest(), cause, event };
        envelope::encode(&[envelope]).unwrap().len()
    }

    fn latest() -> Timestamp {
        Timestamp::from_unix_ms(4_102_444_799_999)
    }

    fn accepted() -> Event {
        let all = u64::from(u32::MAX) * 1_024;
        Event::ExecutionAccepted(Box::new(Accepted {
            execution_id: ExecutionId::new(uuid()),
            attempt: 1,
            module: ModuleRef {
                name: Some(ModuleName::new(&"m".repeat(63)).unwrap()),
                version: Some(u32::MAX),
                digest: Digest::of(b""),
            },
            key_id: KeyId::new(&"k".repeat(32)).unwrap(),
            stdin: Content { digest: Digest::of(b""), size_bytes: all },
            args: vec![],
            limits: Limits { wall_ms: all, memory_bytes: all, stdin_bytes: all, stdout_bytes: all, stderr_bytes: all },
            seed: Seed::new([0xff; 16]),
            start_time: latest(),
            engine: "e".repeat(64),
            node: NodeId::new(&"n".repeat(63)).unwrap(),
            boot: BootId::new(uuid()),
            bucket_full_at: Some(latest()),
            start_by: Some(latest()),
            rerun_of: Some(ExecutionId::new(uuid())),
            fuel: Some(u64::MAX),
            sleep: Sleep::Skip,
            clock: Clock::Host,
            // A module that came along has neither name nor version, which take more.
            uploaded_bytes: None,
        }))
    }

    #[test]
    fn the_fullest_batch_is_within_the_bounds_of_a_commit() {
        // An issuer's name of 32 characters and a subject of 128 bytes, as the gateway takes them.
        let subject = Actor::subject(&"i".repeat(32), &"s".repeat(128));
        let reason = "its node left its run without recording an end".into();
        let lost = Event::ExecutionLost(Lost { execution_id: ExecutionId::new(uuid()), attempt: 1, reason });
        let most = BATCH_EVENTS * longest(accepted(), subject)
            + BATCH_TEXT_BYTES
            + LOST_AT_ONCE * longest(lost, Actor::system());
        assert!(most <= MAX_BODY_BYTES, "{most}");
        const { assert!(BATCH_EVENTS + LOST_AT_ONCE <= MAX_EVENTS) };
    }
}
