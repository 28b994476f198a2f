//! How guests end: by themselves, by a trap, by a limit, by their deadline.

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
use guests::{MIB, command, echo, job, job_of, module, prepare, run, run_prepared, spin, start};
use wasmwiz_actors::executor::Job;
use wasmwiz_events::execution::{Outcome, Seed};

/// How late a deadline may be noticed on a machine that others use too. A guest that is not stopped goes on for ever.
const OVERSHOOT_MS: f64 = 5_000.0;

#[tokio::test]
async fn a_guest_copies_its_input_to_its_output() {
    let executors = start();
    let input: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut job = job();
    job.stdin = Bytes::from(input.clone());
    let ran = run(&executors, &echo(), job).await;
    assert_eq!((ran.outcome, ran.exit_code), (Outcome::Succeeded, Some(0)), "{ran:?}");
    assert!(ran.stdout.bytes == input && !ran.stdout.truncated && ran.stderr.bytes.is_empty());
    assert!(ran.peak_memory_bytes == 64 << 10 && ran.message.is_none() && ran.fuel.is_none());
    assert!(ran.wall.as_micros() > 0 && ran.cpu.as_micros() > 0);
}

#[tokio::test]
async fn a_guest_sees_its_arguments() {
    let executors = start();
    let print = command(
        "(drop (call $args_sizes (i32.const 16) (i32.const 20)))
         (drop (call $args (i32.const 32) (i32.const 1024)))
         (call $say (i32.const 1024) (i32.load (i32.const 20)))",
    );
    let mut job = job();
    job.args = vec!["-n".into(), "zwölf".into()];
    let ran = run(&executors, &print, job).await;
    assert_eq!(ran.stdout.bytes, "guest\0-n\0zwölf\0".as_bytes());
}

#[tokio::test]
async fn a_guest_ends_with_its_exit_code() {
    let executors = start();
    for (code, outcome) in [(0, Outcome::Succeeded), (7, Outcome::Exited), (255, Outcome::Exited)] {
        let ran = run(&executors, &command(&format!("(call $exit (i32.const {code}))")), job()).await;
        assert_eq!((ran.outcome, ran.exit_code), (outcome, Some(code)));
    }
}

#[tokio::test]
async fn a_fault_of_the_guest_is_a_trap() {
    let executors = start();
    let faults = [
        ("unreachable", command("unreachable")),
        ("divide by zero", command("(drop (i32.div_u (i32.const 1) (i32.const 0)))")),
        ("out of bounds", command("(drop (i32.load (i32.const 70000)))")),
        ("call stack exhausted", module("(memory (export \"memory\") 1) (func $f (call $f))", "(call $f)")),
        (
            "call stack exhausted",
            module(
                "(memory (export \"memory\") 1)
                 (func $f (param i64 i64 i64 i64) (result i64)
                   (i64.add (call $f (local.get 3) (local.get 2) (local.get 1) (local.get 0)) (local.get 0)))",
                "(drop (call $f (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))",
            ),
        ),
        ("unreachable", module("(memory (export \"memory\") 1) (func $boom unreachable) (start $boom)", "")),
        (
            "cannot be answered: it named a place outside",
            command("(drop (call $random (i32.const 0) (i32.const 65537)))"),
        ),
        ("cannot be answered: it named a place outside", command("(drop (call $random (i32.const -1) (i32.const 2)))")),
        (
            "cannot be answered: it named a place outside",
            command("(drop (call $write (i32.const 1) (i32.const 70000) (i32.const 1) (i32.const 8)))"),
        ),
        (
            "cannot be answered: it named a place outside",
            command("(drop (call $write (i32.const 1) (i32.const 2) (i32.const 1) (i32.const 8)))"),
        ),
        ("it exports no memory", module("(memory 1)", "(drop (call $random (i32.const 0) (i32.const 4)))")),
        ("it exports no memory", module("(memory 1)", "(call $say (i32.const 0) (i32.const 4))")),
    ];
    for (message, guest) in faults {
        let ran = run(&executors, &guest, job()).await;
        assert_eq!((ran.outcome, ran.exit_code), (Outcome::Trapped, None), "{message}: {ran:?}");
        assert!(ran.message.as_ref().unwrap().contains(message), "{message}: {ran:?}");
    }
}

#[tokio::test]
async fn what_a_guest_wrote_before_its_trap_is_kept() {
    let ran = run(
        &start(),
        &module(
            "(memory (export \"memory\") 1) (data (i32.const 64) \"last words\")",
            "(call $say (i32.const 64) (i32.const 10)) unreachable",
        ),
        job(),
    )
    .await;
    assert_eq!((ran.outcome, &ran.stdout.bytes[..]), (Outcome::Trapped, &b"last words"[..]));
}

#[tokio::test]
async fn no_guest_outlives_its_deadline() {
    let executors = start();
    let one_page = "(memory (export \"memory\") 1)";
    let sleep = "(i64.store (i32.const 0) (i64.const 1)) (i32.store (i32.const 16) (i32.const 1))
                 (i64.store (i32.const 24) (i64.const -1))
                 (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)))";
    let endless = [
        ("an empty loop", spin()),
        ("a loop in the start function", module(&format!("{one_page} (func $s (loop $l (br $l))) (start $s)"), "")),
        ("a conditional loop", command("(loop $l (br_if $l (i32.const 1)))")),
        ("a br_table loop", command("(loop $l (br_table $l $l (i32.const 0)))")),
        ("nested loops", command("(loop $a (loop $b (br_if $a (i32.const 1)) (br $b)))")),
        (
            "a counting loop",
            command("(local i64) (loop $l (local.set 0 (i64.add (local.get 0) (i64.const 1))) (br $l))"),
        ),
        ("tail calls", module(&format!("{one_page} (func $f (return_call $f))"), "(call $f)")),
        (
            "tail calls of two",
            module(&format!("{one_page} (func $f (return_call $g)) (func $g (return_call $f))"), "(call $f)"),
        ),
        (
            "indirect tail calls",
            module(
                &format!(
                    "{one_page} (type $t (func)) (table funcref (elem $f)) (func $f (return_call_indirect (type $t) (i32.const 0)))"
                ),
                "(call $f)",
            ),
        ),
        ("an endless sleep", command(sleep)),
        ("sleeping again and again", command(&format!("(loop $l {sleep} (br $l))"))),
        ("a busy wait in host calls", command("(loop $l (drop (call $environ (i32.const 0) (i32.const 4))) (br $l))")),
        ("random bytes for ever", command("(loop $l (drop (call $random (i32.const 0) (i32.const 65536))) (br $l))")),
        ("a flood of output", command("(loop $l (call $say (i32.const 0) (i32.const 65536)) (br $l))")),
        (
            "filling its memory for ever",
            module(
                "(memory (export \"memory\") 1024)",
                "(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 67108864)) (br $l))",
            ),
        ),
    ];
    for (what, guest) in endless {
        let prepared = prepare(&executors, &guest).await;
        let ran = run_prepared(&executors, &prepared, job_of(150)).await;
        assert_eq!((ran.outcome, ran.exit_code), (Outcome::DeadlineExceeded, None), "{what}: {ran:?}");
        assert!(ran.wall.as_ms() >= 150.0 && ran.wall.as_ms() < 150.0 + OVERSHOOT_MS, "{what}: {ran:?}");
        assert!(ran.stdout.bytes.len() as u64 <= MIB, "{what}");
    }
}

#[tokio::test]
async fn output_over_the_limit_is_cut_and_the_guest_goes_on() {
    let guest = module(
        "(memory (export \"memory\") 1) (data (i32.const 64) \"0123456789\")",
        "(local $n i32) (loop $l (call $say (i32.const 64) (i32.const 10))
           (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000))))",
    );
    let executors = start();
    for (limit, kept, truncated) in [(25, 25, true), (0, 0, true), (10_000, 10_000, false), (20_000, 10_000, false)] {
        let mut job = job();
        job.limits.stdout_bytes = limit;
        let ran = run(&executors, &guest, job).await;
        assert_eq!(ran.outcome, Outcome::Succeeded);
        assert_eq!((ran.stdout.bytes.len(), ran.stdout.truncated), (kept, truncated));
        assert!(ran.stdout.bytes.iter().zip((b'0'..=b'9').cycle()).all(|(got, want)| *got == want));
    }
}

#[tokio::test]
async fn one_write_may_be_as_large_as_the_stream() {
    let guest = module("(memory (export \"memory\") 100)", "(call $say (i32.const 64) (i32.const 5000000))");
    let mut job = job();
    job.limits.stdout_bytes = 5_000_000;
    let ran = run(&start(), &guest, job).await;
    assert_eq!((ran.stdout.bytes.len(), ran.stdout.truncated), (5_000_000, false));
}

#[tokio::test]
async fn a_short_input_can_be_read_into_a_large_buffer() {
    let guest = module(
        "(memory (export \"memory\") 500)",
        "(i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 30000000))
         (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
         (call $say (i32.const 1024) (i32.load (i32.const 8)))",
    );
    let mut job = job();
    job.stdin = Bytes::from_static(b"short");
    assert_eq!(&run(&start(), &guest, job).await.stdout.bytes[..], b"short");
}

#[tokio::test]
async fn waiting_for_a_million_clocks_is_refused() {
    let guest = module(
        "(memory (export \"memory\") 1000)",
        "(call $exit (call $poll (i32.const 0) (i32.const 40000000) (i32.const 700000) (i32.const 64)))",
    );
    let ran = run(&start(), &guest, job_of(2_000)).await;
    // "Invalid", and not at its deadline.
    assert_eq!(ran.exit_code, Some(28), "{ran:?}");
}

#[tokio::test]
async fn a_guest_that_wants_too_much_memory_is_out_of_memory() {
    let executors = start();
    let grow = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))";
    let bombs = [
        ("grow and give up", command(&format!("{grow} unreachable"))),
        (
            "too much at once",
            command("(if (i32.eq (memory.grow (i32.const 65000)) (i32.const -1)) (then unreachable))"),
        ),
        ("too much to begin with", module("(memory (export \"memory\") 1025)", "")),
        (
            "a table bomb",
            module(
                "(memory (export \"memory\") 1) (table $t 1 funcref)",
                "(if (i32.eq (table.grow $t (ref.null func) (i32.const 10000000)) (i32.const -1)) (then unreachable))",
            ),
        ),
    ];
    for (what, guest) in bombs {
        let ran = run(&executors, &guest, job()).await;
        assert_eq!(ran.outcome, Outcome::OutOfMemory, "{what}: {ran:?}");
        assert!(ran.peak_memory_bytes <= 64 * MIB && ran.message.is_some(), "{what}: {ran:?}");
    }
    // A code that it chose is its own word, and what it was denied is told.
    let chosen = run(&executors, &command(&format!("{grow} (call $exit (i32.const 3))")), job()).await;
    assert_eq!((chosen.outcome, chosen.exit_code), (Outcome::Exited, Some(3)), "{chosen:?}");
    assert!(chosen.message.unwrap().contains("may have"));
    // It asked, was refused, and did without.
    let modest = run(&executors, &command(grow), job()).await;
    assert_eq!((modest.outcome, modest.peak_memory_bytes), (Outcome::Succeeded, 64 * MIB - 15 * (64 << 10)));
    // Its own maximum is no limit of ours.
    let own = module("(memory (export \"memory\") 1 2)", "(drop (memory.grow (i32.const 5))) unreachable");
    assert_eq!(run(&executors, &own, job()).await.outcome, Outcome::Trapped);
}

/// The first bytes of the stream for a seed of ones: what recorded executions have drawn, and must draw again.
const FIRST_RANDOM: &str = "944581ad30818a3bfb92010d2a8f940f";

#[tokio::test]
async fn many_random_bytes_are_those_of_few_one_after_the_other() {
    let executors = start();
    let seeded = || Job { seed: Seed::new([1; 16]), ..job() };
    // 300 pages at once, of which the digest cannot be told: the last bytes stand for it.
    let all = 300 * 65_536 - 65_536;
    let at_once = module(
        "(memory (export \"memory\") 300)",
        &format!(
            "(if (call $random (i32.const 65536) (i32.const {all})) (then unreachable))
             (call $say (i32.const 65536) (i32.const 32)) (call $say (i32.const {}) (i32.const 32))",
            65_536 + all - 32
        ),
    );
    let in_pieces = module(
        "(memory (export \"memory\") 300)",
        &format!(
            "(local $at i32) (local.set $at (i32.const 65536))
             (loop $more
               (if (call $random (local.get $at) (i32.const 4096)) (then unreachable))
               (local.set $at (i32.add (local.get $at) (i32.const 4096)))
               (br_if $more (i32.lt_u (local.get $at) (i32.const {}))))
             (call $say (i32.const 65536) (i32.const 32)) (call $say (i32.const {}) (i32.const 32))",
            65_536 + all,
            65_536 + all - 32
        ),
    );
    let (once, pieces) = (run(&executors, &at_once, seeded()).await, run(&executors, &in_pieces, seeded()).await);
    assert_eq!((once.outcome, once.stdout.bytes.len()), (Outcome::Succeeded, 64), "{once:?}");
    assert_eq!(once.stdout.bytes, pieces.stdout.bytes);
    assert_eq!(hex(&once.stdout.bytes[..16]), FIRST_RANDOM);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_buffer_may_be_as_large_as_the_memory_that_the_guest_has() {
    let executors = start();
    // Reads all input into 100 MiB at once, and writes 100 MiB at once: what fits is kept.
    let guest = module(
        "(memory (export \"memory\") 1700)",
        "(i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 104857600))
         (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
         (if (i32.ne (i32.load (i32.const 8)) (i32.const 5)) (then unreachable))
         (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
         (if (i32.ne (i32.load (i32.const 8)) (i32.const 104857600)) (then unreachable))",
    );
    let mut job = Job { stdin: Bytes::from_static(b"hello"), ..job_of(60_000) };
    job.limits.memory_bytes = 256 * MIB;
    job.limits.stdout_bytes = 1_000_000;
    let ran = run(&executors, &guest, job).await;
    assert_eq!((ran.outcome, ran.stdout.bytes.len(), ran.stdout.truncated), (Outcome::Succeeded, 1_000_000, true));
    assert!(ran.stdout.bytes.starts_with(b"hello\0"));
}

#[tokio::test]
async fn random_numbers_come_from_the_seed() {
    let executors = start();
    let guest =
        command("(drop (call $random (i32.const 64) (i32.const 65000))) (call $say (i32.const 64) (i32.const 65000))");
    let mut outputs = Vec::new();
    for seed in [1, 1, 2] {
        let mut job = job();
        job.seed = Seed::new([seed; 16]);
        outputs.push(run(&executors, &guest, job).await.stdout.bytes);
    }
    assert!(outputs[0] == outputs[1] && outputs[0] != outputs[2] && outputs[0].len() == 65_000);
    assert!(outputs[0].iter().any(|byte| *byte != outputs[0][0]));
}

#[tokio::test]
async fn a_guest_finds_no_environment_no_files_and_no_sockets() {
    const EBADF: i32 = 8;
    let guest = command(
        "(drop (call $environ (i32.const 16) (i32.const 20)))
         (i32.store (i32.const 24) (call $prestat (i32.const 3) (i32.const 64)))
         (i32.store (i32.const 28) (call $accept (i32.const 3) (i32.const 0) (i32.const 64)))
         (call $say (i32.const 16) (i32.const 16))",
    );
    let ran = run(&start(), &guest, job()).await;
    let words: Vec<i32> =
        ran.stdout.bytes.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [0, 0, EBADF, EBADF]);
}

#[tokio::test]
async fn a_cancelled_guest_ends_at_once() {
    let executors = start();
    let prepared = prepare(&executors, &spin()).await;
    let job = job();
    let cancel = job.cancel.clone();
    let running = run_prepared(&executors, &prepared, job.clone());
    let cancelling = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        cancel.cancel();
    };
    let (ran, ()) = tokio::join!(running, cancelling);
    assert_eq!(ran.outcome, Outcome::Cancelled);
    assert!(ran.wall.as_ms() < 20.0 + OVERSHOOT_MS, "{ran:?}");
    // One that was cancelled before it began does not begin.
    assert_eq!(run_prepared(&executors, &prepared, job).await.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn no_guest_finds_what_another_left() {
    let executors = start();
    let fill = "(memory.fill (i32.const 65536) (i32.const 0xCA) (i32.const 4128768))";
    // Grows to 64 pages, as the writers have, and looks for a byte that is not zero in all but its first page.
    let reader = prepare(
        &executors,
        &command(
            "(local $at i32) (drop (memory.grow (i32.const 63))) (local.set $at (i32.const 65536))
             (loop $next
               (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (call $exit (i32.const 42))))
               (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 4194304))))",
        ),
    )
    .await;
    let endings = ["", "unreachable", "(loop $l (br $l))", "(call $exit (i32.const 3))"];
    let mut writers = Vec::new();
    for end in endings {
        let body = format!("(drop (memory.grow (i32.const 63))) {fill} {end}");
        writers.push(prepare(&executors, &command(&body)).await);
    }
    for _ in 0..8 {
        for writer in &writers {
            // Many at a time, so that the readers get slots that writers had.
            let wrote = (0..6).map(|_| run_prepared(&executors, writer, job_of(100)));
            futures_util::future::join_all(wrote).await;
            let read = (0..12).map(|_| run_prepared(&executors, &reader, job()));
            for ran in futures_util::future::join_all(read).await {
                assert_eq!(ran.outcome, Outcome::Succeeded, "{ran:?}");
            }
        }
    }
}
