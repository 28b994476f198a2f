//! Many guests at once: who waits for whom, who is turned away, and what a full node still does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, its helpers too"
)]

mod guests;

use std::time::Duration;

use bytes::Bytes;
use guests::{MIB, command, config, echo, job, job_of, module, prepare, run_prepared, spin, start};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::executor::{ExecutorConfig, Executors, Job, Prepared, Profile, Ran};
use wasmwiz_events::{execution::Outcome, id::TenantId, reproducibility::Reproducibility};

/// How late a deadline may be noticed on a machine that others use too.
const OVERSHOOT_MS: f64 = 5_000.0;

/// Light guests that are answered within one fill of 512 MiB, at least. Without pieces it is those that come before it
/// begins and after it has ended.
const WITHIN_A_FILL: u32 = 20;

/// How long the sleepers sleep, in milliseconds.
const SLEEP_MS: u64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn light_guests_are_answered_while_others_spin() {
    let executors = start();
    let spinner = prepare(&executors, &spin()).await;
    let light = prepare(&executors, &echo()).await;
    let spinners: Vec<_> = (0..16)
        .map(|_| {
            let (executors, spinner) = (executors.clone(), spinner.clone());
            tokio::spawn(async move { run_prepared(&executors, &spinner, job_of(3_000)).await })
        })
        .collect();
    // Until all of them are heavy.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let mut waits = Vec::new();
    for _ in 0..100 {
        let mut job = job();
        job.stdin = Bytes::from_static(b"hello");
        let asked = Instant::now();
        let ran = run_prepared(&executors, &light, job).await;
        waits.push(asked.elapsed());
        assert_eq!(&ran.stdout.bytes[..], b"hello");
    }
    waits.sort();
    println!("light guests beside 16 spinners: p50 {:?}, p90 {:?}, max {:?}", waits[50], waits[90], waits[99]);
    // Ceilings for a machine that others use too: one that had to wait for a spinner's end would wait for seconds.
    assert!(waits[50] < Duration::from_millis(500), "p50 {:?}", waits[50]);
    assert!(waits[90] < Duration::from_millis(1_500), "p90 {:?}", waits[90]);
    let mut cpu_ms = Vec::new();
    for spinner in spinners {
        let ran = spinner.await.unwrap();
        assert_eq!(ran.outcome, Outcome::DeadlineExceeded);
        assert!(ran.wall.as_ms() < 3_000.0 + OVERSHOOT_MS, "{ran:?}");
        cpu_ms.push(ran.cpu.as_ms());
    }
    // Of what all of them had together, however much others left of this machine.
    let even = cpu_ms.iter().sum::<f64>() / cpu_ms.len() as f64;
    println!("an even part of the processor is {even:.0} ms");
    assert!(cpu_ms.iter().all(|had| *had > even / 4.0), "every spinner had its turns: {cpu_ms:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_one_guest_has_as_much_of_a_thread_as_one_with_many() {
    let executors = Executors::start(ExecutorConfig { threads: 1, ..config() }).unwrap();
    let spinner = prepare(&executors, &spin()).await;
    let spin_for = async |tenant: &str| {
        let slot = executors.reserve_for(&TenantId::new(tenant).unwrap()).await.unwrap();
        executors.run(slot, &spinner, job_of(2_000)).await.cpu.as_ms()
    };
    // When both want all of it, for the same time.
    let many = futures_util::future::join_all((0..16).map(|_| spin_for("t-many")));
    let (many, one) = tokio::join!(many, spin_for("t-one"));
    // Then it is not the seventeenth part that one of seventeen guests would have, but half.
    let all = many.iter().sum::<f64>() + one;
    println!("one guest beside sixteen of another tenant had {one:.0} of {all:.0} ms");
    assert!(one > all / 4.0 && one < all * 3.0 / 4.0, "{one} of {all} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn light_guests_are_answered_within_a_large_operation_on_memory() {
    // One thread: a guest that does not give it back keeps it.
    let executors = Executors::start(ExecutorConfig { threads: 1, ..config() }).unwrap();
    let fill = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 536870912))";
    let heavy = prepare(&executors, &module("(memory (export \"memory\") 8192)", fill)).await;
    let light = prepare(&executors, &echo()).await;
    let mut job_of_heavy = job_of(60_000);
    job_of_heavy.limits.memory_bytes = 512 * MIB;
    let filling = tokio::spawn({
        let executors = executors.clone();
        async move { run_prepared(&executors, &heavy, job_of_heavy).await }
    });
    let mut answered = 0;
    while !filling.is_finished() {
        assert_eq!(run_prepared(&executors, &light, job()).await.outcome, Outcome::Succeeded);
        answered += u32::from(!filling.is_finished());
    }
    let ran = filling.await.unwrap();
    println!("{answered} light guests were answered while a fill took {:.0} ms", ran.wall.as_ms());
    assert_eq!(ran.outcome, Outcome::Succeeded, "{ran:?}");
    assert!(answered >= WITHIN_A_FILL, "{answered} were answered while a fill took {:.0} ms", ran.wall.as_ms());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sleeps_keep_nobody_waiting() {
    let mut config = config();
    config.guests_max = 300;
    let executors = Executors::start(config).unwrap();
    let sleeper = prepare(
        &executors,
        &command(
            "(i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const -1))
             (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)))",
        ),
    )
    .await;
    let light = prepare(&executors, &echo()).await;
    let sleepers = (0..250).map(|_| run_prepared(&executors, &sleeper, job_of(SLEEP_MS)));
    let asking = async {
        let asked = Instant::now();
        assert_eq!(run_prepared(&executors, &light, job()).await.outcome, Outcome::Succeeded);
        asked.elapsed()
    };
    let (slept, waited) = tokio::join!(futures_util::future::join_all(sleepers), asking);
    assert!(
        slept
            .iter()
            .all(|ran| ran.outcome == Outcome::DeadlineExceeded && ran.wall.as_ms() < SLEEP_MS as f64 + OVERSHOOT_MS)
    );
    // It did not wait for any of them to end.
    assert!(waited < Duration::from_millis(SLEEP_MS), "{waited:?}");
}

#[tokio::test]
async fn a_full_node_lets_a_bounded_line_wait_and_turns_the_others_away() {
    let patient = ExecutorConfig { guests_max: 2, waiting_max: 1, wait_ms: 10_000, ..config() };
    let executors = Executors::start(patient).unwrap();
    let first = executors.reserve().await.unwrap();
    let _second = executors.reserve().await.unwrap();
    let waiting = executors.reserve();
    let turned_away = async {
        tokio::task::yield_now().await;
        let asked = Instant::now();
        assert!(executors.reserve().await.is_err());
        assert!(asked.elapsed() < Duration::from_secs(5), "the line is full: no waiting");
        drop(first);
    };
    let (third, ()) = tokio::join!(waiting, turned_away);
    assert!(third.is_ok());
    // All places are taken, and it still knows that it works.
    executors.check().await.unwrap();
    let impatient = ExecutorConfig { guests_max: 1, waiting_max: 1, wait_ms: 100, ..config() };
    let executors = Executors::start(impatient).unwrap();
    let _only = executors.reserve().await.unwrap();
    let asked = Instant::now();
    let busy = executors.reserve().await.unwrap_err();
    assert!(asked.elapsed() >= Duration::from_millis(100) && busy.retry_after_ms >= 100);
}

#[tokio::test]
async fn all_places_can_be_used_at_once_again_and_again() {
    let executors = start();
    let prepared = prepare(&executors, &command("unreachable")).await;
    for _ in 0..20 {
        let all = (0..48).map(|_| run_prepared(&executors, &prepared, job()));
        for ran in futures_util::future::join_all(all).await {
            assert_eq!(ran.outcome, Outcome::Trapped, "{ran:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_share_the_memory_of_the_node_and_give_it_back() {
    let config = ExecutorConfig { memory_budget_bytes: 128 * MIB, memory_wait_ms: 60_000, ..config() };
    let executors = Executors::start(config).unwrap();
    let hold = module(
        "(memory (export \"memory\") 1)",
        "(if (i32.eq (memory.grow (i32.const 799)) (i32.const -1)) (then unreachable)) (loop $l (br $l))",
    );
    let holder = prepare(&executors, &hold).await;
    let holders = (0..4).map(|_| run_prepared(&executors, &holder, job_of(300)));
    // Two at a time: the others are run again when the first have ended, and are told of nothing.
    let begun = Instant::now();
    for ran in futures_util::future::join_all(holders).await {
        assert_eq!(ran.outcome, Outcome::DeadlineExceeded, "{ran:?}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(600));
    assert_eq!(run_prepared(&executors, &holder, job_of(50)).await.outcome, Outcome::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_guests_hold_memory_waits_for_itself_and_leaves_some_for_others() {
    let config = ExecutorConfig { memory_budget_bytes: 64 * MIB, memory_wait_ms: 200, ..config() };
    let executors = Executors::start(config).unwrap();
    let (greedy, light) = (TenantId::new("t-greedy").unwrap(), TenantId::new("t-light").unwrap());
    let hold = module(
        "(memory (export \"memory\") 1)",
        "(if (i32.eq (memory.grow (i32.const 255)) (i32.const -1)) (then unreachable)) (loop $l (br $l))",
    );
    let holder = prepare(&executors, &hold).await;
    let small = prepare(&executors, &command("(call $say (i32.const 64) (i32.const 8))")).await;
    let mut guest = job_of(2_000);
    guest.limits.memory_bytes = 16 * MIB;
    let run = async |tenant: &TenantId, prepared: &Prepared, job: Job| {
        let slot = executors.reserve_for(tenant).await.unwrap();
        executors.run(slot, prepared, job).await
    };
    let greedy = (0..4).map(|_| run(&greedy, &holder, guest.clone()));
    let light = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..10 {
            let ran = run(&light, &small, job()).await;
            assert_eq!((ran.outcome, ran.stdout.bytes.len()), (Outcome::Succeeded, 8), "{ran:?}");
        }
        executors.check().await.unwrap();
    };
    let (ran, ()) = tokio::join!(futures_util::future::join_all(greedy), light);
    let (held, denied): (Vec<_>, Vec<_>) = ran.iter().partition(|ran| ran.outcome == Outcome::DeadlineExceeded);
    assert_eq!((held.len(), denied.len()), (2, 2), "{ran:?}");
    for ran in denied {
        assert!(ran.outcome == Outcome::Failed && ran.message.as_ref().unwrap().contains("of this tenant"), "{ran:?}");
    }
}

#[tokio::test]
async fn a_guest_that_was_set_back_can_be_cancelled_while_it_waits() {
    // Given a guest that holds most of the memory, and four of a tenant that wait for it. One thread begins them in
    // order.
    let config = ExecutorConfig { threads: 1, memory_budget_bytes: 64 * MIB, memory_wait_ms: 120_000, ..config() };
    let executors = Executors::start(config).unwrap();
    let [holder, waiter] = [holding(800), holding(320)];
    let (holder, waiter) = (prepare(&executors, &holder).await, prepare(&executors, &waiter).await);
    let tenant = TenantId::new("t-waits").unwrap();
    let holds = job_of(120_000);
    let ends = holds.cancel.clone();
    let holding = tokio::spawn({
        let executors = executors.clone();
        async move { run_prepared(&executors, &holder, holds).await }
    });
    let (mut cancels, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let job = job_of(120_000);
        cancels.push(job.cancel.clone());
        let (executors, tenant, waiter) = (executors.clone(), tenant.clone(), waiter.clone());
        waiting.push(tokio::spawn(async move {
            let slot = executors.reserve_for(&tenant).await.unwrap();
            executors.run(slot, &waiter, job).await
        }));
    }
    let all_wait = async {
        while executors.reserve_for(&tenant).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all_wait).await.unwrap();
    // When they are cancelled, then they end, while it goes on.
    cancels.iter().for_each(CancellationToken::cancel);
    for ran in waiting {
        let ran = tokio::time::timeout(Duration::from_secs(30), ran).await.unwrap().unwrap();
        assert_eq!(ran.outcome, Outcome::Cancelled, "{ran:?}");
    }
    assert!(!holding.is_finished());
    ends.cancel();
    assert_eq!(holding.await.unwrap().outcome, Outcome::Cancelled);
}

/// Has so many pages of memory, and computes for ever.
fn holding(pages: u32) -> String {
    module(&format!("(memory (export \"memory\") {pages})"), "(loop $l (br $l))")
}

#[tokio::test]
async fn a_guest_that_is_older_than_the_wait_is_refused_memory_and_goes_on() {
    // Given a node that runs nobody again, and a guest that holds most of its memory.
    let config = ExecutorConfig { threads: 1, memory_budget_bytes: 64 * MIB, memory_wait_ms: 0, ..config() };
    let executors = Executors::start(config).unwrap();
    let holder = prepare(&executors, &holding(800)).await;
    // One tells what it is answered, the other insists.
    let asks = |then: &str| {
        let declared = "(memory (export \"memory\") 1) (data (i32.const 64) \"refused\")";
        module(declared, &format!("(if (i32.eq (memory.grow (i32.const 320)) (i32.const -1)) (then {then}))"))
    };
    let copes = prepare(&executors, &asks("(call $say (i32.const 64) (i32.const 7))")).await;
    let insists = prepare(&executors, &asks("unreachable")).await;
    let holds = job_of(60_000);
    let ends = holds.cancel.clone();
    let asking = async {
        let ran = [run_prepared(&executors, &copes, job()).await, run_prepared(&executors, &insists, job()).await];
        ends.cancel();
        ran
    };
    let (held, [copes, insists]) = tokio::join!(run_prepared(&executors, &holder, holds), asking);
    assert_eq!(held.outcome, Outcome::Cancelled);
    assert_eq!((copes.outcome, &copes.stdout.bytes[..]), (Outcome::Succeeded, &b"refused"[..]), "{copes:?}");
    assert_eq!(copes.reproducibility, Reproducibility::Unverifiable);
    assert_eq!(insists.outcome, Outcome::Failed, "{insists:?}");
    assert!(insists.message.as_ref().unwrap().contains("of this tenant"), "the platform's hold it: {insists:?}");
}

#[tokio::test]
async fn a_guest_that_lacked_a_little_needs_no_more_than_that_to_be_run_again() {
    // Given two guests that hold a half and a fourth of the memory, and one that may grow to all of it and wants a
    // half.
    let config = ExecutorConfig { threads: 1, memory_budget_bytes: 64 * MIB, memory_wait_ms: 60_000, ..config() };
    let executors = Executors::start(config).unwrap();
    let (first, light, wants) = (holding(512), holding(256), "(drop (memory.grow (i32.const 511)))");
    let first = prepare(&executors, &first).await;
    let light = prepare(&executors, &light).await;
    let wants = prepare(&executors, &command(wants)).await;
    let (holds_on, holds) = (job_of(60_000), job_of(500));
    let ends = holds_on.cancel.clone();
    let lacking = async {
        let ran = run_prepared(&executors, &wants, job()).await;
        ends.cancel();
        ran
    };
    // When the larger of two that hold it ends, then it is run, while the other one goes on.
    let (light, first, ran) =
        tokio::join!(run_prepared(&executors, &light, holds_on), run_prepared(&executors, &first, holds), lacking);
    assert_eq!((first.outcome, ran.outcome), (Outcome::DeadlineExceeded, Outcome::Succeeded), "{ran:?}");
    assert_eq!((light.outcome, ran.peak_memory_bytes), (Outcome::Cancelled, 32 * MIB));
}

#[tokio::test]
async fn a_guest_whose_output_finds_no_room_now_is_run_again_when_there_is_some() {
    // Given a guest that holds most of the memory for a while.
    let config = ExecutorConfig { threads: 1, memory_budget_bytes: 8 * MIB, memory_wait_ms: 60_000, ..config() };
    let executors = Executors::start(config).unwrap();
    let holder = prepare(&executors, &holding(100)).await;
    let flood = prepare(&executors, &flood()).await;
    let (held, wrote) =
        tokio::join!(run_prepared(&executors, &holder, job_of(500)), run_prepared(&executors, &flood, job()));
    assert_eq!((held.outcome, wrote.outcome), (Outcome::DeadlineExceeded, Outcome::Succeeded));
    // Then all of it is kept.
    assert_eq!((wrote.stdout.bytes.len() as u64, wrote.stderr.bytes.len() as u64), (MIB, MIB));
    assert_eq!((wrote.stdout.truncated, wrote.stderr.truncated, wrote.message), (false, false, None));
}

/// Writes a mebibyte to each of both outputs, in pieces of 64 KiB; its memory is two pages.
fn flood() -> String {
    module(
        "(memory (export \"memory\") 2)",
        "(local $n i32) (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 65536))
         (loop $more
           (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
           (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const 16))))",
    )
}

#[tokio::test]
async fn outputs_share_the_memory_of_the_node_and_give_it_back_when_they_are_dropped() {
    let config = ExecutorConfig { memory_budget_bytes: 2 * MIB, memory_wait_ms: 100, ..config() };
    let executors = Executors::start(config).unwrap();
    let flood = prepare(&executors, &flood()).await;
    let first = run_prepared(&executors, &flood, job()).await;
    assert_eq!(first.outcome, Outcome::Succeeded, "a guest goes on without room for its output");
    let kept = |ran: &Ran| (ran.stdout.bytes.len() + ran.stderr.bytes.len()) as u64;
    assert!(kept(&first) <= 2 * MIB - 128 * 1_024 && kept(&first) >= MIB, "{}", kept(&first));
    assert!(first.stdout.truncated || first.stderr.truncated);
    let says = |ran: &Ran, what: &str| ran.message.as_ref().is_some_and(|message| message.contains(what));
    assert!(says(&first, "not all of its output was kept: this node has"), "{:?}", first.message);
    // What the first has written still waits for somebody, and for longer than this one.
    let second = run_prepared(&executors, &flood, job()).await;
    assert!(kept(&first) + kept(&second) <= 2 * MIB, "{} and {}", kept(&first), kept(&second));
    assert!(second.stdout.truncated && second.stderr.truncated && second.outcome == Outcome::Succeeded);
    assert!(says(&second, "not all of its output was kept: the guests of this"), "{:?}", second.message);
    let before = kept(&first);
    drop((first, second));
    assert_eq!(kept(&run_prepared(&executors, &flood, job()).await), before);
}

#[tokio::test]
async fn a_guest_whose_caller_went_away_frees_its_place() {
    let config = ExecutorConfig { guests_max: 1, wait_ms: 2_000, ..config() };
    let executors = Executors::start(config).unwrap();
    let spinner = prepare(&executors, &spin()).await;
    let left =
        tokio::time::timeout(Duration::from_millis(50), run_prepared(&executors, &spinner, job_of(60_000))).await;
    assert!(left.is_err());
    assert!(executors.reserve().await.is_ok());
}

#[tokio::test]
async fn a_shutdown_waits_for_guests_and_then_ends_them() {
    let executors = start();
    let spinner = prepare(&executors, &spin()).await;
    let spinning = run_prepared(&executors, &spinner, job_of(60_000));
    let ending = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        executors.shutdown(Duration::from_millis(100)).await;
    };
    let (ran, ()) = tokio::join!(spinning, ending);
    assert_eq!(ran.outcome, Outcome::Failed);
    assert!(executors.reserve().await.is_err());
    assert!(executors.check().await.is_err());
}

#[tokio::test]
async fn the_health_check_runs_a_module() {
    let executors = start();
    executors.check().await.unwrap();
    executors.check().await.unwrap();
    assert_eq!(executors.fingerprint(Profile::Plain).len(), 16);
}
