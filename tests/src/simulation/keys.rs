//! The two buckets as servers keep them: compare-and-set, watches, and records that become too old.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use wasmwiz_events::id::NodeId;
use wasmwiz_node::cluster::{member::Record, placement::table::Table, planner::Leader};

use super::TTL_MS;

/// What is asked of the buckets. A number beside what is written is the revision that it replaces.
pub(super) enum Ask {
    /// A connection, with watches of everything.
    Open,
    /// The record of a name.
    Member(NodeId),
    /// Writes a record.
    PutMember(Rc<Record>, u64),
    /// Deletes the record of a name.
    DeleteMember(NodeId, u64),
    /// The table.
    Table,
    /// Writes the table.
    PutTable(Arc<Table>, u64),
    /// Who plans.
    Leader,
    /// Writes who plans.
    PutLeader(Leader, u64),
}

/// What the buckets say. A number beside what is read is its revision; 0 for what never was.
pub(super) enum Said {
    /// It is connected.
    Opened,
    /// It is written, at this revision.
    Written(u64),
    /// Another revision is the last.
    Conflict,
    /// A record, if there is one.
    Member(Option<Rc<Record>>, u64),
    /// The table, if there is one.
    Table(Option<Arc<Table>>, u64),
    /// Who plans, if anybody does.
    Leader(Option<Leader>, u64),
}

/// What a watch says.
#[derive(Clone)]
pub(super) enum News {
    /// A record is another, or gone: deleted by somebody, or too old.
    Member { name: NodeId, record: Option<Rc<Record>>, was_deleted: bool, revision: u64 },
    /// The table is another, or gone.
    Table(Option<Arc<Table>>, u64),
    /// Another plans.
    Leader(Leader),
}

/// What is kept under a key.
struct Kept<V> {
    value: Option<V>,
    was_deleted: bool,
    revision: u64,
    /// When it was written, by the servers' clock.
    since: u64,
}

impl<V> Default for Kept<V> {
    fn default() -> Self {
        Self { value: None, was_deleted: false, revision: 0, since: 0 }
    }
}

/// The buckets.
pub(super) struct Keys {
    members: BTreeMap<NodeId, Kept<Rc<Record>>>,
    table: Kept<Arc<Table>>,
    leader: Kept<Leader>,
    /// The last revision of anything.
    last: u64,
    /// By how much the servers' clock is ahead.
    ahead_ms: u64,
    /// Is the table compared before it is replaced?
    compares_table: bool,
    /// How many leases were begun.
    leases: u64,
}

impl Keys {
    /// Empty ones, but for a table that there may be.
    pub(super) fn new(table: Option<Table>, compares_table: bool) -> Self {
        let last = u64::from(table.is_some());
        let table = Kept { value: table.map(Arc::new), revision: last, ..Kept::default() };
        let (members, leader) = (BTreeMap::new(), Kept::default());
        Self { members, table, leader, last, ahead_ms: 0, compares_table, leases: 0 }
    }

    /// The table as it is.
    pub(super) fn table(&self) -> Option<Arc<Table>> {
        self.table.value.clone()
    }

    /// How many leases were begun.
    pub(super) const fn leases(&self) -> u64 {
        self.leases
    }

    /// Answers at this time. What watches have to say of it is added to `news`.
    pub(super) fn answer(&mut self, now: u64, ask: Ask, news: &mut Vec<News>) -> Said {
        match ask {
            Ask::Open => Said::Opened,
            Ask::Member(name) => {
                let kept = self.members.get(&name);
                Said::Member(kept.and_then(|kept| kept.value.clone()), kept.map_or(0, |kept| kept.revision))
            }
            Ask::PutMember(record, replaces) => {
                self.write_member(now, record.life.node.clone(), Some(record), replaces, news)
            }
            Ask::DeleteMember(name, replaces) => self.write_member(now, name, None, replaces, news),
            Ask::Table => Said::Table(self.table.value.clone(), self.table.revision),
            Ask::PutTable(table, replaces) => {
                if self.compares_table && self.table.revision != replaces {
                    return Said::Conflict;
                }
                self.write_table(Some(table), news)
            }
            Ask::Leader => Said::Leader(self.leader.value.clone(), self.leader.revision),
            Ask::PutLeader(leader, replaces) => {
                if self.leader.revision != replaces {
                    return Said::Conflict;
                }
                self.last += 1;
                self.leader = Kept { value: Some(leader.clone()), revision: self.last, ..Kept::default() };
                news.push(News::Leader(leader));
                Said::Written(self.last)
            }
        }
    }

    /// What a watch says first: everything that is there, in the order in which it was written.
    pub(super) fn history(&self) -> Vec<News> {
        let members = self.members.iter().map(|(name, kept)| {
            let (record, was_deleted, revision) = (kept.value.clone(), kept.was_deleted, kept.revision);
            (revision, News::Member { name: name.clone(), record, was_deleted, revision })
        });
        let table = (self.table.revision, News::Table(self.table.value.clone(), self.table.revision));
        let leader = self.leader.value.clone().map(|leader| (self.leader.revision, News::Leader(leader)));
        let mut all: Vec<_> = members.chain([table]).chain(leader).filter(|(revision, _)| *revision > 0).collect();
        all.sort_by_key(|(revision, _)| *revision);
        all.into_iter().map(|(_, news)| news).collect()
    }

    /// Removes the records that are too old at this time.
    pub(super) fn remove_old(&mut self, now: u64, news: &mut Vec<News>) {
        for (name, kept) in &mut self.members {
            if kept.value.is_some() && now + self.ahead_ms >= kept.since + TTL_MS {
                self.last += 1;
                *kept = Kept { revision: self.last, ..Kept::default() };
                news.push(News::Member { name: name.clone(), record: None, was_deleted: false, revision: self.last });
            }
        }
    }

    /// Sets the clock of the servers forward.
    pub(super) const fn set_forward(&mut self, by_ms: u64) {
        self.ahead_ms += by_ms;
    }

    /// Somebody deletes the table.
    pub(super) fn lose_table(&mut self, news: &mut Vec<News>) {
        self.write_table(None, news);
    }

    fn write_table(&mut self, table: Option<Arc<Table>>, news: &mut Vec<News>) -> Said {
        self.last += 1;
        self.table =
            Kept { was_deleted: table.is_none(), value: table.clone(), revision: self.last, ..Kept::default() };
        news.push(News::Table(table, self.last));
        Said::Written(self.last)
    }

    fn write_member(
        &mut self,
        now: u64,
        name: NodeId,
        record: Option<Rc<Record>>,
        replaces: u64,
        news: &mut Vec<News>,
    ) -> Said {
        let kept = self.members.entry(name.clone()).or_default();
        if kept.revision != replaces {
            return Said::Conflict;
        }
        let life = |record: &Option<Rc<Record>>| record.as_ref().map(|record| record.life.clone());
        self.leases += u64::from(record.is_some() && life(&record) != life(&kept.value));
        self.last += 1;
        let (was_deleted, revision) = (record.is_none(), self.last);
        *kept = Kept { value: record.clone(), was_deleted, revision, since: now + self.ahead_ms };
        news.push(News::Member { name, record, was_deleted, revision });
        Said::Written(revision)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use wasmwiz_events::id::BootId;
    use wasmwiz_node::cluster::member::{Life, PROTOCOL, Standing};

    use super::*;

    fn record() -> Rc<Record> {
        let life = Life { node: NodeId::new("n0").unwrap(), boot: BootId::new(Uuid::from_u128(1)), lease: 1 };
        Rc::new(Record {
            cluster: "s".into(),
            life,
            version: String::new(),
            protocol: PROTOCOL,
            address: String::new(),
            standing: Standing::Joining,
            weight: 1,
            lease_ttl_ms: TTL_MS,
            founding: None,
        })
    }

    fn put(keys: &mut Keys, now: u64, replaces: u64) -> Option<u64> {
        match keys.answer(now, Ask::PutMember(record(), replaces), &mut Vec::new()) {
            Said::Written(revision) => Some(revision),
            _ => None,
        }
    }

    #[test]
    fn who_names_another_revision_than_the_last_changes_nothing() {
        let mut keys = Keys::new(None, true);
        assert_eq!([0, 0, 1].map(|replaces| put(&mut keys, 0, replaces)), [Some(1), None, Some(2)]);
        let deleted = keys.answer(0, Ask::DeleteMember(record().life.node.clone(), 1), &mut Vec::new());
        assert!(matches!(deleted, Said::Conflict));
        assert_eq!((keys.history().len(), keys.leases()), (1, 1));
    }

    #[test]
    fn a_record_is_removed_when_it_is_too_old_by_the_clock_of_the_servers() {
        let (mut keys, mut news) = (Keys::new(None, true), Vec::new());
        put(&mut keys, 5, 0);
        keys.remove_old(4 + TTL_MS, &mut news);
        assert!(news.is_empty());
        keys.set_forward(1);
        keys.remove_old(4 + TTL_MS, &mut news);
        assert!(matches!(news[..], [News::Member { record: None, was_deleted: false, revision: 2, .. }]));
        assert_eq!(put(&mut keys, 6, 1), None);
        assert_eq!(put(&mut keys, 6, 2), Some(3));
    }
}
