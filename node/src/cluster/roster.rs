//! Who is there, as this node hears it: lives, their last words, and since when they are silent.
//!
//! A life has ended for certain in two ways. Its record was *deleted*: by itself, after it stopped deciding, or by who found
//! it silent for a whole lease. Or its record is *gone* otherwise (the server removed it for its age, or a later life took
//! the name), and a whole lease has passed since it was last heard. Either way it can renew no more: renewals name the
//! revision that they replace. The server's clock has no part in this.

use std::{collections::BTreeMap, time::Duration};

use wasmwiz_events::id::NodeId;

use super::{
    clock::Mono,
    member::{Life, Record, Standing},
    placement::{Member, table::Founding},
};

/// The most lives that are kept in mind. More members than this are not told apart from lives that have ended.
const LIVES_MAX: usize = 4_096;

/// What is known of a life.
#[derive(Debug, Clone)]
struct Known {
    /// Its last words, if it was heard at all.
    record: Option<Record>,
    /// When it was last heard, or first heard of.
    heard: Mono,
    /// The revision of its record, while that is there.
    revision: Option<u64>,
    /// Was its record deleted?
    deleted: bool,
}

/// The lives that a node has heard, or heard of.
#[derive(Debug, Clone)]
pub struct Roster {
    ttl: Duration,
    lives: BTreeMap<Life, Known>,
}

impl Roster {
    /// Nobody. Leases last `ttl`.
    pub const fn new(ttl: Duration) -> Self {
        Self { ttl, lives: BTreeMap::new() }
    }

    /// A record was read, at `now`, and in the bucket at `revision`. Reading the same again is no sign of life.
    pub fn heard(&mut self, record: Record, revision: u64, now: Mono) {
        let same = |known: &Known| known.revision == Some(revision);
        if self.lives.get(&record.life).is_some_and(same) {
            return;
        }
        // Whoever had the name has no record now.
        self.absent(&record.life.node);
        let known = Known { record: Some(record.clone()), heard: now, revision: Some(revision), deleted: false };
        self.lives.insert(record.life, known);
    }

    /// The record of this name is gone; `deleted` if somebody deleted it, and did not only find it too old.
    pub fn removed(&mut self, node: &NodeId, deleted: bool) {
        for known in self.of(node).filter(|known| known.revision.is_some()) {
            known.deleted = deleted;
        }
        self.absent(node);
    }

    /// The news that the record of this name is gone since `revision`, as in [`removed`](Self::removed). News of a record may come after the
    /// answer to who asked for it: a lease that was written since is no part of them.
    pub fn news_of_removal(&mut self, node: &NodeId, revision: u64, deleted: bool) {
        if self.of(node).all(|known| known.revision.is_none_or(|heard| heard < revision)) {
            self.removed(node, deleted);
        }
    }

    /// Is this the last that was heard of this life, and of its name? Who asks about a record may be answered after the news
    /// of what became of it, and of another lease under its name: then the news is the later word.
    pub fn is_last(&self, life: &Life, revision: u64) -> bool {
        self.lives.get(life).is_some_and(|known| known.revision == Some(revision))
    }

    /// The table names these lives. Who was never heard may be there all the same, for a whole lease from now.
    pub fn named<'l>(&mut self, lives: impl IntoIterator<Item = &'l Life>, now: Mono) {
        for life in lives {
            if !self.lives.contains_key(life) {
                let known = Known { record: None, heard: now, revision: None, deleted: false };
                self.lives.insert(life.clone(), known);
            }
        }
    }

    /// Records of who has been silent for a whole lease. Whoever deletes one, at this revision, has ended that life.
    pub fn silent(&self, now: Mono) -> Vec<(Life, u64)> {
        let overdue = |known: &Known| now.since(known.heard) >= self.ttl;
        let silent = self.lives.iter().filter(|(_, known)| overdue(known));
        silent.filter_map(|(life, known)| known.revision.map(|revision| (life.clone(), revision))).collect()
    }

    /// Has this life not ended, as far as this node can tell? One that was never heard of has.
    pub fn is_there(&self, life: &Life, now: Mono) -> bool {
        self.lives.get(life).is_some_and(|known| self.lives_on(known, now))
    }

    /// All lives that have not ended.
    pub fn members(&self, now: Mono) -> Vec<Member> {
        let there = self.lives.iter().filter(|(_, known)| self.lives_on(known, now));
        let member = |(life, known): (&Life, &Known)| {
            let record = known.record.as_ref().filter(|_| known.revision.is_some());
            Member {
                life: life.clone(),
                standing: record.map(|record| record.standing),
                weight: record.map_or(1, |record| record.weight.max(1)),
            }
        };
        there.map(member).collect()
    }

    /// The records that are there, with how long ago each was renewed.
    pub fn records(&self, now: Mono) -> impl Iterator<Item = (&Record, Duration)> {
        let there = self.lives.values().filter(|known| known.revision.is_some());
        there.filter_map(move |known| known.record.as_ref().map(|record| (record, now.since(known.heard))))
    }

    /// Do all who are there go by this founding, or by none yet? Who goes by another may still believe in its table.
    pub fn agree_on(&self, founding: &Founding, now: Mono) -> bool {
        let there = self.lives.values().filter(|known| self.lives_on(known, now));
        there.filter_map(|known| known.record.as_ref()).all(|record| match (&record.founding, record.standing) {
            (Some(theirs), _) => theirs == founding,
            (None, Standing::Joining) => true,
            (None, Standing::Live | Standing::Leaving) => false,
        })
    }

    /// Forgets lives that have ended and are named nowhere.
    pub fn forget<'l>(&mut self, named: impl IntoIterator<Item = &'l Life>, now: Mono) {
        let named: std::collections::BTreeSet<&Life> = named.into_iter().collect();
        let ttl = self.ttl;
        let lives_on = |known: &Known| known.revision.is_some() || (!known.deleted && now.since(known.heard) < ttl);
        let mut room = LIVES_MAX;
        self.lives.retain(|life, known| {
            let kept = (named.contains(life) || lives_on(known)) && room > 0;
            room = room.saturating_sub(usize::from(kept));
            kept
        });
    }

    fn lives_on(&self, known: &Known, now: Mono) -> bool {
        known.revision.is_some() || (!known.deleted && now.since(known.heard) < self.ttl)
    }

    fn absent(&mut self, node: &NodeId) {
        for known in self.of(node) {
            known.revision = None;
        }
    }

    fn of(&mut self, node: &NodeId) -> impl Iterator<Item = &mut Known> {
        self.lives.iter_mut().filter(move |(life, _)| life.node == *node).map(|(_, known)| known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::member::tests::{life, record};

    fn at(s: u64) -> Mono {
        Mono::since_start(Duration::from_secs(s))
    }

    fn roster() -> Roster {
        let mut roster = Roster::new(Duration::from_secs(10));
        roster.heard(record(life("a", 1), Standing::Live), 1, at(0));
        roster
    }

    #[test]
    fn who_renews_is_there_and_reading_the_same_again_is_no_renewal() {
        let mut roster = roster();
        roster.heard(record(life("a", 1), Standing::Live), 2, at(6));
        assert_eq!(roster.silent(at(15)), []);
        roster.heard(record(life("a", 1), Standing::Live), 2, at(15));
        assert_eq!(roster.silent(at(16)), [(life("a", 1), 2)]);
    }

    #[test]
    fn a_silent_life_has_not_ended_before_its_record_is_gone() {
        let mut roster = roster();
        assert!(roster.is_there(&life("a", 1), at(100)));
        roster.removed(&life("a", 1).node, true);
        assert!(!roster.is_there(&life("a", 1), at(100)));
    }

    #[test]
    fn news_of_a_later_lease_is_a_later_word_than_what_was_asked_about_the_one_before() {
        let mut roster = roster();
        assert!(roster.is_last(&life("a", 1), 1));
        // Deleted at revision 1. Before the answer come the news of that, and of another lease.
        roster.removed(&life("a", 1).node, true);
        let next = Life { lease: 2, ..life("a", 1) };
        roster.heard(record(next.clone(), Standing::Joining), 3, at(1));
        assert!(!roster.is_last(&life("a", 1), 1) && roster.is_last(&next, 3));
    }

    #[test]
    fn news_that_a_record_was_deleted_do_not_end_a_lease_that_was_written_since() {
        let mut roster = roster();
        // Deleted at revision 2, by another member; who asked what had become of it was answered with the lease at revision 3.
        let next = Life { lease: 2, ..life("a", 1) };
        roster.heard(record(next.clone(), Standing::Live), 3, at(1));
        roster.news_of_removal(&next.node, 2, true);
        assert!(roster.is_there(&next, at(1)) && roster.is_last(&next, 3));
        roster.news_of_removal(&next.node, 4, true);
        assert!(!roster.is_there(&next, at(1)));
    }

    #[test]
    fn a_record_that_the_server_removed_early_counts_until_its_time_has_passed() {
        let mut roster = roster();
        // The server's clock jumped.
        roster.removed(&life("a", 1).node, false);
        assert!(roster.is_there(&life("a", 1), at(9)));
        assert_eq!(roster.members(at(9)), [Member { life: life("a", 1), standing: None, weight: 1 }]);
        assert!(!roster.is_there(&life("a", 1), at(10)));
    }

    #[test]
    fn a_later_life_under_the_name_does_not_end_the_earlier_at_once() {
        let mut roster = roster();
        roster.heard(record(life("a", 2), Standing::Joining), 5, at(3));
        let standings: Vec<_> = roster.members(at(4)).into_iter().map(|member| member.standing).collect();
        assert_eq!(standings, [None, Some(Standing::Joining)]);
        assert!(!roster.is_there(&life("a", 1), at(10)));
        assert!(roster.is_there(&life("a", 2), at(10)));
    }

    #[test]
    fn an_owner_that_was_never_heard_has_a_whole_lease() {
        let mut roster = roster();
        roster.named([&life("b", 1)], at(5));
        assert!(roster.is_there(&life("b", 1), at(14)));
        roster.named([&life("b", 1)], at(14));
        assert!(!roster.is_there(&life("b", 1), at(15)));
        assert_eq!(roster.silent(at(5)), []);
    }

    #[test]
    fn what_has_ended_is_forgotten_unless_the_table_names_it() {
        let mut roster = roster();
        roster.named([&life("b", 1)], at(0));
        roster.removed(&life("a", 1).node, true);
        roster.forget([&life("b", 1)], at(60));
        assert_eq!(roster.lives.keys().collect::<Vec<_>>(), [&life("b", 1)]);
        roster.forget([], at(60));
        assert!(roster.lives.is_empty());
    }

    #[test]
    fn whoever_goes_by_another_founding_is_waited_for() {
        let founding = |by: &str| Founding { at: wasmwiz_events::time::Timestamp::default(), by: life(by, 1) };
        let mut roster = roster();
        assert!(!roster.agree_on(&founding("x"), at(1)), "live, and by no table that it names");
        let says = |standing, by: Option<&str>| Record { founding: by.map(founding), ..record(life("a", 1), standing) };
        roster.heard(says(Standing::Live, Some("y")), 2, at(1));
        assert!(!roster.agree_on(&founding("x"), at(1)));
        roster.heard(says(Standing::Live, Some("x")), 3, at(1));
        assert!(roster.agree_on(&founding("x"), at(1)));
        roster.heard(says(Standing::Joining, None), 4, at(1));
        assert!(roster.agree_on(&founding("x"), at(1)));
    }
}
