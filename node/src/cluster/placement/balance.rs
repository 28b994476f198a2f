//! Moving shards between living members, for balance: only beyond a threshold, few at a time, none that came lately.

use std::collections::BTreeMap;

use wasmwiz_events::{id::NodeId, shard::Shard};

use super::{Draft, Member, elapsed, table::Place, target::score};

/// A member and what it has.
#[derive(Clone, Copy)]
struct Part<'m> {
    member: &'m Member,
    shards: u64,
}

impl<'m> Part<'m> {
    fn of(member: &'m Member, loads: &BTreeMap<&NodeId, u64>) -> Self {
        Part { member, shards: loads.get(&member.life.node).copied().unwrap_or_default() }
    }

    const fn weight(&self) -> u64 {
        self.member.weight as u64
    }

    /// Is this one's part of the whole larger, for its weight?
    const fn outweighs(&self, other: &Self) -> bool {
        self.shards * other.weight() > other.shards * self.weight()
    }
}

impl Draft<'_> {
    /// Drains shards of who has too many, each towards who has too few, until all are within the threshold or the moves of
    /// this round are used up.
    pub(super) fn balance(&mut self) {
        for _ in 0..self.moves_left() {
            let Some((shard, next)) = self.move_worth_its_while() else { return };
            self.drain(shard, Some(next));
        }
    }

    fn move_worth_its_while(&self) -> Option<(Shard, NodeId)> {
        let loads = self.loads();
        let parts: Vec<Part<'_>> = self.steady().map(|member| Part::of(member, &loads)).collect();
        let total_weight: u64 = parts.iter().map(Part::weight).sum();
        let lightest = parts.iter().copied().reduce(|a, b| if a.outweighs(&b) { b } else { a })?;
        let heaviest = parts.iter().copied().reduce(|a, b| if b.outweighs(&a) { b } else { a })?;
        if !self.is_out_of_balance(&heaviest, &lightest, total_weight) {
            return None;
        }
        // Whoever has shards that may move, the heaviest first.
        let mut donors: Vec<Part<'_>> = parts.iter().copied().filter(|part| pays(part, &lightest)).collect();
        donors.sort_by(|a, b| (b.shards * a.weight()).cmp(&(a.shards * b.weight())));
        let found = donors.iter().find_map(|donor| self.best_to_move(donor.member, lightest.member));
        found.map(|shard| (shard, lightest.member.life.node.clone()))
    }

    fn is_out_of_balance(&self, heaviest: &Part<'_>, lightest: &Part<'_>, total_weight: u64) -> bool {
        let percent = u64::from(self.rules.imbalance_percent);
        let all = self.table.count();
        let fair = |part: &Part<'_>, percent: u64| all * part.weight() * percent;
        heaviest.shards * total_weight * 100 > fair(heaviest, 100 + percent)
            || lightest.shards * total_weight * 100 < fair(lightest, 100_u64.saturating_sub(percent))
    }

    /// The shard of `from` that `to` wants most, in comparison, among those that have been there for their tenure.
    fn best_to_move(&self, from: &Member, to: &Member) -> Option<Shard> {
        let may_move = |shard: &Shard| {
            matches!(self.table.place(*shard), Place::Owned { owner, since, .. }
                if *owner == from.life && elapsed(*since, self.now) >= self.rules.tenure_ms)
        };
        let gain = |shard: Shard| score(&to.life.node, to.weight, shard) / score(&from.life.node, from.weight, shard);
        self.table.shards().filter(may_move).max_by(|a, b| gain(*a).total_cmp(&gain(*b)))
    }
}

/// Does a shard from one to the other lessen the sum of squares of what all have, by weight? It falls with every move, so
/// moves come to an end and none is undone.
const fn pays(from: &Part<'_>, to: &Part<'_>) -> bool {
    (2 * to.shards + 1) * from.weight() < (2 * from.shards).saturating_sub(1) * to.weight()
}
