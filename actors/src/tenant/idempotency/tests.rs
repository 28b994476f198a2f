//! A request is done once while it is remembered, whatever comes in between.

use std::collections::HashMap;

use proptest::{collection::vec, prelude::*};
use wasmwiz_events::{
    envelope::{Actor, Cause},
    id::{CommandId, EventId, TenantId},
    revision::Revision,
    tenant::Tier,
};

use super::*;
use crate::{
    aggregate::Authority,
    limits::Policy,
    tenant::{Execute, NewKey, scenario::*},
};

const DAY_MS: u64 = 86_400_000;

/// A tenant that is asked with idempotency keys, and what its stream holds.
struct Asked {
    state: Tenant,
    stream: Vec<Envelope>,
    policy: Policy,
}

fn digest_of(what: &str, n: u8) -> Digest {
    Digest::of(format!("{what} {n}").as_bytes())
}

fn request(key: u8, request: u8) -> Idempotency {
    Idempotency { key: digest_of("key", key), request: digest_of("request", request) }
}

impl Asked {
    fn of(tier: Tier) -> Self {
        let mut asked = Self {
            state: Tenant::new(TenantId::new("acme").unwrap()),
            stream: vec![],
            policy: Policy { idempotency_keys_max: 3, ..Policy::default() },
        };
        for event in [registered("Acme", tier), key_issued(K1), published(HELLO)] {
            asked.write(event, NOON, None);
        }
        asked
    }

    fn write(&mut self, event: Event, time: Timestamp, once: Option<Idempotency>) {
        let revision = Revision::default().plus(self.stream.len() as u64 + 1);
        let cause = Cause {
            command: CommandId::new(uuid::Uuid::from_u128(1)),
            correlation: None,
            actor: Actor::system(),
            traceparent: None,
            idempotency: once,
        };
        let (id, tenant) = (EventId::new(uuid::Uuid::from_u128(revision.get().into())), self.state.id.clone());
        let envelope = Envelope { id, tenant, revision, time, cause, event };
        self.state.fold(&envelope, even(time).steady);
        self.stream.push(envelope);
    }

    fn decide(&self, by: &Authority, command: Command, at: Timestamp, once: &Idempotency) -> Result<Decision, Refusal> {
        self.state.decide_once(
            command,
            &Context {
                now: at,
                steady: even(at).steady,
                policy: &self.policy,
                by,
                once: Some(once),
                expected: None,
                ended: &[],
            },
        )
    }

    /// Decides, and writes what follows.
    fn ask(&mut self, command: Command, at: Timestamp, once: Idempotency) -> Result<Decision, Refusal> {
        let decision = self.decide(&Authority::Key(key_id(K1)), command, at, &once)?;
        if let Decision::Events(events) = &decision {
            events.iter().for_each(|event| self.write(event.clone(), at, Some(once)));
        }
        Ok(decision)
    }

    /// The same tenant, read back from its stream.
    fn read_back(&mut self) {
        self.state = Tenant::new(TenantId::new("acme").unwrap());
        self.stream.iter().for_each(|envelope| self.state.fold(envelope, even(envelope.time).steady));
    }
}

fn execute_as(n: u128) -> Command {
    let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
    Command::Execute(Box::new(Execute { execution_id: execution_id(n), ..*execute }))
}

fn replayed(came: Came, running: bool, at: Timestamp) -> Result<Decision, Refusal> {
    Ok(Decision::Replayed(Replayed { came, running, at }))
}

#[test]
fn a_request_that_is_sent_again_is_done_once_and_is_told_whether_it_runs() {
    let mut acme = Asked::of(Tier::Pro);
    assert!(matches!(acme.ask(execute_as(1), NOON, request(1, 1)), Ok(Decision::Events(_))));
    let later = NOON.plus_ms(5_000);
    let came = Came::Execution(execution_id(1));
    assert_eq!(acme.ask(execute_as(2), later, request(1, 1)), replayed(came.clone(), true, NOON));
    acme.write(finished(1), later, None);
    assert_eq!(acme.ask(execute_as(3), later, request(1, 1)), replayed(came.clone(), false, NOON));
    acme.read_back();
    assert_eq!(acme.ask(execute_as(4), later, request(1, 1)), replayed(came, false, NOON));
}

#[test]
fn an_execution_that_was_lost_stays_the_answer() {
    let mut acme = Asked::of(Tier::Pro);
    acme.ask(execute_as(1), NOON, request(1, 1)).unwrap();
    acme.write(lost(1), NOON, None);
    let came = Came::Execution(execution_id(1));
    assert_eq!(acme.ask(execute_as(2), NOON, request(1, 1)), replayed(came, false, NOON));
}

#[test]
fn another_request_under_the_same_key_is_refused_and_under_another_key_it_is_another_one() {
    let mut acme = Asked::of(Tier::Pro);
    acme.ask(execute_as(1), NOON, request(1, 1)).unwrap();
    assert_eq!(acme.ask(execute_as(2), NOON, request(1, 2)), Err(Refusal::IdempotencyKeyReused));
    assert!(matches!(acme.ask(execute_as(3), NOON, request(2, 1)), Ok(Decision::Events(_))));
}

#[test]
fn a_request_is_forgotten_after_a_day() {
    let mut acme = Asked::of(Tier::Pro);
    acme.ask(execute_as(1), NOON, request(1, 1)).unwrap();
    acme.write(finished(1), NOON, None);
    let (last, next) = (NOON.plus_ms(DAY_MS - 1), NOON.plus_ms(DAY_MS));
    assert!(matches!(acme.ask(execute_as(2), last, request(1, 1)), Ok(Decision::Replayed(_))));
    assert!(matches!(acme.ask(execute_as(2), next, request(1, 2)), Ok(Decision::Events(_))));
    assert!(matches!(acme.ask(execute_as(3), next, request(1, 2)), Ok(Decision::Replayed(_))));
}

#[test]
fn the_key_is_what_came_of_its_issue_and_of_a_registration_with_a_first_key() {
    let mut acme = Asked::of(Tier::Pro);
    acme.ask(Command::IssueKey(new_key(K2)), NOON, request(1, 1)).unwrap();
    let again = Command::IssueKey(new_key("key3"));
    assert_eq!(acme.ask(again, NOON, request(1, 1)), replayed(Came::Key(key_id(K2)), false, NOON));

    let register = |key: &str| Command::Register {
        name: "New".into(),
        tier: Tier::Free,
        first_key: Some(NewKey { name: "initial".into(), ..new_key(key) }),
    };
    let mut new =
        Asked { state: Tenant::new(TenantId::new("new").unwrap()), stream: vec![], policy: Policy::default() };
    let (operator, once) = (Authority::Operator("ada".into()), request(1, 1));
    let Ok(Decision::Events(events)) = new.decide(&operator, register(K1), NOON, &once) else { panic!("refused") };
    events.into_iter().for_each(|event| new.write(event, NOON, Some(once)));
    assert_eq!(new.decide(&operator, register(K2), NOON, &once), replayed(Came::Key(key_id(K1)), false, NOON));
    assert_eq!(new.decide(&operator, register(K2), NOON, &request(2, 1)), Err(Refusal::AlreadyRegistered));
}

#[test]
fn whoever_may_not_ask_is_not_told_what_came_of_it() {
    let mut acme = Asked::of(Tier::Pro);
    acme.ask(execute_as(1), NOON, request(1, 1)).unwrap();
    let unknown = Authority::Key(key_id(K2));
    assert_eq!(acme.decide(&unknown, execute_as(2), NOON, &request(1, 1)), Err(Refusal::KeyUnknown));
    acme.write(suspended(), NOON, None);
    assert_eq!(acme.ask(execute_as(2), NOON, request(1, 1)), Err(Refusal::Suspended));
    acme.write(resumed(), NOON, None);
    acme.write(key_revoked(K1), NOON, None);
    assert_eq!(acme.ask(execute_as(2), NOON, request(1, 1)), Err(Refusal::KeyRevoked));
}

#[test]
fn what_was_refused_or_was_so_already_is_decided_afresh() {
    let mut acme = Asked::of(Tier::Pro);
    let unknown = || execute("unknown");
    assert_eq!(acme.ask(unknown(), NOON, request(1, 1)), Err(Refusal::ModuleUnknown));
    assert!(matches!(acme.ask(execute_as(1), NOON, request(1, 2)), Ok(Decision::Events(_))));
    assert_eq!(acme.ask(publish(HELLO, b"one"), NOON, request(2, 3)), Ok(Decision::Events(vec![])));
    assert!(matches!(acme.ask(publish(HELLO, b"two"), NOON, request(2, 4)), Ok(Decision::Events(_))));
}

#[test]
fn a_preview_tells_what_came_and_a_replay_takes_no_token() {
    let mut acme = Asked::of(Tier::Free);
    acme.ask(execute_as(1), NOON, request(1, 1)).unwrap();
    acme.write(finished(1), NOON, None);
    let came = Came::Execution(execution_id(1));
    for _ in 0..20 {
        let preview = Command::Preview(Box::new(execute_as(2)));
        assert_eq!(acme.ask(preview, NOON, request(1, 1)), replayed(came.clone(), false, NOON));
        assert_eq!(acme.ask(execute_as(2), NOON, request(1, 1)), replayed(came.clone(), false, NOON));
    }
    assert!(matches!(acme.ask(execute_as(2), NOON, request(2, 1)), Ok(Decision::Events(_))));
}

#[test]
fn there_is_a_most_that_is_remembered_and_time_makes_room() {
    let mut acme = Asked::of(Tier::Enterprise);
    for n in 1..=3 {
        let at = NOON.plus_ms(u64::from(n) * 1_000);
        assert!(matches!(acme.ask(execute_as(n.into()), at, request(n, n)), Ok(Decision::Events(_))));
    }
    let (now, in_a_day) = (NOON.plus_ms(4_000), NOON.plus_ms(DAY_MS + 1_000));
    let full = Refusal::TooManyIdempotencyKeys { limit: 3, retry_after_ms: DAY_MS - 3_000 };
    assert_eq!(acme.ask(execute_as(4), now, request(4, 4)), Err(full));
    // What is remembered is answered, and whoever sends no key is not affected.
    assert!(matches!(acme.ask(execute_as(4), now, request(1, 1)), Ok(Decision::Replayed(_))));
    let by = Authority::Key(key_id(K1));
    let steady = even(now).steady;
    let without = Context { now, steady, policy: &acme.policy, by: &by, once: None, expected: None, ended: &[] };
    assert!(matches!(acme.state.decide_once(execute_as(4), &without), Ok(Decision::Events(_))));
    assert!(matches!(acme.ask(execute_as(4), in_a_day, request(4, 4)), Ok(Decision::Events(_))));
    assert!(matches!(acme.ask(execute_as(5), in_a_day, request(5, 5)), Err(Refusal::TooManyIdempotencyKeys { .. })));
    assert!(acme.state.requests.by_key.len() <= 3 && acme.state.requests.oldest_first.len() <= 3);
}

proptest! {
    /// Against a model: each key has its request and what came of it for a day, also when the tenant is read back.
    #[test]
    fn whatever_is_sent_in_whatever_order_each_request_is_done_once(
        steps in vec((0_u8..4, 0_u8..2, 0_u64..DAY_MS / 3, any::<bool>(), any::<bool>()), 1..40),
    ) {
        let mut acme = Asked::of(Tier::Enterprise);
        acme.policy.idempotency_keys_max = 4;
        let mut model: HashMap<u8, (u8, Timestamp, u128)> = HashMap::new();
        let mut now = NOON;
        for (n, (key, which, passed_ms, ends, rehydrates)) in (1_u128..).zip(steps) {
            now = now.plus_ms(passed_ms);
            if rehydrates {
                acme.read_back();
            }
            let decision = acme.ask(execute_as(n), now, request(key, which));
            match model.get(&key).filter(|(_, at, _)| now.ms_since(*at) < DAY_MS) {
                Some((known, _, _)) if *known != which => {
                    prop_assert_eq!(decision, Err(Refusal::IdempotencyKeyReused));
                }
                Some((_, at, id)) => {
                    let Ok(Decision::Replayed(replayed)) = decision else { panic!("{decision:?}") };
                    prop_assert_eq!((replayed.came, replayed.at), (Came::Execution(execution_id(*id)), *at));
                }
                None => {
                    prop_assert!(matches!(decision, Ok(Decision::Events(ref events)) if events.len() == 1));
                    model.insert(key, (which, now, n));
                    if ends {
                        acme.write(finished(n), now, None);
                    }
                }
            }
        }
        let accepted = acme.stream.iter().filter(|envelope| matches!(envelope.event, Event::ExecutionAccepted(_)));
        prop_assert!(accepted.count() >= model.len());
    }
}
