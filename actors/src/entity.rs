//! A live tenant: the one writer of its stream on this node.
//!
//! ```text
//! mailbox ─► waiting ─► decide in order ─► one commit ─► log        while an append is in flight, commands gather;
//!               ▲             │ state moves ahead          │        what gathered is the next commit (see `flight`)
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
    id::{CommitId, TenantId},
    ledger::Head,
    log::{Append, AppendError, EventLog},
    revision::{Epoch, Position, Revision},
    shard::Shard,
    time::{Clock, Steady, Timestamp},
};

use crate::{
    aggregate::Authority,
    handle::{Answer, Ask, Origin, Pending, Unreadable},
    ids::Ids,
    limits::Policy,
    metrics,
    queue::{Item, Queue},
    region::{Live, Shards},
    tenant::{Command, Tenant, executions::LOST_AT_ONCE},
};

use answers::{again, answer, placed, waits};
use flight::{Flight, Offered, Said};
pub(crate) use keep::Kept;

mod answers;
mod append;
mod batch;
mod behind;
mod flight;
mod keep;
mod places;
mod rehydrate;
mod skips;
mod stop;

pub(crate) use places::Places;
pub(crate) use skips::Skips;

/// Everything an entity needs from its node.
pub(crate) struct World {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy: Policy,
    pub(crate) ids: Ids,
    pub(crate) shards: Arc<Shards>,
    pub(crate) passivate_after_ms: u64,
    pub(crate) wake_every_ms: u64,
    pub(crate) offer_within_ms: u64,
    /// Bounds how many streams are folded at the same time.
    pub(crate) rehydrations: Arc<Semaphore>,
    /// Bounds how many ends of streams are looked at at the same time.
    pub(crate) looks: Semaphore,
    pub(crate) live: Arc<Live>,
    /// Where asynchronous executions are offered to be run.
    pub(crate) queue: Queue,
    pub(crate) kept: Kept,
    /// What operators have let be passed over.
    pub(crate) skips: Skips,
}

/// What an entity receives.
#[derive(Debug)]
pub(crate) enum Message {
    /// A command.
    Ask(Box<Pending>),
    /// The stream has been folded, or cannot be.
    Rehydrated(Result<Box<Rehydrated>, Arc<str>>),
    /// A commit in flight is durable, or not.
    Appended(CommitId, Said),
    /// Time to look for executions past their deadline, and for idleness.
    Wake,
    /// The same, out of turn.
    Look,
    /// The stream ended here when it was looked at: another owner may have written what this entity has not read. `None`: the log
    /// did not say.
    Seen(Option<Head>),
    /// Finish what is in flight and stop.
    Retire,
}

/// A folded stream.
#[derive(Debug)]
pub(crate) struct Rehydrated {
    pub(crate) tenant: Tenant,
    pub(crate) head: Head,
    pub(crate) position: Position,
    pub(crate) places: Places,
    /// Up to where the state is kept in a snapshot, or on its way there.
    pub(crate) kept: Revision,
    /// Is there an event in its past whose meaning this version does not know, or that was passed over?
    pub(crate) has_unknown: bool,
}

/// The entity of one tenant.
pub(crate) struct Entity {
    id: TenantId,
    shard: Shard,
    /// The epoch in which this node owned the shard when the entity was woken: that of its commits.
    epoch: Epoch,
    world: Arc<World>,
    unreadable: Unreadable,
}

/// What a live entity holds.
pub(crate) struct State {
    phase: Phase,
    waiting: VecDeque<Pending>,
    last_asked: Steady,
    /// Has it written in its epoch? From then on the log refuses what an owner of before still has under way.
    has_written: bool,
    /// Is the end of the stream being looked at?
    is_looking: bool,
    /// Has it read the stream at least once? Then it may have open what nobody else looks at, and reads it again until it can.
    was_awake: bool,
    /// Since when it lives.
    woken: Steady,
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
    /// The stream has gone on and could not be read. It is read again at the next wake or command.
    Unread,
    /// Ready to decide.
    Idle(Box<Rehydrated>),
    /// Commits are on their way.
    Appending(Box<Rehydrated>, Flight),
    /// Everything that still comes belongs to the next entity.
    Retired,
}

impl Entity {
    pub(crate) const fn new(
        id: TenantId,
        (shard, epoch): (Shard, Epoch),
        world: Arc<World>,
        unreadable: Unreadable,
    ) -> Self {
        Self { id, shard, epoch, world, unreadable }
    }
}

impl Actor for Entity {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Message>, (): ()) -> Result<State, ActorProcessingErr> {
        rehydrate::begin(self.id.clone(), Arc::clone(&self.world), myself.clone());
        myself.send_after(self.first_wake(), || Message::Wake);
        let woken = self.world.clock.steady();
        Ok(State {
            phase: Phase::Rehydrating,
            waiting: VecDeque::new(),
            last_asked: woken,
            has_written: false,
            is_looking: false,
            was_awake: false,
            woken,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ask(pending) => self.receive(*pending, &myself, state),
            Message::Rehydrated(folded) => self.rehydrated(folded, state),
            Message::Appended(commit_id, said) => self.appended(commit_id, said, state),
            Message::Wake => {
                self.wake(&myself, state);
                self.look_until_written(&myself, state);
                myself.send_after(Duration::from_millis(self.world.wake_every_ms), || Message::Wake);
            }
            Message::Look => self.wake(&myself, state),
            Message::Seen(end) => {
                state.is_looking = false;
                if let Some(end) = end {
                    self.seen(end, &myself, state);
                }
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
    fn receive(&self, pending: Pending, myself: &ActorRef<Message>, state: &mut State) {
        if matches!(state.phase, Phase::Retired) {
            answer(pending, Answer::Moved);
            return;
        }
        state.last_asked = self.world.clock.steady();
        state.waiting.push_back(pending);
        if matches!(state.phase, Phase::Unread) {
            self.read_again(myself, state);
        }
    }

    fn rehydrated(&self, folded: Result<Box<Rehydrated>, Arc<str>>, state: &mut State) {
        if !matches!(state.phase, Phase::Rehydrating) {
            // It was told to retire meanwhile.
            return;
        }
        match folded {
            Ok(folded) if folded.head.epoch > self.epoch => self.stop_fenced(state),
            Ok(mut folded) => {
                // A long past is read once.
                self.world.kept.while_awake(&mut folded, self.world.clock.moment());
                // What a life that has ended accepted comes before anything new, and one sweep is bounded.
                for _ in 0..folded.tenant.executions().len().div_ceil(LOST_AT_ONCE) {
                    state.waiting.push_front(self.internal(Command::Reap));
                }
                self.offer_waiting(&folded);
                state.phase = Phase::Idle(folded);
                state.was_awake = true;
            }
            Err(reason) if state.was_awake => self.not_read_again(&reason, state),
            Err(reason) => {
                // Who asks this moment may find the entity stopped already.
                self.unreadable.set(Arc::clone(&reason));
                self.stop(state, "rehydration", &Answer::Unavailable(reason));
            }
        }
    }

    /// Decides what waits, until as much is in flight as may be or nothing waits.
    fn advance(&self, myself: &ActorRef<Message>, state: &mut State) {
        while !state.waiting.is_empty() {
            let (mut folded, mut flight) = match std::mem::replace(&mut state.phase, Phase::Rehydrating) {
                Phase::Idle(folded) => (folded, Flight::default()),
                Phase::Appending(folded, flight)
                    if flight.takes_another(state.waiting.len())
                        && self.world.log.keeps_order()
                        // It stands where the log does when nothing is in flight, and is kept then.
                        && !self.world.kept.is_overdue(&folded) =>
                {
                    (folded, flight)
                }
                busy => {
                    state.phase = busy;
                    return;
                }
            };
            let head = flight.head().unwrap_or(folded.head);
            let batch = self.decide(&mut folded.tenant, head, &mut state.waiting);
            if batch.envelopes.is_empty() {
                if flight.is_empty()
                    && batch.decided.iter().any(|(pending, given)| behind::finds_nothing(pending, given))
                {
                    self.look_for_more(myself, state);
                }
                // With nothing decided ahead of the log the answers are already true.
                for (pending, given) in flight.join(batch.decided) {
                    answer(pending, placed(given, &folded.head, folded.position));
                }
                state.phase = if flight.is_empty() { Phase::Idle(folded) } else { Phase::Appending(folded, flight) };
                continue;
            }
            match self.seal(&head, batch.now.wall, batch.envelopes) {
                Ok(commit) => {
                    let (commit_id, head) = (commit.header().commit_id, commit.head());
                    let append = Append { commit, payloads: batch.payloads };
                    let span = append::span(&batch.decided);
                    let begun = self.offer(append, &flight, myself);
                    flight.push(Offered { commit_id, head, decided: batch.decided, begun, _span: span });
                    state.phase = Phase::Appending(folded, flight);
                }
                Err(reason) => {
                    let these = batch.decided.into_iter().map(|(pending, _)| pending);
                    // What becomes of the commits in flight, nobody here will hear any more.
                    these.chain(flight.into_decided()).for_each(|pending| {
                        answer(pending, Answer::Unavailable(Arc::clone(&reason)));
                    });
                    self.stop(state, "seal", &Answer::Moved);
                }
            }
        }
    }

    /// Begins to offer a commit to the log, behind those that are in flight.
    fn offer(&self, append: Append, flight: &Flight, myself: &ActorRef<Message>) -> append::Begun {
        let (world, shard, epoch) = (Arc::clone(&self.world), self.shard, self.epoch);
        let (log, within) = (Arc::clone(&world.log), Duration::from_millis(world.offer_within_ms));
        let is_ours = move || world.shards.here(shard) == Some(epoch);
        append::begin(log, append, myself.clone(), append::Terms { within, is_ours, behind: flight.last_settled() })
    }

    fn seal(&self, head: &Head, now: Timestamp, envelopes: Vec<Envelope>) -> Result<Commit, Arc<str>> {
        let commit_id = self.world.ids.commit();
        Commit::seal(head, self.id.clone(), commit_id, self.epoch, now, envelopes).map_err(|error| {
            tracing::error!(tenant.id = %self.id, %error, "a decision could not be sealed");
            Arc::from(error.to_string())
        })
    }

    fn appended(&self, commit_id: CommitId, said: Said, state: &mut State) {
        let (mut folded, mut flight) = match std::mem::replace(&mut state.phase, Phase::Retired) {
            Phase::Appending(folded, flight) => (folded, flight),
            other => {
                state.phase = other;
                return;
            }
        };
        flight.note(commit_id, said);
        while let Some((offered, said)) = flight.next_settled() {
            match said {
                Ok(appended) => {
                    state.has_written = true;
                    folded.head = offered.head;
                    folded.position = appended.position;
                    ::metrics::histogram!(metrics::BATCH_COMMANDS).record(offered.decided.len() as f64);
                    self.offer_accepted(&mut folded, &offered.decided);
                    for (pending, given) in offered.decided {
                        answer(pending, placed(given, &folded.head, folded.position));
                    }
                }
                // What was decided on top of it cannot be stored either.
                Err(error) => return self.not_appended(&error, offered, flight, state),
            }
        }
        if !flight.is_empty() {
            state.phase = Phase::Appending(folded, flight);
        } else if flight.retiring {
            self.world.kept.at_rest(&mut folded, self.world.clock.moment());
            self.stop(state, "retired", &Answer::Moved);
        } else {
            self.world.kept.while_awake(&mut folded, self.world.clock.moment());
            state.phase = Phase::Idle(folded);
        }
    }

    fn not_appended(&self, error: &AppendError, offered: Offered, flight: Flight, state: &mut State) {
        tracing::warn!(tenant.id = %self.id, %error, "an append was not accepted; the entity stops");
        let unknown = || Answer::Unavailable(error.to_string().into());
        let (reason, given) = match error {
            // Nothing was stored: whoever owns the tenant now can decide these commands afresh.
            AppendError::Conflict { epoch, .. } if *epoch < self.epoch => {
                ::metrics::counter!(metrics::OVERTAKEN_TOTAL).increment(1);
                ("overtaken", Answer::Moved)
            }
            AppendError::Conflict { .. } => ("conflict", Answer::Moved),
            AppendError::Fenced { .. } => ("fenced", Answer::NotHere),
            AppendError::Unchained(_) => ("unchained", Answer::Moved),
            AppendError::TooLarge => ("too_large", unknown()),
            AppendError::Busy => ("busy", unknown()),
            AppendError::Unknown(_) => ("unknown", unknown()),
            AppendError::Poisoned(_) => ("poisoned", unknown()),
        };
        for (pending, _) in offered.decided {
            answer(pending, again(&given));
        }
        // A commit that is too large was never stored, so what was decided on top of it can be decided afresh.
        let on_top = if matches!(error, AppendError::TooLarge) { Answer::Moved } else { given };
        for pending in flight.into_decided() {
            answer(pending, again(&on_top));
        }
        if let AppendError::Fenced { current, .. } = error {
            self.world.shards.ownership().is_outdated(self.shard, *current);
            self.stop_fenced(state);
        } else {
            self.stop(state, reason, &Answer::Moved);
        }
    }

    fn wake(&self, myself: &ActorRef<Message>, state: &mut State) {
        if self.world.shards.here(self.shard) != Some(self.epoch) {
            return self.retire(state);
        }
        if matches!(state.phase, Phase::Unread) {
            return self.read_again(myself, state);
        }
        if matches!(state.phase, Phase::Rehydrating) {
            if state.was_awake {
                // It may have executions open, which nobody else looks at.
                return;
            }
            // Who asked was told long ago that it takes too long; as long as others still come, they will find it.
            let asked_ms = self.world.clock.steady().ms_since(state.last_asked);
            if asked_ms >= self.world.passivate_after_ms && state.waiting.iter().all(Pending::is_abandoned) {
                self.stop(state, "abandoned", &Answer::Moved);
            }
            return;
        }
        // A busy tenant goes from one append to the next: its overdue executions are looked for meanwhile.
        let (Phase::Idle(folded) | Phase::Appending(folded, _)) = &state.phase else { return };
        // What could not be taken before, or was put back.
        self.offer_waiting(folded);
        let now = self.world.clock.steady();
        let grace_ms = self.world.policy.lost_grace_ms;
        // The life of a node may have ended since.
        if !self.world.shards.ended(&folded.tenant).is_empty() && !waits(state, &Command::Reap) {
            state.waiting.push_back(self.internal(Command::Reap));
        }
        let overdue = folded.tenant.executions().next_overdue(grace_ms).is_some_and(|at| at <= now);
        // One is enough: while an append takes long, the next look finds the same ones.
        if overdue && !waits(state, &Command::Expire) {
            state.waiting.push_back(self.internal(Command::Expire));
        }
        let idle = now.ms_since(state.last_asked) >= self.world.passivate_after_ms && state.is_idle();
        if idle && state.waiting.is_empty() && folded.tenant.executions().is_empty() {
            self.leave(state, "idle");
        }
    }

    /// Offers everything that is to be run. What is in the queue already stays where it is.
    fn offer_waiting(&self, folded: &Rehydrated) {
        let ended = self.world.shards.ended(&folded.tenant);
        for id in folded.tenant.executions().waiting(&ended) {
            // Without a place it is not durable yet.
            if let Some(at) = folded.places.of(id) {
                self.world.queue.offer(&self.id, Item { id, at });
            }
        }
    }

    /// Takes note of a commit that has become durable, and offers what it accepted to be run later.
    fn offer_accepted(&self, folded: &mut Rehydrated, decided: &[(Pending, Answer)]) {
        let at = folded.position;
        let events = || {
            let all = decided.iter().filter_map(|(_, given)| match given {
                Answer::Decided(decided) => Some(&decided.events),
                Answer::Refused(_) | Answer::Moved | Answer::NotHere | Answer::Unavailable(_) => None,
            });
            all.flatten()
        };
        for ended in events().filter_map(|event| folded.places.note(event, at)) {
            // It may have ended without its turn; then it holds nobody up, and nobody's room.
            self.world.queue.withdraw(&self.id, ended);
        }
        for event in events() {
            // It may have been cancelled within the same commit: then it has no place any more.
            if let Event::ExecutionAccepted(accepted) = event
                && folded.places.of(accepted.execution_id).is_some()
            {
                self.world.queue.offer(&self.id, Item { id: accepted.execution_id, at });
            }
        }
    }

    fn internal(&self, command: Command) -> Pending {
        let origin = Origin::internal(self.world.ids.command());
        let ask = Ask { command, by: Authority::System, origin, payloads: vec![] };
        Pending { ask, reply: None, permit: None, ahead: None, span: tracing::Span::none() }
    }
}
