//! Whatever is changed in a stored log is found, with its tenant and its revision.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use rusqlite::{Connection, types::Value};
use tempfile::TempDir;

use super::*;
use crate::{
    blobs::{Blobs as _, fs::FsBlobs},
    digest::Digest,
    event::Event,
    execution::{Content, Finished, Output},
    id::ExecutionId,
    log::{
        Append, EventLog, conformance,
        sqlite::{SqliteLog, SqliteLogConfig},
    },
};

mod file;
mod rewritten;

/// Two tenants, alternating: `a` has revisions 1-2, 3-4, 5-6 at positions 1, 3, 5; `b` the same at 2, 4, 6.
async fn log() -> (TempDir, [TenantId; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let log = SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap();
    let mut streams = ["tenant-a", "tenant-b"].map(|id| conformance::Stream::of(TenantId::new(id).unwrap()));
    for _ in 0..3 {
        for stream in &mut streams {
            let commit = seal(stream, vec![None, Some(finished(b"out", b"err"))]);
            stream.head = commit.head();
            log.append(Append { commit, payloads: payloads([b"out", b"err"]) }).await.unwrap();
        }
    }
    log.close();
    (dir, streams.map(|stream| stream.tenant))
}

fn payloads<const N: usize>(bytes: [&'static [u8]; N]) -> Vec<Payload> {
    bytes.map(|bytes| Payload::new(Bytes::from_static(bytes))).to_vec()
}

/// An execution that has written this.
fn finished(stdout: &[u8], stderr: &[u8]) -> Event {
    let output = |bytes: &[u8]| Output { digest: Digest::of(bytes), size_bytes: bytes.len() as u64, truncated: false };
    let golden = golden(include_str!("../../golden/dev.wasmwiz.execution.finished.v1.json"));
    let Event::ExecutionFinished(mut finished) = golden else { panic!("not finished") };
    (finished.stdout, finished.stderr) = (output(stdout), output(stderr));
    Event::ExecutionFinished(finished)
}

fn golden(text: &str) -> Event {
    envelope::decode(format!("[{text}]").as_bytes()).unwrap()[0].event.clone()
}

/// The acceptance of the execution that ends by `finished`, of a module whose bytes are what it writes.
fn accepted(finished: &Finished) -> Event {
    let golden = golden(include_str!("../../golden/dev.wasmwiz.execution.accepted.v1.json"));
    let Event::ExecutionAccepted(mut accepted) = golden else { panic!("not accepted") };
    (accepted.execution_id, accepted.module.digest) = (finished.execution_id, finished.stdout.digest);
    accepted.stdin = Content { digest: Digest::of(b""), size_bytes: 0 };
    Event::ExecutionAccepted(accepted)
}

/// A commit at the end of a stream, of an execution that nobody has seen before. Where there is no event, it has its
/// acceptance.
fn seal(stream: &conformance::Stream, events: Vec<Option<Event>>) -> Commit {
    let plain = stream.seal(events.len());
    let mut envelopes = plain.events().unwrap().to_vec();
    let id = ExecutionId::new(uuid::Uuid::from_u128(stream.head.revision.get().into()));
    let ends = |event: Option<Event>| {
        let Some(Event::ExecutionFinished(finished)) = event else { return event };
        Some(Event::ExecutionFinished(Box::new(Finished { execution_id: id, ..*finished })))
    };
    let events: Vec<_> = events.into_iter().map(ends).collect();
    let finished = events.iter().flatten().find_map(|event| match event {
        Event::ExecutionFinished(finished) => Some(accepted(finished)),
        _ => None,
    });
    for (envelope, event) in envelopes.iter_mut().zip(events) {
        envelope.event = event.or_else(|| finished.clone()).unwrap();
    }
    let Header { commit_id, owner_epoch, recorded_at, .. } = plain.header().clone();
    Commit::seal(&stream.head, stream.tenant.clone(), commit_id, owner_epoch, recorded_at, envelopes).unwrap()
}

/// The audit of everything but the blobs.
fn verify(log: &SqliteAudit) -> Report {
    super::verify(log, Checks::default(), |_| {})
}

/// The log through a connection that may also change it, without waiting for a disk.
fn open(dir: &Path) -> SqliteAudit {
    let connection = Connection::open(dir.join("events.db")).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    SqliteAudit::over(connection)
}

fn names(report: &Report, tenant: &TenantId, revision: u64) -> bool {
    let (tenant, revision) = (Some(tenant), Some(Revision::new(revision)));
    report.findings.iter().any(|found| found.tenant.as_ref() == tenant && found.revision == revision)
}

#[tokio::test]
async fn an_untouched_log_is_clean() {
    let (dir, _) = log().await;
    let report = verify(&SqliteLog::open_read_only(dir.path()).unwrap());
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!((report.commits, report.events, report.tenants), (6, 12, 2));
}

#[tokio::test]
async fn a_log_is_audited_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap());
    let mut stream = conformance::Stream::fresh();
    for commits in 1..=5 {
        stream.append(&(Arc::clone(&log) as conformance::Log), 1).await;
        let report = verify(&SqliteLog::open_read_only(dir.path()).unwrap());
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!(report.commits, commits);
    }
}

#[tokio::test]
async fn a_broken_commit_that_was_skipped_is_as_broken_and_says_by_whom() {
    let (dir, [a, b]) = log().await;
    let log: conformance::Log = Arc::new(SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap());
    let skipped = |tenant: &TenantId, position, reason: &str| {
        let (tenant, position) = (tenant.clone(), Position::new(position));
        Event::CommitSkipped(crate::skip::Skipped { tenant, position, reason: reason.to_owned() })
    };
    for (of, event) in [("system", skipped(&a, 3, "a lost sector")), ("tenant-c", skipped(&b, 4, "I say so"))] {
        let stream = conformance::Stream::of(TenantId::new(of).unwrap());
        let commit = stream.seal_events(vec![event]);
        log.append(Append { commit, payloads: vec![] }).await.unwrap();
    }
    let sound = verify(&SqliteLog::open_read_only(dir.path()).unwrap());
    assert!(sound.is_clean() && sound.skipped.len() == 1, "{sound:?}");
    assert!(sound.skipped[0].intact, "nothing is wrong with it");
    drop(log);

    let rows = open(dir.path());
    rows.connection().execute_batch("UPDATE commits SET hash = zeroblob(32) WHERE position IN (3, 4)").unwrap();
    let report = verify(&rows);
    let said = |position| {
        let found = report.findings.iter().find(|found| found.position == Some(Position::new(position))).unwrap();
        (found.skipped.as_ref().map(|skip| (skip.by.as_str(), skip.reason.as_str())), found.to_string())
    };
    assert_eq!(said(3).0, Some(("system", "a lost sector")), "{}", said(3).1);
    assert!(said(3).1.contains("skipped by system at 2026-") && said(4).0.is_none(), "nobody but the system says so");
    assert!(!report.skipped[0].intact, "{report:?}");
}

#[test]
fn of_a_skipped_commit_whose_finding_is_not_listed_it_is_not_said_that_nothing_is_wrong() {
    let of = conformance::Stream::of(TenantId::new("system").unwrap());
    let tenant = TenantId::new("tenant-a").unwrap();
    let skipped = |position| {
        let (tenant, position) = (tenant.clone(), Position::new(position));
        Event::CommitSkipped(crate::skip::Skipped { tenant, position, reason: "a lost sector".to_owned() })
    };
    let mut skips = Skips::default();
    [1, 2, 4].into_iter().for_each(|position| skips.verified(position));
    skips.note(&of.seal_events(vec![skipped(2), skipped(3), skipped(4), skipped(5)]));
    // There are more findings than are listed.
    let intact: Vec<_> = skips.mark(&mut []).into_iter().map(|skip| skip.intact).collect();
    assert_eq!(intact, [true, false, true, false]);
}

/// Every value that a column has with one byte of it changed.
fn flips(value: &Value) -> Vec<Value> {
    let flipped = |bytes: &[u8]| -> Vec<Vec<u8>> {
        let masks = [0x01, 0x20, 0x80];
        let flip = |index: usize, mask: u8| {
            let mut bytes = bytes.to_vec();
            bytes[index] ^= mask;
            bytes
        };
        (0..bytes.len()).flat_map(|index| masks.map(|mask| flip(index, mask))).collect()
    };
    match value {
        Value::Integer(number) => flipped(&number.to_be_bytes())
            .into_iter()
            .map(|bytes| Value::Integer(i64::from_be_bytes(bytes.try_into().unwrap())))
            .collect(),
        // Bound as a blob: half of the flips are no UTF-8 any more. The statement casts it.
        Value::Text(text) => flipped(text.as_bytes()).into_iter().map(Value::Blob).collect(),
        Value::Blob(bytes) => flipped(bytes).into_iter().map(Value::Blob).collect(),
        Value::Null | Value::Real(_) => Vec::new(),
    }
}

#[tokio::test]
async fn every_changed_byte_of_every_column_is_found() {
    let (dir, tenants) = log().await;
    let audit = open(dir.path());
    let columns = [
        "position",
        "tenant",
        "first_revision",
        "count",
        "commit_id",
        "owner_epoch",
        "recorded_at",
        "prev_hash",
        "hash",
        "body",
        "payloads",
    ];
    // The first, a middle and the last commit of a stream.
    for (row, revision) in [(1, 1), (3, 3), (5, 5)] {
        for column in columns {
            let sql = format!("SELECT {column} FROM commits WHERE position = {row}");
            let original: Value = audit.connection().query_row(&sql, [], |row| row.get(0)).unwrap();
            let flips = flips(&original);
            assert!(flips.len() >= 8, "{column}");
            for flip in flips {
                let shown = format!("{column} of position {row}: {original:?} to {flip:?}");
                let value = if column == "tenant" { "CAST(?1 AS TEXT)" } else { "?1" };
                let update = format!("UPDATE commits SET {column} = {value} WHERE position = {row}");
                audit.connection().execute_batch("BEGIN").unwrap();
                match audit.connection().execute(&update, [flip]) {
                    Ok(1) => {
                        let report = verify(&audit);
                        assert!(names(&report, &tenants[0], revision), "{shown}: {:?}", report.findings);
                        let others = report.findings.iter().filter(|found| found.tenant.as_ref() == Some(&tenants[1]));
                        // A position that has moved is also missed by the commit that follows it.
                        assert!(column == "position" || others.count() == 0, "{shown}: {:?}", report.findings);
                    }
                    // Another row has that position already.
                    refused => assert!(column == "position" && refused.is_err(), "{shown}: {refused:?}"),
                }
                audit.connection().execute_batch("ROLLBACK").unwrap();
            }
        }
    }
    assert!(verify(&audit).is_clean());
}

#[tokio::test]
async fn one_altered_commit_is_one_finding_and_the_walk_goes_on() {
    let (dir, tenants) = log().await;
    let audit = open(dir.path());
    let change = |sql: &str| audit.connection().execute_batch(sql).unwrap();
    change(
        "UPDATE commits SET body = CAST(replace(CAST(body AS TEXT), '--greet', '--Greet') AS BLOB) WHERE position = 3",
    );
    let report = verify(&audit);
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert_eq!(
        report.findings[0].to_string(),
        format!("tenant {}, revision 3, position 3: its hash is not the hash of its content", tenants[0])
    );
    assert_eq!((report.commits, report.tenants), (5, 2));
    // A second one, behind it, is found too.
    change("UPDATE commits SET recorded_at = recorded_at + 1 WHERE position = 5");
    assert!(names(&verify(&audit), &tenants[0], 5));
}

#[tokio::test]
async fn a_commit_that_is_missing_is_found() {
    for (position, tenant, revision) in [(1, 0, 1), (3, 0, 3), (4, 1, 3)] {
        let (dir, tenants) = log().await;
        let audit = open(dir.path());
        audit.connection().execute("DELETE FROM commits WHERE position = ?1", [position]).unwrap();
        let report = verify(&audit);
        assert!(names(&report, &tenants[tenant], revision), "{:?}", report.findings);
        assert!(report.findings.iter().any(|found| found.position == Some(Position::new(position as u64))));
    }
}

#[tokio::test]
async fn an_exchange_of_two_streams_is_found() {
    let (dir, tenants) = log().await;
    let audit = open(dir.path());
    let swap = "UPDATE commits SET position = -3 WHERE position = 3; UPDATE commits SET position = 3 WHERE position = 5; \
                UPDATE commits SET position = 5 WHERE position = -3;";
    audit.connection().execute_batch(swap).unwrap();
    assert!(names(&verify(&audit), &tenants[0], 3));
}

#[tokio::test]
async fn a_rewritten_commit_with_a_fitting_hash_breaks_the_chain() {
    let (dir, tenants) = log().await;
    let audit = open(dir.path());
    let Some(Found::Row(row)) = audit.rows().nth(2) else { panic!("no third row") };
    let commit = row.commit.unwrap();
    let body = Bytes::from(String::from_utf8(commit.body().to_vec()).unwrap().replace("--greet", "--Greet"));
    let hash = ledger::chain_hash(commit.header(), &body);
    let update = "UPDATE commits SET body = ?1, hash = ?2 WHERE position = 3";
    audit.connection().execute(update, (&body[..], hash.as_bytes())).unwrap();
    let report = verify(&audit);
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(names(&report, &tenants[0], 5), "{:?}", report.findings);
}

#[tokio::test]
async fn rows_of_other_types_and_lengths_are_findings() {
    let (dir, tenants) = log().await;
    let audit = open(dir.path());
    let loose = "CREATE TABLE loose AS SELECT * FROM commits; DROP TABLE commits; CREATE TABLE commits (position INTEGER \
                 PRIMARY KEY, tenant, first_revision, count, commit_id, owner_epoch, recorded_at, prev_hash, hash, body, \
                 payloads, UNIQUE (tenant, first_revision)); INSERT INTO commits SELECT * FROM loose;";
    audit.connection().execute_batch(loose).unwrap();
    assert!(verify(&audit).is_clean());
    let values = ["NULL", "'text'", "7", "-7", "1.5", "x'00'", "zeroblob(32)", "zeroblob(16)", "9223372036854775807"];
    let columns = ["tenant", "first_revision", "count", "commit_id", "owner_epoch", "prev_hash", "hash", "body"];
    for column in columns {
        for value in values {
            audit.connection().execute_batch("BEGIN").unwrap();
            let update = format!("UPDATE commits SET {column} = {value} WHERE position = 3");
            audit.connection().execute_batch(&update).unwrap();
            let report = verify(&audit);
            assert!(names(&report, &tenants[0], 3), "{update}: {:?}", report.findings);
            audit.connection().execute_batch("ROLLBACK").unwrap();
        }
    }
}

#[tokio::test]
async fn a_wrong_size_of_a_payload_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let log = SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap();
    let stream = conformance::Stream::fresh();
    let Event::ExecutionFinished(mut longer) = finished(b"out", b"") else { panic!("not finished") };
    longer.stdout.size_bytes = 4;
    let commit = seal(&stream, vec![None, Some(Event::ExecutionFinished(longer))]);
    log.append(Append { commit, payloads: payloads([b"out"]) }).await.unwrap();
    let report = verify(&SqliteLog::open_read_only(dir.path()).unwrap());
    assert!(names(&report, &stream.tenant, 2) && report.findings[0].what.contains("3 bytes"), "{:?}", report.findings);
}

#[tokio::test]
async fn a_payload_that_was_exchanged_for_another_is_found() {
    let (dir, tenants) = log().await;
    let audit = open(dir.path());
    // Intact in itself, and as long as the one it replaces.
    let exchanged = payload::pack(&payloads([b"out", b"eve"]));
    let update = "UPDATE commits SET payloads = ?1 WHERE position = 3";
    audit.connection().execute(update, [&exchanged[..]]).unwrap();
    let blobs = tempfile::tempdir().unwrap();
    let report = super::verify(&audit, Checks { blobs: Some(blobs.path()), ..Checks::default() }, |_| {});
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(names(&report, &tenants[0], 3) && report.findings[0].what.contains("named by no event"));
    assert_eq!(report.missing.len(), 1, "the one that it replaced: {:?}", report.missing);
    assert_eq!(report.missing[0].revision, Some(Revision::new(4)));

    // A payload that is merely gone is no break of the history.
    audit.connection().execute("UPDATE commits SET payloads = NULL", []).unwrap();
    let report = super::verify(&audit, Checks { blobs: Some(blobs.path()), ..Checks::default() }, |_| {});
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!((report.missing(), report.blobs), (4, Some(0)), "each once a tenant: {:?}", report.missing);
}

#[tokio::test]
async fn a_changed_blob_is_a_finding_and_a_missing_one_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (log, folder) = (SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap(), dir.path().join("blobs"));
    let blobs = FsBlobs::open(&folder).unwrap();
    let mut stream = conformance::Stream::fresh();
    let output = blobs.put(Bytes::from_static(b"a long output")).await.unwrap();
    for _ in 0..2 {
        let commit = seal(&stream, vec![None, Some(finished(b"a long output", b""))]);
        stream.head = commit.head();
        log.append(Append { commit, payloads: Vec::new() }).await.unwrap();
    }
    drop(log);
    let audit = SqliteLog::open_read_only(dir.path()).unwrap();
    let with_blobs = || super::verify(&audit, Checks { blobs: Some(&folder), ..Checks::default() }, |_| {});
    let intact = with_blobs();
    assert!(intact.is_clean() && intact.missing() == 0, "{intact:?}");
    assert_eq!(intact.blobs, Some(1), "it is hashed once");

    let hex = output.to_hex();
    let file = folder.join("sha256").join(&hex[..2]).join(&hex);
    for bytes in [&b"a long outpux"[..], b"a long", b""] {
        fs::write(&file, bytes).unwrap();
        let report = with_blobs();
        assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        assert!(names(&report, &stream.tenant, 1) && report.findings[0].what.contains(&hex), "{:?}", report.findings);
        assert!(verify(&audit).is_clean() && verify(&audit).blobs.is_none(), "they were not to be checked");
    }
    fs::remove_file(&file).unwrap();
    let gone = with_blobs();
    assert!(gone.is_clean() && gone.missing() == 1, "{gone:?}");
    assert_eq!(gone.missing[0].revision, Some(Revision::new(1)));
}
