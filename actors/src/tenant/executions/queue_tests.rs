//! Asynchronous executions: attempts, cancellation, deadlines, and that each ends once whatever races.

use proptest::prelude::*;
use wasmwiz_events::{
    event::Event,
    execution::{Finished, Lost, Outcome},
    tenant::Tier,
    time::Timestamp,
};

use crate::{
    limits::Policy,
    tenant::{Command, Execute, Refusal, scenario::*},
};

fn with(events: impl IntoIterator<Item = Event>) -> Given {
    given(ready().into_iter().chain(events))
}

fn finish_attempt(n: u128, attempt: u32) -> Command {
    let Command::Finish(finished) = finish(n) else { unreachable!() };
    Command::Finish(Box::new(Finished { attempt, ..*finished }))
}

fn outcome(events: &[Event]) -> Option<Outcome> {
    let [Event::ExecutionFinished(finished)] = events else { return None };
    Some(finished.outcome)
}

#[test]
fn an_asynchronous_one_is_accepted_with_the_moment_by_which_it_must_begin() {
    let accepted = |timeout_ms| {
        let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
        let execute = Execute { asynchronous: true, timeout_ms, ..*execute };
        given(ready()).by(K1).when(Command::Execute(Box::new(execute))).accepted().start_by
    };
    assert_eq!(accepted(None), Some(NOON.plus_ms(3_600_000)));
    assert_eq!(accepted(Some(2_000)), Some(NOON.plus_ms(2_000)));
    assert_eq!(accepted(Some(u64::MAX)), Some(NOON.plus_ms(3_600_000)));
    assert_eq!(given(ready()).by(K1).when(execute(HELLO)).accepted().start_by, None);
}

#[test]
fn one_that_sees_the_clocks_of_an_earlier_one_waits_as_long_as_any_other() {
    let Event::ExecutionAccepted(mut accepted) = queued(1) else { unreachable!() };
    accepted.start_time = Timestamp::from_unix_ms(NOON.unix_ms() - 86_400_000);
    let expired = |ms| {
        let waits = Event::ExecutionAccepted(accepted.clone());
        given(ready().into_iter().chain([waits])).at(NOON.plus_ms(ms)).when(Command::Expire).events()
    };
    assert_eq!(expired(3_599_999), []);
    assert_eq!(outcome(&expired(3_600_000)), Some(Outcome::DeadlineExceeded));
}

#[test]
fn whoever_waited_too_long_is_not_admitted() {
    let with = |deadline: Timestamp| {
        let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
        given(ready()).by(K1).when(Command::Execute(Box::new(Execute { deadline: Some(deadline), ..*execute })))
    };
    with(NOON).then_refused(Refusal::DeadlinePassed);
    with(NOON.plus_ms(1)).then_accepted();
}

#[test]
fn what_waits_begins_once_in_each_life_of_its_node() {
    with([queued(1)]).when(start(1, 1)).then([started(1, 1, 1)]);
    // Accepted in one life, begun in the next: still the first attempt.
    with([queued(1)]).in_life(2).when(start(1, 2)).then([started(1, 1, 2)]);
    with([queued(1), started(1, 1, 1)]).when(start(1, 1)).then_refused(Refusal::ExecutionStarted);
    with([queued(1), started(1, 1, 1)]).in_life(2).when(start(1, 2)).then([started(1, 2, 2)]);
    with([accepted(1)]).in_life(2).when(start(1, 2)).then_refused(Refusal::ExecutionStarted);
    with([]).when(start(1, 1)).then_refused(Refusal::ExecutionNotOpen);
}

#[test]
fn a_restart_loses_what_somebody_waited_for_and_nothing_else() {
    with([accepted(1), queued(2), queued(3), started(3, 1, 1)]).in_life(2).when(Command::Reap).then([lost(1)]);
}

#[test]
fn after_its_last_attempt_it_is_lost() {
    let reason = "its node went away during each of its 3 attempts".to_owned();
    let expected = Lost { attempt: 3, reason, ..lost_data(1) };
    with([queued(1), started(1, 3, 1)]).in_life(2).when(start(1, 2)).then([Event::ExecutionLost(expected)]);
}

#[test]
fn only_the_attempt_that_runs_may_end_it() {
    with([queued(1)]).when(finish(1)).then_refused(Refusal::StaleAttempt { offered: 1 });
    let history = || with([queued(1), started(1, 1, 1), started(1, 2, 2)]);
    history().when(finish_attempt(1, 1)).then_refused(Refusal::StaleAttempt { offered: 1 });
    assert_eq!(outcome(&history().when(finish_attempt(1, 2)).events()), Some(Outcome::Succeeded));
}

#[test]
fn what_waited_past_its_deadline_ends_without_a_run() {
    let late = NOON.plus_ms(3_600_000);
    for history in [vec![queued(1)], vec![queued(1), started(1, 1, 1)]] {
        let events = with(history).at(late).in_life(2).when(start(1, 2)).events();
        assert_eq!(outcome(&events), Some(Outcome::DeadlineExceeded));
    }
    // Nobody began it: the wake of its entity ends it all the same.
    with([queued(1)]).at(NOON.plus_ms(3_599_999)).when(Command::Expire).then([]);
    let events = with([queued(1)]).at(late).when(Command::Expire).events();
    assert_eq!(outcome(&events), Some(Outcome::DeadlineExceeded));
    with([queued(1), started(1, 1, 1)]).at(late.plus_ms(59_999)).when(Command::Expire).then([]);
    let events = with([queued(1), started(1, 1, 1)]).at(late.plus_ms(60_000)).when(Command::Expire).events();
    assert!(matches!(events[..], [Event::ExecutionLost(_)]), "{events:?}");
}

#[test]
fn as_many_run_as_the_tier_allows_and_as_many_wait() {
    let asynchronous = |execute: Command| {
        let Command::Execute(execute) = execute else { unreachable!() };
        Command::Execute(Box::new(Execute { asynchronous: true, ..*execute }))
    };
    let free = || [registered("Acme", Tier::Free), key_issued(K1), published(HELLO)].into_iter();
    let two_run = || free().chain([accepted(1), queued(2), started(2, 1, 1), queued(3)]);
    given(two_run()).when(start(3, 1)).then_refused(Refusal::TooManyConcurrent { limit: 2 });
    given(two_run()).by(K1).when(execute(HELLO)).then_refused(Refusal::TooManyConcurrent { limit: 2 });
    given(two_run().chain([finished(1)])).when(start(3, 1)).then([started(3, 1, 1)]);
    // What a dead life began takes nothing.
    given(two_run()).in_life(2).when(start(3, 2)).then([started(3, 1, 2)]);
    given(two_run()).by(K1).when(asynchronous(execute(HELLO))).then_accepted();
    let full = free().chain((1..=20).map(queued));
    given(full).by(K1).when(asynchronous(execute(HELLO))).then_refused(Refusal::TooManyQueued { limit: 20 });
}

#[test]
fn a_suspended_tenant_begins_nothing_and_what_is_too_late_ends() {
    with([queued(1), suspended()]).when(start(1, 1)).then_refused(Refusal::Suspended);
    let events = with([queued(1), suspended()]).at(NOON.plus_ms(3_600_000)).when(start(1, 1)).events();
    assert_eq!(outcome(&events), Some(Outcome::DeadlineExceeded));
}

#[test]
fn what_waits_is_cancelled_at_once_and_what_runs_by_who_runs_it() {
    let cancelled = |history: Vec<Event>, life| with(history).by(K1).in_life(life).when(cancel(1)).events();
    assert_eq!(outcome(&cancelled(vec![queued(1)], 1)), Some(Outcome::Cancelled));
    assert_eq!(outcome(&cancelled(vec![queued(1), started(1, 1, 1)], 2)), Some(Outcome::Cancelled));
    assert_eq!(cancelled(vec![queued(1), started(1, 1, 1)], 1), []);
    assert_eq!(cancelled(vec![accepted(1)], 1), []);
    with([accepted(1), finished(1)]).by(K1).when(cancel(1)).then_refused(Refusal::ExecutionNotOpen);
    with([]).by(K1).when(cancel(1)).then_refused(Refusal::ExecutionNotOpen);
    with([queued(1)]).by(K2).when(cancel(1)).then_refused(Refusal::KeyUnknown);
}

/// What may be asked about one execution, in any order.
#[derive(Debug, Clone, Copy)]
enum Step {
    Start,
    Cancel,
    Finish { attempt: u32 },
    Reap,
    Expire,
    Restart,
    Wait { minutes: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Start),
        3 => Just(Step::Cancel),
        3 => (1_u32..4).prop_map(|attempt| Step::Finish { attempt }),
        1 => Just(Step::Reap),
        1 => Just(Step::Expire),
        1 => Just(Step::Restart),
        1 => (1_u64..40).prop_map(|minutes| Step::Wait { minutes }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 4, ..ProptestConfig::default() })]

    #[test]
    fn whatever_races_an_execution_has_at_most_one_end_and_nothing_after_it(
        asynchronous in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut tenant = with([if asynchronous { queued(1) } else { accepted(1) }]);
        let (mut life, mut now, mut ends, mut attempts) = (1, NOON, 0, 0);
        for step in steps {
            let command = match step {
                Step::Start => start(1, life),
                Step::Cancel => cancel(1),
                Step::Finish { attempt } => finish_attempt(1, attempt),
                Step::Reap => Command::Reap,
                Step::Expire => Command::Expire,
                Step::Restart => { life += 1; tenant.restart(); continue }
                Step::Wait { minutes } => { now = now.plus_ms(minutes * 60_000); continue }
            };
            let Ok(events) = tenant.decide_apply_and_give(command, now) else { continue };
            for event in events {
                prop_assert_eq!(ends, 0, "{:?} after the end", event);
                match event {
                    Event::ExecutionStarted(started) => {
                        attempts += 1;
                        prop_assert_eq!(started.attempt, attempts);
                        prop_assert!(attempts <= Policy::default().attempts_max);
                    }
                    Event::ExecutionFinished(finished) => {
                        ends += 1;
                        prop_assert_eq!(finished.attempt, attempts.max(1));
                    }
                    Event::ExecutionLost(_) => ends += 1,
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
