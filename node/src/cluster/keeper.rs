//! From what a node should serve to what it is told to take up and to release, in turn.

use std::collections::BTreeMap;

use wasmwiz_events::{revision::Epoch, shard::Shard};

use super::{
    member::Life,
    placement::table::{Place, Table},
};

/// One thing to do with a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Serve it in this epoch.
    TakeUp(Shard, Epoch),
    /// Stop serving it.
    Release(Shard, Epoch),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// It is served.
    Served(Epoch),
    /// Something of it may be under way still.
    Releasing(Epoch),
}

/// What is served here.
#[derive(Debug, Clone, Default)]
pub struct Keeper {
    held: BTreeMap<Shard, Held>,
}

impl Keeper {
    /// What has to be done for `wanted` to be served and nothing else. An epoch of a shard is released before the next one
    /// is taken up. It counts as begun.
    pub fn acts(&mut self, wanted: &BTreeMap<Shard, Epoch>) -> Vec<Act> {
        let mut acts = Vec::new();
        for (shard, held) in &mut self.held {
            if let Held::Served(epoch) = *held
                && wanted.get(shard) != Some(&epoch)
            {
                *held = Held::Releasing(epoch);
                acts.push(Act::Release(*shard, epoch));
            }
        }
        for (shard, epoch) in wanted {
            if !self.held.contains_key(shard) {
                acts.push(Act::TakeUp(*shard, *epoch));
            }
        }
        acts
    }

    /// It has been taken up.
    pub fn taken_up(&mut self, shard: Shard, epoch: Epoch) {
        self.held.insert(shard, Held::Served(epoch));
    }

    /// Its release is done.
    pub fn released(&mut self, shard: Shard) {
        self.held.remove(&shard);
    }

    /// Is it served in this epoch?
    pub fn serves(&self, shard: Shard, epoch: Epoch) -> bool {
        self.held.get(&shard) == Some(&Held::Served(epoch))
    }

    /// Is nothing served, and nothing under way?
    pub fn is_idle(&self) -> bool {
        self.held.is_empty()
    }

    /// What the table has this life drain, and of which nothing is under way.
    pub fn drained(&self, table: &Table, me: &Life) -> Vec<(Shard, Epoch)> {
        let mine = |place: &Place| match place {
            Place::Draining { owner, epoch, .. } if owner == me => Some(*epoch),
            Place::Draining { .. } | Place::Owned { .. } | Place::Free { .. } => None,
        };
        let draining = table.places().filter_map(|(shard, place)| mine(place).map(|epoch| (shard, epoch)));
        draining.filter(|(shard, _)| !self.held.contains_key(shard)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: Shard = Shard::new(7);

    fn wanted(epoch: u64) -> BTreeMap<Shard, Epoch> {
        BTreeMap::from([(SHARD, Epoch::new(epoch))])
    }

    #[test]
    fn a_shard_is_taken_up_once() {
        let mut keeper = Keeper::default();
        assert_eq!(keeper.acts(&wanted(1)), [Act::TakeUp(SHARD, Epoch::new(1))]);
        assert!(!keeper.serves(SHARD, Epoch::new(1)));
        keeper.taken_up(SHARD, Epoch::new(1));
        assert!(keeper.serves(SHARD, Epoch::new(1)));
        assert_eq!(keeper.acts(&wanted(1)), []);
    }

    #[test]
    fn an_epoch_is_released_before_the_next_is_taken_up() {
        let mut keeper = Keeper::default();
        keeper.taken_up(SHARD, Epoch::new(1));
        assert_eq!(keeper.acts(&wanted(2)), [Act::Release(SHARD, Epoch::new(1))]);
        assert_eq!(keeper.acts(&wanted(2)), [], "it is under way");
        assert!(!keeper.serves(SHARD, Epoch::new(1)) && !keeper.is_idle());
        keeper.released(SHARD);
        assert_eq!(keeper.acts(&wanted(2)), [Act::TakeUp(SHARD, Epoch::new(2))]);
    }
}
