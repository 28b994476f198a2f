//! Which shards this node may decide in, as the ownership says and as it has learnt itself.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;
use wasmwiz_events::{
    revision::Epoch,
    shard::{SHARDS, Shard},
};

use crate::{
    aggregate::Life,
    ownership::{Owner, Ownership},
    tenant::Tenant,
};

/// The ownership, and the epochs that are over here whatever it still says.
pub(crate) struct Shards {
    ownership: Arc<dyn Ownership>,
    /// By shard, the youngest epoch in which nothing is decided here any more. It grows, unless an epoch is taken up again:
    /// a lease may have run out here and have been renewed before anybody else took note.
    over: [AtomicU64; SHARDS],
    /// Shards that were taken up since somebody asked for them.
    taken_up: Mutex<BTreeSet<Shard>>,
    fresh: Notify,
}

impl Shards {
    pub(super) fn new(ownership: Arc<dyn Ownership>) -> Self {
        let over = std::array::from_fn(|_| AtomicU64::new(0));
        Self { ownership, over, taken_up: Mutex::default(), fresh: Notify::new() }
    }

    pub(crate) const fn ownership(&self) -> &Arc<dyn Ownership> {
        &self.ownership
    }

    /// The epoch in which this node may decide in a shard; `None` when it may not.
    pub(crate) fn here(&self, shard: Shard) -> Option<Epoch> {
        match self.ownership.owner(shard) {
            Owner::Here(epoch) if self.is_open(shard, epoch) => Some(epoch),
            Owner::Here(_) | Owner::There { .. } | Owner::Nobody => None,
        }
    }

    /// Nothing more is decided here in this epoch, nor in an older one.
    pub(crate) fn close(&self, shard: Shard, epoch: Epoch) {
        if let Some(over) = self.of(shard) {
            over.fetch_max(epoch.get(), Ordering::SeqCst);
        }
    }

    /// Those of the lives of a tenant's open executions that have ended.
    pub(crate) fn ended(&self, tenant: &Tenant) -> Vec<Life> {
        let ended = |life: &&Life| self.ownership.has_ended(&life.node, life.boot);
        tenant.executions().lives().filter(ended).cloned().collect()
    }

    pub(super) fn take_up(&self, shard: Shard, epoch: Epoch) {
        if let Some(over) = self.of(shard) {
            let before = epoch.get().saturating_sub(1);
            let _ = over.compare_exchange(epoch.get(), before, Ordering::SeqCst, Ordering::SeqCst);
        }
        self.taken_up.lock().unwrap_or_else(PoisonError::into_inner).insert(shard);
        self.fresh.notify_one();
    }

    /// Waits until shards were taken up, and gives them: all that were since the last time, each once.
    pub(super) async fn next_taken_up(&self) -> BTreeSet<Shard> {
        loop {
            let fresh = self.fresh.notified();
            let taken = std::mem::take(&mut *self.taken_up.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            fresh.await;
        }
    }

    fn is_open(&self, shard: Shard, epoch: Epoch) -> bool {
        self.of(shard).is_some_and(|over| epoch.get() > over.load(Ordering::SeqCst))
    }

    fn of(&self, shard: Shard) -> Option<&AtomicU64> {
        self.over.get(usize::from(shard.get()))
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::id::NodeId;

    use super::*;
    use crate::{ids::Ids, ownership::Alone};

    fn shards() -> Shards {
        Shards::new(Arc::new(Alone { node: NodeId::new("node-1").unwrap(), boot: Ids.boot() }))
    }

    #[test]
    fn an_epoch_that_is_over_is_over_until_it_or_a_younger_one_is_taken_up() {
        let (shards, shard) = (shards(), Shard::new(7));
        assert_eq!(shards.here(shard), Some(Epoch::FIRST));
        shards.close(shard, Epoch::FIRST);
        shards.close(shard, Epoch::default());
        assert_eq!(shards.here(shard), None);
        assert_eq!(shards.here(Shard::new(8)), Some(Epoch::FIRST));
        assert!(shards.is_open(shard, Epoch::new(2)));
        shards.take_up(shard, Epoch::FIRST);
        assert_eq!(shards.here(shard), Some(Epoch::FIRST));
        shards.close(shard, Epoch::new(2));
        shards.take_up(shard, Epoch::FIRST);
        assert_eq!(shards.here(shard), None, "a younger one is over");
    }

    #[tokio::test]
    async fn every_shard_that_is_taken_up_is_told_once() {
        let shards = shards();
        for number in [3, 1, 3] {
            shards.take_up(Shard::new(number), Epoch::FIRST);
        }
        assert_eq!(shards.next_taken_up().await, [Shard::new(1), Shard::new(3)].into());
        shards.take_up(Shard::new(1), Epoch::FIRST);
        assert_eq!(shards.next_taken_up().await, [Shard::new(1)].into());
    }
}
