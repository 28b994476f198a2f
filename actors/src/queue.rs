//! Asynchronous executions of this node that wait for their turn: which they are, and where the log has them.
//!
//! ```text
//! entity ─ offers what its log says is to run ─► line of its tenant ─► lane of the tenant ─► slot, Start, guest
//! ```
//! Nothing is lost with this queue: an entity offers what waits when it is read back, when it accepts it, and every time
//! that it wakes. What is known already is not taken twice.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wasmwiz_events::{
    id::{ExecutionId, TenantId},
    revision::Position,
};

use crate::metrics;

/// Bounds of the asynchronous executions of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// Asynchronous executions that wait or run on this node; above it callers are turned away. One takes about 200 bytes.
    pub executions_max: usize,
    /// Of these, those that run at the same time: fewer than `executor.guests_max`, so that whoever waits is served.
    pub running_max: usize,
    /// Standard input of those that run, in bytes: it is read back from the log.
    pub input_bytes_max: u32,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { executions_max: 20_000, running_max: 128, input_bytes_max: 128 << 20 }
    }
}

/// One execution in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) id: ExecutionId,
    /// The commit that accepted it.
    pub(crate) at: Position,
}

/// The lines of all tenants. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: QueueConfig,
    lines: Mutex<Lines>,
    fresh: Notify,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Lines {
    /// Tenants with a lane, each with what waits in it.
    waiting: HashMap<TenantId, VecDeque<Item>>,
    /// Tenants whose lane is still to be begun.
    fresh: VecDeque<TenantId>,
    /// Everything that waits or runs.
    known: HashSet<ExecutionId>,
    /// Requests that are about to be accepted.
    entering: usize,
}

impl Queue {
    pub(crate) fn new(config: QueueConfig) -> Self {
        let (lines, fresh, closed) = (Mutex::default(), Notify::new(), CancellationToken::new());
        Self(Arc::new(Shared { config, lines, fresh, closed }))
    }

    pub(crate) fn config(&self) -> &QueueConfig {
        &self.0.config
    }

    /// Room for one more, for as long as its acceptance takes; `None` when the node has as many as it takes.
    pub(crate) fn enter(&self) -> Option<Entering> {
        let mut lines = self.lines();
        if self.is_closed() || lines.known.len() + lines.entering >= self.0.config.executions_max {
            ::metrics::counter!(metrics::SHED_TOTAL, "bound" => "queue").increment(1);
            return None;
        }
        lines.entering += 1;
        Some(Entering(self.clone()))
    }

    /// Puts an execution at the end of its tenant's line, unless it waits or runs already. What the log has accepted is
    /// taken beyond the bound, too.
    pub(crate) fn offer(&self, tenant: &TenantId, item: Item) {
        let mut lines = self.lines();
        if self.is_closed() || !lines.known.insert(item.id) {
            return;
        }
        ::metrics::gauge!(metrics::QUEUED).set(lines.known.len() as f64);
        match lines.waiting.get_mut(tenant) {
            Some(line) => line.push_back(item),
            None => {
                lines.waiting.insert(tenant.clone(), VecDeque::from([item]));
                lines.fresh.push_back(tenant.clone());
                self.0.fresh.notify_one();
            }
        }
    }

    /// Takes an execution that has ended out of its tenant's line. One that is no longer in line leaves by itself.
    pub(crate) fn withdraw(&self, tenant: &TenantId, id: ExecutionId) {
        let mut lines = self.lines();
        let Some(line) = lines.waiting.get_mut(tenant) else { return };
        let Some(place) = line.iter().position(|item| item.id == id) else { return };
        line.remove(place);
        lines.known.remove(&id);
        ::metrics::gauge!(metrics::QUEUED).set(lines.known.len() as f64);
    }

    /// The next tenant whose lane is to be begun; `None` once the queue is closed.
    pub(crate) async fn next_lane(&self) -> Option<TenantId> {
        loop {
            let fresh = self.0.fresh.notified();
            if self.is_closed() {
                return None;
            }
            if let Some(tenant) = self.lines().fresh.pop_front() {
                return Some(tenant);
            }
            self.0.closed.run_until_cancelled(fresh).await?;
        }
    }

    /// The next of a tenant's line; `None` ends its lane.
    pub(crate) fn pop(&self, tenant: &TenantId) -> Option<Item> {
        let mut lines = self.lines();
        let next = if self.is_closed() { None } else { lines.waiting.get_mut(tenant).and_then(VecDeque::pop_front) };
        if next.is_none() {
            lines.waiting.remove(tenant);
        }
        next
    }

    /// Keeps an execution known, until it is dropped: it has ended, or is to be offered again.
    pub(crate) fn place(&self, id: ExecutionId) -> Place {
        Place { queue: self.clone(), id }
    }

    /// From now on nothing begins. What waits is in the log.
    pub(crate) fn close(&self) {
        self.0.closed.cancel();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// `work`, unless the queue is closed before it is done.
    pub(crate) async fn while_open<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.closed.run_until_cancelled(work).await
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for an execution that is about to be accepted.
#[derive(Debug)]
pub(crate) struct Entering(Queue);

impl Drop for Entering {
    fn drop(&mut self) {
        let mut lines = self.0.lines();
        lines.entering = lines.entering.saturating_sub(1);
    }
}

/// An execution's place among those that are known.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Queue,
    id: ExecutionId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.queue.lines();
        lines.known.remove(&self.id);
        ::metrics::gauge!(metrics::QUEUED).set(lines.known.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n: u128) -> Item {
        Item { id: ExecutionId::new(uuid::Uuid::from_u128(n)), at: Position::new(1) }
    }

    fn tenant(id: &str) -> TenantId {
        TenantId::new(id).unwrap()
    }

    #[tokio::test]
    async fn what_is_known_is_not_taken_twice_and_each_tenant_has_one_lane() {
        let queue = Queue::new(QueueConfig::default());
        for (id, n) in [("acme", 1), ("acme", 1), ("other", 3), ("acme", 2)] {
            queue.offer(&tenant(id), item(n));
        }
        assert_eq!(queue.next_lane().await, Some(tenant("acme")));
        assert_eq!(queue.next_lane().await, Some(tenant("other")));
        let first = queue.pop(&tenant("acme")).unwrap();
        let place = queue.place(first.id);
        queue.offer(&tenant("acme"), first);
        assert_eq!(queue.pop(&tenant("acme")), Some(item(2)));
        assert_eq!(queue.pop(&tenant("acme")), None);
        drop(place);
        queue.offer(&tenant("acme"), first);
        assert_eq!(queue.next_lane().await, Some(tenant("acme")));
    }

    #[test]
    fn requests_find_no_room_beyond_the_bound_and_what_was_accepted_does() {
        let queue = Queue::new(QueueConfig { executions_max: 2, ..QueueConfig::default() });
        queue.offer(&tenant("acme"), item(1));
        let entering = queue.enter().unwrap();
        assert!(queue.enter().is_none());
        drop(entering);
        queue.offer(&tenant("acme"), item(2));
        queue.offer(&tenant("acme"), item(3));
        assert!(queue.enter().is_none());
    }

    #[test]
    fn what_has_ended_in_its_line_leaves_it_and_what_runs_keeps_its_place() {
        let queue = Queue::new(QueueConfig { executions_max: 3, ..QueueConfig::default() });
        (1..=3).for_each(|n| queue.offer(&tenant("acme"), item(n)));
        let first = queue.pop(&tenant("acme")).unwrap();
        let _place = queue.place(first.id);
        queue.withdraw(&tenant("acme"), first.id);
        assert!(queue.enter().is_none(), "the first is not in line any more");
        queue.withdraw(&tenant("acme"), item(2).id);
        queue.withdraw(&tenant("other"), item(3).id);
        assert!(queue.enter().is_some());
        assert_eq!((queue.pop(&tenant("acme")), queue.pop(&tenant("acme"))), (Some(item(3)), None));
    }

    #[tokio::test]
    async fn a_closed_queue_begins_nothing() {
        let queue = Queue::new(QueueConfig::default());
        queue.offer(&tenant("acme"), item(1));
        queue.close();
        assert_eq!(queue.next_lane().await, None);
        assert_eq!(queue.pop(&tenant("acme")), None);
        assert!(queue.enter().is_none());
    }
}
