//! The way in to an entity: a bounded handle that refuses instead of queueing without end.
//!
//! ractor's mailboxes are unbounded by design, so the bound is here: a permit is taken before a command enters the
//! mailbox and given back when it is answered.

use std::sync::{Arc, OnceLock};

use ractor::{ActorId, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wasmwiz_events::{
    envelope::Cause,
    event::Event,
    id::{CommandId, RequestId},
    idempotency::Idempotency,
    payload::Payload,
    revision::{Epoch, Position, Revision},
    shard::Shard,
    time::Timestamp,
};

use crate::{
    aggregate::{Authority, Life},
    ahead::Ahead,
    entity::Message,
    metrics,
    tenant::{Command, Refusal, expected::Seen, idempotency::Replayed},
    trace,
};

/// Where a command comes from: recorded with the events that follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The command's id.
    pub command: CommandId,
    /// The request that carried it.
    pub correlation: Option<RequestId>,
    /// W3C trace context of that request.
    pub traceparent: Option<Arc<str>>,
    /// How the same request is known again. Events of a command that has it are what came of that request.
    pub once: Option<Idempotency>,
    /// What the caller has seen of what it wants to change, when it says so.
    pub expected: Option<Seen>,
}

impl Origin {
    /// A command that the platform gives itself.
    pub const fn internal(command: CommandId) -> Self {
        Self { command, correlation: None, traceparent: None, once: None, expected: None }
    }

    /// The same, of a request that may be sent again.
    #[must_use]
    pub fn once(self, once: Option<Idempotency>) -> Self {
        Self { once, ..self }
    }

    /// The same, of a caller that changes what it has seen, and nothing else.
    #[must_use]
    pub fn expecting(self, expected: Option<Seen>) -> Self {
        Self { expected, ..self }
    }
}

/// A command, and all that is recorded about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// What is asked.
    pub command: Command,
    /// On whose authority.
    pub by: Authority,
    /// Where it comes from.
    pub origin: Origin,
    /// Payloads that its events name and that ride with their commit.
    pub payloads: Vec<Payload>,
}

impl Ask {
    /// What the envelopes of its events say about why.
    pub(crate) fn cause(&self) -> Cause {
        Cause {
            command: self.origin.command,
            correlation: self.origin.correlation.clone(),
            actor: self.by.actor(),
            traceparent: self.origin.traceparent.clone(),
            idempotency: self.origin.once,
        }
    }
}

/// A decision that is durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The events that followed from the command. None: it was so already, or the request was done before.
    pub events: Vec<Event>,
    /// What came of the same request before; then nothing was done now.
    pub replayed: Option<Replayed>,
    /// When it was decided.
    pub time: Timestamp,
    /// Where the stream stood after it.
    pub revision: Revision,
    /// Position of the commit that holds the events, or of the stream's last commit when there are none.
    pub position: Position,
    /// Who runs the execution that was to be cancelled, when nobody else can end it.
    pub runs_at: Option<Life>,
}

/// A command was not decided, or nothing came of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AskError {
    /// The domain says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A queue is full. Nothing was decided.
    #[error("too many commands are waiting; try again in {retry_after_ms} ms")]
    Busy {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The log or the entity could not. It may not be known whether the command took effect.
    #[error("the command could not be recorded: {reason}")]
    Unavailable {
        /// What was in the way.
        reason: Arc<str>,
        /// When to try again.
        retry_after_ms: u64,
    },
}

/// How an entity answers a command.
#[derive(Debug)]
pub(crate) enum Answer {
    Decided(Decided),
    Refused(Refusal),
    /// Not decided, and nothing stored: ask the tenant's next entity.
    Moved,
    /// Not decided, and nothing stored: another node owns the tenant.
    NotHere,
    /// Nobody knows, or nobody can.
    Unavailable(Arc<str>),
}

/// A command in an entity's mailbox.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) ask: Ask,
    /// `None` for what the entity asks of itself.
    pub(crate) reply: Option<oneshot::Sender<Answer>>,
    /// Given back when the command has been answered.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// Who is told of an admission as soon as it is decided.
    pub(crate) ahead: Option<Ahead>,
    /// From the mailbox to the answer, in traces.
    pub(crate) span: tracing::Span,
}

impl Pending {
    /// Has its caller given up? A report is recorded whether or not somebody waits for it.
    pub(crate) fn is_abandoned(&self) -> bool {
        !self.ask.command.is_report() && self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// A clonable way in to one entity.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    actor: ActorRef<Message>,
    shard: Shard,
    epoch: Epoch,
    permits: Arc<Semaphore>,
    mailbox_max: usize,
    unreadable: Unreadable,
}

/// Why the stream of an entity could not be folded, once that is known. Whoever comes after the entity has stopped is told the
/// same as who came before: another entity would meet the same stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unreadable(Arc<OnceLock<Arc<str>>>);

impl Unreadable {
    pub(crate) fn set(&self, reason: Arc<str>) {
        // The first reason stands.
        let _ = self.0.set(reason);
    }

    pub(crate) fn reason(&self) -> Option<Arc<str>> {
        self.0.get().cloned()
    }
}

impl Handle {
    pub(crate) fn new(
        actor: ActorRef<Message>,
        (shard, epoch): (Shard, Epoch),
        mailbox_max: usize,
        unreadable: Unreadable,
    ) -> Self {
        Self { actor, shard, epoch, permits: Arc::new(Semaphore::new(mailbox_max)), mailbox_max, unreadable }
    }

    /// Why its stream could not be folded, if that is why it has stopped.
    pub(crate) fn unreadable(&self) -> Option<Arc<str>> {
        self.unreadable.reason()
    }

    /// Commands that are in the mailbox and not answered. Reports are not among them.
    pub(crate) fn waiting(&self) -> usize {
        self.mailbox_max.saturating_sub(self.permits.available_permits())
    }

    pub(crate) fn actor_id(&self) -> ActorId {
        self.actor.get_id()
    }

    pub(crate) fn actor(&self) -> &ActorRef<Message> {
        &self.actor
    }

    /// The shard of its tenant.
    pub(crate) const fn shard(&self) -> Shard {
        self.shard
    }

    /// The epoch in which it decides.
    pub(crate) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Puts a command into the mailbox, if there is room. `None`: the entity has stopped.
    ///
    /// Reports of what has happened already need no permit: there is at most one for each open execution, whose number
    /// the tier bounds, and a report that were turned away would leave an execution without its end.
    pub(crate) fn enter(&self, ask: Ask, ahead: Option<Ahead>) -> Result<Option<oneshot::Receiver<Answer>>, Full> {
        let permit = if ask.command.is_report() {
            None
        } else {
            let permit = Arc::clone(&self.permits).try_acquire_owned();
            Some(permit.map_err(|_| {
                ::metrics::counter!(metrics::SHED_TOTAL, "bound" => "entity").increment(1);
                Full
            })?)
        };
        let (reply, answer) = oneshot::channel();
        let span = tracing::debug_span!(target: trace::TARGET, "entity", command = ask.command.name());
        let pending = Pending { ask, reply: Some(reply), permit, ahead, span };
        Ok(self.actor.send_message(Message::Ask(Box::new(pending))).ok().map(|()| answer))
    }
}

/// The entity's mailbox holds as much as it may.
#[derive(Debug)]
pub(crate) struct Full;
