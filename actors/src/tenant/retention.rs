//! How old what a tenant stores is, by class and day, so that it can be released when it is older than it is to be kept.
//!
//! ```text
//! named by an event ─► a day of its class ─► older than it is kept, nothing open from before ─► payloads.released
//! ```
//! An entity cannot remember every payload that it has had. It remembers sums of days, each with the last revision in it: an event
//! that says "up to this revision" releases whole days, and its bytes are theirs. Times are those of the stream and never go back.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    event::Event,
    retention::{Class, Released},
    revision::Revision,
    time::Timestamp,
};

use crate::limits::RETENTION_DAYS_MAX;

/// Days of one class that are remembered apart. The two oldest of more become one, as young as the younger of them.
const DAYS_REMEMBERED: usize = RETENTION_DAYS_MAX as usize + 34;

const DAY_MS: u64 = 86_400_000;

/// A place in the stream, and when it was reached. Neither ever goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reached {
    pub(super) revision: Revision,
    pub(super) time: Timestamp,
}

impl Reached {
    pub(super) fn reach(&mut self, revision: Revision, time: Timestamp) {
        self.revision = self.revision.max(revision);
        self.time = self.time.max(time);
    }

    /// Is it so old, and from before `open`, the first place that something open needs?
    pub(super) fn is_due(&self, days: u32, now: Timestamp, open: Option<Revision>) -> bool {
        let is_old = self.time.plus_ms(u64::from(days).saturating_mul(DAY_MS)) <= now;
        is_old && open.is_none_or(|open| self.revision < open)
    }
}

/// Some payloads, and how many bytes they have together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    pub(super) payloads: u64,
    pub(super) bytes: u64,
}

impl Sum {
    pub(super) fn add(&mut self, more: Self) {
        self.payloads = self.payloads.saturating_add(more.payloads);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// What was recorded in a day.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Day {
    last: Reached,
    sum: Sum,
}

/// The days of one class, the oldest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Days(VecDeque<Day>);

impl Days {
    /// Remembers payloads that are named where the stream is now. Those of no bytes are stored nowhere.
    pub(super) fn add(&mut self, at: Reached, sizes: impl IntoIterator<Item = u64>) {
        let mut sum = Sum::default();
        sizes.into_iter().filter(|bytes| *bytes > 0).for_each(|bytes| sum.add(Sum { payloads: 1, bytes }));
        if sum.payloads == 0 {
            return;
        }
        match self.0.back_mut() {
            Some(day) if day.last.time.utc_day() == at.time.utc_day() => {
                day.last = at;
                day.sum.add(sum);
            }
            _ => self.0.push_back(Day { last: at, sum }),
        }
        if self.0.len() > DAYS_REMEMBERED
            && let Some(oldest) = self.0.pop_front()
            && let Some(next) = self.0.front_mut()
        {
            next.sum.add(oldest.sum);
        }
    }

    /// What is kept no longer, and up to where; `None` if there is nothing.
    pub(super) fn due(&self, days: u32, now: Timestamp, open: Option<Revision>) -> Option<(Revision, Sum)> {
        let due = self.0.iter().take_while(|day| day.last.is_due(days, now, open));
        due.fold(None, |all: Option<(Revision, Sum)>, day| {
            let (_, mut sum) = all.unwrap_or_default();
            sum.add(day.sum);
            Some((day.last.revision, sum))
        })
    }

    /// Forgets what is released.
    pub(super) fn released(&mut self, through: Revision) {
        self.0.retain(|day| day.last.revision > through);
    }
}

/// The event that releases it.
pub(super) fn event(class: Class, through_revision: Revision, Sum { payloads, bytes }: Sum) -> Event {
    Event::PayloadsReleased(Released { class, through_revision, payloads, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::{Policy, Retention},
        tenant::{Command, Refusal, scenario::*},
    };

    const DAY: u64 = DAY_MS;

    fn reached(revision: u64, time: Timestamp) -> Reached {
        Reached { revision: Revision::new(revision), time }
    }

    fn keeping(retention: Retention) -> Policy {
        Policy { retention, ..Policy::default() }
    }

    fn every(days: u32) -> Retention {
        let days = Some(days);
        Retention { inputs_days: days, outputs_days: days, transcripts_days: days, modules_days: days }
    }

    fn released(class: Class, through: u64, payloads: u64, bytes: u64) -> Event {
        event(class, Revision::new(through), Sum { payloads, bytes })
    }

    #[test]
    fn a_day_is_due_when_its_last_payload_is_old_enough() {
        let mut days = Days::default();
        days.add(reached(1, NOON), [5, 0]);
        days.add(reached(2, NOON.plus_ms(1_000)), [7]);
        days.add(reached(9, NOON.plus_ms(DAY)), [1]);
        let due =
            |ms| days.due(2, NOON.plus_ms(ms), None).map(|(through, sum)| (through.get(), sum.payloads, sum.bytes));
        assert_eq!(due(2 * DAY), None);
        assert_eq!(due(2 * DAY + 1_000), Some((2, 2, 12)));
        assert_eq!(due(3 * DAY), Some((9, 3, 13)));
        // Something is open since revision 2: what is of that day stays.
        let open =
            |first| days.due(2, NOON.plus_ms(3 * DAY), Some(Revision::new(first))).map(|(through, _)| through.get());
        assert_eq!((open(2), open(3), open(9), open(10)), (None, Some(2), Some(2), Some(9)));
        days.released(Revision::new(2));
        assert_eq!(days.due(0, NOON.plus_ms(DAY), None).map(|(_, sum)| sum.bytes), Some(1));
    }

    #[test]
    fn more_days_than_are_remembered_are_released_later_and_none_is_forgotten() {
        let mut days = Days::default();
        let many = DAYS_REMEMBERED as u64 + 10;
        for n in 1..=many {
            days.add(reached(n, NOON.plus_ms(n * DAY)), [1]);
        }
        assert_eq!(days.0.len(), DAYS_REMEMBERED);
        assert_eq!(days.due(0, NOON.plus_ms(10 * DAY), None), None, "the eleventh day has them");
        let first = days.due(0, NOON.plus_ms(11 * DAY), None).map(|(through, sum)| (through.get(), sum.payloads));
        assert_eq!(first, Some((11, 11)));
        assert_eq!(days.due(0, NOON.plus_ms(many * DAY), None).map(|(_, sum)| sum.payloads), Some(many));
    }

    #[test]
    fn a_clock_that_was_ahead_keeps_payloads_for_longer_and_never_shorter() {
        let mut at = Reached::default();
        at.reach(Revision::new(1), NOON.plus_ms(10 * DAY));
        at.reach(Revision::new(2), NOON);
        assert_eq!(at, reached(2, NOON.plus_ms(10 * DAY)));
    }

    #[test]
    fn what_is_older_than_it_is_kept_is_released_by_class_and_counted_back() {
        // Revisions 1 to 5: registered, a key, a module of three bytes, and an execution of two bytes in and three out.
        let history = || running().into_iter().chain([finished(1)]);
        let only = |retention| given(history()).under(keeping(retention)).when(Command::ReleasePayloads);
        only(Retention::default()).then([]);
        only(Retention { inputs_days: Some(0), ..Retention::default() }).then([released(Class::Inputs, 4, 1, 2)]);
        only(Retention { outputs_days: Some(0), ..Retention::default() }).then([released(Class::Outputs, 5, 1, 3)]);
        only(every(1)).then([]);
        let later = || given(history()).under(keeping(every(1))).at(NOON.plus_ms(DAY));
        later()
            .when(Command::ReleasePayloads)
            .then([released(Class::Inputs, 4, 1, 2), released(Class::Outputs, 5, 1, 3)]);
        // Once.
        let again = history().chain([released(Class::Inputs, 4, 1, 2), released(Class::Outputs, 5, 1, 3)]);
        given(again).under(keeping(every(0))).when(Command::ReleasePayloads).then([]);
    }

    #[test]
    fn what_is_released_makes_room() {
        let mut policy = keeping(Retention::default());
        policy.pro.storage_bytes = 8;
        let full = || ready().into_iter().chain([accepted(1), finished(1)]);
        let publish = |history: Vec<Event>| given(history).by(K1).under(policy).when(publish("other", b"two"));
        let refusal = Refusal::StorageQuotaExceeded { limit_bytes: 8, left_bytes: 0, needed_bytes: 3 };
        publish(full().collect()).then_refused(refusal);
        publish(full().chain([released(Class::Outputs, 5, 1, 3)]).collect()).then_published("other", 1);
    }

    #[test]
    fn nothing_is_released_from_the_first_open_execution_on() {
        let open = || running().into_iter().chain([accepted(2), finished(2)]);
        let story = |history: Vec<Event>| given(history).under(keeping(every(0))).when(Command::ReleasePayloads);
        story(open().collect()).then([]);
        story(open().chain([lost(1)]).collect())
            .then([released(Class::Inputs, 5, 2, 4), released(Class::Outputs, 6, 1, 3)]);
    }

    #[test]
    fn a_module_is_released_once_no_version_of_it_is_live() {
        let story = |history: Vec<Event>| given(history).under(keeping(every(0))).when(Command::ReleasePayloads);
        let two = || ready().into_iter().chain([published_as("other", 1, b"one"), deleted(HELLO)]);
        story(two().collect()).then([]);
        story(two().chain([deleted("other")]).collect()).then([released(Class::Modules, 6, 1, 3)]);
        // Whoever publishes it again has it counted twice until then, and once afterwards.
        let again = || two().chain([deleted("other"), published_as(HELLO, 2, b"one")]);
        story(again().collect()).then([released(Class::Modules, 6, 1, 3)]);
        let mut policy = keeping(Retention::default());
        policy.pro.storage_bytes = 6;
        let ask = |history: Vec<Event>| given(history).by(K1).under(policy).when(publish("more", b"two"));
        let refusal = Refusal::StorageQuotaExceeded { limit_bytes: 6, left_bytes: 0, needed_bytes: 3 };
        ask(again().collect()).then_refused(refusal);
        ask(again().chain([released(Class::Modules, 6, 1, 3)]).collect()).then_published("more", 1);
    }

    #[test]
    fn a_module_that_came_along_is_released_after_it_came_last_and_is_counted_again_then() {
        let ran = |n, wasm: &[u8], bytes| [uploaded(n, wasm, bytes), finished(n)];
        let modules = Retention { modules_days: Some(0), ..Retention::default() };
        let story = |history: Vec<Event>| given(history).under(keeping(modules)).when(Command::ReleasePayloads);
        let Event::ExecutionAccepted(mut known) = uploaded(2, b"upload", 6) else { unreachable!() };
        known.uploaded_bytes = None;
        let known = || [Event::ExecutionAccepted(known.clone()), finished(2)];
        // Revisions 4 and 5, and 6 and 7.
        let twice = || ready().into_iter().chain(ran(1, b"upload", 6)).chain(known());
        story(twice().collect()).then([released(Class::Modules, 6, 1, 6)]);
        let gone = || twice().chain([released(Class::Modules, 6, 1, 6)]);
        story(gone().collect()).then([]);
        let asked = given(gone()).by(K1).when(upload(9, b"upload")).accepted();
        assert_eq!(asked.uploaded_bytes, Some(6));
    }

    #[test]
    fn modules_that_came_along_and_are_not_remembered_any_more_are_released_too() {
        let modules = Retention { modules_days: Some(0), ..Retention::default() };
        let many = (1..=300_u32).flat_map(|n| [uploaded(n.into(), &n.to_be_bytes(), 4), finished(n.into())]);
        let history = ready().into_iter().chain(many);
        let events = given(history).under(keeping(modules)).when(Command::ReleasePayloads).events();
        assert_eq!(events, [released(Class::Modules, 602, 300, 1_200)]);
    }

    #[test]
    fn no_key_releases_anything_and_a_suspended_tenant_has_it_done_all_the_same() {
        let missing = Refusal::MissingScope(wasmwiz_events::key::Scope::Operator);
        given(running()).by(K1).when(Command::ReleasePayloads).then_refused(missing);
        given([]).when(Command::ReleasePayloads).then([]);
        let history = running().into_iter().chain([finished(1), suspended()]);
        assert_eq!(given(history).under(keeping(every(0))).when(Command::ReleasePayloads).events().len(), 2);
    }
}
