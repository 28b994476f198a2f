//! Executions that are open: accepted, and without a terminal event yet.
//!
//! ```text
//! accepted ──────────────────────────────────────► running ─► finished | lost
//!    └─ asynchronous: queued ─► started, attempt n ──┘  │     cancelled and expired ones that wait finish without a run
//!                        ▲                              │
//!                        └── the life of its node ended ─┘
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    event::Event,
    execution::{self, Content, Finished, Lost, Outcome},
    id::ExecutionId,
    revision::Revision,
    time::{Moment, Steady},
};

use super::{Refusal, storage};
use crate::{
    aggregate::{Context, Life},
    limits::TierLimits,
};

/// The most arguments of an execution.
pub const ARGS_MAX: usize = 64;

/// The most bytes of all arguments together: they are in the event.
pub const ARGS_MAX_BYTES: usize = 8 * 1_024;

/// The most executions declared lost by one decision, so that the commit stays within its bounds.
pub const LOST_AT_ONCE: usize = 256;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Open {
    attempt: u32,
    /// Who runs its current attempt, once that has begun.
    life: Life,
    /// By when the current attempt ends, or has begun.
    deadline: Steady,
    /// How long an attempt may run.
    wall_ms: u64,
    /// How many bytes its end may store at most.
    outputs_max_bytes: u64,
    /// Where it was accepted.
    accepted_at: Revision,
    /// `None`: somebody waits for it, so it runs once, from its acceptance on.
    queued: Option<Queued>,
}

/// What an asynchronous execution has beside.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Queued {
    start_by: Steady,
    started: bool,
}

impl Open {
    /// Has its current attempt begun?
    fn has_begun(&self) -> bool {
        self.queued.is_none_or(|queued| queued.started)
    }

    /// What runs may still be heard of for a while; what waits is too late at once.
    fn overdue_at(&self, grace_ms: u64) -> Steady {
        if self.has_begun() { self.deadline.plus_ms(grace_ms) } else { self.deadline }
    }

    /// Did its current attempt begin in a life that has ended? Then it runs no more.
    fn is_interrupted(&self, ended: &[Life]) -> bool {
        self.has_begun() && ended.contains(&self.life)
    }

    /// Is it one to be run?
    fn waits(&self, ended: &[Life]) -> bool {
        self.queued.is_some() && (!self.has_begun() || self.is_interrupted(ended))
    }
}

/// The executions of a tenant that have not ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Executions {
    open: BTreeMap<ExecutionId, Open>,
    /// How many of those that have begun each life runs.
    lives: BTreeMap<Life, usize>,
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

    /// Has this one no terminal event yet?
    pub(super) fn is_open(&self, id: ExecutionId) -> bool {
        self.open.contains_key(&id)
    }

    /// How many bytes the ends of all that are open may store at most.
    pub(super) fn outputs_max_bytes(&self) -> u64 {
        self.open.values().map(|open| open.outputs_max_bytes).fold(0, u64::saturating_add)
    }

    /// Where the first of those that are open was accepted.
    pub(super) fn first_open(&self) -> Option<Revision> {
        self.open.values().map(|open| open.accepted_at).min()
    }

    /// When the first open execution is overdue: somebody should look for it then. `grace_ms` is for those that have begun.
    pub fn next_overdue(&self, grace_ms: u64) -> Option<Steady> {
        self.open.values().map(|open| open.overdue_at(grace_ms)).min()
    }

    /// The lives of nodes that have begun one which is open.
    pub fn lives(&self) -> impl Iterator<Item = &Life> {
        self.lives.keys()
    }

    /// The asynchronous ones that are to be run, the oldest first.
    pub fn waiting<'a>(&'a self, ended: &'a [Life]) -> impl Iterator<Item = ExecutionId> + 'a {
        self.open.iter().filter(move |(_, open)| open.waits(ended)).map(|(id, _)| *id)
    }

    /// Who runs it; `None` when nobody does.
    pub fn runner(&self, id: ExecutionId, ended: &[Life]) -> Option<&Life> {
        self.open.get(&id).filter(|open| open.has_begun() && !open.is_interrupted(ended)).map(|open| &open.life)
    }

    /// Whatever a life that has ended began is not counted: it takes nothing any more.
    pub(super) fn check_concurrency(&self, ended: &[Life], limits: &TierLimits) -> Result<(), Refusal> {
        let limit = limits.executions_concurrent;
        let running = self.open.values().filter(|open| open.has_begun() && !open.is_interrupted(ended)).count();
        if running >= limit as usize { Err(Refusal::TooManyConcurrent { limit }) } else { Ok(()) }
    }

    pub(super) fn check_queue(&self, limits: &TierLimits) -> Result<(), Refusal> {
        let limit = limits.executions_queued;
        let queued = self.open.values().filter(|open| open.queued.is_some()).count();
        if queued >= limit as usize { Err(Refusal::TooManyQueued { limit }) } else { Ok(()) }
    }

    pub(super) fn start(
        &self,
        execution_id: ExecutionId,
        life: Life,
        suspended: bool,
        limits: &TierLimits,
        context: &Context<'_>,
    ) -> Result<Vec<Event>, Refusal> {
        let (now, attempts_max) = (context.now, context.policy.attempts_max);
        let open = self.open.get(&execution_id).ok_or(Refusal::ExecutionNotOpen)?;
        let Some(queued) = open.queued.filter(|_| open.waits(context.ended)) else {
            return Err(Refusal::ExecutionStarted);
        };
        if queued.start_by <= context.steady {
            return Ok(vec![too_late(execution_id, open)]);
        }
        let attempt = if queued.started { open.attempt.saturating_add(1) } else { open.attempt };
        if attempt > attempts_max {
            let reason = format!("its node went away during each of its {attempts_max} attempts");
            return Ok(vec![Event::ExecutionLost(Lost { execution_id, attempt: open.attempt, reason })]);
        }
        if suspended {
            return Err(Refusal::Suspended);
        }
        self.check_concurrency(context.ended, limits)?;
        let Life { node, boot } = life;
        let started = execution::Started { execution_id, attempt, node, boot, start_time: now };
        Ok(vec![Event::ExecutionStarted(started)])
    }

    pub(super) fn cancel(&self, id: ExecutionId, ended: &[Life]) -> Result<Vec<Event>, Refusal> {
        let open = self.open.get(&id).ok_or(Refusal::ExecutionNotOpen)?;
        if !open.waits(ended) {
            // Who runs it knows what it used, and ends it.
            return Ok(vec![]);
        }
        let message = "the execution was cancelled while it waited".to_owned();
        let finished = Finished::without_run(id, open.attempt, Outcome::Cancelled, message);
        Ok(vec![Event::ExecutionFinished(Box::new(finished))])
    }

    pub(super) fn finish(&self, finished: Finished) -> Result<Vec<Event>, Refusal> {
        let open = self.open.get(&finished.execution_id).ok_or(Refusal::ExecutionNotOpen)?;
        if open.attempt != finished.attempt || !open.has_begun() {
            return Err(Refusal::StaleAttempt { offered: finished.attempt });
        }
        Ok(vec![Event::ExecutionFinished(Box::new(finished))])
    }

    /// An asynchronous one is not lost with its node: it waits for its next attempt.
    pub(super) fn reap(&self, ended: &[Life]) -> Vec<Event> {
        let is_lost = |open: &Open| open.queued.is_none() && open.is_interrupted(ended);
        self.end("the node that ran it was restarted or went away", is_lost)
    }

    /// Only what has begun: one that waits is run by whoever finds it in the log.
    pub(super) fn lose(&self, id: ExecutionId, life: &Life) -> Result<Vec<Event>, Refusal> {
        let is_its_own = |open: &&Open| open.has_begun() && open.life == *life;
        let open = self.open.get(&id).filter(is_its_own).ok_or(Refusal::ExecutionNotOpen)?;
        let reason = "its node left its run without recording an end".to_owned();
        Ok(vec![Event::ExecutionLost(Lost { execution_id: id, attempt: open.attempt, reason })])
    }

    pub(super) fn expire(&self, now: Steady, grace_ms: u64) -> Vec<Event> {
        self.end("its node gave no outcome by its deadline", |open| open.overdue_at(grace_ms) <= now)
    }

    /// Ends those that nobody will: what has begun is lost, what still waits is too late.
    fn end(&self, reason: &str, is_over: impl Fn(&Open) -> bool) -> Vec<Event> {
        let over = self.open.iter().filter(|(_, open)| is_over(open)).take(LOST_AT_ONCE);
        let event = |(id, open): (&ExecutionId, &Open)| {
            if !open.has_begun() {
                return too_late(*id, open);
            }
            Event::ExecutionLost(Lost { execution_id: *id, attempt: open.attempt, reason: reason.to_owned() })
        };
        over.map(event).collect()
    }

    pub(super) fn accepted(&mut self, accepted: &execution::Accepted, at: Moment, accepted_at: Revision) {
        let wall_ms = accepted.limits.wall_ms;
        let start_by = accepted.start_by.map(|start_by| at.steady.plus_ms(start_by.ms_since(at.wall)));
        let open = Open {
            attempt: accepted.attempt,
            life: Life { node: accepted.node.clone(), boot: accepted.boot },
            deadline: start_by.unwrap_or_else(|| at.steady.plus_ms(wall_ms)),
            wall_ms,
            outputs_max_bytes: storage::outputs_max_bytes(accepted),
            accepted_at,
            queued: start_by.map(|start_by| Queued { start_by, started: false }),
        };
        if open.has_begun() {
            self.begins(&open.life);
        }
        self.open.insert(accepted.execution_id, open);
    }

    /// What has begun has all its time again: that an entity was read anew is no reason to declare lost what a node runs,
    /// whatever the wall clock did meanwhile. Lives of nodes that have ended are known without a clock.
    pub(super) fn resume(&mut self, now: Steady) {
        for open in self.open.values_mut().filter(|open| open.has_begun()) {
            open.deadline = open.deadline.max(now.plus_ms(open.wall_ms));
        }
    }

    /// Moves every time onto a clock that is ahead by `ms`.
    pub(super) fn shift(&mut self, ms: i64) {
        let Self { open, lives: _ } = self;
        for open in open.values_mut() {
            let Open { deadline, queued, attempt: _, life: _, wall_ms: _, outputs_max_bytes: _, accepted_at: _ } = open;
            *deadline = deadline.shifted_ms(ms);
            if let Some(Queued { start_by, started: _ }) = queued {
                *start_by = start_by.shifted_ms(ms);
            }
        }
    }

    pub(super) fn started(&mut self, started: &execution::Started, at: Steady) {
        let Some(open) = self.open.get_mut(&started.execution_id) else { return };
        let life = Life { node: started.node.clone(), boot: started.boot };
        let before = open.has_begun().then(|| open.life.clone());
        open.attempt = started.attempt;
        open.life.clone_from(&life);
        if let Some(queued) = &mut open.queued {
            queued.started = true;
            // Until start_by a further attempt may follow.
            open.deadline = at.plus_ms(open.wall_ms).max(queued.start_by);
        }
        if let Some(before) = before {
            self.ceases(&before);
        }
        self.begins(&life);
    }

    pub(super) fn ended(&mut self, id: ExecutionId) {
        let open = self.open.remove(&id);
        if let Some(open) = open.filter(Open::has_begun) {
            self.ceases(&open.life);
        }
    }

    fn begins(&mut self, life: &Life) {
        match self.lives.get_mut(life) {
            Some(running) => *running += 1,
            None => {
                self.lives.insert(life.clone(), 1);
            }
        }
    }

    fn ceases(&mut self, life: &Life) {
        match self.lives.get_mut(life) {
            Some(running) if *running > 1 => *running -= 1,
            _ => {
                self.lives.remove(life);
            }
        }
    }
}

/// The end of an execution whose turn did not come in time.
fn too_late(id: ExecutionId, open: &Open) -> Event {
    let message = "its turn did not come before its deadline; it did not run to an end".to_owned();
    let finished = Finished::without_run(id, open.attempt, Outcome::DeadlineExceeded, message);
    Event::ExecutionFinished(Box::new(finished))
}

#[cfg(test)]
mod queue_tests;

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
        given(running()).in_life(2).when(Command::Reap).then([lost(1)]);
    }

    #[test]
    fn a_node_that_lives_has_lost_nothing() {
        given(running()).in_life(1).when(Command::Reap).then([]);
    }

    #[test]
    fn lives_are_known_for_as_long_as_they_run_something() {
        let lives = |events: Vec<Event>| {
            let mut executions = Executions::default();
            for event in events {
                match event {
                    Event::ExecutionAccepted(accepted) => {
                        executions.accepted(&accepted, Moment::default(), Revision::default());
                    }
                    Event::ExecutionStarted(started) => executions.started(&started, Steady::default()),
                    Event::ExecutionFinished(finished) => executions.ended(finished.execution_id),
                    other => panic!("{other:?}"),
                }
            }
            executions.lives().map(|life| life.boot).collect::<Vec<_>>()
        };
        assert_eq!(lives(vec![accepted(1), accepted(2), finished(1)]), [boot(1)]);
        assert_eq!(lives(vec![accepted(1), accepted(2), finished(1), finished(2)]), []);
        assert_eq!(lives(vec![queued(1)]), []);
        assert_eq!(lives(vec![queued(1), started(1, 1, 1), started(1, 2, 2)]), [boot(2)]);
        assert_eq!(lives(vec![queued(1), started(1, 1, 1), finished(1)]), []);
    }

    #[test]
    fn who_runs_it_is_known_until_its_life_has_ended() {
        let mut executions = Executions::default();
        let Event::ExecutionAccepted(accepted) = accepted(1) else { unreachable!() };
        executions.accepted(&accepted, Moment::default(), Revision::default());
        let life = Life { node: node(), boot: boot(1) };
        assert_eq!(executions.runner(execution_id(1), &[]), Some(&life));
        assert_eq!(executions.runner(execution_id(1), &[life]), None);
        assert_eq!(executions.runner(execution_id(2), &[]), None);
    }

    #[test]
    fn a_node_loses_what_it_does_not_run_and_nothing_else() {
        let lose = |life| Command::Lose { execution_id: execution_id(1), node: node(), boot: boot(life) };
        let reason = "its node left its run without recording an end".into();
        given(running()).when(lose(1)).then([Event::ExecutionLost(Lost { reason, ..lost_data(1) })]);
        given(running()).when(lose(2)).then_refused(Refusal::ExecutionNotOpen);
        given(ready()).when(lose(1)).then_refused(Refusal::ExecutionNotOpen);
        // What waits is run by whoever finds it in the log; what has begun is run by its life alone.
        let waiting = || ready().into_iter().chain([queued(1)]);
        given(waiting()).when(lose(1)).then_refused(Refusal::ExecutionNotOpen);
        let begun = given(waiting().chain([started(1, 1, 1)])).when(lose(1)).events();
        assert!(matches!(&begun[..], [Event::ExecutionLost(lost)] if lost.attempt == 1), "{begun:?}");
        given(waiting().chain([started(1, 1, 1)])).when(lose(2)).then_refused(Refusal::ExecutionNotOpen);
        given(running().into_iter().chain([finished(1)])).when(lose(1)).then_refused(Refusal::ExecutionNotOpen);
    }

    #[test]
    fn silence_past_the_deadline_and_its_grace_is_a_loss() {
        let at = |ms: u64| NOON.plus_ms(30_000 + ms);
        given(running()).at(at(59_999)).when(Command::Expire).then([]);
        let lost = Lost { reason: "its node gave no outcome by its deadline".into(), ..lost_data(1) };
        given(running()).at(at(60_000)).when(Command::Expire).then([Event::ExecutionLost(lost)]);
    }

    #[test]
    fn a_sweep_stays_within_one_commit() {
        let open = (1..=300).map(accepted);
        let history = ready().into_iter().chain(open);
        let events = given(history).in_life(2).when(Command::Reap).events();
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
