//! Executions that were run again from their records, written down.

use wasmwiz_events::{
    event::Event,
    verification::{Difference, SIDE_MAX_CHARS, Verified},
};

use super::{Refusal, Tenant};
use crate::aggregate::Context;

/// The most differences in one event: more than there are aspects.
const DIFFERENCES_MAX: usize = 16;

impl Tenant {
    /// Writes down what came of it. A guest ran for it: that takes a token of the executions', and counts in the day.
    pub(super) fn verified(&self, verified: Verified, context: &Context<'_>) -> Result<Vec<Event>, Refusal> {
        context.by.credential().ok_or(Refusal::NotAKey)?;
        let bucket_full_at = self.quota.admit(self.limits(context), context)?;
        let cut = |side: String| side.chars().take(SIDE_MAX_CHARS).collect::<String>();
        let differences = verified.differences.into_iter().take(DIFFERENCES_MAX);
        let differences: Vec<_> = differences
            .map(|Difference { what, recorded, found }| Difference { what, recorded: cut(recorded), found: cut(found) })
            .collect();
        let reproduced = differences.is_empty();
        Ok(vec![Event::ExecutionVerified(Verified { reproduced, differences, bucket_full_at, ..verified })])
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{tenant::Tier, time::Millis, verification::Aspect};

    use super::*;
    use crate::tenant::{Command, scenario::*};

    fn verified(differences: Vec<Difference>) -> Verified {
        Verified {
            execution_id: execution_id(1),
            engine: "e1".into(),
            reproduced: differences.is_empty(),
            differences,
            cpu_ms: Millis::from_micros(7),
            bucket_full_at: None,
        }
    }

    fn record(differences: Vec<Difference>) -> Command {
        Command::RecordVerification(Box::new(verified(differences)))
    }

    #[test]
    fn what_came_of_it_is_written_down_as_it_was() {
        let differs = Difference { what: Aspect::ExitCode, recorded: "0".into(), found: "x".repeat(300) };
        // Without a rate there is nothing to note of it.
        let history = || [registered("Acme", Tier::Enterprise), key_issued(K1)];
        given(history()).by(K1).when(record(vec![])).then([Event::ExecutionVerified(verified(vec![]))]);
        let events = given(history()).by(K1).when(record(vec![differs])).events();
        let [Event::ExecutionVerified(verified)] = &events[..] else { panic!("{events:?}") };
        assert!(!verified.reproduced);
        assert_eq!(verified.differences[0].found.len(), SIDE_MAX_CHARS);
    }

    #[test]
    fn it_costs_what_an_execution_costs() {
        let mut story = given([registered("Acme", Tier::Free), key_issued(K1), published_as(HELLO, 1, b"one")]).by(K1);
        let mut times = 0;
        let refused = loop {
            match story.decide_and_apply(record(vec![]), NOON) {
                Ok(()) => times += 1,
                Err(refusal) => break refusal,
            }
            assert!(times < 1_000, "never refused");
        };
        assert!(times > 0 && matches!(refused, Refusal::RateLimited { .. }), "{times} {refused:?}");
        let refused = story.decide_and_apply(execute(HELLO), NOON).unwrap_err();
        assert!(matches!(refused, Refusal::RateLimited { .. }), "{refused:?}");
    }

    #[test]
    fn nobody_but_a_key_has_something_verified_and_none_of_a_suspended_tenant() {
        given(ready()).when(record(vec![])).then_refused(Refusal::NotAKey);
        given(ready().into_iter().chain([suspended()])).by(K1).when(record(vec![])).then_refused(Refusal::Suspended);
    }
}
