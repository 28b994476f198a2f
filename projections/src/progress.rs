//! What a view's thread tells the rest of the process, and who waits for it.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::sync::watch;
use wasmwiz_events::{revision::Position, time::Timestamp};

use crate::{
    checkpoint::Checkpoint,
    quarantine::{Quarantine, SetAside},
    readers::QueryError,
};

/// What a view is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum State {
    /// It folds what was in the log when it started.
    CatchingUp,
    /// It has caught up once, and follows.
    Live,
    /// It met something that it could not fold or write. It keeps its checkpoint and stays readable.
    Stopped {
        /// The commit that it could not fold, or the first of the batch that it could not write.
        position: Position,
        /// Why, for operators.
        reason: Arc<str>,
    },
}

/// How one view stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ViewStatus {
    /// The view's name.
    pub name: &'static str,
    /// The position it has folded up to.
    pub position: Position,
    /// How many commits it has folded.
    pub commits: u64,
    /// Positions between it and the furthest end of the log that any view has seen.
    pub lag_commits: u64,
    /// When the last commit that it has folded was recorded; `None` before the first one.
    pub last_recorded_at: Option<Timestamp>,
    /// What it is doing.
    pub state: State,
    /// Is it being built, so that it has a part of what the log has? It answers no query then.
    pub building: bool,
    /// What keeps it from going on at the moment, for operators. It tries again by itself.
    pub trouble: Option<Arc<str>>,
    /// Streams that it cannot fold. It goes on with all others, and tells nothing of these.
    pub set_aside: Vec<SetAside>,
}

/// A view has not come as far as was waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("view {view} is at position {position}, before {wanted}")]
pub struct Behind {
    /// Which view.
    pub view: &'static str,
    /// Where it is.
    pub position: Position,
    /// Where it should be.
    pub wanted: Position,
    /// It has stopped: waiting longer does not help.
    pub stopped: bool,
}

/// How far a view is, as its thread last said.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) tail: Position,
    /// Has this life looked where the log ends?
    pub(crate) tail_is_seen: bool,
    pub(crate) state: State,
    pub(crate) trouble: Option<Arc<str>>,
    /// Has it never had all that was in the log?
    pub(crate) building: bool,
}

/// The meeting point of a view's thread and its readers.
#[derive(Debug)]
pub(crate) struct Progress {
    name: &'static str,
    standing: watch::Sender<Standing>,
    waiting: watch::Sender<usize>,
    /// How often it was asked to try the streams again that are set aside, and has.
    tried: watch::Sender<u64>,
    quarantine: Quarantine,
}

impl Progress {
    pub(crate) fn new(name: &'static str, checkpoint: Checkpoint, quarantine: Quarantine, building: bool) -> Self {
        let (tail, state) = (checkpoint.position, State::CatchingUp);
        let standing =
            watch::Sender::new(Standing { checkpoint, tail, tail_is_seen: false, state, trouble: None, building });
        Self { name, standing, waiting: watch::Sender::new(0), tried: watch::Sender::new(0), quarantine }
    }

    pub(crate) fn advance(&self, checkpoint: Checkpoint) {
        self.standing.send_modify(|standing| {
            standing.checkpoint = checkpoint;
            standing.trouble = None;
            // What was set aside is tried again before the log is asked where it ends.
            standing.building &= !standing.tail_is_seen || checkpoint.position < standing.tail;
            standing.tail = standing.tail.max(checkpoint.position);
        });
    }

    pub(crate) fn tail_seen(&self, tail: Position) {
        self.standing.send_modify(|standing| {
            standing.tail = standing.tail.max(tail);
            standing.tail_is_seen = true;
        });
    }

    pub(crate) fn enter(&self, state: State) {
        self.standing.send_modify(|standing| {
            standing.building &= state != State::Live;
            standing.state = state;
        });
    }

    /// Something is in the way, or no longer.
    pub(crate) fn troubled(&self, trouble: Option<Arc<str>>) {
        self.standing.send_if_modified(|standing| {
            let changed = standing.trouble != trouble;
            standing.trouble = trouble;
            changed
        });
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    pub(crate) fn state(&self) -> State {
        self.standing.borrow().state.clone()
    }

    pub(crate) fn status(&self, tail: Position) -> ViewStatus {
        let Standing { checkpoint, state, trouble, building, .. } = self.standing();
        ViewStatus {
            name: self.name,
            position: checkpoint.position,
            commits: checkpoint.commits,
            lag_commits: tail.get().saturating_sub(checkpoint.position.get()),
            last_recorded_at: (checkpoint.commits > 0).then_some(checkpoint.last_at),
            state,
            building,
            trouble,
            set_aside: self.quarantine.all(),
        }
    }

    /// Refuses queries while the view has a part of what the log has.
    pub(crate) fn admit(&self) -> Result<(), QueryError> {
        let standing = self.standing.borrow();
        if !standing.building {
            return Ok(());
        }
        Err(QueryError::Building { view: self.name, position: standing.checkpoint.position, tail: standing.tail })
    }

    /// The streams that are set aside were tried again, as asked for the `asked`th time.
    pub(crate) fn tried(&self, asked: u64) {
        self.tried.send_replace(asked);
    }

    /// Waits until that has happened, or never will.
    pub(crate) async fn until_tried(&self, asked: u64, timeout: Duration) -> Result<(), Behind> {
        let (mut tried, mut standing) = (self.tried.subscribe(), self.standing.subscribe());
        let done = async {
            tokio::select! {
                done = tried.wait_for(|done| *done >= asked) => done.is_ok(),
                _stopped = standing.wait_for(|standing| matches!(standing.state, State::Stopped { .. })) => false,
            }
        };
        if tokio::time::timeout(timeout, done).await == Ok(true) {
            return Ok(());
        }
        let Standing { checkpoint, tail, state, .. } = self.standing();
        let stopped = matches!(state, State::Stopped { .. });
        Err(Behind { view: self.name, position: checkpoint.position, wanted: tail, stopped })
    }

    /// Waits until somebody waits for this view: then its thread must not linger.
    pub(crate) async fn somebody_waits(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives in self, so the channel cannot close while this runs.
        let _open = waiting.wait_for(|count| *count > 0).await;
    }

    /// Waits until the view has folded `wanted`.
    pub(crate) async fn wait_for(&self, wanted: Position, timeout: Duration) -> Result<(), Behind> {
        let mut standing = self.standing.subscribe();
        let settled = |standing: &Standing| {
            standing.checkpoint.position >= wanted || matches!(standing.state, State::Stopped { .. })
        };
        if !settled(&standing.borrow_and_update()) {
            let _waiting = Waiting::enter(&self.waiting);
            let _in_time = tokio::time::timeout(timeout, standing.wait_for(settled)).await;
        }
        let standing = self.standing();
        let position = standing.checkpoint.position;
        if position >= wanted {
            return Ok(());
        }
        Err(Behind { view: self.name, position, wanted, stopped: matches!(standing.state, State::Stopped { .. }) })
    }

    /// Waits until the view has caught up once: with everything that was in the log when it began.
    pub(crate) async fn until_live(&self, timeout: Duration) -> Result<(), Behind> {
        let mut standing = self.standing.subscribe();
        let settled = |standing: &Standing| standing.state != State::CatchingUp;
        if !settled(&standing.borrow_and_update()) {
            let _waiting = Waiting::enter(&self.waiting);
            let _in_time = tokio::time::timeout(timeout, standing.wait_for(settled)).await;
        }
        let Standing { checkpoint, tail, state, .. } = self.standing();
        if state == State::Live {
            return Ok(());
        }
        let stopped = matches!(state, State::Stopped { .. });
        Err(Behind { view: self.name, position: checkpoint.position, wanted: tail, stopped })
    }
}

/// Counts one waiter for as long as it waits, also when it is cancelled.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn enter(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count = count.saturating_add(1));
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}
