//! One stream is set aside, and all others are served.

use std::{path::Path, sync::Arc};

use wasmwiz_events::{
    commit::{Commit, Header},
    execution::Outcome,
    skip::Skipped,
    time::Timestamp,
};

use super::*;
use crate::{
    Config, Page, State, Views,
    audit::AuditFilter,
    executions::ExecutionFilter,
    testing::{
        DEADLINE, EPOCH_MS, History, TestLog, accepted, finished, issued, key_id, module_ref, published, registered,
        tenant_id, undecodable,
    },
    usage::{Span, UsageBy},
    views::{Checksum, View},
};

mod skips;

const ALL: [View; 5] = [View::Keys, View::Modules, View::Executions, View::Usage, View::Audit];

fn acme() -> TenantId {
    tenant_id("acme")
}

fn other() -> TenantId {
    tenant_id("other")
}

/// Two tenants that take turns: each is registered, publishes, runs three times, and gets another key.
fn two_tenants() -> Vec<Arc<Recorded>> {
    lived().1
}

/// The same, and how it can go on.
fn lived() -> (History, Vec<Arc<Recorded>>) {
    let mut history = History::new(1);
    let mut commits = Vec::new();
    let both = [(acme(), "a", 0), (other(), "b", 10)];
    for (tenant, key, _) in &both {
        commits.push(history.commit(tenant, vec![registered(tenant.as_str()), issued(&format!("{key}111"))]));
    }
    for (tenant, _, _) in &both {
        commits.push(history.commit(tenant, vec![published("hello", 1)]));
    }
    for n in 1..=3 {
        for (tenant, key, from) in &both {
            let run = accepted(from + n, &format!("{key}111"), module_ref("hello", 1));
            commits.push(history.commit(tenant, vec![run]));
            commits.push(history.commit(tenant, vec![finished(from + n, Outcome::Succeeded)]));
        }
    }
    for (tenant, key, _) in &both {
        commits.push(history.commit(tenant, vec![issued(&format!("{key}222"))]));
    }
    (history, commits)
}

/// An operator's word that a commit of `acme` may be passed over.
fn skipped(position: Position) -> Event {
    Event::CommitSkipped(Skipped { tenant: acme(), position, reason: "a sector is gone".to_owned() })
}

fn system() -> TenantId {
    tenant_id("system")
}

/// The commit of `acme` that accepts its first execution.
const PLACE: Position = Position::new(5);

async fn caught_up(folder: &Path, log: &TestLog) -> Views {
    let views = log.views(folder).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    for view in ALL {
        views.until_live(view, DEADLINE).await.unwrap();
    }
    views
}

/// Everything that may be asked about a tenant, as text.
async fn told(views: &Views, tenant: &TenantId) -> Result<String, QueryError> {
    let keys = views.keys().list_keys(tenant, Page::first(50)).await?.items;
    let modules = views.modules().list(tenant, Page::first(50)).await?.items;
    let runs = views.executions().list(tenant, ExecutionFilter::default(), Page::first(50)).await?.items;
    let audit = views.audit().find(tenant, AuditFilter::default(), Page::first(50)).await?.items;
    let head = views.audit().head(tenant).await?;
    let (from, to) = (Timestamp::from_unix_ms(EPOCH_MS), Timestamp::from_unix_ms(EPOCH_MS + 3_600_000));
    let span = Span { from, to };
    let usage = views.usage().usage(tenant, span, UsageBy::Module, Page::first(50)).await?.items;
    Ok(format!("{keys:#?} {modules:#?} {runs:#?} {audit:#?} {head:#?} {usage:#?}"))
}

fn set_aside(views: &Views) -> Vec<(&'static str, TenantId, Position, u64)> {
    let status = views.status();
    assert!(status.iter().all(|view| view.state != State::CatchingUp && view.trouble.is_none()), "{status:?}");
    let all = status.into_iter().flat_map(|view| view.set_aside.into_iter().map(move |aside| (view.name, aside)));
    all.map(|(view, aside)| (view, aside.tenant, aside.position, aside.commits)).collect()
}

#[tokio::test]
async fn a_commit_that_cannot_be_read_is_its_tenants_trouble_alone() {
    let log = TestLog::of(&two_tenants());
    let (folder, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sound = told(&caught_up(fresh.path(), &log).await, &other()).await.unwrap();
    log.damage(PLACE);

    let views = caught_up(folder.path(), &log).await;

    assert_eq!(told(&views, &other()).await.unwrap(), sound);
    // The place, five more of its runs, and its other key.
    let of = |view| (view, acme(), PLACE, 7);
    assert_eq!(set_aside(&views), [of("keys"), of("modules"), of("executions"), of("usage"), of("audit")]);
    let refused = |answer: Result<(), QueryError>| {
        assert!(matches!(answer, Err(QueryError::SetAside { position: PLACE, .. })), "{answer:?}");
    };
    let tenant = acme();
    refused(views.keys().list_keys(&tenant, Page::first(1)).await.map(drop));
    refused(views.keys().get_key(&tenant, &key_id("a111")).await.map(drop));
    refused(views.modules().list(&tenant, Page::first(1)).await.map(drop));
    let hello = crate::testing::module_name("hello");
    refused(views.modules().get(&tenant, &hello).await.map(drop));
    refused(views.modules().get_version(&tenant, &hello, 1).await.map(drop));
    refused(views.modules().versions(&tenant, &hello, Page::first(1)).await.map(drop));
    refused(views.executions().get(&tenant, crate::testing::execution_id(1)).await.map(drop));
    refused(views.executions().list(&tenant, ExecutionFilter::default(), Page::first(1)).await.map(drop));
    refused(views.audit().find(&tenant, AuditFilter::default(), Page::first(1)).await.map(drop));
    refused(views.audit().head(&tenant).await.map(drop));
    // Who shows a key of it is told so, also one that was issued behind the place.
    assert!(views.keys().set_aside(&tenant).unwrap().reason.contains("hash"));
    assert_eq!(views.keys().authenticate_lookup(&key_id("a111")).unwrap().tenant, tenant);
    assert_eq!(views.keys().set_aside_with(&key_id("a222")).unwrap().position, PLACE);
    assert!(views.keys().set_aside_with(&key_id("b222")).is_none() && views.keys().set_aside(&other()).is_none());
}

#[tokio::test]
async fn what_can_be_read_again_is_folded_to_its_end() {
    let log = TestLog::of(&two_tenants());
    let fresh = tempfile::tempdir().unwrap();
    let sound = caught_up(fresh.path(), &log).await;
    let expected = (told(&sound, &acme()).await.unwrap(), told(&sound, &other()).await.unwrap());
    for place in [1, 2, 5, 6, 8, 17].map(Position::new) {
        for restarts in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            log.damage(place);
            let mut views = caught_up(folder.path(), &log).await;
            assert_eq!(set_aside(&views).len(), 5, "{place}");
            views.try_again().await.unwrap();
            assert_eq!(set_aside(&views).len(), 5, "nothing has changed");
            log.repair();
            if restarts {
                drop(views);
                views = caught_up(folder.path(), &log).await;
            }
            views.try_again().await.unwrap();
            assert_eq!(set_aside(&views), [], "{place}, {restarts}");
            let now = (told(&views, &acme()).await.unwrap(), told(&views, &other()).await.unwrap());
            assert_eq!(now, expected, "{place}, {restarts}");
            assert!(views.keys().set_aside_with(&key_id("a222")).is_none());
        }
    }
}

#[tokio::test]
async fn a_commit_that_is_gone_is_not_taken_for_one_that_can_be_read() {
    for place in [5, 6, 17].map(Position::new) {
        let log = TestLog::of(&two_tenants());
        let folder = tempfile::tempdir().unwrap();
        log.damage(place);
        let views = caught_up(folder.path(), &log).await;
        log.repair();
        log.remove(place);
        views.try_again().await.unwrap();
        assert_eq!(set_aside(&views).len(), 5, "{place}");
        // Nor is one behind it.
        let log = TestLog::of(&two_tenants());
        let folder = tempfile::tempdir().unwrap();
        log.damage(PLACE);
        let views = caught_up(folder.path(), &log).await;
        log.repair();
        let gone = two_tenants().remove(8);
        log.remove(gone.position);
        views.try_again().await.unwrap();
        let aside = views.keys().set_aside(&acme()).unwrap();
        assert!(
            aside.position == Position::new(6) && !aside.names_fault(),
            "what is behind the gap is sound: {aside:?}"
        );
        assert!(aside.reason.contains("between positions 6 and 10"), "{aside:?}");
        // No skip helps, of the place before the gap or of the one behind it.
        let skips = [6, 10].map(Position::new).map(skipped);
        log.push(lived().0.commit(&system(), vec![registered("System")].into_iter().chain(skips).collect()));
        settled(&views, &log).await;
        assert_eq!(set_aside(&views).len(), 5, "{place}");
        log.put_back(&gone);
        views.try_again().await.unwrap();
        assert_eq!(set_aside(&views), []);
        let fresh = tempfile::tempdir().unwrap();
        let sound = caught_up(fresh.path(), &log).await;
        assert_eq!(told(&views, &acme()).await.unwrap(), told(&sound, &acme()).await.unwrap());
    }
}

#[tokio::test]
async fn a_stream_that_has_become_shorter_is_not_whole() {
    let log = TestLog::of(&two_tenants());
    let folder = tempfile::tempdir().unwrap();
    log.damage(PLACE);
    let views = caught_up(folder.path(), &log).await;
    log.repair();
    log.remove(Position::new(17));
    views.try_again().await.unwrap();
    let aside = views.keys().set_aside(&acme()).unwrap();
    assert!(
        aside.reason.contains("1 commits that were passed over are missing between positions 14 and 18"),
        "{aside:?}"
    );
    assert!(aside.position == Position::new(14) && !aside.names_fault(), "{aside:?}");
}

#[tokio::test]
async fn what_was_revoked_behind_the_place_opens_nothing_meanwhile_or_later() {
    let mut history = History::new(1);
    let commits = [
        history.commit(&acme(), vec![registered("Acme"), issued("k123")]),
        history.commit(&acme(), vec![published("hello", 1)]),
        history.commit(&acme(), vec![Event::KeyRevoked(wasmwiz_events::key::Revoked { key_id: key_id("k123") })]),
    ];
    let log = TestLog::of(&commits);
    let folder = tempfile::tempdir().unwrap();
    log.damage(commits[1].position);
    let views = caught_up(folder.path(), &log).await;
    assert!(views.keys().set_aside(&acme()).is_some());
    assert!(matches!(views.keys().get_key(&acme(), &key_id("k123")).await, Err(QueryError::SetAside { .. })));
    log.repair();
    views.try_again().await.unwrap();
    assert!(views.keys().set_aside(&acme()).is_none() && views.keys().authenticate_lookup(&key_id("k123")).is_none());
}

#[tokio::test]
async fn a_long_past_is_folded_turn_by_turn_wherever_the_process_dies() {
    let log = TestLog::of(&two_tenants());
    let one_by_one = Config { batch_events: 1, linger_ms: 0, ..Config::default() };
    let (folder, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = told(&caught_up(fresh.path(), &log).await, &acme()).await.unwrap();
    log.damage(Position::new(1));
    drop(caught_up(folder.path(), &log).await);
    log.repair();
    // Four commits a turn, and nine are to be folded.
    for _ in 0..6 {
        let views = log.views_with(folder.path(), one_by_one.clone()).await;
        tokio::task::yield_now().await;
        drop(views);
    }
    let views = log.views_with(folder.path(), one_by_one).await;
    views.try_again().await.unwrap();
    assert_eq!(views.status().into_iter().flat_map(|view| view.set_aside).count(), 0);
    assert_eq!(told(&views, &acme()).await.unwrap(), expected);
}

#[tokio::test]
async fn a_stream_with_two_places_is_folded_up_to_the_second() {
    let log = TestLog::of(&two_tenants());
    let (folder, second) = (tempfile::tempdir().unwrap(), Position::new(13));
    log.damage(PLACE);
    log.damage(second);
    let views = caught_up(folder.path(), &log).await;
    assert_eq!(views.keys().set_aside(&acme()).unwrap().commits, 7);

    log.repair();
    log.damage(second);
    views.try_again().await.unwrap();

    let aside = views.keys().set_aside(&acme()).unwrap();
    assert_eq!(aside.position, second, "what is not whole is not told, and the place is the one that cannot be read");
    log.repair();
    views.try_again().await.unwrap();
    assert_eq!(set_aside(&views), []);
}

#[tokio::test]
async fn the_same_history_with_the_same_places_gives_the_same_rows_however_it_is_cut() {
    for seed in 1..=3 {
        let log = TestLog::of(&History::new(seed).commits(200));
        for place in [3, 50, 51, 120] {
            log.damage(Position::new(place));
        }
        let rows = async |config: Config| -> Vec<Checksum> {
            let folder = tempfile::tempdir().unwrap();
            let views = log.views_with(folder.path(), config).await;
            views.wait_for(log.end(), DEADLINE).await.unwrap();
            views.checksums().await.unwrap()
        };
        let at_once = rows(Config::default()).await;
        assert_eq!(rows(Config { batch_events: 7, linger_ms: 0, ..Config::default() }).await, at_once, "seed {seed}");
        assert_eq!(rows(Config { batch_events: 1, linger_ms: 0, ..Config::default() }).await, at_once, "seed {seed}");
    }
}

#[tokio::test]
async fn it_is_still_set_aside_after_a_restart() {
    let log = TestLog::of(&two_tenants());
    let folder = tempfile::tempdir().unwrap();
    log.damage(Position::new(17));
    let before = set_aside(&caught_up(folder.path(), &log).await);
    let views = caught_up(folder.path(), &log).await;
    assert_eq!((set_aside(&views), before.len()), (before.clone(), 5));
    assert!(matches!(told(&views, &acme()).await, Err(QueryError::SetAside { .. })));
}

#[tokio::test]
async fn when_nobody_knows_whose_a_commit_is_everybody_waits() {
    let log = TestLog::of(&two_tenants());
    let folder = tempfile::tempdir().unwrap();
    log.damage(PLACE);
    log.forget_whose();
    let views = log.views(folder.path()).await;
    for view in ALL {
        let behind = views.wait_for_view(view, log.end(), DEADLINE).await.unwrap_err();
        assert!(behind.stopped && behind.position < PLACE, "{behind:?}");
    }
    let stopped =
        |state: &State| matches!(state, State::Stopped { position: PLACE, reason } if reason.contains("whose"));
    assert!(views.status().iter().all(|view| stopped(&view.state)), "{:?}", views.status());
    assert!(views.try_again().await.unwrap_err().stopped, "waiting does not help");
}

#[tokio::test]
async fn an_event_that_cannot_be_folded_sets_aside_its_stream() {
    let mut commits = two_tenants();
    let last_of_acme = commits.iter().rfind(|it| *it.commit.tenant() == acme()).unwrap().clone();
    let header = undecodable(&last_of_acme).commit.header().clone();
    let poison = Commit::from_stored(header, last_of_acme.commit.hash(), bytes::Bytes::from_static(b"[{}]"));
    let position = commits.last().unwrap().position.next();
    commits.push(Arc::new(Recorded { position, commit: poison }));
    let log = TestLog::of(&commits);
    let folder = tempfile::tempdir().unwrap();

    let views = caught_up(folder.path(), &log).await;

    assert_eq!(set_aside(&views).len(), 5);
    assert!(set_aside(&views).iter().all(|(_, tenant, at, commits)| (tenant, at, commits) == (&acme(), &position, &1)));
    assert!(views.keys().set_aside(&acme()).unwrap().reason.contains("cannot be read"));
    told(&views, &other()).await.unwrap();
}

#[tokio::test]
async fn an_impossible_end_sets_the_stream_aside_in_the_views_that_count_it() {
    let mut history = History::new(1);
    let commits = [
        history.commit(&acme(), vec![registered("Acme"), issued("k123"), accepted(1, "k123", module_ref("hello", 1))]),
        history.commit(&acme(), vec![finished(1, Outcome::Succeeded)]),
        history.commit(&acme(), vec![finished(1, Outcome::Trapped)]),
        history.commit(&other(), vec![registered("Other"), issued("k456")]),
        history.commit(&acme(), vec![issued("k789")]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let log = TestLog::of(&commits);

    let views = caught_up(folder.path(), &log).await;

    let place = commits[2].position;
    assert_eq!(set_aside(&views), [("executions", acme(), place, 2), ("usage", acme(), place, 2)]);
    assert!(views.keys().authenticate_lookup(&key_id("k789")).is_some() && views.keys().set_aside(&acme()).is_none());
    told(&views, &other()).await.unwrap();
    // A program that knows better, or a log that says otherwise: here the second end is another event.
    let header = Header { count: 1, ..commits[2].commit.header().clone() };
    let body = commits[4].commit.body().clone();
    let commit = Commit::from_stored(header, commits[2].commit.hash(), body);
    log.replace(&Arc::new(Recorded { position: place, commit }));
    views.try_again().await.unwrap();
    assert_eq!(set_aside(&views), []);
    let record = views.executions().get(&acme(), crate::testing::execution_id(1)).await.unwrap().unwrap();
    assert_eq!(record.end.unwrap().outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn a_commit_that_holds_another_tenants_event_is_nobodys() {
    let mut history = History::new(1);
    let good = history.commit(&acme(), vec![registered("Acme")]);
    let theirs = history.commit(&other(), vec![registered("Other")]);
    let header =
        Header { tenant: acme(), first_revision: good.commit.last_revision().next(), ..theirs.commit.header().clone() };
    let smuggled = Commit::from_stored(header, theirs.commit.hash(), theirs.commit.body().clone());
    let log = TestLog::of(&[good, Arc::new(Recorded { position: theirs.position, commit: smuggled })]);
    let folder = tempfile::tempdir().unwrap();
    let views = caught_up(folder.path(), &log).await;
    assert!(views.keys().tenant(&other()).is_none());
    assert!(views.keys().set_aside(&acme()).is_some());
}

/// Waits until the views have folded and tried everything that the log has.
async fn settled(views: &Views, log: &TestLog) {
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    views.try_again().await.unwrap();
    for view in ALL {
        views.until_live(view, DEADLINE).await.unwrap();
    }
}
