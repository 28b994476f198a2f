//! What may go is gone after a sweep, what is named never is, and a sweep may end anywhere.

use std::{collections::BTreeSet, path::Path, sync::Arc, sync::atomic::AtomicU64};

use bytes::Bytes;
use wasmwiz_events::{
    blobs::{Blobs, fs::FsBlobs},
    digest::Digest,
    envelope,
    event::Event,
    execution::{Content, Output},
    id::{ExecutionId, ModuleName},
    log::{
        Append, EventLog, ReadLimit,
        conformance::Stream,
        sqlite::{SqliteLog, SqliteLogConfig},
    },
    module,
    payload::Payload,
    retention::{Class, Released},
    revision::{Position, Revision},
};

use super::removal::{Pace, Removal, Removed};

const LARGE: &[u8] = &[7; 100_000];
const NAMED: [&[u8]; 2] = [b"a module that is live", LARGE];
const GONE: [&[u8]; 3] = [b"a module that is deleted", b"a large input", b"what nothing names"];

fn golden(text: &str) -> Event {
    envelope::decode(format!("[{text}]").as_bytes()).unwrap()[0].event.clone()
}

fn published(of: &str, bytes: &[u8]) -> Event {
    let golden = golden(include_str!("../../../events/golden/dev.wasmwiz.module.published.v1.json"));
    let Event::ModulePublished(published) = golden else { panic!("not published") };
    let name = ModuleName::new(of).unwrap();
    Event::ModulePublished(module::Published { name, version: 1, digest: Digest::of(bytes), ..published })
}

fn accepted(n: u128, stdin: &[u8]) -> Event {
    let golden = golden(include_str!("../../../events/golden/dev.wasmwiz.execution.accepted.v1.json"));
    let Event::ExecutionAccepted(mut accepted) = golden else { panic!("not accepted") };
    accepted.execution_id = ExecutionId::new(uuid::Uuid::from_u128(n));
    accepted.stdin = Content::of(stdin);
    Event::ExecutionAccepted(accepted)
}

fn finished(n: u128, stdout: &[u8]) -> Event {
    let golden = golden(include_str!("../../../events/golden/dev.wasmwiz.execution.finished.v1.json"));
    let Event::ExecutionFinished(mut finished) = golden else { panic!("not finished") };
    finished.execution_id = ExecutionId::new(uuid::Uuid::from_u128(n));
    finished.stdout = Output { digest: Digest::of(stdout), size_bytes: stdout.len() as u64, truncated: false };
    Event::ExecutionFinished(finished)
}

fn released(class: Class, through: u64) -> Event {
    Event::PayloadsReleased(Released { class, through_revision: Revision::new(through), payloads: 1, bytes: 1 })
}

/// A log of one tenant that has released its inputs, its modules and nothing else, and blobs that a process before has put.
async fn history(folder: &Path) -> (Arc<SqliteLog>, Stream) {
    let blobs = FsBlobs::open(&folder.join("blobs")).unwrap();
    for bytes in NAMED.into_iter().chain(GONE) {
        blobs.put(Bytes::from_static(bytes)).await.unwrap();
    }
    let log = Arc::new(SqliteLog::open(&folder.join("log"), SqliteLogConfig::default()).unwrap());
    let mut stream = Stream::fresh();
    let deleted = module::Deleted { name: ModuleName::new("gone").unwrap(), writes_full_at: None };
    let [live, large] = NAMED;
    let [gone, input, _] = GONE;
    let commits: [(Vec<Event>, Vec<&'static [u8]>); 5] = [
        (vec![published("live", live), published("gone", gone), Event::ModuleDeleted(deleted)], vec![]),
        // Revisions 4 to 7: an input and an output ride with one commit.
        (
            vec![accepted(1, b"in"), finished(1, b"out"), accepted(2, input), finished(2, large)],
            vec![&b"in"[..], &b"out"[..]],
        ),
        // The same bytes as an output, which is kept.
        (vec![accepted(3, b"both"), finished(3, b"both")], vec![&b"both"[..]]),
        (vec![accepted(4, b"alone")], vec![&b"alone"[..]]),
        (vec![finished(4, b""), released(Class::Inputs, 10), released(Class::Modules, 3)], vec![]),
    ];
    for (events, payloads) in commits {
        let commit = stream.seal_events(events);
        stream.head = commit.head();
        let payloads = payloads.into_iter().map(|bytes| Payload::new(Bytes::from_static(bytes))).collect();
        log.append(Append { commit, payloads }).await.unwrap();
    }
    (log, stream)
}

async fn sweep(folder: &Path, log: &Arc<SqliteLog>, steps: u64) -> anyhow::Result<Removed> {
    // A process of its own each time: it has put nothing.
    let blobs = FsBlobs::open(&folder.join("blobs"))?.swept();
    let log: Arc<dyn EventLog> = log.clone();
    Removal::new(log, Arc::new(blobs), Pace::Ends(AtomicU64::new(steps))).run().await
}

async fn kept(folder: &Path) -> BTreeSet<Digest> {
    let blobs = FsBlobs::open(&folder.join("blobs")).unwrap();
    blobs.list(None, 100).await.unwrap().into_iter().collect()
}

async fn riding(log: &SqliteLog) -> BTreeSet<Digest> {
    let mut riding = BTreeSet::new();
    for recorded in log.read_all(Position::START, ReadLimit::default()).await.unwrap() {
        riding.extend(log.payloads(recorded.position).await.unwrap().iter().map(Payload::digest));
    }
    riding
}

fn digests(of: &[&[u8]]) -> BTreeSet<Digest> {
    of.iter().map(|bytes| Digest::of(bytes)).collect()
}

#[tokio::test]
async fn a_sweep_removes_what_nothing_names_and_nothing_else_and_the_chain_stays_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = history(folder.path()).await;
    let before = log.read_all(Position::START, ReadLimit::default()).await.unwrap();
    let removed = sweep(folder.path(), &log, u64::MAX).await.unwrap();
    assert_eq!(kept(folder.path()).await, digests(&NAMED));
    assert_eq!(riding(&log).await, digests(&[b"out", b"both"]));
    let blob_bytes = GONE.iter().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(removed, Removed { blobs: 3, blob_bytes, payload_bytes: 7 });
    // What is hashed is as it was.
    let after = log.read_all(Position::START, ReadLimit::default()).await.unwrap();
    let hashes = |all: &[Arc<wasmwiz_events::commit::Recorded>]| -> Vec<_> {
        all.iter().map(|recorded| (recorded.position, recorded.commit.hash(), recorded.commit.body().clone())).collect()
    };
    assert_eq!(hashes(&before), hashes(&after));
    assert!(sweep(folder.path(), &log, u64::MAX).await.unwrap().is_nothing());
}

#[tokio::test]
async fn a_sweep_that_ends_at_any_step_has_removed_nothing_that_is_named_and_the_next_one_goes_on() {
    let mut interrupted = 0;
    for steps in 0..50 {
        let folder = tempfile::tempdir().unwrap();
        let (log, _) = history(folder.path()).await;
        let ended = sweep(folder.path(), &log, steps).await;
        assert!(kept(folder.path()).await.is_superset(&digests(&NAMED)), "{steps} steps");
        assert!(riding(&log).await.is_superset(&digests(&[b"out", b"both"])), "{steps} steps");
        interrupted += u64::from(ended.is_err());
        sweep(folder.path(), &log, u64::MAX).await.unwrap();
        assert_eq!(kept(folder.path()).await, digests(&NAMED), "{steps} steps");
        assert_eq!(riding(&log).await, digests(&[b"out", b"both"]), "{steps} steps");
        if ended.is_ok() {
            break;
        }
    }
    assert!((5..50).contains(&interrupted), "{interrupted} steps");
}

#[tokio::test]
async fn what_is_put_while_the_log_is_read_stays_until_its_commit_may_have_come() {
    let folder = tempfile::tempdir().unwrap();
    let (log, mut stream) = history(folder.path()).await;
    let blobs = Arc::new(FsBlobs::open(&folder.path().join("blobs")).unwrap().swept());
    // The same bytes are put again, and their commit is still under way when the sweep comes to its end.
    let [gone, ..] = GONE;
    blobs.put(Bytes::from_static(gone)).await.unwrap();
    let dynamic: Arc<dyn EventLog> = log.clone();
    Removal::new(dynamic, blobs.clone(), Pace::Ends(AtomicU64::new(u64::MAX))).run().await.unwrap();
    let commit = stream.seal_events(vec![published("again", gone)]);
    stream.head = commit.head();
    log.append(Append { commit, payloads: vec![] }).await.unwrap();
    assert!(blobs.contains(Digest::of(gone)).await.unwrap());
    sweep(folder.path(), &log, u64::MAX).await.unwrap();
    assert!(blobs.contains(Digest::of(gone)).await.unwrap());
}

#[tokio::test]
async fn nothing_is_removed_where_an_event_is_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let (log, mut stream) = history(folder.path()).await;
    let text = include_str!("../../../events/golden/dev.wasmwiz.tenant.resumed.v1.json");
    let commit = stream.seal_events(vec![golden(&text.replace("resumed.v1", "resumed.v9"))]);
    stream.head = commit.head();
    log.append(Append { commit, payloads: vec![] }).await.unwrap();
    assert!(sweep(folder.path(), &log, u64::MAX).await.unwrap().is_nothing());
    assert_eq!(kept(folder.path()).await.len(), NAMED.len() + GONE.len());
}

#[tokio::test]
async fn blobs_stay_beside_a_log_that_has_named_none_of_them_and_payloads_are_forgotten_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (log, mut stream) = history(folder.path()).await;
    // The log of others: a new one, and one that has named nothing that is there.
    let (others, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fresh = Arc::new(SqliteLog::open(&others.path().join("log"), SqliteLogConfig::default()).unwrap());
    let blobs = FsBlobs::open(&beside.path().join("blobs")).unwrap();
    blobs.put(Bytes::from_static(b"of another log")).await.unwrap();
    let all = kept(folder.path()).await;
    assert!(sweep(folder.path(), &fresh, u64::MAX).await.unwrap().is_nothing());
    assert_eq!(kept(folder.path()).await, all);
    let removed = sweep(beside.path(), &log, u64::MAX).await.unwrap();
    assert_eq!(removed, Removed { blobs: 0, blob_bytes: 0, payload_bytes: 7 });
    assert_eq!(kept(beside.path()).await, digests(&[b"of another log"]));
    // Once it has named one of them, it says what of the others goes.
    blobs.put(Bytes::from_static(b"a module")).await.unwrap();
    let commit = stream.seal_events(vec![published("new", b"a module")]);
    stream.head = commit.head();
    log.append(Append { commit, payloads: vec![] }).await.unwrap();
    assert_eq!(sweep(beside.path(), &log, u64::MAX).await.unwrap().blobs, 1);
    assert_eq!(kept(beside.path()).await, digests(&[b"a module"]));
}
