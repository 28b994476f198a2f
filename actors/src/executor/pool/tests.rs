//! What happens when an executor dies.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wasmwiz_events::{
    digest::Digest,
    execution::{Limits, Outcome, Seed},
    id::ExecutionId,
};

use super::*;
use crate::executor::{Asker, Clocks, ExecutorConfig, Executors};

/// Panics inside the actor, as a bug would.
struct Crash;

impl Message for Crash {
    type Result = ();
}

impl Handler<Crash> for Executor {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("a bug in an executor, made for a test");
    }
}

fn job(wall_ms: u64) -> Job {
    let limits = Limits { wall_ms, memory_bytes: 1 << 20, stdin_bytes: 0, stdout_bytes: 0, stderr_bytes: 0 };
    Job {
        execution_id: ExecutionId::new(uuid::Uuid::nil()),
        program: "guest".into(),
        args: Vec::new(),
        stdin: Bytes::new(),
        limits,
        seed: Seed::new([0; 16]),
        start_time: wasmwiz_events::time::Timestamp::from_unix_ms(0),
        clocks: Clocks::Virtual,
        sleep: Default::default(),
        fuel: None,
        cancel: CancellationToken::new(),
    }
}

async fn prepare(executors: &Executors, body: &str) -> Prepared {
    let wasm: Bytes = wat::parse_str(format!("(module (func (export \"_start\") {body}))")).unwrap().into();
    executors.prepare(Asker::Platform, Digest::of(&wasm), wasm).await.unwrap()
}

fn start() -> Executors {
    Executors::start(ExecutorConfig { threads: 2, guests_max: 8, watch_ms: 20, ..ExecutorConfig::default() }).unwrap()
}

async fn until_all_live(pool: &Pool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !pool.members.iter().all(|member| member.address().connected()) {
        assert!(tokio::time::Instant::now() < deadline, "an executor never came back");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_panic_in_an_executor_loses_no_guest_and_the_executor_comes_back() {
    let executors = start();
    let pool = &executors.0.pool;
    let spin = prepare(&executors, "(loop $l (br $l))").await;
    let quick = prepare(&executors, "").await;
    let slot = executors.reserve().await.unwrap();
    let spinning = executors.run(slot, &spin, job(300));
    let crashing = async {
        for member in pool.members.iter() {
            assert!(member.address().send(Crash).await.is_err());
        }
        // Both mailboxes are closed now or the watchdog was faster; a guest is either run or reported.
        let slot = executors.reserve().await.unwrap();
        let ran = executors.run(slot, &quick, job(1_000)).await;
        assert!(matches!(ran.outcome, Outcome::Succeeded | Outcome::Failed), "{ran:?}");
        until_all_live(pool).await;
    };
    let (spun, ()) = tokio::join!(spinning, crashing);
    assert_eq!(spun.outcome, Outcome::DeadlineExceeded, "a guest is a task of its own: {spun:?}");
    for _ in 0..8 {
        let slot = executors.reserve().await.unwrap();
        assert_eq!(executors.run(slot, &quick, job(1_000)).await.outcome, Outcome::Succeeded);
    }
    executors.check().await.unwrap();
}

#[tokio::test]
async fn when_a_thread_ends_its_guests_are_reported_and_a_new_one_takes_its_place() {
    let executors = start();
    let pool = &executors.0.pool;
    let spin = prepare(&executors, "(loop $l (br $l))").await;
    let slot = executors.reserve().await.unwrap();
    let spinning = executors.run(slot, &spin, job(60_000));
    let ending = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        for member in pool.members.iter() {
            member.address().send(EndThread).await.unwrap();
        }
    };
    let (spun, ()) = tokio::join!(spinning, ending);
    assert_eq!(spun.outcome, Outcome::Failed, "{spun:?}");
    let quick = prepare(&executors, "").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let slot = executors.reserve().await.unwrap();
        if executors.run(slot, &quick, job(1_000)).await.outcome == Outcome::Succeeded {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no executor came back");
    }
}

/// Ends the arbiter.
struct EndThread;

impl Message for EndThread {
    type Result = ();
}

impl Handler<EndThread> for Executor {
    type Result = ();

    fn handle(&mut self, _: EndThread, _: &mut Self::Context) {
        Arbiter::current().stop();
    }
}
