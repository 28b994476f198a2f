//! Plans: what they may never do, and that they end where they should.

use std::collections::BTreeSet;

use proptest::prelude::*;
use wasmwiz_events::{revision::Epoch, shard::SHARDS};

use super::*;
use crate::cluster::member::tests::life;

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
const RULES: Rules = Rules { moves_max: 16, imbalance_percent: 10, tenure_ms: 30_000, flap_backoff_ms: 30_000 };

fn at(s: u64) -> Timestamp {
    NOW.plus_ms(s * 1_000)
}

fn member(node: &str, standing: Standing) -> Member {
    Member { life: life(node, 1), standing: Some(standing), weight: 1 }
}

fn live(nodes: &[&str]) -> Vec<Member> {
    nodes.iter().map(|node| member(node, Standing::Live)).collect()
}

fn founded() -> Table {
    Table::founded("one", life("a", 1), NOW, Epoch::default())
}

/// What owners do: they free at once what they are to drain.
fn drained(table: &Table) -> Table {
    let mut table = table.clone();
    for life in table.owners().cloned().collect::<BTreeSet<_>>() {
        let theirs: Vec<_> = Shard::all().map(|shard| (shard, table.place(shard).epoch())).collect();
        table = table.freed(&life, &theirs).unwrap_or(table);
    }
    table
}

/// Plans and drains until nothing changes any more. How many rounds that took comes with it.
fn settled(table: &Table, members: &[Member], now: Timestamp) -> (Table, usize) {
    let mut table = table.clone();
    for round in 0..1_000 {
        let next = plan(&table, members, now, &RULES);
        let next = drained(next.as_ref().unwrap_or(&table));
        if next == table {
            return (table, round);
        }
        table = next;
    }
    panic!("it does not converge");
}

fn load(table: &Table, node: &str) -> usize {
    table.owners().filter(|owner| owner.node.as_str() == node).count()
}

fn moves(before: &Table, after: &Table) -> Vec<Shard> {
    Shard::all().filter(|shard| before.place(*shard).owner() != after.place(*shard).owner()).collect()
}

#[test]
fn a_new_table_gives_everything_to_who_is_there() {
    let (table, rounds) = settled(&founded(), &live(&["a", "b", "c"]), NOW);
    let loads = ["a", "b", "c"].map(|node| load(&table, node));
    assert_eq!(loads.iter().sum::<usize>(), SHARDS);
    assert!(loads.iter().all(|load| (76..=94).contains(load)), "{loads:?}");
    assert_eq!(rounds, 1);
    let first = founded().last_epoch().get() + 1;
    assert!(table.places().all(|(_, place)| place.epoch() == Epoch::new(first)));
}

#[test]
fn nothing_is_given_to_nobody() {
    assert_eq!(plan(&founded(), &[], NOW, &RULES), None);
    let joining = plan(&founded(), &[member("a", Standing::Joining)], NOW, &RULES).unwrap();
    assert_eq!(joining.owners().count(), 0);
}

#[test]
fn a_table_that_is_as_good_as_can_be_is_left_alone() {
    let (table, _) = settled(&founded(), &live(&["a", "b", "c"]), NOW);
    assert_eq!(plan(&table, &live(&["a", "b", "c"]), at(3_600), &RULES), None);
}

#[test]
fn the_loss_of_a_member_moves_its_shards_at_the_next_epoch_and_no_others() {
    let (before, _) = settled(&founded(), &live(&["a", "b", "c"]), NOW);
    let after = plan(&before, &live(&["a", "b"]), at(60), &RULES).unwrap();
    for shard in Shard::all() {
        let (old, new) = (before.place(shard), after.place(shard));
        if old.owner() == Some(&life("c", 1)) {
            assert_eq!(new.epoch().get(), old.epoch().get() + 1);
            assert!(new.owner().is_some_and(|owner| owner.node.as_str() != "c"));
        } else {
            assert_eq!(old, new);
        }
    }
    let entry = &after.nodes()[&life("c", 1).node];
    assert_eq!((entry.standing, entry.losses), (NodeStanding::Lost, 1));
}

#[test]
fn a_member_that_may_be_there_keeps_what_it_owns() {
    let (table, _) = settled(&founded(), &live(&["a", "b", "c"]), NOW);
    let mut members = live(&["a", "b"]);
    members.push(Member { life: life("c", 1), standing: None, weight: 1 });
    assert_eq!(plan(&table, &members, at(60), &RULES), None);
}

#[test]
fn a_shard_of_a_living_owner_is_drained_before_it_is_given_away() {
    let (alone, _) = settled(&founded(), &live(&["a"]), NOW);
    let draining = plan(&alone, &live(&["a", "b"]), at(60), &RULES).unwrap();
    assert_eq!(moves(&alone, &draining), []);
    assert_eq!(draining.places().filter(|(_, place)| matches!(place, Place::Draining { .. })).count(), 16);
    // Until the owner frees them, nothing more is asked of it.
    assert_eq!(plan(&draining, &live(&["a", "b"]), at(61), &RULES), None);
    let given = plan(&drained(&draining), &live(&["a", "b"]), at(61), &RULES).unwrap();
    assert_eq!(load(&given, "b"), 16);
    assert!(
        given
            .places()
            .filter(|(_, place)| place.owner() == Some(&life("b", 1)))
            .all(|(shard, place)| { place.epoch().get() == alone.place(shard).epoch().get() + 1 })
    );
}

#[test]
fn shards_stay_for_their_tenure() {
    let (alone, _) = settled(&founded(), &live(&["a"]), NOW);
    let noted = plan(&alone, &live(&["a", "b"]), at(29), &RULES).unwrap();
    assert_eq!(noted.places().filter(|(_, place)| matches!(place, Place::Draining { .. })).count(), 0);
    assert!(plan(&noted, &live(&["a", "b"]), at(30), &RULES).is_some());
}

#[test]
fn a_wrong_clock_of_an_earlier_leader_holds_nothing_up() {
    let (alone, _) = settled(&founded(), &live(&["a"]), at(1_000_000));
    let draining = plan(&alone, &live(&["a", "b"]), NOW, &RULES).unwrap();
    assert!(draining.places().any(|(_, place)| matches!(place, Place::Draining { .. })));
}

#[test]
fn who_leaves_is_drained_of_everything_whatever_the_tenure() {
    let (before, _) = settled(&founded(), &live(&["a", "b", "c"]), NOW);
    let members = [live(&["a", "b"]), vec![member("c", Standing::Leaving)]].concat();
    let (after, rounds) = settled(&before, &members, at(1));
    assert_eq!((load(&after, "c"), after.owners().count()), (0, SHARDS));
    assert!(rounds >= load(&before, "c").div_ceil(RULES.moves_max), "bounded: {rounds}");
    assert!(moves(&before, &after).iter().all(|shard| before.place(*shard).owner() == Some(&life("c", 1))));
    let gone = plan(&after, &live(&["a", "b"]), at(2), &RULES).unwrap();
    let entry = &gone.nodes()[&life("c", 1).node];
    assert_eq!((entry.standing, entry.losses), (NodeStanding::Left, 0));
    assert!(gone.has_ended(&life("c", 1).node, life("c", 1).boot));
}

#[test]
fn the_last_member_that_leaves_frees_what_it_has() {
    let (alone, _) = settled(&founded(), &live(&["a"]), NOW);
    let (after, _) = settled(&alone, &[member("a", Standing::Leaving)], at(1));
    assert_eq!(after.owners().count(), 0);
}

#[test]
fn a_node_that_was_lost_waits_longer_every_time() {
    let (mut table, _) = settled(&founded(), &live(&["a", "b"]), NOW);
    for (loss, backoff_s) in [(1_u32, 30), (2, 60), (3, 120)] {
        let lost_at = u64::from(loss) * 1_000;
        table = settled(&table, &live(&["a"]), at(lost_at)).0;
        let again =
            [live(&["a"]), vec![Member { life: life("b", loss + 1), standing: Some(Standing::Live), weight: 1 }]];
        let again = again.concat();
        table = settled(&table, &again, at(lost_at + 100)).0;
        assert_eq!((load(&table, "b"), table.nodes()[&life("b", 1).node].losses), (0, loss));
        assert_eq!(plan(&table, &again, at(lost_at + 100 + backoff_s - 1), &RULES), None);
        let (after, _) = settled(&table, &again, at(lost_at + 100 + backoff_s));
        assert!(load(&after, "b") > 100, "loss {loss}");
        table = after;
    }
    // It stays, and is forgiven.
    let stays = [live(&["a"]), vec![Member { life: life("b", 4), standing: Some(Standing::Live), weight: 1 }]].concat();
    let (table, _) = settled(&table, &stays, at(100_000));
    assert_eq!(table.nodes()[&life("b", 1).node].losses, 0);
}

#[test]
fn a_restart_without_a_word_is_a_loss_and_its_shards_wait_for_the_old_life() {
    let (before, _) = settled(&founded(), &live(&["a", "b"]), NOW);
    let old = Member { life: life("b", 1), standing: None, weight: 1 };
    let new = Member { life: life("b", 2), standing: Some(Standing::Live), weight: 1 };
    let both = [live(&["a"]), vec![old, new.clone()]].concat();
    let meanwhile = plan(&before, &both, at(60), &RULES).unwrap();
    assert_eq!(moves(&before, &meanwhile), []);
    assert_eq!(meanwhile.nodes()[&new.life.node].losses, 1);
    let after = plan(&meanwhile, &[live(&["a"]), vec![new]].concat(), at(61), &RULES).unwrap();
    assert_eq!(moves(&before, &after).len(), load(&before, "b"));
    assert_eq!(after.owners().count(), SHARDS);
}

#[test]
fn weights_are_parts() {
    let mut members = live(&["a", "b"]);
    members[0].weight = 3;
    let (table, _) = settled(&founded(), &members, NOW);
    assert!((170..=212).contains(&load(&table, "a")), "{}", load(&table, "a"));
}

/// Something that happens between two plans.
#[derive(Debug, Clone)]
enum Happening {
    Standing(usize, Option<Standing>),
    Restart(usize),
    Gone(usize),
    Weight(usize, u32),
    Drain,
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let node = 0..6_usize;
    prop_oneof![
        3 => (node.clone(), prop_oneof![
            Just(Some(Standing::Joining)), Just(Some(Standing::Live)), Just(Some(Standing::Live)),
            Just(Some(Standing::Leaving)), Just(None),
        ]).prop_map(|(node, standing)| Happening::Standing(node, standing)),
        1 => node.clone().prop_map(Happening::Restart),
        1 => node.clone().prop_map(Happening::Gone),
        1 => (node, 1..5_u32).prop_map(|(node, weight)| Happening::Weight(node, weight)),
        3 => Just(Happening::Drain),
        2 => (0..120_000_u64).prop_map(Happening::Pass),
    ]
}

/// Nodes by number, each with its life, if it is there.
struct World {
    lives: Vec<u32>,
    members: Vec<Option<Member>>,
    now: Timestamp,
}

impl World {
    fn happen(&mut self, happening: Happening) -> bool {
        let name = |node: usize| format!("n{node}");
        match happening {
            Happening::Standing(node, standing) => {
                let life = life(&name(node), self.lives[node]);
                let weight = self.members[node].as_ref().map_or(1, |member| member.weight);
                self.members[node] = Some(Member { life, standing, weight });
            }
            Happening::Restart(node) => {
                self.lives[node] += 1;
                let life = life(&name(node), self.lives[node]);
                self.members[node] = Some(Member { life, standing: Some(Standing::Live), weight: 1 });
            }
            Happening::Gone(node) => self.members[node] = None,
            Happening::Weight(node, weight) => {
                if let Some(member) = &mut self.members[node] {
                    member.weight = weight;
                }
            }
            Happening::Drain => return true,
            Happening::Pass(ms) => self.now = self.now.plus_ms(ms),
        }
        false
    }

    fn there(&self) -> Vec<Member> {
        self.members.iter().flatten().cloned().collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_epochs_grow_moves_are_bounded_and_nobody_alive_is_robbed(
        happenings in proptest::collection::vec(happening(), 1..40),
    ) {
        let mut world = World { lives: vec![1; 6], members: vec![None; 6], now: NOW };
        let mut table = founded();
        for happening in happenings {
            if world.happen(happening) {
                table = drained(&table);
            }
            let members = world.there();
            let Some(next) = plan(&table, &members, world.now, &RULES) else { continue };
            prop_assert_eq!(next.version(), table.version() + 1);
            for shard in Shard::all() {
                let (old, new) = (table.place(shard), next.place(shard));
                prop_assert!(new.epoch() >= old.epoch());
                if let Some(owner) = new.owner() && old.owner() != Some(owner) {
                    // An epoch is given once, and only for who is to have shards.
                    prop_assert!(new.epoch() > old.epoch());
                    let is_live = |member: &Member| member.life == *owner && member.standing == Some(Standing::Live);
                    prop_assert!(members.iter().any(is_live));
                }
                if let Some(owner) = old.owner() && members.iter().any(|member| member.life == *owner) {
                    prop_assert_eq!(new.owner(), Some(owner), "its owner may decide still");
                }
            }
            let draining = next.places().filter(|(_, place)| matches!(place, Place::Draining { .. })).count();
            prop_assert!(draining <= RULES.moves_max);
            table = next;
        }
    }

    #[test]
    fn it_converges_to_parts_that_are_fair(weights in proptest::collection::vec(1..4_u32, 1..12), late in 0..4_usize) {
        let member = |(number, weight): (usize, &u32)| {
            Member { life: life(&format!("n{number}"), 1), standing: Some(Standing::Live), weight: *weight }
        };
        let members: Vec<Member> = weights.iter().enumerate().map(member).collect();
        // Some come late: their part has to be moved to them.
        let first = members.len().saturating_sub(late).max(1);
        let (table, _) = settled(&founded(), &members[..first], NOW);
        let (mut table, mut now) = (table, NOW);
        // Each round of what has moved has its tenure.
        for _ in 0..4 {
            now = now.plus_ms(60_000);
            table = settled(&table, &members, now).0;
        }
        prop_assert_eq!(table.owners().count(), SHARDS);
        let total: u32 = weights.iter().sum();
        for member in &members {
            let fair = 256.0 * f64::from(member.weight) / f64::from(total);
            let load = load(&table, member.life.node.as_str()) as f64;
            prop_assert!(load <= fair * 1.1 + 1.0 && load >= fair * 0.9 - 1.0, "{load} for {fair}");
        }
        prop_assert_eq!(plan(&table, &members, now.plus_ms(60_000), &RULES), None);
    }

    #[test]
    fn a_loss_moves_only_what_was_lost(nodes in 2..10_usize, lost in 0..10_usize) {
        let names: Vec<String> = (0..nodes).map(|number| format!("n{number}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let (before, _) = settled(&founded(), &live(&all), NOW);
        let lost = all[lost % nodes];
        let rest: Vec<&str> = all.iter().copied().filter(|node| *node != lost).collect();
        let (after, _) = settled(&before, &live(&rest), at(3_600));
        for shard in moves(&before, &after) {
            prop_assert_eq!(before.place(shard).owner().map(|owner| owner.node.as_str()), Some(lost));
        }
    }
}
