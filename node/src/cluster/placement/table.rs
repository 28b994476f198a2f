//! The table of owners: which life of which node owns a shard, in which epoch, and what nodes have lately been through.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    id::{BootId, NodeId},
    revision::Epoch,
    shard::{SHARDS, Shard},
    time::Timestamp,
};

use crate::cluster::member::{Life, PROTOCOL, Refusal};

/// Where a shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Place {
    /// Nobody owns it.
    Free {
        /// The last epoch that was given, or is known of the log.
        epoch: Epoch,
        /// Who is to have it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<NodeId>,
    },
    /// It has an owner, which may decide while its lease holds.
    Owned {
        /// Who.
        #[serde(flatten)]
        owner: Life,
        /// In which epoch.
        epoch: Epoch,
        /// Since when.
        since: Timestamp,
    },
    /// Its owner admits nothing more, and frees it once nothing is under way.
    Draining {
        /// Who.
        #[serde(flatten)]
        owner: Life,
        /// In which epoch.
        epoch: Epoch,
        /// Who is to have it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<NodeId>,
    },
}

impl Place {
    /// Who owns it, draining or not.
    pub const fn owner(&self) -> Option<&Life> {
        match self {
            Self::Free { .. } => None,
            Self::Owned { owner, .. } | Self::Draining { owner, .. } => Some(owner),
        }
    }

    /// The epoch it is in, or was in last.
    pub const fn epoch(&self) -> Epoch {
        match self {
            Self::Free { epoch, .. } | Self::Owned { epoch, .. } | Self::Draining { epoch, .. } => *epoch,
        }
    }

    /// Who is to have it next, if that is known.
    pub const fn next(&self) -> Option<&NodeId> {
        match self {
            Self::Owned { .. } => None,
            Self::Free { next, .. } | Self::Draining { next, .. } => next.as_ref(),
        }
    }
}

/// What became of a life of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStanding {
    /// It is a member.
    Here,
    /// It said that it leaves.
    Leaving,
    /// It left as it said.
    Left,
    /// Its lease ended without a word.
    Lost,
}

/// The last life of a node, and how often the node was lost lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which life.
    pub boot: BootId,
    /// What became of it.
    pub standing: NodeStanding,
    /// Since when.
    pub since: Timestamp,
    /// How often it was lost, until that is forgiven.
    #[serde(default)]
    pub losses: u32,
}

impl Entry {
    /// Is that life over?
    pub const fn is_gone(&self) -> bool {
        match self.standing {
            NodeStanding::Here | NodeStanding::Leaving => false,
            NodeStanding::Left | NodeStanding::Lost => true,
        }
    }

    /// A member of this name is there. Losses are forgiven to who has been there for long.
    pub(super) fn meet(&mut self, met: Self, forgiven_after_ms: u64) {
        let unannounced = self.boot != met.boot && self.standing == NodeStanding::Here;
        let losses = self.losses.saturating_add(u32::from(unannounced));
        if self.boot != met.boot || self.is_gone() {
            *self = Self { losses, ..met };
            return;
        }
        if self.losses > 0 && met.since.ms_since(self.since) >= forgiven_after_ms {
            self.losses = 0;
        }
        self.standing = met.standing;
    }

    /// Its lease has ended.
    pub(super) fn miss(&mut self, now: Timestamp) {
        let (standing, losses) = match self.standing {
            NodeStanding::Here => (NodeStanding::Lost, self.losses.saturating_add(1)),
            NodeStanding::Leaving => (NodeStanding::Left, self.losses),
            NodeStanding::Left | NodeStanding::Lost => return,
        };
        *self = Self { boot: self.boot, standing, since: now, losses };
    }
}

/// When and by whom a table was founded: two tables of one founding are versions of each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Life,
}

/// The bytes are no table that this version can use.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Not the form of one.
    #[error(
        "the table of owners is damaged ({0}); delete the key `table` of the bucket WASMWIZ_CLUSTER: it is founded again"
    )]
    Damaged(String),
    /// Of another cluster or version.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Who owns what. Every change is a new version of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    protocol: u32,
    cluster: String,
    founding: Founding,
    version: u64,
    /// May its shards be given away? Not before every lease has ended under which something may be believed that this
    /// table does not know.
    #[serde(default)]
    open: bool,
    nodes: BTreeMap<NodeId, Entry>,
    /// By the shard's number; as many as there are shards.
    shards: Vec<Place>,
}

impl Table {
    /// The first of a cluster, or the first after one was lost. Nobody owns anything. Epochs go on from the largest of:
    ///
    /// - `seen`, the last that is known to have been given, and
    /// - the seconds of `now` since 1970. Epochs begin at such a number and then grow by one a handover, of which a shard
    ///   has less than one a second. So a founding by any clock that is right is above all epochs that were ever given, also
    ///   when nobody is left who knew them.
    ///
    /// A clock that was wrong shows as a refusal of the log, and then [`Self::outdated`] takes over.
    pub fn founded(cluster: &str, by: Life, now: Timestamp, seen: Epoch) -> Self {
        let by_clock = u64::try_from(now.unix_ms() / 1_000).unwrap_or_default();
        let free = Place::Free { epoch: Epoch::new(by_clock).max(seen), next: None };
        Self {
            protocol: PROTOCOL,
            cluster: cluster.to_owned(),
            founding: Founding { at: now, by },
            version: 1,
            open: false,
            nodes: BTreeMap::new(),
            shards: vec![free; SHARDS],
        }
    }

    /// The same for its first shards alone. A cluster's table has all of them; plans go by how many it has, so a simulation
    /// that goes through many tables goes through small ones.
    #[must_use]
    pub fn of_first(mut self, shards: usize) -> Self {
        self.shards.truncate(shards);
        self
    }

    /// Reads what [`Self::to_bytes`] wrote, here or elsewhere.
    ///
    /// # Errors
    /// [`Unusable`] when it is damaged, another cluster's, or of a version too far from this one.
    pub fn read(bytes: &[u8], cluster: &str) -> Result<Self, Unusable> {
        let table: Self = serde_json::from_slice(bytes).map_err(|error| Unusable::Damaged(error.to_string()))?;
        if table.protocol.abs_diff(PROTOCOL) > 1 {
            return Err(Refusal::Version { here: PROTOCOL, there: table.protocol }.into());
        }
        if table.cluster != cluster {
            return Err(Refusal::OtherCluster { here: cluster.to_owned(), there: table.cluster }.into());
        }
        if table.shards.len() != SHARDS {
            return Err(Unusable::Damaged(format!("{} shards in place of {SHARDS}", table.shards.len())));
        }
        Ok(table)
    }

    /// As it is stored: JSON, some 35 KiB.
    ///
    /// # Errors
    /// None that can happen: all of it has a form in JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Which founding it is a version of.
    pub const fn founding(&self) -> &Founding {
        &self.founding
    }

    /// How many versions of it there have been, itself among them.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// May its shards be given away?
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// The same, to give its shards away from now on.
    #[must_use]
    pub fn opened(&self) -> Self {
        Self { open: true, ..self.clone() }.next_version()
    }

    /// What is known of nodes.
    pub const fn nodes(&self) -> &BTreeMap<NodeId, Entry> {
        &self.nodes
    }

    /// Where a shard is.
    pub fn place(&self, shard: Shard) -> &Place {
        static MISSING: Place = Place::Free { epoch: Epoch::new(0), next: None };
        // There are as many places as numbers of shards.
        self.shards.get(usize::from(shard.get())).unwrap_or(&MISSING)
    }

    /// The largest epoch in it.
    pub fn last_epoch(&self) -> Epoch {
        self.shards.iter().map(Place::epoch).max().unwrap_or_default()
    }

    /// How many shards it has.
    pub(super) const fn count(&self) -> u64 {
        self.shards.len() as u64
    }

    /// Its shards, whatever becomes of it meanwhile.
    pub(super) fn shards(&self) -> impl Iterator<Item = Shard> + use<> {
        Shard::all().take(self.shards.len())
    }

    /// All shards and where they are.
    pub fn places(&self) -> impl Iterator<Item = (Shard, &Place)> {
        Shard::all().zip(&self.shards)
    }

    /// All lives that own something.
    pub fn owners(&self) -> impl Iterator<Item = &Life> {
        self.shards.iter().filter_map(Place::owner)
    }

    /// Has this life of a node ended, as far as the table says? Lives of one name have growing ids, so an older one than
    /// that of the entry is over. When in doubt, no.
    pub fn has_ended(&self, node: &NodeId, boot: BootId) -> bool {
        self.nodes.get(node).is_some_and(|entry| boot < entry.boot || (boot == entry.boot && entry.is_gone()))
    }

    /// The last life of every node, and whether it has ended: whenever this changes, [`Self::has_ended`] may.
    pub fn lives(&self) -> impl Iterator<Item = (&NodeId, BootId, bool)> {
        self.nodes.iter().map(|(node, entry)| (node, entry.boot, entry.is_gone()))
    }

    /// The owner frees what it has drained, and nothing else. None if there is nothing of that.
    #[must_use]
    pub fn freed(&self, owner: &Life, drained: &[(Shard, Epoch)]) -> Option<Self> {
        let mut freed = self.clone();
        for (shard, epoch) in drained {
            if let Place::Draining { owner: of, epoch: at, next } = self.place(*shard)
                && (of, at) == (owner, epoch)
            {
                freed.put(*shard, Place::Free { epoch: *epoch, next: next.clone() });
            }
        }
        (freed != *self).then(|| freed.next_version())
    }

    /// Whoever begins a lease frees what it owned by earlier ones, as it alone knows that it decides nothing by them any
    /// more. None if it owned nothing.
    #[must_use]
    pub fn without_earlier(&self, life: &Life) -> Option<Self> {
        let mut without = self.clone();
        for (shard, place) in self.places() {
            if place.owner().is_some_and(|owner| owner.is_before(life)) {
                without.put(shard, Place::Free { epoch: place.epoch(), next: None });
            }
        }
        (without != *self).then(|| without.next_version())
    }

    /// The log has a larger epoch of this shard than its owner: the owner frees it, and the next epoch is above `found`.
    /// None if it is not the owner's, or above already.
    #[must_use]
    pub fn outdated(&self, owner: &Life, shard: Shard, found: Epoch) -> Option<Self> {
        let place = self.place(shard);
        if place.owner() != Some(owner) || place.epoch() > found {
            return None;
        }
        let mut freed = self.clone();
        freed.put(shard, Place::Free { epoch: found, next: None });
        Some(freed.next_version())
    }

    pub(super) fn put(&mut self, shard: Shard, place: Place) {
        if let Some(there) = self.shards.get_mut(usize::from(shard.get())) {
            *there = place;
        }
    }

    pub(super) const fn nodes_mut(&mut self) -> &mut BTreeMap<NodeId, Entry> {
        &mut self.nodes
    }

    pub(super) const fn next_version(mut self) -> Self {
        self.version = self.version.saturating_add(1);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::member::tests::life;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

    fn table() -> Table {
        Table::founded("one", life("a", 1), NOW, Epoch::new(0))
    }

    fn owned(shard: u8, owner: Life, epoch: u64) -> Table {
        let mut table = table();
        table.put(Shard::new(shard), Place::Owned { owner, epoch: Epoch::new(epoch), since: NOW });
        table
    }

    #[test]
    fn epochs_of_a_founding_are_above_all_that_were_ever_given() {
        // By the clock: a cluster a year old that handed a shard over every second has just reached it.
        let year_s = 365 * 86_400;
        let old =
            Table::founded("one", life("a", 1), Timestamp::from_unix_ms(NOW.unix_ms() - year_s * 1_000), Epoch::new(0));
        assert!(table().last_epoch().get() >= old.last_epoch().get() + year_s.unsigned_abs());
        // By memory, where the clock was set back.
        let back = Table::founded("one", life("a", 1), Timestamp::from_unix_ms(0), Epoch::new(77));
        assert_eq!(back.last_epoch(), Epoch::new(77));
    }

    #[test]
    fn a_table_survives_its_bytes_and_others_are_refused() {
        let table = owned(7, life("b", 2), 9);
        let bytes = table.to_bytes().unwrap();
        assert_eq!(Table::read(&bytes, "one").unwrap(), table);
        let other = Table::read(&bytes, "two").unwrap_err().to_string();
        assert!(other.contains("those of the cluster \"one\""), "{other}");
        let far = Table { protocol: 3, ..table.clone() }.to_bytes().unwrap();
        assert!(matches!(Table::read(&far, "one"), Err(Unusable::Refused(Refusal::Version { here: 1, there: 3 }))));
        let short = Table { shards: vec![], ..table }.to_bytes().unwrap();
        assert!(matches!(Table::read(&short, "one"), Err(Unusable::Damaged(_))));
        assert!(matches!(Table::read(b"{", "one"), Err(Unusable::Damaged(_))));
    }

    #[test]
    fn a_place_keeps_its_form() {
        let place = |place: &Place| serde_json::to_value(place).unwrap();
        let (table, shard) = (owned(7, life("b", 2), 9), Shard::new(7));
        let boot = "01930002-0000-7000-8000-000000000000";
        assert_eq!(
            place(table.place(shard)),
            serde_json::json!({
                "state": "owned", "node": "b", "boot": boot, "lease": 1, "epoch": 9, "since": "2027-01-15T08:00:00.000Z"
            })
        );
        assert_eq!(place(table.place(Shard::new(8))), serde_json::json!({"state": "free", "epoch": 1_800_000_000}));
    }

    #[test]
    fn only_the_owner_frees_a_shard_and_only_in_its_epoch_once_it_drains() {
        let (b, shard) = (life("b", 2), Shard::new(7));
        let drained = [(shard, Epoch::new(9))];
        let mut table = owned(7, b.clone(), 9);
        assert_eq!(table.freed(&b, &drained), None);
        table.put(shard, Place::Draining { owner: b.clone(), epoch: Epoch::new(9), next: Some(life("c", 1).node) });
        assert_eq!(table.freed(&life("b", 3), &drained), None);
        assert_eq!(table.freed(&b, &[(shard, Epoch::new(8))]), None);
        let freed = table.freed(&b, &drained).unwrap();
        assert_eq!(*freed.place(shard), Place::Free { epoch: Epoch::new(9), next: Some(life("c", 1).node) });
        assert_eq!(freed.version(), table.version() + 1);
    }

    #[test]
    fn who_begins_a_lease_frees_what_it_had_and_nothing_of_others() {
        let b = life("b", 2);
        let table = owned(7, b.clone(), 9);
        assert_eq!([&b, &Life { lease: 2, ..life("b", 3) }].map(|life| table.without_earlier(life)), [None, None]);
        let without = table.without_earlier(&Life { lease: 2, ..b }).unwrap();
        assert_eq!(*without.place(Shard::new(7)), Place::Free { epoch: Epoch::new(9), next: None });
    }

    #[test]
    fn an_epoch_that_the_log_knows_better_is_taken_from_it() {
        let (b, shard) = (life("b", 2), Shard::new(7));
        let table = owned(7, b.clone(), 9);
        assert_eq!(table.outdated(&b, shard, Epoch::new(8)), None);
        assert_eq!(table.outdated(&life("c", 1), shard, Epoch::new(20)), None);
        let freed = table.outdated(&b, shard, Epoch::new(20)).unwrap();
        assert_eq!(*freed.place(shard), Place::Free { epoch: Epoch::new(20), next: None });
    }

    #[test]
    fn a_life_has_ended_when_the_table_says_so_or_a_later_one_is_there() {
        let mut table = table();
        let entry = |standing| Entry { boot: life("b", 5).boot, standing, since: NOW, losses: 0 };
        let node = life("b", 5).node;
        let ended = |table: &Table, boot| table.has_ended(&node, life("b", boot).boot);
        assert!(!ended(&table, 5), "nobody has heard of it");
        table.nodes_mut().insert(node.clone(), entry(NodeStanding::Here));
        assert_eq!([4, 5, 6].map(|boot| ended(&table, boot)), [true, false, false]);
        table.nodes_mut().insert(node.clone(), entry(NodeStanding::Lost));
        assert_eq!([4, 5, 6].map(|boot| ended(&table, boot)), [true, true, false]);
    }
}
