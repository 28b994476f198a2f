//! What is refused, what is compiled, and what of it is believed later.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, its helpers too"
)]

mod guests;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use bytes::Bytes;
use guests::{command, config, echo, job, module, prepare, run, run_prepared, start, try_prepare, wasm};
use wasmwiz_actors::executor::{Asker, Executors, PrepareError, Rejection};
use wasmwiz_events::{digest::Digest, execution::Outcome, module::Kind};

const PAGE: &str = "(memory (export \"memory\") 1)";

#[tokio::test]
async fn a_module_is_described_without_being_compiled() {
    let inspected = start().inspect(&wasm(&echo())).unwrap();
    assert_eq!(inspected.kind, Kind::Core);
    assert_eq!(inspected.exports, ["memory", "_start"]);
    assert!(inspected.imports.contains(&"wasi_snapshot_preview1.fd_write".to_owned()));
}

#[tokio::test]
async fn what_is_no_module_is_refused_by_its_reason() {
    let executors = start();
    let good = wasm(&echo());
    let mut trailing = good.to_vec();
    trailing.extend_from_slice(b"\x01");
    let mut elf = b"\x7fELF".to_vec();
    elf.extend_from_slice(&good);
    let component = b"\0asm\x0d\0\x01\0";
    let long = "x".repeat(257);
    let import = |what: &str| wasm(&format!("(module {what} (func (export \"_start\")))"));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("truncated", Vec::new()),
        ("truncated", b"\0as".to_vec()),
        ("truncated", good[..6].to_vec()),
        ("truncated", good[..good.len() - 3].to_vec()),
        ("not-wasm", b"#!/bin/sh\n".to_vec()),
        ("not-wasm", b"PK\x03\x04".to_vec()),
        ("precompiled", elf),
        ("text-format", echo().into_bytes()),
        ("text-format", b"  ;; a comment\n(module)".to_vec()),
        ("component", component.to_vec()),
        ("truncated", trailing),
        ("invalid", b"\0asm\x02\0\0\0".to_vec()),
        ("invalid", wasm("(module (func (export \"_start\") (drop (i32.add (i64.const 1) (i32.const 1)))))").to_vec()),
        ("no-start", wasm("(module)").to_vec()),
        ("no-start", wasm("(module (func (export \"_initialize\")))").to_vec()),
        ("no-start", wasm("(module (func (export \"_start\") (param i32)))").to_vec()),
        ("no-start", wasm("(module (global (export \"_start\") i32 (i32.const 0)))").to_vec()),
        ("unknown-import", import("(import \"env\" \"emscripten_memcpy\" (func))").to_vec()),
        ("unknown-import", import("(import \"wasi_snapshot_preview1\" \"fork\" (func))").to_vec()),
        ("unknown-import", import("(import \"env\" \"memory\" (memory 1))").to_vec()),
        ("wrong-import-type", import("(import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i64)))").to_vec()),
        ("over-limit", import(&format!("(import \"env\" \"{long}\" (func))")).to_vec()),
    ];
    for (slug, bytes) in cases {
        let rejection = executors.inspect(&bytes).unwrap_err();
        assert_eq!(rejection.slug(), slug, "{rejection}: {:?}", String::from_utf8_lossy(&bytes));
        assert!(!rejection.to_string().is_empty() && !rejection.remedy().is_empty());
        assert_eq!(try_prepare(&executors, bytes.into()).await.unwrap_err(), PrepareError::Rejected(rejection));
    }
}

#[tokio::test]
async fn a_proposal_that_is_switched_off_is_refused() {
    let executors = start();
    let proposals = [
        ("threads", "(memory 1 1 shared)", ""),
        ("64-bit memory", "(memory i64 1)", ""),
        ("several memories", "(memory 1) (memory 1)", ""),
        ("exceptions", "(memory 1) (tag)", ""),
        ("gc", "(type $s (struct (field i32)))", "(drop (struct.new $s (i32.const 1)))"),
        ("function references", "(type $f (func)) (func $g) (elem declare func $g)", "(call_ref $f (ref.func $g))"),
        ("custom page sizes", "(memory 1 (pagesize 1))", ""),
        ("wide arithmetic", "", "(i64.add128 (i64.const 1) (i64.const 1) (i64.const 1) (i64.const 1)) drop drop"),
        ("relaxed simd", "", "(drop (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0)))"),
    ];
    for (what, declarations, body) in proposals {
        let bytes = wasm(&format!("(module {declarations} (func (export \"_start\") {body}))"));
        let rejection = executors.inspect(&bytes).unwrap_err();
        assert!(matches!(rejection, Rejection::Invalid { .. } | Rejection::OverLimit { .. }), "{what}: {rejection:?}");
    }
}

#[tokio::test]
async fn a_module_over_a_limit_is_refused_and_one_at_it_runs() {
    let executors = start();
    let many = |count: usize, what: &str| what.repeat(count);
    let blocks = |depth: usize| format!("{}{}", many(depth, "(block "), many(depth, ")"));
    type Make<'a> = Box<dyn Fn(usize) -> String + 'a>;
    // What, the limit, how many `Make` has besides the ones asked for, and the module with `n` of them.
    let cases: Vec<(&str, usize, usize, Make<'_>)> = vec![
        ("functions", 20_000, 2, Box::new(|n| module(&format!("{PAGE}{}", many(n, "(func)")), ""))),
        ("globals", 2_000, 0, Box::new(|n| module(&format!("{PAGE}{}", many(n, "(global i32 (i32.const 0))")), ""))),
        (
            "exports",
            1_000,
            2,
            Box::new(|n| {
                let exports: String = (0..n).map(|i| format!("(export \"e{i}\" (memory 0))")).collect();
                module(&format!("{PAGE}{exports}"), "")
            }),
        ),
        (
            "imports",
            256,
            10,
            Box::new(|n| {
                let import = "(import \"wasi_snapshot_preview1\" \"sched_yield\" (func (result i32)))";
                module(PAGE, "").replacen("(module", &format!("(module {}", many(n, import)), 1)
            }),
        ),
        (
            "locals of one function",
            2_000,
            0,
            Box::new(|n| module(&format!("{PAGE} (func (local {}))", many(n, "i64 ")), "")),
        ),
        (
            "parameters of one function",
            64,
            0,
            Box::new(|n| module(&format!("{PAGE} (func (param {}))", many(n, "i64 ")), "")),
        ),
        ("data segments", 2_000, 0, Box::new(|n| module(&format!("{PAGE}{}", many(n, "(data \"x\")")), ""))),
        ("element segments", 200, 0, Box::new(|n| module(&format!("{PAGE}{}", many(n, "(elem func $say)")), ""))),
        ("blocks inside each other", 2_000, 1, Box::new(|n| module(PAGE, &blocks(n)))),
        (
            "targets of one br_table",
            4_096,
            0,
            Box::new(|n| module(PAGE, &format!("(br_table {} 0 (i32.const 0))", many(n, "0 ")))),
        ),
        ("table elements", 20_000, 0, Box::new(|n| module(&format!("{PAGE} (table {n} funcref)"), ""))),
        ("bytes in one function", 256 << 10, 2, Box::new(|n| module(PAGE, &many(n, "nop ")))),
    ];
    for (what, limit, besides, make) in cases {
        let at = wasm(&make(limit - besides));
        assert_eq!(executors.inspect(&at).map(|_| ()), Ok(()), "{what}");
        let over = executors.inspect(&wasm(&make(limit - besides + 1))).map(|_| ()).expect_err(what);
        let limit = limit as u64;
        assert_eq!(over, Rejection::OverLimit { what: over_what(&over), limit, found: limit + 1 }, "{what}");
        assert_eq!(over_what(&over), what);
    }
    // What is at the limit also compiles and runs.
    let deep = run(&executors, &module(PAGE, &blocks(1_999)), job()).await;
    assert_eq!(deep.outcome, Outcome::Succeeded);
}

fn over_what(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::OverLimit { what, .. } => what,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn bytes_under_another_digest_are_not_compiled() {
    let executors = start();
    let lie = executors.prepare(Asker::Platform, Digest::of(b"something else"), wasm(&echo())).await;
    assert!(matches!(lie, Err(PrepareError::Failed(_))), "{lie:?}");
}

#[tokio::test]
async fn a_module_is_compiled_once_for_all_who_ask_and_for_those_who_left() {
    let executors = start();
    let bytes = wasm(&echo());
    let digest = Digest::of(&bytes);
    assert!(executors.prepared(digest).await.is_none());
    // One asks and goes away.
    let leaver = tokio::time::timeout(Duration::ZERO, executors.prepare(Asker::Platform, digest, bytes.clone())).await;
    assert!(leaver.is_err());
    let all = (0..32).map(|_| executors.prepare(Asker::Platform, digest, bytes.clone()));
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().all(|prepared| prepared.as_ref().is_ok_and(|prepared| prepared.id().digest == digest)));
    assert!(executors.prepared(digest).await.is_some());
}

#[tokio::test]
async fn custom_sections_are_no_part_of_what_runs() {
    let mut bytes = wasm(&command("")).to_vec();
    bytes.extend_from_slice(b"\x00\x05\x04name"); // A names section without content.
    bytes.extend_from_slice(b"\x00\x09\x05.junk\xff\xff\xff");
    let executors = start();
    let prepared = try_prepare(&executors, bytes.into()).await.unwrap();
    assert_eq!(run_prepared(&executors, &prepared, job()).await.outcome, Outcome::Succeeded);
}

fn artefact(folder: &Path) -> std::path::PathBuf {
    let artefacts = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut artefacts: Vec<_> = artefacts.filter(|path| path.extension().is_some_and(|it| it == "artefact")).collect();
    assert_eq!(artefacts.len(), 1, "{artefacts:?}");
    artefacts.remove(0)
}

fn start_in(folder: &Path) -> Executors {
    let mut config = config();
    config.artefacts_dir = Some(folder.to_owned());
    Executors::start(config).unwrap()
}

#[tokio::test]
async fn a_compiled_module_is_found_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let digest = prepare(&start_in(folder.path()), &echo()).await.id().digest;
    let key = folder.path().join("artefacts.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let executors = start_in(folder.path());
    let prepared = executors.prepared(digest).await.unwrap();
    let mut job = job();
    job.stdin = Bytes::from_static(b"again");
    assert_eq!(run_prepared(&executors, &prepared, job).await.stdout.bytes, "again");
}

#[tokio::test]
async fn an_artefact_that_this_node_did_not_write_is_deleted_and_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let digest = prepare(&start_in(folder.path()), &echo()).await.id().digest;
    prepare(&start_in(other.path()), &echo()).await;
    let path = artefact(folder.path());
    let good = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let forgeries = [
        ("in the magic", flipped(0)),
        ("in the tag", flipped(20)),
        ("in the code", flipped(good.len() / 2)),
        ("at the end", flipped(good.len() - 1)),
        ("cut off", good[..good.len() - 1].to_vec()),
        ("only a tag", good[..36].to_vec()),
        ("empty", Vec::new()),
        ("another node's", fs::read(artefact(other.path())).unwrap()),
    ];
    for (what, bytes) in forgeries {
        fs::write(&path, bytes).unwrap();
        let executors = start_in(folder.path());
        assert!(executors.prepared(digest).await.is_none(), "{what}");
        assert!(!path.exists(), "{what}");
        prepare(&executors, &echo()).await;
        assert!(path.exists(), "{what}");
    }
    // A module's artefact under another module's name.
    let elsewhere = path.with_file_name(path.file_name().unwrap().to_str().unwrap().replacen(
        &digest.to_hex(),
        &Digest::of(b"victim").to_hex(),
        1,
    ));
    fs::copy(&path, &elsewhere).unwrap();
    assert!(start_in(folder.path()).prepared(Digest::of(b"victim")).await.is_none());
}

#[tokio::test]
async fn what_another_engine_or_key_left_is_cleared_away() {
    let folder = tempfile::tempdir().unwrap();
    let digest = prepare(&start_in(folder.path()), &echo()).await.id().digest;
    let foreign = folder.path().join(format!("{}.0123456789abcdef.artefact", digest.to_hex()));
    let half = folder.path().join("writing-1");
    fs::copy(artefact(folder.path()), &foreign).unwrap();
    fs::write(&half, b"half").unwrap();
    assert!(start_in(folder.path()).prepared(digest).await.is_some());
    assert!(!foreign.exists() && !half.exists());
    // A key that others could have read is no key.
    fs::set_permissions(folder.path().join("artefacts.key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(start_in(folder.path()).prepared(digest).await.is_none());
}

#[tokio::test]
async fn the_folder_of_artefacts_and_the_cache_stay_within_their_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.artefacts_dir = Some(folder.path().to_owned());
    config.cached_modules_max = 2;
    let size = {
        prepare(&Executors::start(config.clone()).unwrap(), &command("")).await;
        fs::metadata(artefact(folder.path())).unwrap().len()
    };
    config.artefacts_max_bytes = size * 3;
    let executors = Executors::start(config).unwrap();
    let mut digests = Vec::new();
    for code in 0..6 {
        digests.push(prepare(&executors, &command(&format!("(call $exit (i32.const {code}))"))).await.id().digest);
    }
    let total: u64 = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|it| it == "artefact"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(total <= size * 3, "{total} of {}", size * 3);
    assert!(executors.prepared(digests[0]).await.is_none());
    assert!(executors.prepared(digests[5]).await.is_some());
}
