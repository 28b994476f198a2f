//! A tenant that is read back is the tenant that decided: whatever was asked, in whatever order, and wherever the history
//! is cut.

use proptest::{collection::vec, prelude::*};
use wasmwiz_events::{
    digest::Digest,
    envelope::{self, Cause, Envelope},
    id::{CommandId, EventId, TenantId},
    idempotency::Idempotency,
    ledger::Head,
    requests,
    revision::{Position, Revision},
    settings::{Settings, Sleep},
    tenant::Tier,
    time::{Moment, Timestamp},
};

use super::{Command, Configured, Execute, Refusal, Tenant, idempotency::Decision, scenario::*};
use crate::{
    aggregate::{Authority, Context, Life},
    codec::snapshot::Snapshot,
    entity::{Places, Rehydrated},
    limits::{Policy, Retention},
};

/// Something that is asked of a tenant. Numbers are few, so that things meet.
#[derive(Debug, Clone)]
struct Step {
    which: u8,
    n: u8,
    /// An idempotency key, for some.
    once: Option<u8>,
    /// Asked by a key, or by the platform.
    by_key: bool,
    /// Milliseconds that pass before. Now and then a clock steps back.
    passes_ms: i64,
}

fn step() -> impl Strategy<Value = Step> {
    let passes = prop_oneof![4 => 0_i64..2_000, 2 => 0_i64..120_000, 1 => 0_i64..40_000_000, 1 => -90_000_000_i64..0];
    (0_u8..21, 0_u8..4, proptest::option::of(0_u8..3), any::<bool>(), passes)
        .prop_map(|(which, n, once, by_key, passes_ms)| Step { which, n, once, by_key, passes_ms })
}

fn command(step: &Step, asked: u128) -> Command {
    let (n, name) = (u128::from(step.n), format!("name{}", step.n));
    let run = |asynchronous| {
        let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
        Command::Execute(Box::new(Execute { execution_id: execution_id(asked), asynchronous, ..*execute }))
    };
    let settings = Settings { sleep: Sleep::ALL[usize::from(step.n) % 2], ..Settings::default() };
    let life = n % 2 + 1;
    match step.which {
        0 => register("Acme", Tier::Free),
        1 => Command::Change { name: Some(name), tier: Some(Tier::ALL[usize::from(step.n) % Tier::ALL.len()]) },
        2 => Command::Suspend { reason: None },
        3 | 4 => Command::Resume,
        5 => Command::IssueKey(new_key(&name)),
        6 => Command::RevokeKey { key_id: key_id(&name) },
        7 => {
            let hash = Digest::of(name.as_bytes());
            Command::RotateKey { key_id: key_id(K1), hash, grace_ms: 60_000 * u64::from(step.n) }
        }
        8 => publish(HELLO, name.as_bytes()),
        9 => publish(&name, b"one"),
        10 => Command::DeleteModule { name: module_name(&name) },
        11 => {
            let (digest, reason) = (Digest::of(b"bad"), "not wasm".to_owned());
            Command::RejectModule { name: module_name(&name), digest, size_bytes: 3, reason }
        }
        12 => run(false),
        // The bytes of one are those of a module that may be published.
        13 => upload(asked, if step.n > 2 { &b"one"[..] } else { name.as_bytes() }),
        14 => run(true),
        // One of those that were asked for last.
        15 => start(asked.saturating_sub(n + 1), life),
        16 => cancel(asked.saturating_sub(n + 1)),
        17 => finish(asked.saturating_sub(n + 1)),
        18 if step.n > 1 => Command::ReleasePayloads,
        18 => Command::Reap,
        19 if step.n > 1 => publish_with(HELLO, b"one", settings),
        20 if step.n > 0 => {
            let Command::Execute(execute) = run(step.n > 1) else { unreachable!() };
            Command::Configured(Configured { settings, ..(*execute).into() })
        }
        _ if step.n == 0 => {
            let counts = [("rate-limited".to_owned(), 1)].into();
            Command::RecordDenials(requests::Denied { from: NOON, to: NOON, counts })
        }
        _ => Command::Expire,
    }
}

/// Tight limits, so that every one of them is met.
fn policy() -> Policy {
    let mut policy =
        Policy { keys_max: 3, modules_max: 3, versions_max: 4, idempotency_keys_max: 2, ..Policy::default() };
    policy.retention = Retention { outputs_days: Some(0), modules_days: Some(1), ..Retention::default() };
    for tier in [&mut policy.free, &mut policy.basic] {
        (tier.executions_burst, tier.executions_per_day, tier.executions_queued, tier.writes_burst) = (3, 9, 3, 4);
        // Room for what three executions may write, and for little beside.
        (tier.module_versions, tier.storage_bytes) = (5, (6 << 20) + 64);
    }
    policy
}

fn decide(tenant: &Tenant, step: &Step, asked: u128, now: Timestamp) -> Result<Decision, Refusal> {
    let by = if step.by_key { Authority::Key(key_id(K1)) } else { Authority::System };
    let once = step.once.map(|key| Idempotency { key: Digest::of(&[key]), request: Digest::of(&[key, step.which]) });
    // Of the two lives of the node, one has ended, as the step has it.
    let ended = [Life { node: node(), boot: boot(u128::from(step.n) % 2 + 1) }];
    let steady = even(now).steady;
    let context =
        Context { now, steady, policy: &policy(), by: &by, once: once.as_ref(), expected: None, ended: &ended };
    tenant.decide_once(command(step, asked), &context)
}

/// The tenant and its history, as its entity would have them.
fn lived(steps: &[Step]) -> (Tenant, Vec<Envelope>, Timestamp) {
    let (mut tenant, mut history, mut now) = (Tenant::new(acme()), vec![], NOON);
    let first = [registered("Acme", Tier::Free), key_issued(K1), published(HELLO)];
    let remember = |tenant: &mut Tenant, history: &mut Vec<Envelope>, event, time, idempotency| {
        let revision = Revision::default().plus(history.len() as u64 + 1);
        let id = uuid::Uuid::from_u128(revision.get().into());
        let cause = Cause {
            command: CommandId::new(id),
            correlation: None,
            actor: Authority::System.actor(),
            traceparent: None,
            idempotency,
        };
        let envelope = Envelope { id: EventId::new(id), tenant: acme(), revision, time, cause, event };
        tenant.fold(&envelope, even(time).steady);
        history.push(envelope);
    };
    first.into_iter().for_each(|event| remember(&mut tenant, &mut history, event, NOON, None));
    for (step, asked) in steps.iter().zip(100_u128..) {
        now = Timestamp::from_unix_ms(now.unix_ms() + step.passes_ms);
        let Ok(Decision::Events(events)) = decide(&tenant, step, asked, now) else { continue };
        let once =
            step.once.map(|key| Idempotency { key: Digest::of(&[key]), request: Digest::of(&[key, step.which]) });
        events.into_iter().for_each(|event| remember(&mut tenant, &mut history, event, now, once));
    }
    (tenant, history, now)
}

/// At every so many events of a history a snapshot is taken.
const SNAPSHOT_EVERY: usize = 7;

/// From each snapshot point a tenant is read back to be `whole`; with any byte of the snapshot changed, nothing is read from it.
fn every_snapshot_gives(history: &[Envelope], whole: &Tenant, flip: &prop::sample::Index) -> Result<(), TestCaseError> {
    let mut so_far = Tenant::new(acme());
    for (at, envelope) in history.iter().enumerate() {
        so_far.fold(envelope, even(envelope.time).steady);
        if at % SNAPSHOT_EVERY != 0 {
            continue;
        }
        let moment = even(envelope.time);
        let mut bytes = snapshot(so_far.clone(), moment).encode().unwrap();
        let mut woken = Snapshot::decode(&bytes, &acme()).unwrap().wake(moment).tenant;
        history.iter().skip(at + 1).for_each(|envelope| woken.fold(envelope, even(envelope.time).steady));
        prop_assert_eq!(format!("{woken:?}"), format!("{whole:?}"), "from the snapshot after {} events", at + 1);
        let place = flip.index(bytes.len());
        bytes[place] ^= 1 << (at % 8);
        prop_assert!(Snapshot::decode(&bytes, &acme()).is_err(), "byte {} of {} was changed", place, bytes.len());
    }
    Ok(())
}

/// As an entity would have it kept that stands where the log does.
fn snapshot(tenant: Tenant, now: Moment) -> Snapshot {
    let head = Head::genesis(&acme());
    let (position, places, kept) = (Position::START, Places::default(), Revision::NONE);
    Snapshot::of(&Rehydrated { tenant, head, position, places, kept, has_unknown: false }, now)
}

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 5 / 4, ..ProptestConfig::default() })]

    #[test]
    fn a_history_gives_the_tenant_that_wrote_it_and_its_next_decisions(
        steps in vec(step(), 1..80),
        probes in vec(step(), 20),
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
    ) {
        let (tenant, history, end) = lived(&steps);
        let as_stored = |events: &[Envelope]| envelope::decode(&envelope::encode(events).unwrap()).unwrap();
        let seen = |envelope: &Envelope| even(envelope.time).steady;
        // Read at once, and in two goes with a copy of what the first gave.
        let mut whole = Tenant::new(acme());
        as_stored(&history).iter().for_each(|envelope| whole.fold(envelope, seen(envelope)));
        let (before, after) = history.split_at(cut.index(history.len()));
        let mut first = Tenant::new(acme());
        as_stored(before).iter().for_each(|envelope| first.fold(envelope, seen(envelope)));
        let mut second = first.clone();
        as_stored(after).iter().for_each(|envelope| second.fold(envelope, seen(envelope)));
        // From a snapshot of the first, in a process whose steady clock began at another time.
        let apart_ms = 123_456_789;
        let at = before.last().map_or(NOON, |envelope| envelope.time);
        let bytes = snapshot(first, even(at)).encode().unwrap();
        let now = Moment { wall: at, steady: even(at).steady.shifted_ms(apart_ms) };
        let mut kept = Snapshot::decode(&bytes, &acme()).unwrap().wake(now).tenant;
        as_stored(after).iter().for_each(|envelope| kept.fold(envelope, seen(envelope).shifted_ms(apart_ms)));
        let third = kept.shifted(-apart_ms);
        every_snapshot_gives(&history, &whole, &flip)?;
        for read_back in [&whole, &second, &third] {
            prop_assert_eq!(format!("{read_back:?}"), format!("{tenant:?}"));
            let mut at = end;
            for (probe, asked) in probes.iter().zip(100 + steps.len() as u128..) {
                at = Timestamp::from_unix_ms(at.unix_ms() + probe.passes_ms);
                prop_assert_eq!(decide(read_back, probe, asked, at), decide(&tenant, probe, asked, at), "{:?}", probe);
            }
        }
    }
}

#[test]
fn random_histories_meet_what_they_are_about() {
    // Without this the property would show nothing: each kind of event, and refusals, come of such steps.
    let all = |which: u8| {
        (0..3).map(move |n| Step { which, n, once: None, by_key: which == 12 || which == 14, passes_ms: 70_000 })
    };
    let steps: Vec<Step> = (0..20).flat_map(all).collect();
    let (_, history, _) = lived(&steps);
    let names: std::collections::BTreeSet<_> =
        history.iter().map(|envelope| envelope.event.type_name().to_owned()).collect();
    for happened in ["tenant.suspended", "key.rotated", "module.rejected", "execution.accepted", "execution.started"] {
        assert!(names.iter().any(|name| name.contains(happened)), "{happened}: {names:?}");
    }
}
