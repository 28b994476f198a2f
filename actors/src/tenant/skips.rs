//! Commits of other streams that operators let be passed over. Of the operators' own tenant alone, so that a damaged stream
//! need not record anything, and empty everywhere else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    event::Event,
    id::TenantId,
    revision::Position,
    skip::{REASON_MAX_CHARS, Skipped},
};

use super::{Refusal, SYSTEM};

/// Skips that are remembered, in the memory of every node: each is an operator's act about a damaged place, so that there are
/// more of them than anybody looks at long before this.
const SKIPS_MAX: usize = 10_000;

/// The places that are skipped already.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Skips(BTreeSet<(TenantId, Position)>);

impl Skips {
    /// Decides a skip, in the stream of `of`.
    pub(super) fn skip(&self, of: &TenantId, skipped: Skipped) -> Result<Vec<Event>, Refusal> {
        // Who has lost what the operators' stream says cannot be told so by that stream.
        if of.as_str() != SYSTEM || skipped.tenant == *of {
            return Err(Refusal::NotSkippable);
        }
        let (length, printable) =
            (skipped.reason.chars().count(), skipped.reason.chars().all(|letter| !letter.is_control()));
        if !printable || !(1..=REASON_MAX_CHARS).contains(&length) {
            return Err(Refusal::InvalidReason);
        }
        if self.0.contains(&(skipped.tenant.clone(), skipped.position)) {
            return Ok(vec![]);
        }
        if self.0.len() >= SKIPS_MAX {
            return Err(Refusal::TooManySkips { limit: SKIPS_MAX });
        }
        Ok(vec![Event::CommitSkipped(skipped)])
    }

    pub(super) fn skipped(&mut self, skipped: &Skipped) {
        self.0.insert((skipped.tenant.clone(), skipped.position));
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{key::Scope, tenant::Tier};

    use super::*;
    use crate::{
        aggregate::Authority,
        tenant::{Command, scenario::*},
    };

    fn skipped(tenant: &str, position: u64, reason: &str) -> Skipped {
        Skipped { tenant: TenantId::new(tenant).unwrap(), position: Position::new(position), reason: reason.to_owned() }
    }

    fn skip(tenant: &str, position: u64) -> Command {
        Command::SkipCommit(skipped(tenant, position, "a sector is gone"))
    }

    fn operated(rest: impl IntoIterator<Item = Event>) -> Given {
        let history = [registered("System", Tier::Enterprise), key_issued(K1)].into_iter().chain(rest);
        given_of(SYSTEM, history).on(Authority::Operator("ada".to_owned()))
    }

    #[test]
    fn an_operator_skips_a_commit_once() {
        let event = || Event::CommitSkipped(skipped("acme", 7, "a sector is gone"));
        operated([]).when(skip("acme", 7)).then([event()]);
        operated([event()]).when(skip("acme", 7)).then([]);
        operated([event()]).when(Command::SkipCommit(skipped("acme", 7, "again"))).then([]);
        assert_eq!(operated([event()]).when(skip("acme", 8)).events().len(), 1);
        assert_eq!(operated([event()]).when(skip("other", 7)).events().len(), 1);
    }

    #[test]
    fn nobody_else_skips_and_nowhere_else_and_never_of_the_operators_own() {
        operated([]).by(K1).when(skip("acme", 7)).then_refused(Refusal::MissingScope(Scope::Operator));
        operated([]).when(skip(SYSTEM, 7)).then_refused(Refusal::NotSkippable);
        given([registered("Acme", Tier::Pro)]).when(skip("other", 7)).then_refused(Refusal::NotSkippable);
    }

    #[test]
    fn a_reason_is_said_in_bounds() {
        for reason in ["", "a\nb", &"x".repeat(501)] {
            operated([]).when(Command::SkipCommit(skipped("acme", 7, reason))).then_refused(Refusal::InvalidReason);
        }
        let longest = "ü".repeat(500);
        assert_eq!(operated([]).when(Command::SkipCommit(skipped("acme", 7, &longest))).events().len(), 1);
    }

    #[test]
    fn there_is_a_most_of_them() {
        let all = (1..=10_000).map(|position| Event::CommitSkipped(skipped("acme", position, "x")));
        operated(all).when(skip("acme", 10_001)).then_refused(Refusal::TooManySkips { limit: 10_000 });
    }
}
