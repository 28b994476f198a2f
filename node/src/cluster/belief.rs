//! What a node takes to be so: the last table it read, its own lease, and what it has taken up. Answers come from here.

use std::{collections::BTreeMap, sync::Arc};

use wasmwiz_actors::ownership::Owner;
use wasmwiz_events::{revision::Epoch, shard::Shard};

use super::{
    clock::Mono,
    keeper::Keeper,
    lease::Lease,
    member::Life,
    placement::table::{Place, Table},
};

/// The beliefs of one life.
#[derive(Debug, Clone)]
pub struct Belief {
    me: Life,
    /// Its lease.
    pub lease: Lease,
    /// What is served here.
    pub keeper: Keeper,
    table: Option<Arc<Table>>,
    revision: u64,
    /// The largest epoch it ever read of: of use when the table is lost.
    seen: Epoch,
}

impl Belief {
    /// Nothing is known yet.
    pub fn new(me: Life, lease: Lease) -> Self {
        let keeper = Keeper::default();
        Self { me, lease, keeper, table: None, revision: 0, seen: Epoch::default() }
    }

    /// Whose beliefs these are.
    pub const fn me(&self) -> &Life {
        &self.me
    }

    /// The table, and the revision to compare with when it is changed.
    pub const fn table(&self) -> Option<(&Arc<Table>, u64)> {
        match &self.table {
            Some(table) => Some((table, self.revision)),
            None => None,
        }
    }

    /// The last revision that it knows of the table, which may be the one at which it was lost.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The largest epoch it ever read of.
    pub const fn seen(&self) -> Epoch {
        self.seen
    }

    /// A table was read at this revision. Is it news?
    pub fn read(&mut self, table: Arc<Table>, revision: u64) -> bool {
        let is_news = revision > self.revision;
        if is_news {
            self.seen = self.seen.max(table.last_epoch());
            (self.table, self.revision) = (Some(table), revision);
        }
        is_news
    }

    /// Another connection: revisions are compared within one only, as a bucket may have been made anew between two.
    pub const fn reconnected(&mut self) {
        self.revision = 0;
    }

    /// There is no table since that revision, 0 if the bucket is another one: nobody owns anything. Was there one? What was
    /// read before it was lost is no news, though its answer comes later.
    pub fn lost_table(&mut self, since: u64) -> bool {
        self.revision = since;
        self.table.take().is_some()
    }

    /// Another lease is about to begin. Whatever comes of it, this number is not used again.
    pub const fn next_lease(&mut self) -> &Life {
        self.lease.end_now();
        self.me.lease = self.me.lease.saturating_add(1);
        &self.me
    }

    /// What it should serve.
    pub fn wanted(&self, now: Mono) -> BTreeMap<Shard, Epoch> {
        let Some(table) = self.table.as_ref().filter(|_| self.lease.holds(now)) else { return BTreeMap::new() };
        table.places().filter_map(|(shard, place)| self.mine(place).map(|epoch| (shard, epoch))).collect()
    }

    /// Who owns a shard.
    pub fn owner(&self, shard: Shard, now: Mono) -> Owner {
        let Some(table) = &self.table else { return Owner::Nobody };
        let place = table.place(shard);
        match (self.mine(place), place) {
            (Some(epoch), _) if self.lease.holds(now) && self.keeper.serves(shard, epoch) => Owner::Here(epoch),
            (None, Place::Owned { owner, epoch, .. }) if owner.node != self.me.node => {
                Owner::There { node: owner.node.clone(), epoch: *epoch }
            }
            // What an earlier life or lease of this node owned is nobody's now.
            (Some(_), _) | (None, Place::Owned { .. } | Place::Draining { .. } | Place::Free { .. }) => Owner::Nobody,
        }
    }

    fn mine(&self, place: &Place) -> Option<Epoch> {
        match place {
            Place::Owned { owner, epoch, .. } if *owner == self.me => Some(*epoch),
            Place::Owned { .. } | Place::Draining { .. } | Place::Free { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wasmwiz_events::time::Timestamp;

    use super::*;
    use crate::cluster::{
        member::{Standing, tests::life},
        placement::{Member, Rules, plan},
    };

    const SHARD: Shard = Shard::new(7);
    const RULES: Rules = Rules { moves_max: 32, imbalance_percent: 10, tenure_ms: 0, flap_backoff_ms: 0 };

    fn at(s: u64) -> Mono {
        Mono::since_start(Duration::from_secs(s))
    }

    /// A table in which this life owns everything.
    fn all_of(owner: Life) -> Arc<Table> {
        let founded = Table::founded("one", owner.clone(), Timestamp::from_unix_ms(8_000), Epoch::default());
        let members = [Member { life: owner, standing: Some(Standing::Live), weight: 1 }];
        Arc::new(plan(&founded, &members, Timestamp::from_unix_ms(8_000), &RULES).unwrap())
    }

    /// One that has begun its lease at 0 s, and owns everything.
    fn owner() -> (Belief, Epoch) {
        let lease = Lease::new(Duration::from_secs(10), Duration::from_secs(2));
        let mut belief = Belief::new(life("a", 1), lease);
        belief.read(all_of(life("a", 1)), 3);
        belief.lease.begin(at(0));
        for (shard, epoch) in belief.wanted(at(0)) {
            belief.keeper.taken_up(shard, epoch);
        }
        (belief, Epoch::new(9))
    }

    #[test]
    fn it_owns_what_the_table_gives_it_once_that_is_taken_up_and_while_its_lease_holds() {
        let (mut belief, epoch) = owner();
        assert_eq!(belief.owner(SHARD, at(7)), Owner::Here(epoch));
        assert_eq!(belief.owner(SHARD, at(8)), Owner::Nobody);
        assert!(belief.wanted(at(8)).is_empty());
        belief.lease.renewed(at(6));
        assert_eq!(belief.owner(SHARD, at(8)), Owner::Here(epoch));
        belief.keeper.released(SHARD);
        assert_eq!(belief.owner(SHARD, at(8)), Owner::Nobody);
    }

    #[test]
    fn another_lease_owns_nothing_of_what_an_earlier_one_was_given() {
        let (mut belief, _) = owner();
        belief.next_lease();
        belief.lease.begin(at(1));
        assert_eq!(belief.owner(SHARD, at(2)), Owner::Nobody);
        assert!(belief.wanted(at(2)).is_empty());
    }

    #[test]
    fn without_a_table_nobody_owns_anything_and_its_epochs_are_remembered() {
        let (mut belief, epoch) = owner();
        assert!(belief.lost_table(4));
        assert_eq!((belief.owner(SHARD, at(1)), belief.seen()), (Owner::Nobody, epoch));
        assert!(!belief.lost_table(4));
    }

    #[test]
    fn a_table_that_was_read_before_it_was_lost_does_not_come_back() {
        let (mut belief, epoch) = owner();
        let asked_before = all_of(life("a", 1));
        belief.lost_table(4);
        assert!(!belief.read(Arc::clone(&asked_before), 3));
        assert_eq!(belief.owner(SHARD, at(1)), Owner::Nobody);
        // Founded again; and in a bucket that was made anew, where revisions begin again.
        assert!(belief.read(Arc::clone(&asked_before), 5));
        belief.lost_table(0);
        assert!(belief.read(asked_before, 1));
        assert_eq!(belief.owner(SHARD, at(1)), Owner::Here(epoch));
    }

    #[test]
    fn an_older_table_is_no_news_within_a_connection() {
        let (mut belief, epoch) = owner();
        assert!(!belief.read(all_of(life("b", 1)), 3));
        belief.reconnected();
        assert!(belief.read(all_of(life("b", 1)), 3));
        assert_eq!(belief.owner(SHARD, at(1)), Owner::There { node: life("b", 1).node, epoch });
    }

    #[test]
    fn a_shard_that_drains_is_nobodys() {
        let (mut belief, epoch) = owner();
        let leaving = [Member { life: life("a", 1), standing: Some(Standing::Leaving), weight: 1 }];
        let rules = Rules { moves_max: 256, ..RULES };
        let table = plan(belief.table().unwrap().0, &leaving, Timestamp::from_unix_ms(9_000), &rules).unwrap();
        belief.read(Arc::new(table.clone()), 4);
        assert_eq!(belief.owner(SHARD, at(1)), Owner::Nobody);
        assert_eq!(belief.keeper.drained(&table, &life("a", 1)), [], "it is served still");
        belief.keeper.released(SHARD);
        assert_eq!(belief.keeper.drained(&table, &life("a", 1)), [(SHARD, epoch)]);
    }
}
