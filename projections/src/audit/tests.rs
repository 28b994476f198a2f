//! The view of audit: its fold and its queries, given events.

use wasmwiz_events::{commit::Recorded, envelope::Actor};

use super::*;
use crate::testing::{
    DEADLINE, EPOCH_MS, History, TestLog, issued, key_id, published, registered, tenant_id, unknown, views_of,
};

use std::sync::Arc;

fn revisions(listed: &Listed<EventRef, AuditCursor>) -> Vec<u64> {
    listed.items.iter().map(|place| place.revision.get()).collect()
}

/// Revisions 1 to 6 of `acme` in three commits, and one commit of another tenant between them.
fn commits() -> Vec<Arc<Recorded>> {
    let (acme, other) = (tenant_id("acme"), tenant_id("other"));
    let mut history = History::new(1);
    let operator = Actor::operator("ada");
    vec![
        history.commit_by(&acme, operator, vec![registered("Acme"), issued("k123")]),
        history.commit(&other, vec![registered("Other"), issued("k999")]),
        history.commit_by(&acme, Actor::key(&key_id("k123")), vec![issued("k456"), unknown(), published("hello", 1)]),
        history.commit(&acme, vec![published("hello", 2)]),
    ]
}

#[tokio::test]
async fn each_filter_finds_its_events_and_no_other_tenants() {
    let acme = tenant_id("acme");
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits()).await;
    let all = AuditFilter::default();
    let text = |text: &str| Some(text.to_owned());
    let at = |ms: i64| Some(Timestamp::from_unix_ms(EPOCH_MS + ms));
    let cases = [
        (all.clone(), vec![6, 5, 4, 3, 2, 1]),
        (AuditFilter { type_name: text("dev.wasmwiz.key.issued.v1"), ..all.clone() }, vec![3, 2]),
        (AuditFilter { type_name: text("dev.wasmwiz.moon.landed.v1"), ..all.clone() }, vec![4]),
        (AuditFilter { type_name: text("dev.wasmwiz.never.seen.v1"), ..all.clone() }, vec![]),
        (AuditFilter { actor: text("operator:ada"), ..all.clone() }, vec![2, 1]),
        (AuditFilter { actor: text("k123"), ..all.clone() }, vec![5, 4, 3]),
        (AuditFilter { subject: text("modules/hello"), ..all.clone() }, vec![6, 5]),
        (AuditFilter { subject: text("keys/k999"), ..all.clone() }, vec![]),
        (AuditFilter { from: at(2), ..all.clone() }, vec![6, 5, 4, 3]),
        (AuditFilter { to: at(2), ..all.clone() }, vec![2, 1]),
        (AuditFilter { from: at(2), to: at(3), ..all.clone() }, vec![5, 4, 3]),
    ];
    for (filter, expected) in cases {
        let found = views.audit().find(&acme, filter.clone(), Page::first(10)).await.unwrap();
        assert_eq!(revisions(&found), expected, "{filter:?}");
        assert_eq!(found.next, None, "{filter:?}");
    }
    let found = views.audit().find(&acme, AuditFilter { subject: text("modules/hello"), ..all }, Page::first(1)).await;
    let place = EventRef { position: Position::new(4), index: 0, revision: Revision::new(6) };
    assert_eq!(found.unwrap().items, [place]);
}

#[tokio::test]
async fn pages_cut_commits_anywhere_and_stay_where_they_are_while_commits_come() {
    let acme = tenant_id("acme");
    for limit in 1..=7 {
        let log = TestLog::of(&commits()[..3]);
        let folder = tempfile::tempdir().unwrap();
        let views = log.views(folder.path()).await;
        views.wait_for(log.end(), DEADLINE).await.unwrap();
        let (mut seen, mut page) = (Vec::new(), Page::first(limit));
        loop {
            let found = views.audit().find(&acme, AuditFilter::default(), page).await.unwrap();
            seen.extend(revisions(&found));
            let Some(next) = found.next else { break };
            assert_eq!(found.items.len(), limit as usize);
            page = Page::following(limit, next);
            if log.end() == Position::new(3) {
                views.wait_for(log.push(commits()[3].clone()), DEADLINE).await.unwrap();
            }
        }
        assert_eq!(seen, [5, 4, 3, 2, 1], "limit {limit}");
    }
}

#[tokio::test]
async fn a_filter_that_few_pass_looks_at_a_bounded_number_of_commits_and_goes_on() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let mut commits = vec![history.commit(&acme, vec![registered("Acme")])];
    commits.extend((0..SCANNED_COMMITS).map(|_| history.commit(&acme, vec![unknown()])));
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let type_name = Some("dev.wasmwiz.tenant.registered.v1".to_owned());
    let filter = AuditFilter { type_name, ..AuditFilter::default() };
    let first = views.audit().find(&acme, filter.clone(), Page::first(10)).await.unwrap();
    assert!(first.items.is_empty());
    let second = views.audit().find(&acme, filter, Page::following(10, first.next.unwrap())).await.unwrap();
    assert_eq!((revisions(&second), second.next), (vec![1], None));
}

#[tokio::test]
async fn the_head_is_the_end_of_the_tenants_own_stream() {
    let commits = commits();
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let head = |commit: &Recorded| AuditHead {
        revision: commit.commit.last_revision(),
        hash: commit.commit.hash(),
        position: commit.position,
    };
    assert_eq!(views.audit().head(&tenant_id("acme")).await.unwrap(), Some(head(&commits[3])));
    assert_eq!(views.audit().head(&tenant_id("other")).await.unwrap(), Some(head(&commits[1])));
    assert_eq!(views.audit().head(&tenant_id("nobody")).await.unwrap(), None);
}
