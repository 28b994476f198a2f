//! Compilation in a child process. This binary is its own compile worker, so it has a `main` instead of a test harness.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, its helpers too"
)]

mod guests;

use std::{process::ExitCode, time::Duration};

use bytes::Bytes;
use guests::{command, config, echo, job, module, run, try_prepare, wasm};
use tokio::time::Instant;
use wasmwiz_actors::executor::{
    CompileConfig, ExecutorConfig, Executors, PrepareError, Rejection, compile, rejection::CompileResource,
};
use wasmwiz_events::execution::Outcome;

const WORKER: &str = "__compile";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == WORKER) {
        return compile::worker_main();
    }
    if arguments.iter().any(|argument| argument == "--ignored") {
        // The runner asks what is ignored: nothing is.
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("a_child_compiles_within_its_limits: test");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        a_child_compiles_what_the_parent_runs().await;
        a_compilation_over_its_time_is_killed().await;
        a_compilation_over_its_memory_is_killed().await;
        a_compilation_over_its_cpu_time_is_killed().await;
        a_worker_that_cannot_start_is_the_hosts_fault().await;
        compilations_over_the_line_are_turned_away().await;
    });
    println!("executor_compile: ok");
    ExitCode::SUCCESS
}

fn start(change: impl FnOnce(&mut CompileConfig)) -> Executors {
    let worker = Some(vec![std::env::current_exe().unwrap().into(), WORKER.into()]);
    let mut compile = CompileConfig { worker, ..CompileConfig::default() };
    change(&mut compile);
    Executors::start(ExecutorConfig { compile, ..config() }).unwrap()
}

/// Valid, within all limits, and slow to compile: many functions, each with as many live values as fit.
fn bomb() -> Bytes {
    let mut body = String::new();
    for local in 0..1_000 {
        body.push_str(&format!(
            "(local.set {local} (i64.add (local.get {local}) (local.get {})))",
            (local + 1) % 1_000
        ));
        if local % 8 == 0 {
            body.push_str(&format!("(br_if 0 (i64.eqz (local.get {local})))"));
        }
    }
    let function = format!("(func (local {}) (loop {} {body} (br 0)))", "i64 ".repeat(1_000), "");
    wasm(&module(&format!("(memory (export \"memory\") 1) {}", function.repeat(400)), ""))
}

async fn a_child_compiles_what_the_parent_runs() {
    let executors = start(|_| {});
    let mut job = job();
    job.stdin = Bytes::from_static(b"through a child");
    let ran = run(&executors, &echo(), job).await;
    assert_eq!((ran.outcome, &ran.stdout.bytes[..]), (Outcome::Succeeded, &b"through a child"[..]));
    executors.check().await.unwrap();
}

async fn a_compilation_over_its_time_is_killed() {
    let executors = start(|compile| compile.wall_ms = 300);
    let bomb = bomb();
    executors.inspect(&bomb).unwrap();
    let asked = Instant::now();
    let refused = try_prepare(&executors, bomb.clone()).await.unwrap_err();
    assert_eq!(refused, PrepareError::Rejected(Rejection::CompileLimit { which: CompileResource::Wall }));
    let killed_after = asked.elapsed();
    println!("killed after {killed_after:?}");
    // It costs one attempt, not one for each request.
    let again = Instant::now();
    assert_eq!(try_prepare(&executors, bomb).await.unwrap_err(), refused);
    assert!(again.elapsed() < killed_after, "{:?}", again.elapsed());
    // Neither the permit nor the place in the line is lost.
    assert!(try_prepare(&start(|_| {}), wasm(&command(""))).await.is_ok());
    assert!(asked.elapsed() < Duration::from_secs(60));
}

async fn a_compilation_over_its_memory_is_killed() {
    let executors = start(|compile| compile.memory_bytes = 32 << 20);
    let refused = try_prepare(&executors, bomb()).await.unwrap_err();
    assert_eq!(refused, PrepareError::Rejected(Rejection::CompileLimit { which: CompileResource::Memory }));
}

async fn a_compilation_over_its_cpu_time_is_killed() {
    let executors = start(|compile| {
        compile.cpu_s = 1;
        compile.wall_ms = 60_000;
    });
    let refused = try_prepare(&executors, bomb()).await.unwrap_err();
    assert_eq!(refused, PrepareError::Rejected(Rejection::CompileLimit { which: CompileResource::Cpu }));
}

async fn a_worker_that_cannot_start_is_the_hosts_fault() {
    // The last one answers, and is no build of this node.
    let echoes = vec!["/bin/cat".into()];
    for worker in [vec!["/nonexistent".into()], vec!["/bin/false".into()], Vec::new(), echoes] {
        let executors = start(|compile| compile.worker = Some(worker));
        let failed = try_prepare(&executors, wasm(&echo())).await.unwrap_err();
        assert!(matches!(failed, PrepareError::Failed(_)), "{failed:?}");
        assert!(executors.check().await.is_err());
    }
}

async fn compilations_over_the_line_are_turned_away() {
    let executors = start(|compile| {
        compile.permits = 1;
        compile.waiting_max = 1;
        compile.wall_ms = 1_000;
    });
    let bomb = bomb();
    let many = (0..4).map(|code| {
        let (executors, bomb) = (executors.clone(), bomb.clone());
        async move {
            let mut bytes = bomb.to_vec();
            bytes.extend_from_slice(&[0, 3, 1, b'n', code]); // A custom section makes another digest of it.
            try_prepare(&executors, bytes.into()).await.unwrap_err()
        }
    });
    let refused = futures_util::future::join_all(many).await;
    assert!(refused.contains(&PrepareError::Busy), "{refused:?}");
}
