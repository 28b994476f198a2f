//! Executions that are open: accepted, and without a terminal event yet.

use std::collections::BTreeMap;

use wasmwiz_events::{
    event::Event,
    execution::{self, Content, Lost},
    id::{BootId, ExecutionId, NodeId},
    time::Timestamp,
};

use super::Refusal;
use crate::limits::TierLimits;

/// The most arguments of an execution.
pub const ARGS_MAX: usize = 64;

/// The most bytes of all arguments together: they are in the event.
pub const ARGS_MAX_BYTES: usize = 8 * 1_024;

/// The most executions declared lost by one decision, so that the commit stays within its bounds.
pub const LOST_AT_ONCE: usize = 256;

#[derive(Debug, Clone)]
struct Open {
    attempt: u32,
    node: NodeId,
    boot: BootId,
    deadline: Timestamp,
}

/// The executions of a tenant that have not ended.
#[derive(Debug, Clone, Default)]
pub struct Executions {
    open: BTreeMap<ExecutionId, Open>,
}

/// An execution has bounded input.
pub(super) fn check_input(stdin: &Content, args: &[String], limits: &TierLimits) -> Result<(), Refusal> {
    if stdin.size_bytes > limits.stdin_bytes {
        return Err(Refusal::StdinTooLarge { limit_bytes: limits.stdin_bytes });
    }
    let bytes: usize = args.iter().map(String::len).sum();
    if args.len() > ARGS_MAX || bytes > ARGS_MAX_BYTES || args.iter().any(|arg| arg.contains('\0')) {
        return Err(Refusal::BadArguments { count: ARGS_MAX, bytes: ARGS_MAX_BYTES });
    }
    Ok(())
}

impl Executions {
    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Is none open?
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The earliest deadline of an open execution: when somebody should look for it.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.open.values().map(|open| open.deadline).min()
    }

    pub(super) fn check_concurrency(&self, limits: &TierLimits) -> Result<(), Refusal> {
        let limit = limits.executions_concurrent;
        if self.open.len() >= limit as usize { Err(Refusal::TooManyConcurrent { limit }) } else { Ok(()) }
    }

    pub(super) fn finish(&self, finished: execution::Finished) -> Result<Vec<Event>, Refusal> {
        let open = self.open.get(&finished.execution_id).ok_or(Refusal::ExecutionNotOpen)?;
        if open.attempt != finished.attempt {
            return Err(Refusal::StaleAttempt { offered: finished.attempt });
        }
        Ok(vec![Event::ExecutionFinished(Box::new(finished))])
    }

    pub(super) fn reap(&self, node: &NodeId, boot: BootId) -> Vec<Event> {
        self.lose("the node that ran it was restarted", |open| open.node == *node && open.boot != boot)
    }

    pub(super) fn expire(&self, now: Timestamp, grace_ms: u64) -> Vec<Event> {
        self.lose("its node gave no outcome by its deadline", |open| open.deadline.plus_ms(grace_ms) <= now)
    }

    fn lose(&self, reason: &str, is_lost: impl Fn(&Open) -> bool) -> Vec<Event> {
        let lost = self.open.iter().filter(|(_, open)| is_lost(open)).take(LOST_AT_ONCE);
        let event = |(id, open): (&ExecutionId, &Open)| {
            Event::ExecutionLost(Lost { execution_id: *id, attempt: open.attempt, reason: reason.to_owned() })
        };
        lost.map(event).collect()
    }

    pub(super) fn accepted(&mut self, accepted: &execution::Accepted) {
        let open = Open {
            attempt: accepted.attempt,
            node: accepted.node.clone(),
            boot: accepted.boot,
            deadline: accepted.start_time.plus_ms(accepted.limits.wall_ms),
        };
        self.open.insert(accepted.execution_id, open);
    }

    pub(super) fn ended(&mut self, id: ExecutionId) {
        self.open.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::tenant::Tier;

    use super::*;
    use crate::tenant::{Command, Execute, scenario::*};

    #[test]
    fn an_execution_ends_once() {
        given(running()).when(finish(1)).then([finished(1)]);
        given(running().into_iter().chain([finished(1)])).when(finish(1)).then_refused(Refusal::ExecutionNotOpen);
        given(running().into_iter().chain([lost(1)])).when(finish(1)).then_refused(Refusal::ExecutionNotOpen);
    }

    #[test]
    fn only_the_current_attempt_ends_an_execution() {
        let Command::Finish(finished) = finish(1) else { unreachable!() };
        given(running())
            .when(Command::Finish(Box::new(execution::Finished { attempt: 2, ..*finished })))
            .then_refused(Refusal::StaleAttempt { offered: 2 });
    }

    #[test]
    fn a_restarted_node_has_lost_what_it_ran_before() {
        given(running()).when(Command::Reap { node: node(), boot: boot(2) }).then([lost(1)]);
    }

    #[test]
    fn a_node_that_lives_has_lost_nothing() {
        given(running()).when(Command::Reap { node: node(), boot: boot(1) }).then([]);
        let other = NodeId::new("other").unwrap();
        given(running()).when(Command::Reap { node: other, boot: boot(2) }).then([]);
    }

    #[test]
    fn silence_past_the_deadline_and_its_grace_is_a_loss() {
        let at = |ms: u64| NOON.plus_ms(30_000 + ms);
        given(running()).at(at(29_999)).when(Command::Expire).then([]);
        let lost = Lost { reason: "its node gave no outcome by its deadline".into(), ..lost_data(1) };
        given(running()).at(at(30_000)).when(Command::Expire).then([Event::ExecutionLost(lost)]);
    }

    #[test]
    fn a_sweep_stays_within_one_commit() {
        let open = (1..=300).map(accepted);
        let history = ready().into_iter().chain(open);
        let events = given(history).when(Command::Reap { node: node(), boot: boot(2) }).events();
        assert_eq!(events.len(), LOST_AT_ONCE);
    }

    #[test]
    fn as_many_are_open_as_the_tier_allows() {
        let history = || [registered("Acme", Tier::Free), key_issued(K1), published(HELLO), accepted(1), accepted(2)];
        given(history()).by(K1).when(execute(HELLO)).then_refused(Refusal::TooManyConcurrent { limit: 2 });
        given(history().into_iter().chain([finished(1)])).by(K1).when(execute(HELLO)).then_accepted();
    }

    #[test]
    fn input_over_the_tiers_limit_is_refused() {
        let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
        let stdin = Content { size_bytes: 4 * 1_024 * 1_024 + 1, ..execute.stdin };
        given(ready())
            .by(K1)
            .when(Command::Execute(Box::new(Execute { stdin, ..*execute })))
            .then_refused(Refusal::StdinTooLarge { limit_bytes: 4 * 1_024 * 1_024 });
    }

    #[test]
    fn arguments_are_bounded() {
        let with = |args: Vec<String>| {
            let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
            Command::Execute(Box::new(Execute { args, ..*execute }))
        };
        let refusal = Refusal::BadArguments { count: 64, bytes: 8_192 };
        for args in [vec![String::new(); 65], vec!["x".repeat(8_193)], vec!["a\0b".to_owned()]] {
            given(ready()).by(K1).when(with(args)).then_refused(refusal.clone());
        }
        given(ready()).by(K1).when(with(vec!["x".repeat(128); 64])).then_accepted();
    }

    #[test]
    fn a_shorter_timeout_is_granted_and_a_longer_one_is_cut() {
        let granted = |timeout_ms| {
            let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
            let command = Command::Execute(Box::new(Execute { timeout_ms, ..*execute }));
            given(ready()).by(K1).when(command).accepted().limits.wall_ms
        };
        assert_eq!(granted(Some(100)), 100);
        assert_eq!(granted(Some(1_000_000)), 30_000);
        assert_eq!(granted(None), 30_000);
    }
}
