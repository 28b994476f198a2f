//! Versions that say how they run: each execution is prepared for that, records it, and runs so.

use wasmwiz_actors::{
    dispatch::{RerunOf, Verify},
    tenant::FUEL_DEFAULT,
};
use wasmwiz_events::{
    execution::Accepted,
    idempotency::Idempotency,
    reproducibility::Reproducibility,
    revision::Position,
    settings::{Clock, Sleep},
};

use super::*;

/// Sleeps for an hour, and says what the wall clock shows then.
const SLEEPER: &str = r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 3600000000000))
    (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 256)))
    (i32.store (i32.const 0) (i32.const 256))
    (i32.store (i32.const 4) (i32.const 8))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// Says what the wall clock shows.
const TELLER: &str = r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 256)))
    (i32.store (i32.const 0) (i32.const 256))
    (i32.store (i32.const 4) (i32.const 8))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

const SKIPS: Settings = Settings { sleep: Sleep::Skip, clock: Clock::Virtual, fuel: None };
const METERED: Settings = Settings { sleep: Sleep::Wait, clock: Clock::Virtual, fuel: Some(FUEL_DEFAULT) };
const HOST: Settings = Settings { sleep: Sleep::Wait, clock: Clock::Host, fuel: None };

fn wasm(wat: &str) -> Bytes {
    wat::parse_str(wat).unwrap().into()
}

impl Node {
    async fn publish_echo(&self, wasm: Bytes, settings: Settings) {
        let name = ModuleName::new("echo").unwrap();
        let decided = self.publish_with(name, wasm, settings).await.unwrap();
        assert!(matches!(&decided.events[..], [Event::ModulePublished(it)] if it.settings == settings), "{decided:?}");
    }

    /// The commit that accepted it.
    fn accepted_at(&self, done: &Done) -> Position {
        let accepts = |event: &Event| matches!(event, Event::ExecutionAccepted(it) if it.execution_id == done.accepted.execution_id);
        let commits = self.log.commits();
        let found = commits.iter().find(|one| one.commit.events().unwrap().iter().any(|one| accepts(&one.event)));
        found.unwrap().position
    }

    async fn is_reproduced(&self, done: &Done) -> bool {
        let verify = Verify {
            tenant: acme(),
            by: Authority::Key(key()),
            origin: origin(),
            execution_id: done.accepted.execution_id,
            accepted_at: self.accepted_at(done),
            ended_at: Some(done.position),
            hold: Hold::default(),
        };
        self.dispatch.verify(verify).await.unwrap().verified.reproduced
    }
}

fn class(done: &Done) -> Reproducibility {
    let End::Finished(finished) = &done.end else { panic!("{:?}", done.end) };
    assert_eq!(finished.outcome, Outcome::Succeeded, "{finished:?}");
    finished.class()
}

#[tokio::test]
async fn an_execution_runs_as_the_version_says_that_it_names_and_records_it() {
    let node = Node::start().await;
    node.publish_echo(wasm(SLEEPER), SKIPS).await;
    let slept = node.execute(named(None), "").await.unwrap();
    assert_eq!((slept.accepted.sleep, class(&slept)), (Sleep::Skip, Reproducibility::VirtualTime));
    let shown = u64::from_le_bytes(slept.stdout[..].try_into().unwrap());
    let start_ns = u64::try_from(slept.accepted.start_time.unix_ms()).unwrap() * 1_000_000;
    assert_eq!(shown - start_ns, 3_600_000_000_000 + 2_000, "an hour by its own clock, and two looks at it");
    assert!(node.is_reproduced(&slept).await);

    // The same bytes, metered: an engine of its own, which the record names.
    node.publish_echo(echo(), METERED).await;
    let metered = node.execute(named(None), "counted").await.unwrap();
    let End::Finished(finished) = &metered.end else { panic!("{:?}", metered.end) };
    assert_eq!((metered.accepted.fuel, metered.accepted.sleep), (Some(FUEL_DEFAULT), Sleep::Wait));
    assert!(finished.fuel.is_some_and(|fuel| fuel < FUEL_DEFAULT), "{finished:?}");
    assert_ne!(metered.accepted.engine, slept.accepted.engine);
    assert!(node.is_reproduced(&metered).await);
    // A request may have less, and not more.
    for (asked, granted) in [(1_000_000, 1_000_000), (FUEL_DEFAULT + 1, FUEL_DEFAULT)] {
        let request = Request { fuel: Some(asked), ..request(named(None), "counted", 5_000) };
        assert_eq!(node.dispatch.execute(request).await.unwrap().accepted.fuel, Some(granted));
    }

    // The first version is still what it was.
    let slept = node.execute(named(Some(1)), "").await.unwrap();
    assert_eq!((slept.accepted.sleep, slept.accepted.fuel), (Sleep::Skip, None));
    // Published without a word, the latest version runs as any does that says nothing: what was learnt of it is forgotten.
    node.publish(echo()).await.unwrap();
    let plain = node.execute(named(None), "plain").await.unwrap();
    let Accepted { sleep, clock, fuel, .. } = *plain.accepted;
    assert_eq!((sleep, clock, fuel), (Sleep::Wait, Clock::Virtual, None));
}

#[tokio::test]
async fn what_the_hosts_clocks_said_is_kept_with_the_end_and_is_what_a_second_run_is_told() {
    let node = Node::start().await;
    node.publish_echo(wasm(TELLER), HOST).await;
    let told = node.execute(named(None), "").await.unwrap();
    let End::Finished(finished) = &told.end else { panic!("{:?}", told.end) };
    assert_eq!((told.accepted.clock, class(&told)), (Clock::Host, Reproducibility::Transcript));
    let kept = finished.transcript().unwrap();
    assert_eq!((kept.size_bytes, finished.trace_readings), (16, Some(1)));
    let bytes = node.log.payload(told.position, kept.digest).await.unwrap().unwrap();
    assert_eq!((bytes.len(), &bytes[..8]), (16, &told.stdout[..]), "what it said is what it was told");
    assert!(node.is_reproduced(&told).await);
}

#[tokio::test]
async fn a_request_with_a_key_is_done_once_though_it_was_prepared_for_other_settings_first() {
    let node = Node::start().await;
    node.publish(echo()).await.unwrap();
    let first = node.execute(named(None), "first").await.unwrap();
    node.publish_echo(echo(), METERED).await;
    // Another node, which has never heard of them: what it asks for first is the older command, with its key, and refused.
    let other = node.beside().await;
    let of = RerunOf { id: first.accepted.execution_id, view: None, input: None };
    for (code, fuel, rerun) in [(named(None), Some(1_000_000), None), (named(Some(2)), None, Some(of))] {
        let key = Digest::of(format!("{code:?}").as_bytes());
        let once = Some(Idempotency { key, request: Digest::of(b"the same") });
        let asked = || Request {
            origin: origin().once(once),
            fuel,
            rerun: rerun.clone(),
            ..request(code.clone(), "counted", 10_000)
        };
        let done = other.dispatch.execute(asked()).await.unwrap();
        assert_eq!(done.accepted.fuel, Some(fuel.unwrap_or(FUEL_DEFAULT)));
        assert_eq!((done.accepted.rerun_of, done.stdout), (rerun.as_ref().map(|it| it.id), Bytes::from("counted")));
        let error = other.dispatch.execute(asked()).await.unwrap_err();
        let DispatchError::RanBefore { execution_id, .. } = error else { panic!("{error}") };
        assert_eq!(execution_id, done.accepted.execution_id);
    }
    let accepted = node.events().iter().filter(|event| matches!(event, Event::ExecutionAccepted(_))).count();
    assert_eq!(accepted, 3, "each of them once");
}

#[tokio::test]
async fn one_that_waits_for_its_turn_runs_as_its_version_says_too() {
    let node = Node::start().await;
    node.publish_echo(wasm(SLEEPER), SKIPS).await;
    let queued = node.dispatch.enqueue(request(named(None), "", 10_000), None).await.unwrap();
    assert_eq!(queued.accepted.sleep, Sleep::Skip);
    node.eventually("its end", |events| {
        events.iter().any(|event| matches!(event, Event::ExecutionFinished(it) if it.outcome == Outcome::Succeeded))
    })
    .await;
}
