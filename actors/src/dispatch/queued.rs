//! Asynchronous executions: accepted now, run when their turn comes, by this life of the node or a later one.
//!
//! ```text
//! lane of a tenant:  next in line ─► a place among those that run, room for its input, a slot ─► Start (durable)
//!                                                                                                ─► guest ─► Finish
//! ```
//! A lane begins one execution after the other and does not wait for their ends. Everything that a run needs is read back
//! from the log, also in the life that accepted it: there is one way, and it is the one that a restart takes.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;
use tracing::Instrument as _;
use wasmwiz_events::{
    event::Event,
    execution::{Accepted, Content, Outcome},
    id::TenantId,
    log::{ReadError, ReadLimit},
    revision::{Position, Revision},
    time::Timestamp,
};

use super::{
    DispatchError, Request, Shared, ending::Enqueued, finish::Began, run::Admitted, runs::Run, unended::Unended,
};
use crate::{
    aggregate::Authority,
    executor::{Ran, Slot, budget::Account, places},
    handle::{Ask, AskError, Decided, Origin},
    queue::{Item, Place, Queue},
    tenant::{Command, Refusal},
    trace,
};

/// How long a lane leaves its tenant alone that may not begin another execution now, unless one of its own ends before.
const BLOCKED_PAUSE: Duration = Duration::from_millis(250);

/// The first pause after something was in the way; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest of those.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often a tenant is asked to see to an execution of which it is not known whether it was accepted.
const NUDGES: u32 = 60;

/// The first of these, in which "there is no such execution" is not believed: some 30 seconds, with the pauses in between.
/// A commit that was offered to a log elsewhere may be stored long after nobody waits for it any more.
const LATE_COMMITS: u32 = 12;

/// How long one waits for room for its input before it lets others have the place that it holds meanwhile. It keeps its
/// turn in the line for the room.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// How long it waits in that line before it begins there again: as long as it takes, but for a bound.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(3_600);

/// How often the input of an execution is asked for: some 20 seconds, with the pauses in between.
const INPUT_TRIES: u32 = 10;

/// An asynchronous execution that is accepted.
#[derive(Debug, Clone)]
pub struct Queued {
    /// What was accepted.
    pub accepted: Box<Accepted>,
    /// When.
    pub accepted_at: Timestamp,
    /// Position of the commit that accepted it.
    pub position: Position,
    /// Position of the commit that holds its end, if that came while it was waited for.
    pub ended: Option<Position>,
}

/// Begins a lane for every tenant that has something to run, until the queue is closed.
pub(super) async fn conduct(shared: Weak<Shared>, queue: Queue) {
    while let Some(tenant) = queue.next_lane().await {
        let (shared, queue) = (Weak::clone(&shared), queue.clone());
        tokio::spawn(async move {
            let lane = Lane { tenant, queue, ended: Arc::default() };
            while let Some(item) = lane.queue.pop(&lane.tenant) {
                let Some(shared) = shared.upgrade() else { return };
                shared.begin(&lane, item).await;
            }
        });
    }
}

/// The line of one tenant, while somebody works on it.
struct Lane {
    tenant: TenantId,
    queue: Queue,
    /// Told whenever one of its executions ends.
    ended: Arc<Notify>,
}

/// Everything that has to be there before an attempt begins.
struct Turn {
    slot: Slot,
    _running: places::Place,
    /// For its input, which the guest may keep: held until its end is recorded.
    _room: Arc<Account>,
}

/// What became of the wish to begin an attempt.
enum Attempt {
    /// It is durable.
    Begun {
        number: u32,
        /// The stream's revision then: its end comes after it.
        after: Revision,
    },
    /// The execution has ended instead, in the commit at this position.
    Ended(Position),
    /// It has ended before, or runs: nothing is to be done.
    Settled,
    /// As many run as the tenant may.
    Full,
    /// The tenant may not act now.
    Suspended,
    /// Nothing was decided, or nobody knows.
    Unknown,
}

/// An execution whose attempt is durable.
struct Begun {
    began: Began,
    at: Position,
    run: Arc<Run>,
    turn: Turn,
    /// The last: whoever is told that it is over may offer it again.
    _place: Place,
}

impl Shared {
    pub(super) async fn enqueue(self: Arc<Self>, request: Request) -> Result<Enqueued, DispatchError> {
        let tenant = request.tenant.clone();
        let admitted = self.admit(request).await;
        if let Err(DispatchError::Ask(AskError::Unavailable { .. })) = &admitted {
            // It may be in the log all the same, and then it is to be run: its tenant looks when it is asked something.
            self.see_to(&tenant, Command::Expire);
        }
        // Its bytes are let go of here: they are read back when its turn comes.
        admitted.map(|Admitted { began, position, run }| {
            let Began { tenant, accepted, at: accepted_at, revision: after, .. } = began;
            Enqueued { queued: Queued { accepted, accepted_at, position, ended: None }, tenant, run, after }
        })
    }

    /// Gives a command until it is decided, in whatever way.
    pub(super) async fn nudge(self: Arc<Self>, tenant: TenantId, command: Command) {
        let mut pause = FIRST_PAUSE;
        for nudge in 0..NUDGES {
            tokio::time::sleep(pause).await;
            match self.ask_system(&tenant, command.clone(), None).await {
                Err(AskError::Refused(Refusal::ExecutionNotOpen)) if nudge < LATE_COMMITS => {}
                // Nor that there is nothing to see to.
                Ok(decided) if decided.events.is_empty() && nudge < LATE_COMMITS => {}
                Ok(_) | Err(AskError::Refused(_)) => return,
                Err(AskError::Busy { .. } | AskError::Unavailable { .. }) => {}
            }
            pause = longer(pause);
        }
    }

    /// Begins one execution as soon as it may, and leaves it to a task of its own.
    async fn begin(self: Arc<Self>, lane: &Lane, item: Item) {
        let place = lane.queue.place(item.id);
        let run = self.runs.of(item.id);
        let Some(Ok(Some(mut began))) = lane.queue.while_open(self.accepted_at(&lane.tenant, item)).await else {
            // What cannot be read now is offered again when its entity wakes.
            return;
        };
        let (mut pause, mut is_unknown) = (FIRST_PAUSE, false);
        loop {
            let Some(Some(turn)) = lane.queue.while_open(self.turn(&lane.tenant, &began.accepted)).await else {
                return;
            };
            // A node that stops waits for it from here on: what is begun now costs an attempt if it does not end.
            let under_way = self.under_way.token();
            if lane.queue.is_closed() {
                return;
            }
            match self.attempt(&began, is_unknown).await {
                Attempt::Begun { number, after } => {
                    (began.accepted.attempt, began.revision) = (number, after);
                    let begun = Begun { began, at: item.at, run, turn, _place: place };
                    let (shared, ended) = (Arc::clone(&self), Arc::clone(&lane.ended));
                    // It goes on with the trace of the request that was answered long ago.
                    let traced = tracing::debug_span!(target: trace::TARGET, "execution", attempt = number);
                    trace::adopt(&traced, begun.began.origin.traceparent.as_deref());
                    self.under_way.spawn(async move {
                        shared.run_begun(begun).instrument(traced).await;
                        ended.notify_one();
                    });
                    return;
                }
                Attempt::Ended(at) => return run.end(at),
                Attempt::Settled => return,
                Attempt::Full => {
                    drop((turn, under_way));
                    let waited = tokio::time::timeout(BLOCKED_PAUSE, lane.ended.notified());
                    if lane.queue.while_open(waited).await.is_none() {
                        return;
                    }
                }
                later @ (Attempt::Suspended | Attempt::Unknown) => {
                    is_unknown |= matches!(later, Attempt::Unknown);
                    drop((turn, under_way));
                    if lane.queue.while_open(tokio::time::sleep(pause)).await.is_none() {
                        return;
                    }
                    pause = longer(pause);
                }
            }
        }
    }

    /// Room on the disk, a place among the asynchronous ones that run, room for its input, and a slot. Waits for them as
    /// long as it takes.
    async fn turn(&self, tenant: &TenantId, accepted: &Accepted) -> Option<Turn> {
        let whose = Some(tenant.clone());
        // One that is larger than all that a tenant may have gets that, and runs all the same.
        let line_up = || self.input.reserve(whose.clone(), accepted.stdin.size_bytes, ROOM_WAIT_MAX);
        let mut in_line = std::pin::pin!(line_up());
        loop {
            let is_too_late = self.until_space(accepted.start_by).await;
            let running = self.running.acquire(&whose).await?;
            let Ok(given) = tokio::time::timeout(ROOM_WAIT, in_line.as_mut()).await else { continue };
            // That one has come to its end, with or without room.
            in_line.set(line_up());
            let Ok(room) = given else { continue };
            match self.deps.executors.reserve_for(tenant).await {
                // The disk may have become low while it waited for the others.
                Ok(_) if !is_too_late && self.require_space().is_err() => {}
                Ok(slot) => return Some(Turn { slot, _running: running, _room: room }),
                // It may be that its tenant alone has as many as it may: others need what it holds here.
                Err(busy) => {
                    drop((running, room));
                    tokio::time::sleep(Duration::from_millis(busy.retry_after_ms.min(250))).await;
                }
            }
        }
    }

    /// Waits until the disk has room for an execution, or until this one may not begin any more, which it says: that is an end,
    /// and an end is always written.
    async fn until_space(&self, start_by: Option<Timestamp>) -> bool {
        let room = self.deps.space.until_plenty();
        let Some(start_by) = start_by else {
            room.await;
            return false;
        };
        let left = Duration::from_millis(start_by.ms_since(self.deps.bus.region().now()));
        tokio::time::timeout(left, room).await.is_err()
    }

    /// Asks for the next attempt. `is_unknown`: an answer to that was lost before.
    async fn attempt(&self, began: &Began, is_unknown: bool) -> Attempt {
        match self.start(began).await {
            Ok(decided) => match decided.events.first() {
                Some(Event::ExecutionStarted(started)) => {
                    Attempt::Begun { number: started.attempt, after: decided.revision }
                }
                // It was too late for it, or it was tried too often.
                _ => Attempt::Ended(decided.position),
            },
            Err(AskError::Refused(Refusal::TooManyConcurrent { .. })) => Attempt::Full,
            Err(AskError::Refused(Refusal::Suspended)) => Attempt::Suspended,
            // Nobody else of this life begins it: it is the attempt whose answer was lost, and nobody runs it yet.
            Err(AskError::Refused(Refusal::ExecutionStarted)) if is_unknown => match self.begun_before(began).await {
                Ok(Some(begun)) => begun,
                Ok(None) => Attempt::Settled,
                Err(error) => {
                    tracing::warn!(execution.id = %began.accepted.execution_id, %error, "its attempt cannot be read");
                    Attempt::Unknown
                }
            },
            Err(AskError::Refused(_)) => Attempt::Settled,
            Err(AskError::Busy { .. } | AskError::Unavailable { .. }) => Attempt::Unknown,
        }
    }

    /// The attempt that this life of the node has begun, as the log has it.
    async fn begun_before(&self, began: &Began) -> Result<Option<Attempt>, ReadError> {
        let (id, boot) = (began.accepted.execution_id, self.deps.boot);
        let mut from = began.revision.next();
        loop {
            let commits = self.deps.log.read_stream(&began.tenant, from, ReadLimit::default()).await?;
            let Some(last) = commits.last() else { return Ok(None) };
            from = last.commit.last_revision().next();
            for recorded in &commits {
                let Ok(events) = recorded.commit.events() else { continue };
                let begun = events.iter().find_map(|envelope| match &envelope.event {
                    Event::ExecutionStarted(started) if started.execution_id == id && started.boot == boot => {
                        Some(Attempt::Begun { number: started.attempt, after: envelope.revision })
                    }
                    _ => None,
                });
                if begun.is_some() {
                    return Ok(begun);
                }
            }
        }
    }

    async fn start(&self, began: &Began) -> Result<Decided, AskError> {
        let (execution_id, node, boot) = (began.accepted.execution_id, self.deps.node.clone(), self.deps.boot);
        self.ask_system(&began.tenant, Command::Start { execution_id, node, boot }, Some(&began.origin)).await
    }

    async fn ask_system(
        &self,
        tenant: &TenantId,
        command: Command,
        origin: Option<&Origin>,
    ) -> Result<Decided, AskError> {
        let id = self.ids.command();
        let origin = origin.map_or_else(|| Origin::internal(id), |origin| Origin { command: id, ..origin.clone() });
        self.deps.bus.ask(tenant, Ask { command, by: Authority::System, origin, payloads: vec![] }).await
    }

    async fn run_begun(self: &Arc<Self>, begun: Begun) {
        let Begun { began, at, run, turn, _place } = begun;
        let Turn { slot, _running, _room } = turn;
        let id = began.accepted.execution_id;
        let unended = Unended::new(Arc::clone(self), began.tenant.clone(), id);
        unended.may_be_open();
        let ran = match self.input_in_time(at, began.accepted.stdin).await {
            Ok(input) => self.run_guest(slot, None, &began, &run, input).await,
            Err(error) => {
                tracing::error!(execution.id = %id, %error, "the input of an execution cannot be read");
                Ran::failed("the host could not read its input".to_owned())
            }
        };
        tracing::debug!(execution.id = %id, outcome = ran.outcome.as_str(), "an asynchronous execution ran");
        if ran.outcome == Outcome::Failed && run.is_cut_off() {
            // It outlives this life of the node: the next one begins another attempt.
            tracing::info!(execution.id = %id, "an asynchronous execution was cut off; it is begun again by the next start");
            return unended.is_settled();
        }
        let finishing = tracing::debug_span!(target: trace::TARGET, "finish");
        match self.finish(began, ran, || ()).instrument(finishing).await {
            Ok(done) => {
                unended.is_settled();
                run.end(done.position);
            }
            Err(error) => tracing::error!(%error, "the end of an asynchronous execution could not be recorded"),
        }
    }

    /// The recorded input of an execution. A log that does not answer is asked again for a while.
    async fn input_in_time(&self, at: Position, input: Content) -> Result<Bytes, DispatchError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..INPUT_TRIES {
            match self.recorded(at, input, "standard input").await {
                Err(DispatchError::Ask(AskError::Unavailable { .. })) => tokio::time::sleep(pause).await,
                read => return read,
            }
            pause = longer(pause);
        }
        self.recorded(at, input, "standard input").await
    }

    /// What the commit at the item's place says of it; `None` when it says nothing.
    async fn accepted_at(&self, tenant: &TenantId, item: Item) -> Result<Option<Began>, ReadError> {
        let read = self.deps.log.read_at(item.at).await;
        let recorded = read.inspect_err(|error| tracing::warn!(execution.id = %item.id, %error, "cannot be read"))?;
        let Some(recorded) = recorded else { return Ok(None) };
        let Ok(events) = recorded.commit.events() else { return Ok(None) };
        let revision = recorded.commit.last_revision();
        Ok(events.iter().find_map(|envelope| match &envelope.event {
            Event::ExecutionAccepted(accepted) if accepted.execution_id == item.id => Some(Began {
                tenant: tenant.clone(),
                origin: Origin {
                    command: envelope.cause.command,
                    correlation: envelope.cause.correlation.clone(),
                    traceparent: envelope.cause.traceparent.clone(),
                    once: None,
                    expected: None,
                },
                accepted: accepted.clone(),
                at: envelope.time,
                revision,
            }),
            _ => None,
        }))
    }
}

fn longer(pause: Duration) -> Duration {
    pause.saturating_mul(2).min(LONGEST_PAUSE)
}
