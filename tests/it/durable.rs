//! Acknowledged means synced: seen from the system calls of a node. A killed process does not show it, because what it has
//! written stays with the system.

use std::{collections::HashMap, path::Path, process::Command};

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use wasmwiz_events::digest::Digest;
use wasmwiz_tests::{
    client::Client,
    guests,
    harness::Launch,
    tenants::{OPERATOR_KEY, register},
    wait,
};

/// What syncs, renames, and answers.
const CALLS: &str = "fsync,fdatasync,rename,renameat,renameat2,write,writev,sendto,sendmsg";

/// Those that answer.
const SEND: &[&str] = &["write", "writev", "sendto", "sendmsg"];

/// A system call that succeeded: the lines of the trace where it began and ended, and its text.
#[derive(Debug)]
pub(crate) struct Call {
    began: usize,
    ended: usize,
    pub(crate) text: String,
}

impl Call {
    fn is(&self, names: &[&str], holds: &str) -> bool {
        names.iter().any(|name| self.text.starts_with(&format!("{name}("))) && self.text.contains(holds)
    }
}

/// Reads what `strace -f` has written: `<thread> <call>(…) = <result>`, cut in two when another thread came between.
pub(crate) fn calls(trace: &str) -> Vec<Call> {
    let (mut begun, mut calls) = (HashMap::<&str, (usize, &str)>::new(), Vec::new());
    for (line, text) in trace.lines().enumerate() {
        let Some((thread, text)) = text.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some(start) = text.strip_suffix("<unfinished ...>") {
            begun.insert(thread, (line, start));
            continue;
        }
        let (began, start) = match begun.remove(thread) {
            Some(begun) if text.starts_with("<... ") => begun,
            _ => (line, ""),
        };
        if !text.contains(" = -1 ") {
            calls.push(Call { began, ended: line, text: format!("{start}{text}") });
        }
    }
    calls
}

/// The first call after `line` that is one of `names` and has this in its text.
fn next<'a>(calls: &'a [Call], line: usize, names: &[&str], holds: &str) -> anyhow::Result<&'a Call> {
    let found = calls.iter().find(|call| call.began > line && call.is(names, holds));
    found.with_context(|| format!("no {names:?} of {holds:?} behind line {line}"))
}

#[tokio::test]
async fn a_module_and_an_execution_are_synced_before_they_are_answered() -> anyhow::Result<()> {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("there is no strace here: not shown");
        return Ok(());
    }
    let config = format!(
        "node.data_dir = \"{{data}}\"\nlisten.api = \"127.0.0.1:0\"\nlisten.admin = \"127.0.0.1:0\"\n\
         auth.operator_key = \"{OPERATOR_KEY}\"\n"
    );
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("trace");
    let mut node = Launch::node(&config)?.traced(CALLS, &trace).start().await?;
    let operator = Client::new(&node.ready().url, Some(OPERATOR_KEY))?;
    let client = register(&operator, "Durable", "enterprise").await?.client;
    let echo = guests::ECHO.wasm()?;
    client.put_module("echo", echo.clone()).await?.expect(StatusCode::CREATED)?;
    client.execute("echo", "kept with its commit").await?;
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let calls = wait::until("the answers in the trace", wait::SOON, async || traced(&trace)).await;
    let calls = calls.with_context(|| format!("the trace ends with:\n{}", end(&trace)))?;

    const SYNC: &[&str] = &["fsync", "fdatasync"];
    // The bytes, their name, the folder that holds the name, the commit that names them; then the answer.
    let hex = Digest::of(&echo).to_hex();
    let renamed = next(&calls, 0, &["rename", "renameat", "renameat2"], &format!("/blobs/sha256/{}/{hex}", &hex[..2]))?;
    let source = renamed.text.split('"').nth(1).context("a rename without a source")?;
    let bytes = calls.iter().any(|call| call.is(SYNC, source) && call.ended < renamed.began);
    ensure!(bytes, "{source} was renamed and not synced before");
    let folder = next(&calls, renamed.ended, SYNC, &format!("/blobs/sha256/{}>", &hex[..2]))?;
    let published = next(&calls, folder.ended, SYNC, "events.db-wal>")?;
    let answer = next(&calls, renamed.ended, SEND, "HTTP/1.1 201")?;
    ensure!(answer.began > published.ended, "it was answered before it was synced: {answer:?}, {published:?}");

    // Acceptance and end, each in a commit of its own.
    let accepted = next(&calls, answer.ended, SYNC, "events.db-wal>")?;
    let finished = next(&calls, accepted.ended, SYNC, "events.db-wal>")?;
    let answer = next(&calls, answer.ended, SEND, "HTTP/1.1 200")?;
    ensure!(answer.began > finished.ended, "it was answered before it was synced: {answer:?}, {finished:?}");
    Ok(())
}

/// The calls, once the tracer has written the last one that is looked for: the answer to the execution.
fn traced(trace: &Path) -> anyhow::Result<Option<Vec<Call>>> {
    let calls = calls(&String::from_utf8_lossy(&std::fs::read(trace)?));
    let Some(published) = calls.iter().rfind(|call| call.is(SEND, "HTTP/1.1 201")) else { return Ok(None) };
    Ok(next(&calls, published.ended, SEND, "HTTP/1.1 200").is_ok().then_some(calls))
}

/// The last lines of the trace.
fn end(trace: &Path) -> String {
    const LINES: usize = 20;
    let text = String::from_utf8_lossy(&std::fs::read(trace).unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}
