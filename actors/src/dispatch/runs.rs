//! Executions of this life of the node that somebody runs or waits for: how they are stopped, and how their end is told.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wasmwiz_events::{id::ExecutionId, revision::Position};

/// All of them, for as long as somebody holds them.
#[derive(Debug, Default)]
pub(super) struct Runs {
    held: Mutex<HashMap<ExecutionId, Weak<Run>>>,
    /// Cancelled when the node stops and waits for guests no longer; with it all of them.
    cut_off: CancellationToken,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Run {
    all: Arc<Runs>,
    pub(super) id: ExecutionId,
    /// Cancelled, it ends the guest, or keeps it from beginning.
    pub(super) cancel: CancellationToken,
    /// Was it stopped by itself, on somebody's word?
    is_stopped: AtomicBool,
    /// Position of the commit that holds its end.
    ended: watch::Sender<Option<Position>>,
}

impl Runs {
    /// The one with this id: everybody who asks gets the same.
    pub(super) fn of(self: &Arc<Self>, id: ExecutionId) -> Arc<Run> {
        let mut runs = self.lock();
        if let Some(run) = runs.get(&id).and_then(Weak::upgrade) {
            return run;
        }
        let (all, cancel, ended) = (Arc::clone(self), self.cut_off.child_token(), watch::Sender::new(None));
        let run = Arc::new(Run { all, id, cancel, is_stopped: AtomicBool::new(false), ended });
        runs.insert(id, Arc::downgrade(&run));
        run
    }

    /// The one with this id, if somebody holds it.
    pub(super) fn find(&self, id: ExecutionId) -> Option<Arc<Run>> {
        self.lock().get(&id).and_then(Weak::upgrade)
    }

    /// Ends all of them, and keeps others from beginning.
    pub(super) fn cut_off(&self) {
        self.cut_off.cancel();
    }

    /// Returns once all are to end.
    pub(super) async fn until_cut_off(&self) {
        self.cut_off.cancelled().await;
    }

    /// Must no other begin?
    pub(super) fn are_cut_off(&self) -> bool {
        self.cut_off.is_cancelled()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExecutionId, Weak<Run>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    /// Ends the guest on somebody's word, or keeps it from beginning.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.cancel.cancel();
    }

    /// Did it end because the node stops, and not on somebody's word?
    pub(super) fn is_cut_off(&self) -> bool {
        self.all.are_cut_off() && !self.is_stopped.load(Ordering::Acquire)
    }

    /// Tells everybody that its end is durable.
    pub(super) fn end(&self, at: Position) {
        self.ended.send_replace(Some(at));
    }

    /// Waits until its end is durable, and says where.
    pub(super) async fn ended(&self) -> Option<Position> {
        let mut ended = self.ended.subscribe();
        // The sender lives in self, so the channel cannot close while this runs.
        let at = ended.wait_for(Option::is_some).await;
        at.ok().and_then(|at| *at)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut runs = self.all.lock();
        // Somebody may have made another one since the last holder let go.
        if runs.get(&self.id).is_some_and(|run| run.strong_count() == 0) {
            runs.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_has_the_same_and_the_last_one_takes_it_along() {
        let (runs, id) = (Arc::new(Runs::default()), ExecutionId::new(uuid::Uuid::from_u128(1)));
        let (mine, theirs) = (runs.of(id), runs.find(id).unwrap());
        mine.end(Position::new(7));
        assert_eq!(theirs.ended().await, Some(Position::new(7)));
        drop((mine, theirs));
        assert!(runs.find(id).is_none());
        assert!(runs.lock().is_empty());
    }

    #[test]
    fn a_node_that_stops_ends_all_and_it_is_known_which_were_stopped_on_somebodys_word() {
        let (runs, id) = (Arc::new(Runs::default()), |id| ExecutionId::new(uuid::Uuid::from_u128(id)));
        let (stopped, other) = (runs.of(id(1)), runs.of(id(2)));
        stopped.stop();
        assert!(stopped.cancel.is_cancelled() && !other.cancel.is_cancelled() && !runs.are_cut_off());
        runs.cut_off();
        let late = runs.of(id(3));
        assert!(other.cancel.is_cancelled() && late.cancel.is_cancelled());
        assert_eq!([&stopped, &other, &late].map(|run| run.is_cut_off()), [false, true, true]);
    }
}
