//! Requests that the gateway denied, written down now and then: a flood of denials must not become a flood of events.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{event::Event, requests, time::Steady};

use super::Refusal;
use crate::aggregate::Context;

/// At most one such event in this time, in milliseconds, from the contract of the log: whichever node counts.
pub const EVERY_MS: u64 = 60_000;

/// The most reasons in one event: more than there are kinds of denials.
pub const REASONS_MAX: usize = 64;

/// When denials were last written down.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Denials {
    recorded_at: Option<Steady>,
}

impl Denials {
    /// Moves every time onto a clock that is ahead by `ms`.
    pub(super) fn shift(&mut self, ms: i64) {
        let Self { recorded_at } = self;
        *recorded_at = recorded_at.map(|at| at.shifted_ms(ms));
    }

    /// Whoever is refused keeps counting and comes again.
    pub(super) fn record(self, denied: requests::Denied, context: &Context<'_>) -> Result<Vec<Event>, Refusal> {
        if denied.counts.is_empty() || denied.counts.len() > REASONS_MAX {
            return Ok(vec![]);
        }
        let since_ms = self.recorded_at.map_or(EVERY_MS, |at| context.steady.ms_since(at));
        if since_ms < EVERY_MS {
            return Err(Refusal::DenialsRecordedLately { retry_after_ms: EVERY_MS.saturating_sub(since_ms) });
        }
        // It is the owner's clock that counts.
        Ok(vec![Event::RequestsDenied(requests::Denied { to: context.now, ..denied })])
    }

    pub(super) const fn recorded(&mut self, at: Steady) {
        self.recorded_at = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wasmwiz_events::time::Timestamp;

    use super::*;
    use crate::tenant::{Command, scenario::*};

    fn denied(count: u64) -> Command {
        let counts = BTreeMap::from([("rate-limited".to_owned(), count)]);
        Command::RecordDenials(requests::Denied { from: NOON, to: NOON, counts })
    }

    fn recorded(count: u64, to: Timestamp) -> Event {
        let counts = BTreeMap::from([("rate-limited".to_owned(), count)]);
        Event::RequestsDenied(requests::Denied { from: NOON, to, counts })
    }

    #[test]
    fn denials_are_written_down_at_most_once_a_minute() {
        let at = |ms: u64| NOON.plus_ms(ms);
        given(ready()).at(at(500)).when(denied(3)).then([recorded(3, at(500))]);
        let history = || given(ready().into_iter().chain([recorded(3, at(500))]));
        let lately = |retry_after_ms| Refusal::DenialsRecordedLately { retry_after_ms };
        history().at(NOON).when(denied(4)).then_refused(lately(60_000));
        history().at(at(59_999)).when(denied(4)).then_refused(lately(1));
        history().at(at(60_000)).when(denied(4)).then([recorded(4, at(60_000))]);
    }

    #[test]
    fn denials_of_a_suspended_tenant_are_written_down_and_nobody_but_the_platform_does_so() {
        given(ready().into_iter().chain([suspended()])).when(denied(1)).then([recorded(1, NOON)]);
        let operators = Refusal::MissingScope(wasmwiz_events::key::Scope::Operator);
        given(ready()).by(K1).when(denied(1)).then_refused(operators);
        given([]).when(denied(1)).then_refused(Refusal::NotRegistered);
    }

    #[test]
    fn no_denials_are_nothing_to_write_down() {
        let none = requests::Denied { from: NOON, to: NOON, counts: BTreeMap::new() };
        given(ready()).when(Command::RecordDenials(none)).then([]);
    }
}
