//! What must never be true, held against every step of every node and every change on the servers.

use std::collections::BTreeMap;

use wasmwiz_events::{id::NodeId, revision::Epoch, shard::Shard};
use wasmwiz_node::cluster::{
    member::Life,
    placement::table::{Place, Table},
};

use super::streams::Commit;

/// Something that must never be true, and was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Two nodes believe at one time that they own a shard.
    #[error("shard {shard}: {one} believes to own it in epoch {epoch} while {other} does in epoch {other_epoch}")]
    TwoOwners {
        /// Which shard.
        shard: Shard,
        /// Who began to believe it.
        one: Life,
        /// In which epoch.
        epoch: Epoch,
        /// Who believed it still.
        other: Life,
        /// In which epoch.
        other_epoch: Epoch,
    },
    /// An epoch of a shard was given twice.
    #[error("shard {shard}: epoch {epoch} was that of {one}, and is that of {other}")]
    EpochOfTwo {
        /// Which shard.
        shard: Shard,
        /// Which epoch.
        epoch: Epoch,
        /// Who had it first.
        one: Life,
        /// Who has it too.
        other: Life,
    },
    /// A stream took an append with an epoch below one already in it.
    #[error("shard {shard}: an append of {by} in epoch {epoch} was taken after one in epoch {after}")]
    StaleAppend {
        /// Which shard.
        shard: Shard,
        /// Whose append.
        by: Life,
        /// Its epoch.
        epoch: Epoch,
        /// The largest in the stream.
        after: Epoch,
    },
    /// A shard has no owner long after everything is well.
    #[error("shard {shard}: nobody owns it {within_ms} ms after the last fault was over")]
    NoOwner {
        /// Which shard.
        shard: Shard,
        /// How long that is.
        within_ms: u64,
    },
    /// More shards move from living owners at a time than may.
    #[error("{draining} shards drain at a time, and {most} may")]
    TooManyMoves {
        /// How many drain.
        draining: usize,
        /// How many may.
        most: usize,
    },
    /// Shards go on moving after everything is well.
    #[error("shards were given away {given} times after the last fault was over, and {most} times are enough")]
    Restless {
        /// How often.
        given: u64,
        /// How often is enough.
        most: u64,
    },
    /// A node has something to do without end, and no time passes.
    #[error("{node} goes round in circles")]
    Circles {
        /// Which node.
        node: NodeId,
    },
}

/// What came of seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// How many.
    pub seeds: u64,
    /// Steps of nodes and servers.
    pub events: u64,
    /// Leases that were begun.
    pub leases: u64,
    /// Shards that were given to somebody.
    pub given: u64,
    /// Changes of buckets that named another revision than the last.
    pub conflicts: u64,
    /// Commits that the log took.
    pub appends: u64,
    /// Commits that named another end than the last.
    pub refused: u64,
    /// Those of them in an epoch that was over in their stream.
    pub stale: u64,
    /// The longest that it took from the end of the last fault until every shard had an owner, in milliseconds.
    pub recovered_ms: u64,
}

impl Report {
    /// This and another.
    pub(super) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.leases += other.leases;
        self.given += other.given;
        self.conflicts += other.conflicts;
        self.appends += other.appends;
        self.refused += other.refused;
        self.stale += other.stale;
        self.recovered_ms = self.recovered_ms.max(other.recovered_ms);
    }
}

/// What is known of who owned what.
pub(super) struct Witness {
    /// The most shards that drain at a time.
    moves_max: usize,
    /// The most times that shards are given away after the last fault.
    given_max: u64,
    owners: BTreeMap<(Shard, Epoch), Life>,
    /// The largest epoch in each stream.
    epochs: BTreeMap<Shard, Epoch>,
    given_in_calm: u64,
    given: u64,
    appends: u64,
}

impl Witness {
    pub(super) const fn new(moves_max: usize, given_max: u64) -> Self {
        Self {
            moves_max,
            given_max,
            owners: BTreeMap::new(),
            epochs: BTreeMap::new(),
            given_in_calm: 0,
            given: 0,
            appends: 0,
        }
    }

    /// How many shards were given to somebody, and how many commits were taken.
    pub(super) const fn counts(&self) -> (u64, u64) {
        (self.given, self.appends)
    }

    /// A life believes to own a shard in an epoch, or has appended in it.
    pub(super) fn is_of(&mut self, shard: Shard, epoch: Epoch, life: &Life) -> Result<(), Violation> {
        let one = self.owners.entry((shard, epoch)).or_insert_with(|| life.clone());
        if one == life {
            return Ok(());
        }
        Err(Violation::EpochOfTwo { shard, epoch, one: one.clone(), other: life.clone() })
    }

    /// A stream has taken a commit.
    pub(super) fn took(&mut self, commit: &Commit) -> Result<(), Violation> {
        let largest = self.epochs.entry(commit.shard).or_default();
        if commit.epoch < *largest {
            let (shard, by, epoch, after) = (commit.shard, commit.by.clone(), commit.epoch, *largest);
            return Err(Violation::StaleAppend { shard, by, epoch, after });
        }
        *largest = commit.epoch;
        self.appends += 1;
        self.is_of(commit.shard, commit.epoch, &commit.by)
    }

    /// The table has become another. `is_calm`: nothing has gone wrong for a while.
    pub(super) fn changed(&mut self, before: Option<&Table>, after: &Table, is_calm: bool) -> Result<(), Violation> {
        let draining = after.places().filter(|(_, place)| matches!(place, Place::Draining { .. })).count();
        if draining > self.moves_max {
            return Err(Violation::TooManyMoves { draining, most: self.moves_max });
        }
        let owner_before = |shard| before.and_then(|before| before.place(shard).owner());
        let is_given =
            |(shard, place): &(Shard, &Place)| place.owner().is_some() && place.owner() != owner_before(*shard);
        let given = after.places().filter(is_given).count() as u64;
        self.given += given;
        self.given_in_calm += if is_calm { given } else { 0 };
        if self.given_in_calm > self.given_max {
            return Err(Violation::Restless { given: self.given_in_calm, most: self.given_max });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use wasmwiz_events::id::BootId;

    use super::*;

    fn life(lease: u32) -> Life {
        Life { node: NodeId::new("n0").unwrap(), boot: BootId::new(Uuid::from_u128(1)), lease }
    }

    fn commit(epoch: u64, by: Life) -> Commit {
        Commit { shard: Shard::new(1), after: 0, epoch: Epoch::new(epoch), by }
    }

    #[test]
    fn an_epoch_of_a_shard_belongs_to_one_lease() {
        let mut witness = Witness::new(1, 1);
        let (shard, epoch) = (Shard::new(1), Epoch::new(5));
        assert_eq!([1, 1].map(|lease| witness.is_of(shard, epoch, &life(lease))), [Ok(()), Ok(())]);
        assert!(matches!(witness.is_of(shard, epoch, &life(2)), Err(Violation::EpochOfTwo { .. })));
        assert!(matches!(witness.took(&commit(5, life(2))), Err(Violation::EpochOfTwo { .. })));
    }

    #[test]
    fn an_append_below_an_epoch_of_its_stream_is_stale() {
        let mut witness = Witness::new(1, 1);
        assert_eq!([5, 5, 6].map(|epoch| witness.took(&commit(epoch, life(1)))), [Ok(()), Ok(()), Ok(())]);
        assert!(matches!(witness.took(&commit(5, life(1))), Err(Violation::StaleAppend { .. })));
    }
}
