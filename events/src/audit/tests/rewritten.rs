//! A log that somebody has written anew, whole chains and all: heads that were kept elsewhere tell, and executions that end
//! as none can.

use super::*;
use crate::{envelope::Envelope, id::CommitId, log::ReadLimit, revision::Epoch};

/// The heads of a log, as somebody keeps them elsewhere.
fn kept(dir: &Path) -> Heads {
    let heads = verify(&SqliteLog::open_read_only(dir).unwrap()).heads.unwrap();
    serde_json::from_str(&serde_json::to_string(&heads).unwrap()).unwrap()
}

fn against(dir: &Path, heads: &Heads) -> Report {
    let checks = Checks { expected: Some(heads), ..Checks::default() };
    crate::audit::verify(&SqliteLog::open_read_only(dir).unwrap(), checks, |_| {})
}

/// Writes a log anew, as somebody who may change all of it would: these commits, in this order, each sealed on its stream's
/// last one.
async fn written_anew(commits: Vec<(TenantId, Vec<Envelope>)>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap();
    let mut heads = HashMap::new();
    for (tenant, mut envelopes) in commits {
        let head = heads.entry(tenant.clone()).or_insert_with(|| Head::genesis(&tenant));
        for (envelope, n) in envelopes.iter_mut().zip(1..) {
            envelope.revision = head.revision.plus(n);
        }
        let (id, at) = (CommitId::new(envelopes[0].id.as_uuid()), envelopes[0].time);
        let commit = Commit::seal(head, tenant, id, Epoch::FIRST, at, envelopes).unwrap();
        *head = commit.head();
        log.append(Append { commit, payloads: Vec::new() }).await.unwrap();
    }
    log.close();
    dir
}

/// Everything that is in a log.
async fn all(dir: &Path) -> Vec<(TenantId, Vec<Envelope>)> {
    let log = SqliteLog::open(dir, SqliteLogConfig::default()).unwrap();
    let commits = log.read_all(Position::START, ReadLimit::default()).await.unwrap();
    log.close();
    commits.iter().map(|it| (it.commit.tenant().clone(), it.commit.events().unwrap().to_vec())).collect()
}

#[tokio::test]
async fn what_chains_alone_do_not_show_kept_heads_do() {
    let (dir, [a, b]) = log().await;
    let heads = kept(dir.path());
    let met = against(dir.path(), &heads);
    assert!(met.is_clean() && met.expected == Some(2) && heads.commits == 6, "{met:?}");

    let commits = all(dir.path()).await;
    let altered = || {
        let mut commits = commits.clone();
        commits[2].1[0].cause.traceparent = None;
        commits
    };
    let swapped = || {
        let mut commits = commits.clone();
        commits.swap(2, 3);
        commits
    };
    let cases: [(&str, Vec<_>, Option<&TenantId>); 5] = [
        ("the newest commit is gone", commits[..5].to_vec(), Some(&b)),
        ("all newest commits are gone", commits[..2].to_vec(), Some(&a)),
        ("it is hashed anew from the middle", altered(), Some(&a)),
        ("a tenant is gone", commits.iter().filter(|(tenant, _)| *tenant == a).cloned().collect(), Some(&b)),
        ("two commits are swapped", swapped(), None),
    ];
    for (case, commits, tenant) in cases {
        let rewritten = written_anew(commits).await;
        let alone = verify(&SqliteLog::open_read_only(rewritten.path()).unwrap());
        assert!(alone.is_clean(), "{case}: {:?}", alone.findings);
        let report = against(rewritten.path(), &heads);
        assert!(report.findings.iter().any(|found| found.tenant.as_ref() == tenant), "{case}: {:?}", report.findings);
    }
}

#[tokio::test]
async fn a_history_that_went_on_still_meets_its_heads() {
    let (dir, _) = log().await;
    let heads = kept(dir.path());
    let log: conformance::Log = Arc::new(SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap());
    conformance::Stream::fresh().append(&log, 3).await;
    let report = against(dir.path(), &heads);
    assert!(report.is_clean() && report.expected == Some(2) && report.tenants == 3, "{report:?}");
}

#[tokio::test]
async fn an_execution_has_one_end_and_nothing_ends_that_was_not_accepted() {
    let (dir, [a, _]) = log().await;
    let commits = all(dir.path()).await;
    let (mine, end) = (commits[0].1.clone(), commits[0].1[1].clone());
    for (case, events) in [
        ("two ends", vec![mine[0].clone(), end.clone(), end.clone()]),
        ("an end without acceptance", vec![end.clone()]),
        ("two acceptances", vec![mine[0].clone(), mine[0].clone()]),
    ] {
        let rewritten = written_anew(vec![(a.clone(), events)]).await;
        let report = verify(&SqliteLog::open_read_only(rewritten.path()).unwrap());
        assert_eq!(report.findings.len(), 1, "{case}: {:?}", report.findings);
    }
    let open = written_anew(vec![(a.clone(), vec![mine[0].clone()])]).await;
    let report = verify(&SqliteLog::open_read_only(open.path()).unwrap());
    assert!(report.is_clean() && report.open == 1, "{report:?}");
}
