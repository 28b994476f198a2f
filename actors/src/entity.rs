//! A live tenant: the one writer of its stream on this node.
//!
//! ```text
//! mailbox ─► waiting ─► decide in order ─► one commit ─► log        while an append is in flight, commands gather;
//!               ▲             │ state moves ahead          │        what gathered is the next commit
//!               └─────────────┴──── answers ◄──── ack ─────┘
//! ```
//! The state moves ahead of the log while a commit is in flight. That is safe because nobody hears of it before the
//! ack, and because an entity whose append fails never uses its state again: it stops, and the next one reads the log.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Semaphore;
use wasmwiz_events::{
    commit::Commit,
    envelope::Envelope,
    event::Event,
    id::{BootId, NodeId, TenantId},
    ledger::Head,
    log::{Append, AppendError, Appended, EventLog},
    payload,
    revision::{Epoch, Position},
    time::{Clock, Timestamp},
};

use crate::{
    aggregate::{Authority, Context},
    handle::{Answer, Ask, Decided, Origin, Pending},
    ids::Ids,
    json::escaped_size,
    limits::Policy,
    metrics,
    region::Live,
    tenant::{Command, Tenant, executions::LOST_AT_ONCE},
};

mod append;
mod rehydrate;

/// The most events that are decided into one commit before it is appended. One command gives at most [`LOST_AT_ONCE`] more, which stays within [`wasmwiz_events::commit::MAX_EVENTS`].
const BATCH_EVENTS: usize = 512;

/// The most bytes of variable length (arguments, names, messages) in one commit, well inside
/// [`wasmwiz_events::commit::MAX_BODY_BYTES`] beside the fixed part of 512 events.
const BATCH_TEXT_BYTES: usize = 256 * 1_024;

/// Everything an entity needs from its node.
pub(crate) struct World {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy: Policy,
    pub(crate) ids: Ids,
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    pub(crate) epoch: Epoch,
    pub(crate) passivate_after_ms: u64,
    pub(crate) wake_every_ms: u64,
    /// Bounds how many streams are folded at the same time.
    pub(crate) rehydrations: Arc<Semaphore>,
    pub(crate) live: Arc<Live>,
}

/// What an entity receives.
#[derive(Debug)]
pub(crate) enum Message {
    /// A command.
    Ask(Box<Pending>),
    /// The stream has been folded, or cannot be.
    Rehydrated(Result<Box<Rehydrated>, Arc<str>>),
    /// The commit in flight is durable, or not.
    Appended(Result<Appended, AppendError>),
    /// Time to look for executions past their deadline, and for idleness.
    Wake,
    /// Finish what is in flight and stop.
    Retire,
}

/// A folded stream.
#[derive(Debug)]
pub(crate) struct Rehydrated {
    pub(crate) tenant: Tenant,
    pub(crate) head: Head,
    pub(crate) position: Position,
}

/// The entity of one tenant.
pub(crate) struct Entity {
    id: TenantId,
    world: Arc<World>,
}

/// What a live entity holds.
pub(crate) struct State {
    phase: Phase,
    waiting: VecDeque<Pending>,
    last_asked: Timestamp,
}

impl State {
    /// Is nothing on its way to the log?
    const fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle(_))
    }
}

enum Phase {
    /// The stream is being folded; commands wait.
    Rehydrating,
    /// Ready to decide.
    Idle(Box<Rehydrated>),
    /// A commit is on its way.
    Appending(Box<Rehydrated>, InFlight),
    /// Everything that still comes belongs to the next entity.
    Retired,
}

struct InFlight {
    /// The end of the stream once the commit is durable.
    head: Head,
    decided: Vec<(Pending, Answer)>,
    /// Stop as soon as it is answered.
    retiring: bool,
}

impl Entity {
    pub(crate) const fn new(id: TenantId, world: Arc<World>) -> Self {
        Self { id, world }
    }
}

impl Actor for Entity {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Message>, (): ()) -> Result<State, ActorProcessingErr> {
        rehydrate::begin(self.id.clone(), Arc::clone(&self.world), myself.clone());
        myself.send_after(Duration::from_millis(self.world.wake_every_ms), || Message::Wake);
        Ok(State { phase: Phase::Rehydrating, waiting: VecDeque::new(), last_asked: self.world.clock.now() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ask(pending) => self.receive(*pending, state),
            Message::Rehydrated(folded) => self.rehydrated(folded, state),
            Message::Appended(result) => self.appended(result, state),
            Message::Wake => {
                self.wake(state);
                myself.send_after(Duration::from_millis(self.world.wake_every_ms), || Message::Wake);
            }
            Message::Retire => self.retire(state),
        }
        self.advance(&myself, state);
        if matches!(state.phase, Phase::Retired) {
            // Whoever still has the old handle must not find it; then what is in the mailbox is answered `Moved`.
            self.world.live.forget(myself.get_id());
            let _ = myself.drain();
        }
        Ok(())
    }
}

impl Entity {
    fn receive(&self, pending: Pending, state: &mut State) {
        if matches!(state.phase, Phase::Retired) {
            answer(pending, Answer::Moved);
            return;
        }
        state.last_asked = self.world.clock.now();
        state.waiting.push_back(pending);
    }

    fn rehydrated(&self, folded: Result<Box<Rehydrated>, Arc<str>>, state: &mut State) {
        if !matches!(state.phase, Phase::Rehydrating) {
            // It was told to retire meanwhile.
            return;
        }
        match folded {
            Ok(folded) => {
                // What an earlier life of this node accepted comes before anything new, and one sweep is bounded.
                for _ in 0..folded.tenant.executions().len().div_ceil(LOST_AT_ONCE) {
                    let reap = Command::Reap { node: self.world.node.clone(), boot: self.world.boot };
                    state.waiting.push_front(self.internal(reap));
                }
                state.phase = Phase::Idle(folded);
            }
            Err(reason) => self.stop(state, "rehydration", &Answer::Unavailable(reason)),
        }
    }

    /// Decides what waits, until a commit is in flight or nothing waits.
    fn advance(&self, myself: &ActorRef<Message>, state: &mut State) {
        while !state.waiting.is_empty() {
            let mut folded = match std::mem::replace(&mut state.phase, Phase::Rehydrating) {
                Phase::Idle(folded) => folded,
                busy => {
                    state.phase = busy;
                    return;
                }
            };
            let batch = self.decide(&mut folded.tenant, folded.head, &mut state.waiting);
            if batch.envelopes.is_empty() {
                // Nothing was decided ahead of the log, so the answers are already true.
                for (pending, given) in batch.decided {
                    answer(pending, placed(given, &folded.head, folded.position));
                }
                state.phase = Phase::Idle(folded);
                continue;
            }
            match self.seal(&folded.head, batch.now, batch.envelopes) {
                Ok(commit) => {
                    let head = commit.head();
                    let append = Append { commit, payloads: batch.payloads };
                    append::begin(Arc::clone(&self.world.log), append, myself.clone());
                    let in_flight = InFlight { head, decided: batch.decided, retiring: false };
                    state.phase = Phase::Appending(folded, in_flight);
                }
                Err(reason) => {
                    batch.decided.into_iter().for_each(|(pending, _)| {
                        answer(pending, Answer::Unavailable(Arc::clone(&reason)));
                    });
                    self.stop(state, "seal", &Answer::Moved);
                }
            }
        }
    }

    fn decide(&self, tenant: &mut Tenant, head: Head, waiting: &mut VecDeque<Pending>) -> Batch {
        let mut batch = Batch { now: self.world.clock.now(), ..Batch::default() };
        let (mut payload_bytes, mut text_bytes) = (0, 0);
        while let Some(next) = waiting.front() {
            let bytes: usize = next.ask.payloads.iter().map(|payload| payload.bytes().len()).sum();
            let text = text_size(&next.ask.command);
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
            let context = Context { now: batch.now, policy: &self.world.policy, by: &pending.ask.by };
            // The ask has served its purpose; its command moves into the decision.
            let decided = tenant.decide(std::mem::replace(&mut pending.ask.command, Command::Expire), &context);
            let given = match decided {
                Ok(events) => {
                    if !events.is_empty() {
                        payload_bytes += bytes;
                        batch.payloads.append(&mut pending.ask.payloads);
                    }
                    let cause = pending.ask.cause();
                    for event in &events {
                        tenant.apply(event);
                        batch.envelopes.push(Envelope {
                            id: self.world.ids.event(),
                            tenant: self.id.clone(),
                            revision: head.revision.plus(batch.envelopes.len() as u64 + 1),
                            time: batch.now,
                            cause: cause.clone(),
                            event: event.clone(),
                        });
                    }
                    let (revision, position) = (head.revision, Position::START);
                    Answer::Decided(Decided { events, time: batch.now, revision, position })
                }
                Err(refusal) => {
                    ::metrics::counter!(metrics::REFUSALS_TOTAL, "command" => command).increment(1);
                    Answer::Refused(refusal)
                }
            };
            batch.decided.push((pending, given));
        }
        batch
    }

    fn seal(&self, head: &Head, now: Timestamp, envelopes: Vec<Envelope>) -> Result<Commit, Arc<str>> {
        let commit_id = self.world.ids.commit();
        Commit::seal(head, self.id.clone(), commit_id, self.world.epoch, now, envelopes).map_err(|error| {
            tracing::error!(tenant.id = %self.id, %error, "a decision could not be sealed");
            Arc::from(error.to_string())
        })
    }

    fn appended(&self, result: Result<Appended, AppendError>, state: &mut State) {
        let (mut folded, in_flight) = match std::mem::replace(&mut state.phase, Phase::Retired) {
            Phase::Appending(folded, in_flight) => (folded, in_flight),
            other => {
                state.phase = other;
                return;
            }
        };
        match result {
            Ok(appended) => {
                folded.head = in_flight.head;
                folded.position = appended.position;
                ::metrics::histogram!(metrics::BATCH_COMMANDS).record(in_flight.decided.len() as f64);
                for (pending, given) in in_flight.decided {
                    answer(pending, placed(given, &folded.head, folded.position));
                }
                if in_flight.retiring {
                    self.stop(state, "retired", &Answer::Moved);
                } else {
                    state.phase = Phase::Idle(folded);
                }
            }
            Err(error) => {
                tracing::warn!(tenant.id = %self.id, %error, "an append was not accepted; the entity stops");
                let (reason, given) = match &error {
                    // Nothing was stored: whoever owns the tenant now can decide these commands afresh.
                    AppendError::Conflict { .. } => ("conflict", None),
                    AppendError::Fenced { .. } => ("fenced", None),
                    AppendError::Unchained(_) => ("unchained", None),
                    AppendError::TooLarge => ("too_large", Some(error.to_string())),
                    AppendError::Busy => ("busy", Some(error.to_string())),
                    AppendError::Unknown(_) => ("unknown", Some(error.to_string())),
                    AppendError::Poisoned(_) => ("poisoned", Some(error.to_string())),
                };
                let given: Option<Arc<str>> = given.map(Arc::from);
                for (pending, _) in in_flight.decided {
                    answer(pending, given.clone().map_or(Answer::Moved, Answer::Unavailable));
                }
                self.stop(state, reason, &Answer::Moved);
            }
        }
    }

    fn wake(&self, state: &mut State) {
        // A busy tenant goes from one append to the next: its overdue executions are looked for meanwhile.
        let (Phase::Idle(folded) | Phase::Appending(folded, _)) = &state.phase else { return };
        let now = self.world.clock.now();
        let grace_ms = self.world.policy.lost_grace_ms;
        let overdue = folded.tenant.executions().next_deadline().is_some_and(|at| at.plus_ms(grace_ms) <= now);
        // One is enough: while an append takes long, the next look finds the same ones.
        if overdue && !state.waiting.iter().any(|pending| matches!(pending.ask.command, Command::Expire)) {
            state.waiting.push_back(self.internal(Command::Expire));
        }
        let idle = now.ms_since(state.last_asked) >= self.world.passivate_after_ms && state.is_idle();
        if idle && state.waiting.is_empty() && folded.tenant.executions().is_empty() {
            self.stop(state, "idle", &Answer::Moved);
        }
    }

    fn retire(&self, state: &mut State) {
        if let Phase::Appending(_, in_flight) = &mut state.phase {
            in_flight.retiring = true;
        } else {
            self.stop(state, "retired", &Answer::Moved);
        }
    }

    /// Answers what waits, and never decides again.
    fn stop(&self, state: &mut State, reason: &'static str, given: &Answer) {
        tracing::debug!(tenant.id = %self.id, reason, "the entity stops");
        ::metrics::counter!(metrics::ENTITY_STOPS_TOTAL, "reason" => reason).increment(1);
        for pending in state.waiting.drain(..) {
            let given = match given {
                Answer::Unavailable(reason) => Answer::Unavailable(Arc::clone(reason)),
                Answer::Decided(_) | Answer::Refused(_) | Answer::Moved => Answer::Moved,
            };
            answer(pending, given);
        }
        state.phase = Phase::Retired;
    }

    fn internal(&self, command: Command) -> Pending {
        let origin = Origin::internal(self.world.ids.command());
        let ask = Ask { command, by: Authority::System, origin, payloads: vec![] };
        Pending { ask, reply: None, permit: None }
    }
}

#[derive(Default)]
struct Batch {
    now: Timestamp,
    envelopes: Vec<Envelope>,
    payloads: Vec<payload::Payload>,
    decided: Vec<(Pending, Answer)>,
}

/// The same answer, now that it is known where the log has it.
fn placed(given: Answer, head: &Head, position: Position) -> Answer {
    match given {
        Answer::Decided(decided) => Answer::Decided(Decided { revision: head.revision, position, ..decided }),
        Answer::Refused(_) | Answer::Moved | Answer::Unavailable(_) => given,
    }
}

fn answer(pending: Pending, given: Answer) {
    if let Answer::Decided(decided) = &given {
        let lost = decided.events.iter().filter(|event| matches!(event, Event::ExecutionLost(_))).count();
        if lost > 0 {
            ::metrics::counter!(metrics::LOST_TOTAL).increment(lost as u64);
        }
    }
    if let Some(reply) = pending.reply {
        // Whoever asked may have gone; what was decided stands.
        let _ = reply.send(given);
    }
    drop(pending.permit);
}

/// Bytes that the command's events will hold beside their fixed part, as JSON writes them.
fn text_size(command: &Command) -> usize {
    let all = |texts: &[String]| texts.iter().map(|text| escaped_size(text)).sum();
    match command {
        Command::PublishModule { imports, exports, .. } => all(imports) + all(exports),
        Command::Execute(execute) => all(&execute.args),
        Command::Finish(finished) => finished.message.as_deref().map_or(0, escaped_size),
        Command::Suspend { reason } => reason.as_deref().map_or(0, escaped_size),
        Command::RejectModule { reason, .. } => escaped_size(reason),
        Command::Register { .. }
        | Command::Change { .. }
        | Command::Resume
        | Command::IssueKey(_)
        | Command::RevokeKey { .. }
        | Command::DeleteModule { .. }
        | Command::Preview(_)
        | Command::Authorise(_)
        | Command::Reap { .. }
        | Command::Expire => 0,
    }
}
