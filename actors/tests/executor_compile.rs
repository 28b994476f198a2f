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

use std::{ffi::OsString, process::ExitCode, time::Duration};

use bytes::Bytes;
use guests::{command, config, echo, job, module, run, try_prepare, until, wasm};
use tokio::time::Instant;
use wasmwiz_actors::executor::{
    Asker, CompileConfig, ExecutorConfig, Executors, PrepareError, Rejection, compile, rejection::CompileResource,
};
use wasmwiz_events::{digest::Digest, execution::Outcome, id::TenantId};

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
        a_compilation_that_the_host_had_no_time_for_says_nothing_about_the_module().await;
        a_compilation_over_its_memory_is_killed().await;
        a_compilation_over_its_cpu_time_is_killed_and_costs_one_attempt().await;
        one_that_only_looks_small_goes_to_the_large_ones().await;
        one_that_only_looks_small_is_compiled_whatever_that_has_taken().await;
        what_the_host_had_no_time_for_costs_the_tenant_nothing().await;
        a_tenant_pays_for_what_does_not_compile_whatever_its_digest().await;
        a_bomb_on_the_only_permit_keeps_no_small_module_waiting().await;
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

/// The same bomb under another digest.
fn bomb_number(number: u8) -> Bytes {
    let mut bytes = bomb().to_vec();
    bytes.extend_from_slice(&[0, 3, 1, b'n', number]);
    bytes.into()
}

async fn a_compilation_that_the_host_had_no_time_for_says_nothing_about_the_module() {
    // They take no processor time, as a child on a machine that others use. The second has closed its streams.
    for worker in [sleeps(), shell("exec >&- 2>&-; exec /bin/sleep 60")] {
        let executors = start(|compile| {
            compile.worker = Some(worker);
            compile.wall_ms = 100;
        });
        for _ in 0..2 {
            let asked = Instant::now();
            let short = try_prepare(&executors, wasm(&echo())).await.unwrap_err();
            assert_eq!(short, PrepareError::HostShort { which: CompileResource::Wall });
            assert!(asked.elapsed() >= Duration::from_millis(100), "it is tried again, and not remembered");
            assert!(asked.elapsed() < Duration::from_secs(30), "it ends with its time");
        }
    }
}

fn sleeps() -> Vec<OsString> {
    vec!["/bin/sleep".into(), "60".into()]
}

fn shell(script: &str) -> Vec<OsString> {
    ["/bin/sh", "-c", script].map(OsString::from).into()
}

async fn what_the_host_had_no_time_for_costs_the_tenant_nothing() {
    // Given a tenant that could have two compiled, whatever little they take.
    let executors = start(|compile| {
        compile.worker = Some(sleeps());
        compile.wall_ms = 50;
        compile.cpu_ms_per_minute_per_tenant = 1;
        compile.cpu_ms_burst_per_tenant = 1;
    });
    for _ in 0..4 {
        let (asker, wasm) = (Asker::Tenant(TenantId::new("unlucky").unwrap()), wasm(&echo()));
        let short = executors.prepare(asker, Digest::of(&wasm), wasm).await.unwrap_err();
        assert_eq!(short, PrepareError::HostShort { which: CompileResource::Wall });
    }
}

async fn a_compilation_over_its_memory_is_killed() {
    let executors = start(|compile| compile.memory_bytes = 32 << 20);
    let refused = try_prepare(&executors, bomb()).await.unwrap_err();
    assert_eq!(refused, PrepareError::Rejected(Rejection::CompileLimit { which: CompileResource::Memory }));
}

async fn a_compilation_over_its_cpu_time_is_killed_and_costs_one_attempt() {
    let executors = start(|compile| {
        compile.cpu_s = 1;
        compile.wall_ms = 60_000;
    });
    let bomb = bomb();
    executors.inspect(&bomb).unwrap();
    let asked = Instant::now();
    let refused = try_prepare(&executors, bomb.clone()).await.unwrap_err();
    assert_eq!(refused, PrepareError::Rejected(Rejection::CompileLimit { which: CompileResource::Cpu }));
    let killed_after = asked.elapsed();
    println!("killed after {killed_after:?}");
    // It costs one attempt, not one for each request.
    let again = Instant::now();
    assert_eq!(try_prepare(&executors, bomb).await.unwrap_err(), refused);
    assert!(again.elapsed() < killed_after, "{:?}", again.elapsed());
    // Neither the permit nor the place in the line is lost.
    assert!(try_prepare(&executors, wasm(&command(""))).await.is_ok());
}

/// A compiler that does `small` with what it is given for small modules, and `large` with the others: the first byte of
/// its limits is the seconds of CPU time.
fn by_lane(small: &str, large: &str) -> Option<Vec<OsString>> {
    let of = "$(/usr/bin/head -c 5 | /usr/bin/od -An -tu1)";
    let script = format!("case \"{of}\" in *' 1') {small};; *) {large};; esac");
    Some(shell(&script))
}

async fn one_that_only_looks_small_goes_to_the_large_ones() {
    // Not refused for what it may take as a small one: the second child fails, as this one always does.
    let executors = start(|compile| compile.worker = by_lane("kill -XCPU $$", "exit 70"));
    let failed = try_prepare(&executors, wasm(&echo())).await.unwrap_err();
    assert!(matches!(failed, PrepareError::Failed(_)), "{failed:?}");
}

async fn one_that_only_looks_small_is_compiled_whatever_that_has_taken() {
    // Given a tenant that has a millisecond, and a module that takes more than that as a small one.
    let takes_some = "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; kill -XCPU $$";
    let executors = start(|compile| {
        compile.worker = by_lane(takes_some, "exit 70");
        compile.cpu_ms_per_minute_per_tenant = 600;
        compile.cpu_ms_burst_per_tenant = 1;
    });
    let prepare = async || {
        let (asker, wasm) = (Asker::Tenant(TenantId::new("frugal").unwrap()), wasm(&echo()));
        executors.prepare(asker, Digest::of(&wasm), wasm).await.unwrap_err()
    };
    // It has its turn among the large ones, of which the compiler makes what it always makes of them.
    let failed = prepare().await;
    assert!(matches!(failed, PrepareError::Failed(_)), "{failed:?}");
    // The next one is told to come back.
    let over = prepare().await;
    assert!(matches!(over, PrepareError::OverAllowance { .. }), "{over:?}");
}

async fn a_tenant_pays_for_what_does_not_compile_whatever_its_digest() {
    let executors = start(|compile| {
        compile.cpu_s = 1;
        compile.wall_ms = 60_000;
        compile.cpu_ms_per_minute_per_tenant = 600;
        compile.cpu_ms_burst_per_tenant = 1_500;
    });
    let prepare = async |tenant: &str, wasm: Bytes| {
        let asker = Asker::Tenant(TenantId::new(tenant).unwrap());
        executors.prepare(asker, Digest::of(&wasm), wasm).await.map(drop)
    };
    let refused = Err(PrepareError::Rejected(Rejection::CompileLimit { which: CompileResource::Cpu }));
    // A second each, of one and a half.
    assert_eq!(prepare("bomber", bomb_number(0)).await, refused);
    assert_eq!(prepare("bomber", bomb_number(1)).await, refused);
    let over = prepare("bomber", bomb_number(2)).await.unwrap_err();
    let PrepareError::OverAllowance { ms_per_minute: 600, retry_after_ms } = over else { panic!("{over:?}") };
    // About half a second is owed, and comes back in less than a minute.
    assert!((1..=120_000).contains(&retry_after_ms), "{retry_after_ms}");
    prepare("other", wasm(&echo())).await.unwrap();
}

async fn a_bomb_on_the_only_permit_keeps_no_small_module_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let begun = folder.path().join("begun");
    let hangs = format!(": > {}; exec /bin/sleep 60", begun.display());
    let executors = start(|compile| {
        compile.worker = by_lane("exit 70", &hangs);
        compile.permits = 1;
        compile.wait_ms = 2_000;
    });
    let compiling = {
        let executors = executors.clone();
        tokio::spawn(async move { try_prepare(&executors, bomb()).await })
    };
    until("the bomb has the permit", || begun.exists()).await;
    assert_eq!(try_prepare(&executors, bomb_number(0)).await.unwrap_err(), PrepareError::Busy);
    // It has its turn: what it comes to is what the compiler makes of it.
    let failed = try_prepare(&executors, wasm(&echo())).await.unwrap_err();
    assert!(matches!(failed, PrepareError::Failed(_)), "{failed:?}");
    assert!(!compiling.is_finished());
    compiling.abort();
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
