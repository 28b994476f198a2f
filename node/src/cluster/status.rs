//! The cluster as one member sees it, made of what it knows: for people and for the API.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use wasmwiz_actors::topology::{self, Lease, Movement, Node, Owned, Place, State, Topology};
use wasmwiz_events::{
    id::NodeId,
    shard::{SHARDS, Shard},
    time::Timestamp,
};

use super::{
    clock::Mono,
    member::{Record, Standing},
    placement::table::{self, Entry, NodeStanding, Table},
    roster::Roster,
};

/// The last movements that are kept: as many as when all shards are given anew twice.
const MOVEMENTS_KEPT: usize = 2 * SHARDS;

/// What a member knows of its cluster.
pub(super) struct Sight<'s> {
    /// The cluster's name.
    pub(super) cluster: &'s str,
    /// The member.
    pub(super) node: &'s NodeId,
    /// Who plans, if that is known.
    pub(super) leader: Option<&'s NodeId>,
    /// How long it may go on deciding.
    pub(super) lease: Duration,
    /// What is in the way.
    pub(super) trouble: Option<&'s str>,
    /// The table, and when it was last known to be the newest.
    pub(super) table: Option<(&'s Table, Mono)>,
    /// Who is there.
    pub(super) roster: &'s Roster,
    /// What has moved.
    pub(super) movements: &'s Movements,
}

impl Sight<'_> {
    /// As people want it, at `now`.
    pub(super) fn topology(&self, now: Mono) -> Topology {
        let table = self.table.map(|(table, _)| table);
        let read = |(table, at): (&Table, Mono)| topology::Table {
            version: table.version(),
            founded_at: table.founding().at,
            open: table.is_open(),
            read_ms_ago: ms(now.since(at)),
        };
        Topology {
            cluster: Some(self.cluster.to_owned()),
            node: self.node.clone(),
            leader: self.leader.cloned(),
            lease_ms: Some(ms(self.lease)),
            trouble: self.trouble.map(str::to_owned),
            table: self.table.map(read),
            nodes: self.nodes(table, now),
            shards: table.into_iter().flat_map(Table::places).map(|(shard, place)| whereabouts(shard, place)).collect(),
            movements: self.movements.0.iter().cloned().collect(),
        }
    }

    /// Those that have a record, and those that only the table remembers.
    fn nodes(&self, table: Option<&Table>, now: Mono) -> Vec<Node> {
        let mut owned = BTreeMap::<&NodeId, usize>::new();
        for owner in table.into_iter().flat_map(Table::owners) {
            *owned.entry(&owner.node).or_default() += 1;
        }
        let shards = |node: &NodeId| owned.get(node).copied().unwrap_or_default();
        let mut nodes = BTreeMap::new();
        for (node, entry) in table.into_iter().flat_map(Table::nodes) {
            nodes.insert(node, remembered(node, entry, shards(node)));
        }
        for (record, heard) in self.roster.records(now) {
            let node = &record.life.node;
            let entry = table.and_then(|table| table.nodes().get(node));
            nodes.insert(node, member(record, heard, entry, shards(node)));
        }
        nodes.into_values().collect()
    }
}

/// A node that has a record.
fn member(record: &Record, heard: Duration, entry: Option<&Entry>, shards: usize) -> Node {
    let state = match record.standing {
        Standing::Joining => State::Joining,
        Standing::Live => State::Live,
        Standing::Leaving => State::Leaving,
    };
    let life = &record.life;
    Node {
        node: life.node.clone(),
        boot: life.boot,
        state,
        since: entry.filter(|entry| entry.boot == life.boot && !entry.is_gone()).map(|entry| entry.since),
        losses: entry.map_or(0, |entry| entry.losses),
        shards,
        lease: Some(Lease { number: life.lease, ttl_ms: record.lease_ttl_ms, renewed_ms_ago: ms(heard) }),
        version: Some(record.version.clone()),
        address: Some(record.address.clone()),
        weight: Some(record.weight),
    }
}

/// A node that has none any more.
fn remembered(node: &NodeId, entry: &Entry, shards: usize) -> Node {
    let state = match entry.standing {
        NodeStanding::Here | NodeStanding::Leaving => State::Silent,
        NodeStanding::Left => State::Left,
        NodeStanding::Lost => State::Lost,
    };
    Node {
        node: node.clone(),
        boot: entry.boot,
        state,
        since: Some(entry.since),
        losses: entry.losses,
        shards,
        lease: None,
        version: None,
        address: None,
        weight: None,
    }
}

fn whereabouts(shard: Shard, place: &table::Place) -> Place {
    let (state, since) = match place {
        table::Place::Free { .. } => (Owned::Free, None),
        table::Place::Owned { since, .. } => (Owned::Owned, Some(*since)),
        table::Place::Draining { .. } => (Owned::Draining, None),
    };
    let node = place.owner().map(|owner| owner.node.clone());
    Place { shard, state, node, epoch: place.epoch(), since, next: place.next().cloned() }
}

/// The last movements of shards, oldest first.
#[derive(Debug, Default)]
pub(super) struct Movements(VecDeque<Movement>);

impl Movements {
    /// Notes what moved from one table to the next: one for each shard whose owner is another, also if there is none now. A shard
    /// that was given up and is taken now has moved once, from who had it to who has it.
    pub(super) fn note(&mut self, before: &Table, after: &Table, at: Timestamp) {
        for shard in Shard::all() {
            let (old, new) = (before.place(shard), after.place(shard));
            if old.owner() == new.owner() {
                continue;
            }
            let node = |place: &table::Place| place.owner().map(|owner| owner.node.clone());
            let from = node(old).or_else(|| self.given_up(shard));
            self.0.push_back(Movement { shard, from, to: node(new), epoch: new.epoch(), at });
        }
        let too_many = self.0.len().saturating_sub(MOVEMENTS_KEPT);
        self.0.drain(..too_many);
    }

    /// Takes the last movement of a shard out again if nobody has had it since. Says who had it before.
    fn given_up(&mut self, shard: Shard) -> Option<NodeId> {
        let last = self.0.iter().rposition(|movement| movement.shard == shard)?;
        self.0.get(last).filter(|movement| movement.to.is_none())?;
        self.0.remove(last)?.from
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::revision::Epoch;

    use super::*;
    use crate::cluster::{
        member::{
            Life,
            tests::{life, record},
        },
        placement::{Member, Rules, plan},
    };

    const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
    const RULES: Rules = Rules { moves_max: SHARDS, imbalance_percent: 10, tenure_ms: 0, flap_backoff_ms: 0 };

    fn at(s: u64) -> Mono {
        Mono::since_start(Duration::from_secs(s))
    }

    fn later(s: u64) -> Timestamp {
        NOW.plus_ms(s * 1_000)
    }

    fn members(lives: &[(Life, Standing)]) -> Vec<Member> {
        let member =
            |(life, standing): &(Life, Standing)| Member { life: life.clone(), standing: Some(*standing), weight: 1 };
        lives.iter().map(member).collect()
    }

    /// A table of which `a` and `b` have all in equal parts.
    fn shared() -> (Table, [Life; 2]) {
        let lives = [life("a", 1), life("b", 1)];
        let founded = Table::founded("one", life("a", 1), NOW, Epoch::default());
        let both = members(&lives.clone().map(|life| (life, Standing::Live)));
        (plan(&founded, &both, later(1), &RULES).unwrap(), lives)
    }

    /// A roster that has heard these, at 0 s.
    fn roster(lives: &[(Life, Standing)]) -> Roster {
        let mut roster = Roster::new(Duration::from_secs(10));
        for ((life, standing), revision) in lives.iter().zip(1..) {
            roster.heard(record(life.clone(), *standing), revision, at(0));
        }
        roster
    }

    fn seen(table: Option<&Table>, roster: &Roster, movements: &Movements) -> Topology {
        let node = life("a", 1).node;
        let sight = Sight {
            cluster: "one",
            node: &node,
            leader: None,
            lease: Duration::from_millis(700),
            trouble: None,
            table: table.map(|table| (table, at(2))),
            roster,
            movements,
        };
        sight.topology(at(5))
    }

    #[test]
    fn members_have_their_leases_and_all_shards_their_owners_and_it_says_of_when_that_is() {
        let (table, lives) = shared();
        let roster = roster(&lives.map(|life| (life, Standing::Live)));
        let topology = seen(Some(&table), &roster, &Movements::default());
        assert_eq!((topology.cluster.as_deref(), topology.lease_ms), (Some("one"), Some(700)));
        let read = topology::Table { version: table.version(), founded_at: NOW, open: false, read_ms_ago: 3_000 };
        assert_eq!(topology.table, Some(read));
        let half = SHARDS / 2;
        let nodes: Vec<_> = topology.nodes.iter().map(|node| (node.node.as_str(), node.state, node.shards)).collect();
        assert_eq!(nodes, [("a", State::Live, half), ("b", State::Live, half)]);
        let lease = Some(Lease { number: 1, ttl_ms: 10_000, renewed_ms_ago: 5_000 });
        assert!(topology.nodes.iter().all(|node| node.lease == lease && node.since == Some(later(1))));
        assert_eq!(topology.shards.len(), SHARDS);
        for (place, shard) in topology.shards.iter().zip(Shard::all()) {
            let owner = table.place(shard).owner().map(|owner| owner.node.clone());
            assert_eq!((place.shard, place.state, &place.node), (shard, Owned::Owned, &owner));
            assert_eq!((place.epoch, place.since), (table.place(shard).epoch(), Some(later(1))));
        }
    }

    #[test]
    fn a_node_without_a_lease_is_silent_until_the_table_says_that_it_was_lost_or_has_left() {
        let (table, [a, b]) = shared();
        let alone = roster(&[(a.clone(), Standing::Live)]);
        let b_of = |table: &Table| {
            let topology = seen(Some(table), &alone, &Movements::default());
            topology.nodes.into_iter().find(|node| node.node == b.node).unwrap()
        };
        let silent = b_of(&table);
        assert_eq!((silent.state, silent.shards, silent.lease), (State::Silent, SHARDS / 2, None));
        let lost = plan(&table, &members(&[(a.clone(), Standing::Live)]), later(9), &RULES).unwrap();
        let lost = b_of(&lost);
        assert_eq!((lost.state, lost.shards, lost.since, lost.losses), (State::Lost, 0, Some(later(9)), 1));
        let leaving = members(&[(a.clone(), Standing::Live), (b.clone(), Standing::Leaving)]);
        let leaving = plan(&table, &leaving, later(9), &RULES).unwrap();
        let left = plan(&leaving, &members(&[(a.clone(), Standing::Live)]), later(10), &RULES).unwrap();
        assert_eq!((b_of(&left).state, b_of(&left).losses), (State::Left, 0));
    }

    #[test]
    fn the_next_life_of_a_lost_node_is_told_from_the_one_that_was_lost() {
        let (table, [a, b]) = shared();
        let lost = plan(&table, &members(&[(a.clone(), Standing::Live)]), later(9), &RULES).unwrap();
        let again = roster(&[(a, Standing::Live), (life("b", 2), Standing::Joining)]);
        let topology = seen(Some(&lost), &again, &Movements::default());
        let node = topology.nodes.iter().find(|node| node.node == b.node).unwrap();
        assert_eq!((node.state, node.boot, node.since, node.losses), (State::Joining, life("b", 2).boot, None, 1));
    }

    #[test]
    fn without_a_table_no_shard_is_anywhere() {
        let topology = seen(None, &roster(&[(life("a", 1), Standing::Joining)]), &Movements::default());
        assert_eq!((topology.table, topology.shards.len(), topology.nodes.len()), (None, 0, 1));
    }

    #[test]
    fn a_lost_nodes_shards_have_moved_once_each_to_a_larger_epoch() {
        let (table, [a, b]) = shared();
        let after = plan(&table, &members(&[(a.clone(), Standing::Live)]), later(9), &RULES).unwrap();
        let mut movements = Movements::default();
        movements.note(&table, &after, later(9));
        assert_eq!(movements.0.len(), SHARDS / 2);
        for moved in &movements.0 {
            assert_eq!((moved.from.as_ref(), moved.to.as_ref()), (Some(&b.node), Some(&a.node)));
            assert_eq!(moved.epoch.get(), table.place(moved.shard).epoch().get() + 1);
        }
        movements.note(&after, &after, later(10));
        assert_eq!(movements.0.len(), SHARDS / 2, "nothing has moved");
    }

    #[test]
    fn a_shard_that_is_given_up_and_then_taken_has_moved_once() {
        let (table, [a, b]) = shared();
        let both = members(&[(a.clone(), Standing::Live), (b.clone(), Standing::Leaving)]);
        let draining = plan(&table, &both, later(2), &RULES).unwrap();
        let drained: Vec<_> = draining.places().map(|(shard, place)| (shard, place.epoch())).collect();
        let freed = draining.freed(&b, &drained).unwrap();
        let taken = plan(&freed, &both, later(4), &RULES).unwrap();
        let mut movements = Movements::default();
        movements.note(&table, &draining, later(2));
        assert!(movements.0.is_empty(), "who drains a shard has it still");
        movements.note(&draining, &freed, later(3));
        let given_up = |moved: &Movement| moved.from.as_ref() == Some(&b.node) && moved.to.is_none();
        assert!(movements.0.len() == SHARDS / 2 && movements.0.iter().all(given_up));
        movements.note(&freed, &taken, later(4));
        let moved = |moved: &Movement| {
            (moved.from.as_ref(), moved.to.as_ref(), moved.at) == (Some(&b.node), Some(&a.node), later(4))
        };
        assert!(movements.0.len() == SHARDS / 2 && movements.0.iter().all(moved));
    }

    #[test]
    fn only_the_last_movements_are_kept() {
        let (table, [a, b]) = shared();
        let only = |table: &Table, life: &Life, s| {
            plan(table, &members(&[(life.clone(), Standing::Live)]), later(s), &RULES).unwrap()
        };
        let (mut movements, mut table) = (Movements::default(), table);
        for (owner, s) in [&a, &b].into_iter().cycle().zip(2..8) {
            let next = only(&table, owner, s);
            movements.note(&table, &next, later(s));
            table = next;
        }
        assert_eq!(movements.0.len(), MOVEMENTS_KEPT);
        assert!(movements.0.iter().all(|moved| moved.at >= later(6)));
    }
}
