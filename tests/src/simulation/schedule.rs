//! What the cluster of a seed is like, and what happens to it when: all of that is drawn before anything begins.

use wasmwiz_events::shard::SHARDS;
use wasmwiz_node::cluster::placement::Rules;

use super::{TTL_MS, clocks::drawn_jump};
use crate::chance::Chance;

/// One seed of so many goes through a table of a real size; the others through small ones, in a hundredth of the time.
const WHOLE_EVERY: u64 = 1_000;

/// When faults begin, in milliseconds: some find the nodes still on their way.
const FAULTS_MS: std::ops::Range<u64> = 100..TTL_MS * 5 / 2;

/// How long something may be away, in milliseconds: past a lease, and past that of who takes over.
const LONG_MS: std::ops::Range<u64> = 20..TTL_MS * 8 / 5;

/// How long a node may take to leave, in milliseconds: what it hands over, drains and says good-bye in.
const LEAVING_MS: u64 = TTL_MS * 2;

/// Which ways of a node are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ways {
    /// What it sends to the buckets is lost.
    pub(super) to_keys: bool,
    /// What they answer is lost, and their news wait.
    pub(super) from_keys: bool,
    /// It does not reach the log, nor is it reached.
    pub(super) log: bool,
}

impl Ways {
    /// All of them.
    pub(super) const ALL: Self = Self { to_keys: true, from_keys: true, log: true };
}

/// Something that happens. Nodes are numbered; times are milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process is killed, and started again so much later.
    Crash { node: usize, down_ms: u64 },
    /// It is told to stop, leaves, and is started again so much later.
    Leave { node: usize, down_ms: u64 },
    /// It stands still, and goes on as if nothing had been.
    Pause { node: usize, ms: u64 },
    /// Ways of it are cut.
    Cut { node: usize, ways: Ways, ms: u64 },
    /// The servers answer nobody.
    Outage { ms: u64 },
    /// Its connection ends.
    Reset { node: usize },
    /// Its wall clock is set.
    Wall { node: usize, by_ms: i64 },
    /// The servers' clock is set forward: all records are too old.
    ServersAhead,
    /// Somebody deletes the table.
    TableLost,
}

impl Fault {
    /// How long it is felt at the most.
    const fn lasts_ms(&self) -> u64 {
        match self {
            Self::Crash { down_ms, .. } => *down_ms,
            Self::Leave { down_ms, .. } => LEAVING_MS + *down_ms,
            Self::Pause { ms, .. } | Self::Cut { ms, .. } | Self::Outage { ms } => *ms,
            Self::Reset { .. } | Self::Wall { .. } | Self::ServersAhead | Self::TableLost => 0,
        }
    }
}

/// How good the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    /// One message of so many is lost; 0 for none.
    pub(super) lost_in: u64,
    /// One of so many takes up to two leases; 0 for none.
    pub(super) late_in: u64,
}

/// All that is drawn for a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schedule {
    /// The weight of each node.
    pub(super) weights: Vec<u32>,
    /// How many shards there are.
    pub(super) shards: usize,
    /// Is there a table already, of a cluster that was stopped?
    pub(super) is_founded: bool,
    /// May wall clocks be wrong?
    pub(super) has_wrong_clocks: bool,
    /// How good the network is.
    pub(super) network: Network,
    /// How plans go about it.
    pub(super) rules: Rules,
    /// What happens, and when.
    pub(super) faults: Vec<(u64, Fault)>,
    /// When the last of it is over.
    pub(super) over_ms: u64,
}

impl Schedule {
    /// That of a seed, whose chance this is.
    pub(super) fn of(seed: u64, chance: &mut Chance) -> Self {
        let is_whole = seed % WHOLE_EVERY == WHOLE_EVERY - 1;
        let nodes = pick(chance, [2, 3, 3, 3, 3, 4]);
        let is_weighted = chance.within(0..4) == 0;
        let weight = |chance: &mut Chance| if is_weighted { pick(chance, [1, 2, 3]) } else { 1 };
        let weights = (0..nodes).map(|_| weight(chance)).collect();
        let drawn = usize::try_from(chance.within(6..11)).unwrap_or(8);
        let shards = if is_whole { SHARDS } else { drawn };
        let is_founded = chance.within(0..8) > 0;
        let has_wrong_clocks = chance.within(0..2) == 0;
        let network = Network { lost_in: pick(chance, [0, 0, 60, 200]), late_in: pick(chance, [0, 60, 120, 300]) };
        let rules = Rules {
            moves_max: if is_whole { 32 } else { pick(chance, [1, 2, 4]) },
            imbalance_percent: pick(chance, [10, 25]),
            tenure_ms: pick(chance, [0, 0, 1_000]),
            flap_backoff_ms: pick(chance, [0, 0, 2_000]),
        };
        // A founding by a clock that is wrong may give an epoch again: see docs/adr/067.
        // A second one soon after the first may do so too.
        let mut may_lose_table = is_founded && !has_wrong_clocks;
        let count = chance.within(1..6);
        let mut faults = Vec::new();
        for _ in 0..count {
            let node = usize::try_from(chance.within(0..nodes)).unwrap_or_default();
            let fault = drawn_fault(chance, node, has_wrong_clocks, may_lose_table);
            may_lose_table &= fault != Fault::TableLost;
            faults.push((chance.within(FAULTS_MS), fault));
        }
        let over_ms = faults.iter().map(|(at, fault): &(u64, Fault)| at + fault.lasts_ms()).max().unwrap_or_default();
        Self { weights, shards, is_founded, has_wrong_clocks, network, rules, faults, over_ms }
    }
}

fn drawn_fault(chance: &mut Chance, node: usize, has_wrong_clocks: bool, may_lose_table: bool) -> Fault {
    let ms = chance.within(LONG_MS);
    match chance.within(0..20) {
        0..4 => Fault::Crash { node, down_ms: ms },
        4..6 => Fault::Leave { node, down_ms: ms / 2 },
        6..10 => Fault::Pause { node, ms },
        10..14 => Fault::Cut { node, ways: drawn_ways(chance), ms },
        14 => Fault::Outage { ms },
        15 => Fault::ServersAhead,
        16..18 if has_wrong_clocks => Fault::Wall { node, by_ms: drawn_jump(chance) },
        16..18 if may_lose_table => Fault::TableLost,
        _ => Fault::Reset { node },
    }
}

fn drawn_ways(chance: &mut Chance) -> Ways {
    let bits = chance.within(1..8);
    Ways { to_keys: bits & 1 > 0, from_keys: bits & 2 > 0, log: bits & 4 > 0 }
}

/// One of these, each as likely.
fn pick<T: Copy + Default, const N: usize>(chance: &mut Chance, of: [T; N]) -> T {
    let place = usize::try_from(chance.within(0..N as u64)).unwrap_or_default();
    of.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_draw_everything_that_there_is_and_the_same_seed_the_same() {
        let of = |seed| Schedule::of(seed, &mut Chance::new(seed));
        assert_eq!(of(7), of(7));
        let all: Vec<_> = (0..2_000).map(of).collect();
        let drawn = |kind: fn(&Fault) -> bool| {
            assert!(all.iter().flat_map(|schedule| &schedule.faults).any(|(_, fault)| kind(fault)));
        };
        drawn(|fault| matches!(fault, Fault::Crash { .. }));
        drawn(|fault| matches!(fault, Fault::Leave { .. }));
        drawn(|fault| matches!(fault, Fault::Pause { ms, .. } if *ms > TTL_MS));
        drawn(|fault| matches!(fault, Fault::Cut { ways: Ways { to_keys: true, from_keys: false, .. }, .. }));
        drawn(|fault| matches!(fault, Fault::Outage { .. }));
        drawn(|fault| matches!(fault, Fault::Reset { .. }));
        drawn(|fault| matches!(fault, Fault::Wall { by_ms: ..0, .. }));
        drawn(|fault| matches!(fault, Fault::ServersAhead));
        drawn(|fault| matches!(fault, Fault::TableLost));
        assert_eq!(all.iter().filter(|schedule| schedule.shards == SHARDS).count(), 2);
        assert!(all.iter().all(|schedule| (2..=4).contains(&schedule.weights.len()) && schedule.over_ms > 0));
    }
}
