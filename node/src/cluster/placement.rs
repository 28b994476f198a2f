//! Who should own what: from one table to the next, as a function of the members and the time.
//!
//! What must never be true: that a shard has two owners, that an epoch is given twice, or that a shard is given away while
//! its owner may still decide. So a shard whose owner is alive is first drained, and freed by that owner; only the shards
//! of a life that has ended (see the roster) are freed for it.

mod balance;
pub mod table;
mod target;

use std::collections::BTreeMap;

use wasmwiz_events::{id::NodeId, revision::Epoch, shard::Shard, time::Timestamp};

use self::table::{Entry, NodeStanding, Place, Table};
use super::member::{Life, Standing};

/// How long an entry of a node that is gone is kept, in milliseconds: as long as anybody may ask whether its life has ended.
const GONE_KEPT_MS: u64 = 24 * 3_600_000;

/// The most doublings of a flapping node's back-off.
const DOUBLINGS_MAX: u32 = 6;

/// After this many back-offs without another loss, a node's losses are forgotten.
const FORGIVEN_AFTER_BACKOFFS: u64 = 10;

/// A life that has not ended, as the plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which life.
    pub life: Life,
    /// What it says of itself; none for a life that has not been heard, and may be there all the same.
    pub standing: Option<Standing>,
    /// Its part in comparison with the others'. At least 1.
    pub weight: u32,
}

/// How a plan goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The most shards under way from one living owner to another.
    pub moves_max: usize,
    /// Percent that a node's part may differ from its fair one before shards move.
    pub imbalance_percent: u32,
    /// Milliseconds that a shard stays where it is before it moves for balance.
    pub tenure_ms: u64,
    /// Milliseconds that a node that was lost once waits before it is given shards of others; doubled with each loss.
    pub flap_backoff_ms: u64,
}

/// The next table, or none if this one is as good as can be. `members` are all lives that have not ended.
pub fn plan(table: &Table, members: &[Member], now: Timestamp, rules: &Rules) -> Option<Table> {
    let mut draft = Draft { table: table.clone(), members, now, rules };
    draft.note_members();
    draft.note_gone();
    draft.free_orphans();
    draft.give_free();
    draft.drain_leaving();
    draft.balance();
    (draft.table != *table).then(|| draft.table.next_version())
}

/// A table on its way to the next version.
struct Draft<'m> {
    table: Table,
    members: &'m [Member],
    now: Timestamp,
    rules: &'m Rules,
}

/// Milliseconds since then. A moment still to come was written by a wrong clock: it holds nothing up.
fn elapsed(since: Timestamp, now: Timestamp) -> u64 {
    if since > now { u64::MAX } else { now.ms_since(since) }
}

impl Draft<'_> {
    fn note_members(&mut self) {
        for member in self.members {
            let Some(standing) = member.standing else { continue };
            let noted = match standing {
                Standing::Joining | Standing::Live => NodeStanding::Here,
                Standing::Leaving => NodeStanding::Leaving,
            };
            let new = Entry { boot: member.life.boot, standing: noted, since: self.now, losses: 0 };
            let nodes = self.table.nodes_mut();
            match nodes.get_mut(&member.life.node) {
                None => {
                    nodes.insert(member.life.node.clone(), new);
                }
                Some(entry) => entry.meet(new, self.rules.flap_backoff_ms.saturating_mul(FORGIVEN_AFTER_BACKOFFS)),
            }
        }
    }

    fn note_gone(&mut self) {
        let (members, now) = (self.members, self.now);
        let nodes = self.table.nodes_mut();
        for (node, entry) in nodes.iter_mut() {
            if !members.iter().any(|member| member.life.node == *node && member.life.boot == entry.boot) {
                entry.miss(now);
            }
        }
        nodes.retain(|_, entry| !entry.is_gone() || now.ms_since(entry.since) < GONE_KEPT_MS);
    }

    fn free_orphans(&mut self) {
        for shard in self.table.shards() {
            let place = self.table.place(shard);
            if let Some(owner) = place.owner()
                && !self.members.iter().any(|member| member.life == *owner)
            {
                let freed = Place::Free { epoch: place.epoch(), next: place.next().cloned() };
                self.table.put(shard, freed);
            }
        }
    }

    /// Nobody serves a free shard: all are given away at once, if there is anybody.
    fn give_free(&mut self) {
        for shard in self.table.shards() {
            let Place::Free { epoch, next } = self.table.place(shard) else { continue };
            let (epoch, next) = (epoch.get().saturating_add(1), next.clone());
            self.table.put(shard, Place::Free { epoch: self.table.place(shard).epoch(), next: None });
            let wanted = next.and_then(|node| self.accepting().find(|member| member.life.node == node));
            let Some(member) = wanted.or_else(|| self.best_for(shard)) else { continue };
            let owner = member.life.clone();
            let epoch = Epoch::new(epoch);
            self.table.put(shard, Place::Owned { owner, epoch, since: self.now });
        }
    }

    fn drain_leaving(&mut self) {
        let leaving = |life: &Life| {
            self.members.iter().any(|member| member.life == *life && member.standing == Some(Standing::Leaving))
        };
        let theirs = |shard: &Shard| matches!(self.table.place(*shard), Place::Owned { owner, .. } if leaving(owner));
        let shards: Vec<Shard> = self.table.shards().filter(theirs).take(self.moves_left()).collect();
        for shard in shards {
            let next = self.best_for(shard).map(|member| member.life.node.clone());
            self.drain(shard, next);
        }
    }

    fn drain(&mut self, shard: Shard, next: Option<NodeId>) {
        if let Place::Owned { owner, epoch, .. } = self.table.place(shard) {
            let draining = Place::Draining { owner: owner.clone(), epoch: *epoch, next };
            self.table.put(shard, draining);
        }
    }

    fn moves_left(&self) -> usize {
        let under_way = self.table.places().filter(|(_, place)| matches!(place, Place::Draining { .. }));
        self.rules.moves_max.saturating_sub(under_way.count())
    }

    /// Members that are given shards.
    fn accepting(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.standing == Some(Standing::Live))
    }

    /// Of those, who has not been lost lately.
    fn steady(&self) -> impl Iterator<Item = &Member> {
        self.accepting().filter(|member| {
            let entry = self.table.nodes().get(&member.life.node);
            entry.is_none_or(|entry| elapsed(entry.since, self.now) >= self.backoff_ms(entry.losses))
        })
    }

    fn backoff_ms(&self, losses: u32) -> u64 {
        let doublings = losses.saturating_sub(1).min(DOUBLINGS_MAX);
        if losses == 0 { 0 } else { self.rules.flap_backoff_ms.saturating_mul(1 << doublings) }
    }

    /// How many shards each node has, or is about to have.
    fn loads(&self) -> BTreeMap<&NodeId, u64> {
        let mut loads = BTreeMap::new();
        for (_, place) in self.table.places() {
            let holder = match place {
                Place::Owned { owner, .. } => Some(&owner.node),
                Place::Draining { next, .. } | Place::Free { next, .. } => next.as_ref(),
            };
            if let Some(holder) = holder {
                *loads.entry(holder).or_default() += 1;
            }
        }
        loads
    }
}

#[cfg(test)]
mod tests;
