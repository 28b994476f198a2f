//! What is changed in the file itself, below the rows.

use super::*;
use crate::log::ReadLimit;

#[tokio::test]
async fn the_file_is_checked_unless_somebody_holds_the_log() {
    let (dir, _) = log().await;
    let audit = SqliteLog::open_read_only(dir.path()).unwrap();
    assert_eq!(verify(&audit).file, FileCheck::Checked);
    let node = SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap();
    assert_eq!(verify(&audit).file, FileCheck::Skipped);
    let forced = crate::audit::verify(&audit, Checks { held_file: true, ..Checks::default() }, |_| {});
    assert_eq!(forced.file, FileCheck::Checked);
    drop(node);
    assert_eq!(verify(&audit).file, FileCheck::Checked);
}

#[tokio::test]
async fn every_changed_byte_of_a_body_in_the_file_is_found() {
    // Small ones: a page that was split would hold a second copy, which nobody reads.
    let (dir, mut stream) = (tempfile::tempdir().unwrap(), conformance::Stream::fresh());
    let log = Arc::new(SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap());
    for _ in 0..3 {
        stream.append(&(Arc::clone(&log) as conformance::Log), 1).await;
    }
    log.close();
    drop(log);
    let Some(Found::Row(row)) = open(dir.path()).rows().nth(2) else { panic!("no third row") };
    let body = row.body.unwrap();
    let path = dir.path().join("events.db");
    let original = fs::read(&path).unwrap();
    let start = original.windows(body.len()).position(|window| window == body).expect("the body lies in one piece");
    for index in start..start + body.len() {
        let mut bytes = original.clone();
        bytes[index] ^= 0x04;
        fs::write(&path, &bytes).unwrap();
        let report = verify(&SqliteLog::open_read_only(dir.path()).unwrap());
        assert!(names(&report, &stream.tenant, 3), "byte {index}: {:?}", report.findings);
    }
}

/// Anywhere in the file, also in pages, cells and headers: either the audit finds it, or every commit is as it was.
#[tokio::test]
async fn a_changed_byte_anywhere_in_the_file_is_found_or_harmless() {
    let (dir, _) = log().await;
    let path = dir.path().join("events.db");
    let original = fs::read(&path).unwrap();
    let hashes = |audit: &SqliteAudit| -> Vec<_> {
        let hash = |found: Found| match found {
            Found::Row(row) => row.commit.ok().map(|commit| (row.position, commit.hash())),
            Found::Damage { .. } => None,
        };
        audit.rows().map(hash).collect()
    };
    let expected = hashes(&SqliteLog::open_read_only(dir.path()).unwrap());
    let mut found = 0;
    for index in (0..original.len()).step_by(23) {
        let mut bytes = original.clone();
        bytes[index] ^= 1 << (index % 8);
        fs::write(&path, &bytes).unwrap();
        // A file that cannot be opened is a finding as well.
        let Ok(audit) = SqliteLog::open_read_only(dir.path()) else { continue };
        let report = verify(&audit);
        found += usize::from(!report.is_clean());
        assert!(!report.is_clean() || hashes(&audit) == expected, "byte {index}");
    }
    assert!(found > 100, "{found}");
}

#[tokio::test]
async fn a_page_that_cannot_be_read_costs_its_rows_only() {
    let dir = tempfile::tempdir().unwrap();
    let log = SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap();
    let mut stream = conformance::Stream::fresh();
    for _ in 0..200 {
        let commit = stream.seal(1);
        stream.head = commit.head();
        log.append(Append { commit, payloads: Vec::new() }).await.unwrap();
    }
    let middle = log.read_all(Position::new(100), ReadLimit { commits: 1, bytes: 0 }).await.unwrap().remove(0);
    log.close();
    let path = dir.path().join("events.db");
    let mut bytes = fs::read(&path).unwrap();
    let body = middle.commit.body();
    let at = bytes.windows(body.len()).position(|window| window == body).unwrap();
    // The page's kind and the number of its cells.
    let page = at / 8_192 * 8_192;
    bytes[page..page + 8].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let report = verify(&SqliteLog::open_read_only(dir.path()).unwrap());
    assert!(report.commits > 150, "{}", report.commits);
    let named = report.findings.iter().filter(|found| found.tenant.as_ref() == Some(&stream.tenant));
    assert!(named.count() > 0 && names(&report, &stream.tenant, 101), "{:?}", report.findings);
}
