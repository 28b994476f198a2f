//! Who plans, and what a plan may rest on: what a leader decides, as a function of what it knows and the time.
//!
//! Two who both plan do no harm, as the table is changed by compare-and-set; what must never be true is that one plans by a
//! table that others do not go by yet, or before it has heard everybody.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmwiz_events::time::Timestamp;

use super::{
    belief::Belief,
    clock::Mono,
    member::Life,
    placement::{
        Member, Rules, plan,
        table::{Founding, Table},
    },
    roster::Roster,
};

/// Who plans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Which life.
    #[serde(flatten)]
    pub life: Life,
    /// How many there have been.
    pub term: u64,
}

/// Whose turn it is to plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// This member's.
    Mine,
    /// Another's, or this one may not plan.
    Others,
    /// Nobody's: this member may stand up.
    Vacant,
}

impl Turn {
    /// As it is for a member with these beliefs that knows this leader. `is_synced`: has it heard all that were there before
    /// it?
    pub fn of(belief: &Belief, roster: &Roster, leader: Option<&Leader>, is_synced: bool, now: Mono) -> Self {
        if !is_synced || !belief.lease.holds(now) {
            return Self::Others;
        }
        match leader {
            Some(leader) if leader.life == *belief.me() => Self::Mine,
            Some(leader) if roster.is_there(&leader.life, now) => Self::Others,
            Some(_) | None => Self::Vacant,
        }
    }
}

/// What a plan rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    members: Vec<Member>,
    /// The table to plan from, where that has to be opened first.
    opened: Option<Table>,
}

impl Ground {
    /// None while shards of this table may not be given away: somebody may go by another founding, or it was founded less
    /// than a lease, `ttl`, ago. `known` is the founding that the member knows, and since when.
    pub fn of(
        table: &Table,
        roster: &mut Roster,
        known: Option<&(Founding, Mono)>,
        now: Mono,
        ttl: Duration,
    ) -> Option<Self> {
        roster.named(table.owners(), now);
        if !roster.agree_on(table.founding(), now) {
            return None;
        }
        let known = known.filter(|(founding, _)| founding == table.founding());
        let may_open = known.is_some_and(|(_, since)| now.since(*since) >= ttl);
        if !table.is_open() && !may_open {
            return None;
        }
        let opened = (!table.is_open()).then(|| table.opened());
        Some(Self { members: roster.members(now), opened })
    }

    /// The next table, or none if `table` is as good as can be. It is the one that this is the ground for.
    pub fn plan(self, table: &Table, now: Timestamp, rules: &Rules) -> Option<Table> {
        let planned = plan(self.opened.as_ref().unwrap_or(table), &self.members, now, rules);
        planned.or(self.opened)
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::revision::Epoch;

    use super::*;
    use crate::cluster::{
        lease::Lease,
        member::{
            Record, Standing,
            tests::{life, record},
        },
    };

    const TTL: Duration = Duration::from_secs(10);
    const NOW: Timestamp = Timestamp::from_unix_ms(8_000);
    const RULES: Rules = Rules { moves_max: 32, imbalance_percent: 10, tenure_ms: 0, flap_backoff_ms: 0 };

    fn at(s: u64) -> Mono {
        Mono::since_start(Duration::from_secs(s))
    }

    fn leader(node: &str) -> Leader {
        Leader { life: life(node, 1), term: 1 }
    }

    #[test]
    fn who_has_a_lease_and_has_heard_all_stands_up_when_the_leader_is_gone() {
        let mut belief = Belief::new(life("a", 1), Lease::new(TTL, Duration::from_secs(2)));
        let mut roster = Roster::new(TTL);
        roster.heard(record(life("b", 1), Standing::Live), 1, at(0));
        let turn = |belief: &Belief, roster: &Roster, leader: Option<Leader>, is_synced| {
            Turn::of(belief, roster, leader.as_ref(), is_synced, at(1))
        };
        assert_eq!(turn(&belief, &roster, None, true), Turn::Others, "it has no lease");
        belief.lease.begin(at(0));
        assert_eq!(turn(&belief, &roster, None, false), Turn::Others, "it has not heard all");
        assert_eq!(turn(&belief, &roster, None, true), Turn::Vacant);
        assert_eq!(turn(&belief, &roster, Some(leader("a")), true), Turn::Mine);
        assert_eq!(turn(&belief, &roster, Some(leader("b")), true), Turn::Others);
        roster.removed(&life("b", 1).node, true);
        assert_eq!(turn(&belief, &roster, Some(leader("b")), true), Turn::Vacant);
    }

    #[test]
    fn a_table_is_opened_after_a_lease_once_all_go_by_it() {
        let table = Table::founded("one", life("a", 1), NOW, Epoch::default());
        let known = (table.founding().clone(), at(0));
        let says = |founding| Record { founding, ..record(life("a", 1), Standing::Live) };
        let mut roster = Roster::new(TTL);
        roster.heard(says(None), 1, at(0));
        assert_eq!(Ground::of(&table, &mut roster, Some(&known), at(10), TTL), None, "it goes by another");
        roster.heard(says(Some(table.founding().clone())), 2, at(9));
        assert_eq!(Ground::of(&table, &mut roster, Some(&known), at(9), TTL), None, "too early");
        assert_eq!(Ground::of(&table, &mut roster, None, at(10), TTL), None, "since when is not known");
        let ground = Ground::of(&table, &mut roster, Some(&known), at(10), TTL).unwrap();
        let next = ground.plan(&table, NOW, &RULES).unwrap();
        assert!(next.is_open() && next.owners().count() > 0);
        assert_eq!(Ground::of(&next, &mut roster, None, at(10), TTL).unwrap().plan(&next, NOW, &RULES), None);
    }
}
