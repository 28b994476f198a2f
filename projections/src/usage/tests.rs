//! The view of usage: its fold and its queries, given events.

use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::ModuleRef,
    module::{Deleted, Published},
    retention::{Class, Released},
    revision::Revision,
    transcript::READING_BYTES,
};

use super::*;
use crate::{
    Config,
    testing::{
        DEADLINE, EPOCH_MS, History, TestLog, accepted, finished, lost, module_name, module_ref, published, registered,
        tenant_id, views_of,
    },
};

const HOUR_MS: u64 = 3_600_000;

fn hour(n: i64) -> Timestamp {
    Timestamp::from_unix_ms(EPOCH_MS + n * 3_600_000)
}

fn span(from: Timestamp, to: Timestamp) -> Span {
    Span { from, to }
}

fn labels(report: &[UsageRow]) -> Vec<(String, u64)> {
    let label = |row: &UsageRow| match &row.bucket {
        UsageBucket::Time(time) => time.to_string(),
        UsageBucket::Label(label) => label.clone(),
    };
    report.iter().map(|row| (label(row), row.executions_by_outcome.values().sum())).collect()
}

#[tokio::test]
async fn executions_count_in_the_hour_in_which_they_end_under_what_they_were_accepted_with() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let hello = module_ref("hello", 1);
    let one_off = ModuleRef { name: None, version: None, digest: Digest::of(b"one-off") };
    let mut commits = vec![history.commit(
        &acme,
        vec![
            registered("Acme"),
            accepted(1, "k123", hello.clone()),
            finished(1, Outcome::Succeeded),
            accepted(2, "k123", hello),
            accepted(3, "k456", one_off.clone()),
            accepted(4, "k456", one_off.clone()),
        ],
    )];
    history.pass_ms(HOUR_MS);
    commits.push(history.commit(&acme, vec![finished(2, Outcome::Succeeded), finished(3, Outcome::Trapped)]));
    history.pass_ms(24 * HOUR_MS);
    commits.push(history.commit(&acme, vec![lost(4)]));
    // Whether pairs meet in memory or through the table of open executions makes no difference.
    for batch_events in [1_000, 1] {
        let folder = tempfile::tempdir().unwrap();
        let log = TestLog::of(&commits);
        let views = log.views_with(folder.path(), Config { batch_events, ..Config::default() }).await;
        views.wait_for(log.end(), DEADLINE).await.unwrap();
        let report =
            async |from, to, by| views.usage().usage(&acme, span(from, to), by, Page::first(200)).await.unwrap().items;

        let by_hour = report(hour(0), hour(48), UsageBy::Hour).await;
        let expected = [(hour(0).to_string(), 1), (hour(1).to_string(), 2), (hour(25).to_string(), 1)];
        assert_eq!(labels(&by_hour), expected);
        let second = &by_hour[1];
        assert_eq!(second.executions_by_outcome, BTreeMap::from([(Outcome::Succeeded, 1), (Outcome::Trapped, 1)]));
        assert_eq!((second.fuel, second.cpu, second.wall), (20, Millis::from_micros(32), Millis::from_micros(45)));
        // The two took 22 and 23 microseconds: bins of one value.
        let percentiles = [22, 23, 23].map(Millis::from_micros);
        let [p50, p95, p99] = percentiles;
        assert_eq!(second.wall_percentiles, Some(Percentiles { p50, p95, p99 }));
        assert_eq!(by_hour[2].wall_percentiles, None, "a lost execution was not measured");
        assert_eq!(second.peak_memory_bytes, 4 * 65_536);
        assert_eq!((second.stdin_bytes, second.stdout_bytes, second.stderr_bytes), (8, 6, 0));

        let by_day = report(hour(0), hour(48), UsageBy::Day).await;
        assert_eq!(labels(&by_day), [(hour(0).to_string(), 3), (hour(24).to_string(), 1)]);
        let by_key = report(hour(0), hour(48), UsageBy::Key).await;
        assert_eq!(labels(&by_key), [("k123".to_owned(), 2), ("k456".to_owned(), 2)]);
        let by_module = report(hour(0), hour(48), UsageBy::Module).await;
        assert_eq!(labels(&by_module), [("hello".to_owned(), 2), (one_off.digest.to_string(), 2)]);

        let until_one = report(hour(0), hour(1), UsageBy::Hour).await;
        assert_eq!(labels(&until_one), [(hour(0).to_string(), 1)]);
        let after_one = report(hour(1).plus_ms(1), hour(1).plus_ms(2), UsageBy::Hour).await;
        assert_eq!(labels(&after_one), [(hour(1).to_string(), 2)], "hours are whole");
    }
}

#[tokio::test]
async fn what_is_kept_of_the_hosts_clocks_is_counted_as_what_is_written_is() {
    let acme = tenant_id("acme");
    let told = |n, readings| {
        let Event::ExecutionFinished(mut finished) = finished(n, Outcome::Succeeded) else { unreachable!() };
        (finished.trace_digest, finished.trace_readings) = (Some(Digest::of(b"readings")), Some(readings));
        Event::ExecutionFinished(finished)
    };
    let mut history = History::new(1);
    let of = |n| accepted(n, "k123", module_ref("hello", 1));
    let events = vec![registered("Acme"), of(1), told(1, 3), of(2), finished(2, Outcome::Succeeded), of(3), told(3, 4)];
    let commits = [history.commit(&acme, events)];
    for batch_events in [1_000, 1] {
        let folder = tempfile::tempdir().unwrap();
        let log = TestLog::of(&commits);
        let views = log.views_with(folder.path(), Config { batch_events, ..Config::default() }).await;
        views.wait_for(log.end(), DEADLINE).await.unwrap();
        let usage = views.usage().usage(&acme, span(hour(0), hour(1)), UsageBy::Hour, Page::first(200)).await.unwrap();
        let [row] = &usage.items[..] else { panic!("{:?}", usage.items) };
        assert_eq!((row.transcript_bytes, row.stdout_bytes), (7 * READING_BYTES as u64, 9));
    }
}

/// A version of a hundred bytes.
fn version(name: &str, version: u32, wasm: &str) -> Event {
    let Event::ModulePublished(published) = published(name, version) else { unreachable!() };
    let digest = Digest::of(wasm.as_bytes());
    Event::ModulePublished(Published { digest, size_bytes: 100, ..published })
}

#[tokio::test]
async fn what_is_stored_is_counted_where_it_is_new_and_stays_counted() {
    let acme = tenant_id("acme");
    let deleted = |name| Event::ModuleDeleted(Deleted { name: module_name(name), writes_full_at: None });
    let upload = ModuleRef { name: None, version: None, digest: Digest::of(b"upload") };
    let Event::ExecutionAccepted(mut uploaded) = accepted(1, "k123", upload) else { unreachable!() };
    uploaded.uploaded_bytes = Some(50);
    let mut history = History::new(1);
    let commits = [
        // Two of these three have bytes of their own.
        vec![registered("Acme"), version("a", 1, "x"), version("b", 1, "x"), version("a", 2, "y")],
        // The other name has the bytes of one of those that are deleted.
        vec![deleted("a"), version("c", 1, "y"), version("c", 2, "x")],
        vec![deleted("b"), deleted("c"), deleted("c")],
        vec![version("a", 3, "x")],
        // Inputs of four bytes, and an output of three.
        vec![Event::ExecutionAccepted(uploaded), accepted(2, "k123", module_ref("a", 3))],
        vec![finished(1, Outcome::Succeeded), lost(2)],
    ];
    let commits = commits.map(|events| history.commit(&acme, events));
    for batch_events in [1_000, 1] {
        let folder = tempfile::tempdir().unwrap();
        let log = TestLog::of(&commits);
        let views = log.views_with(folder.path(), Config { batch_events, ..Config::default() }).await;
        views.wait_for(log.end(), DEADLINE).await.unwrap();
        let storage = views.usage().storage(&acme).await.unwrap();
        assert_eq!(storage, Storage { module_bytes: 450, payload_bytes: 11 });
        assert_eq!(views.usage().storage(&tenant_id("other")).await.unwrap(), Storage::default());
        assert_eq!(stored(folder.path()).unwrap().storage, BTreeMap::from([("acme".to_owned(), storage)]));
    }
}

#[tokio::test]
async fn what_is_released_is_stored_no_longer() {
    let acme = tenant_id("acme");
    let released = |class, bytes| {
        let through_revision = Revision::new(3);
        Event::PayloadsReleased(Released { class, through_revision, payloads: 1, bytes })
    };
    let mut history = History::new(1);
    let commits = [
        // An input of four bytes, and an output of three.
        vec![registered("Acme"), version("a", 1, "x"), version("b", 1, "y"), accepted(1, "k123", module_ref("a", 1))],
        vec![finished(1, Outcome::Succeeded), released(Class::Modules, 100), released(Class::Outputs, 3)],
        vec![released(Class::Inputs, 4), accepted(2, "k123", module_ref("a", 1))],
    ];
    let commits = commits.map(|events| history.commit(&acme, events));
    for batch_events in [1_000, 1] {
        let folder = tempfile::tempdir().unwrap();
        let log = TestLog::of(&commits);
        let views = log.views_with(folder.path(), Config { batch_events, ..Config::default() }).await;
        views.wait_for(log.end(), DEADLINE).await.unwrap();
        let storage = views.usage().storage(&acme).await.unwrap();
        assert_eq!(storage, Storage { module_bytes: 100, payload_bytes: 4 });
    }
}

#[tokio::test]
async fn another_tenants_usage_is_not_there() {
    let (acme, other) = (tenant_id("acme"), tenant_id("other"));
    let mut history = History::new(1);
    let commits = [
        history.commit(&acme, vec![registered("Acme")]),
        history.commit(
            &other,
            vec![registered("Other"), accepted(1, "k123", module_ref("m", 1)), finished(1, Outcome::Succeeded)],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    for by in [UsageBy::Hour, UsageBy::Day, UsageBy::Key, UsageBy::Module] {
        let usage = async |tenant| {
            views.usage().usage(tenant, span(hour(0), hour(9)), by, Page::first(200)).await.unwrap().items
        };
        assert!(usage(&acme).await.is_empty());
        assert_eq!(usage(&other).await.len(), 1);
    }
}

#[tokio::test]
async fn a_report_is_the_same_in_pages_of_any_size() {
    let commits = History::new(7).commits(600);
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let (tenant, span) = (tenant_id("t-1"), span(hour(0), hour(10_000)));
    for by in [UsageBy::Hour, UsageBy::Day, UsageBy::Key, UsageBy::Module] {
        let whole = views.usage().usage(&tenant, span, by, Page::first(200)).await.unwrap();
        assert!(whole.items.len() > 1, "{by:?}");
        for limit in [1, 3] {
            let (mut items, mut page) = (Vec::new(), Page::first(limit));
            loop {
                let listed = views.usage().usage(&tenant, span, by, page).await.unwrap();
                assert!(listed.items.len() <= limit as usize);
                items.extend(listed.items);
                let Some(next) = listed.next else { break };
                assert_eq!(next.span, span);
                page = Page::following(limit, next);
            }
            let whole = whole.items.iter().take(items.len()).cloned().collect::<Vec<_>>();
            assert!(items == whole, "{by:?} in pages of {limit}");
        }
        if whole.next.is_none() {
            let ended: u64 = whole.items.iter().flat_map(|row| row.executions_by_outcome.values()).sum();
            let rows = stored(folder.path()).unwrap().rows;
            let counted: u64 = rows.iter().filter(|row| row.tenant == "t-1").map(|row| row.executions).sum();
            assert_eq!(ended, counted, "{by:?}");
        }
    }
}

#[tokio::test]
async fn the_stored_view_is_read_whole_beside_the_one_who_writes_it() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let accepted = |n| accepted(n, "k123", module_ref("hello", 1));
    let events = vec![registered("Acme"), accepted(1), finished(1, Outcome::Succeeded), accepted(2), lost(2)];
    let commits = [history.commit(&acme, events)];
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(stored(folder.path()), Err(StoredError::Missing(_))));
    let _views = views_of(folder.path(), &commits).await;
    let mut found = stored(folder.path()).unwrap();
    found.rows.sort_by_key(|row| row.outcome);
    assert_eq!((found.position, found.last_hash), (commits[0].position, commits[0].commit.hash()));
    let [succeeded, lost] = &found.rows[..] else { panic!("{:?}", found.rows) };
    assert_eq!(
        (succeeded.tenant.as_str(), succeeded.key.as_str(), succeeded.module.as_str()),
        ("acme", "k123", "hello")
    );
    assert_eq!((succeeded.hour, succeeded.executions, succeeded.fuel), (hour(0), 1, 10));
    assert_eq!((&succeeded.walls, &lost.walls), (&vec![(21, 1)], &vec![]));
    assert_eq!((lost.outcome, lost.executions, lost.wall_us, lost.stdin_bytes), (Outcome::Lost, 1, 0, 4));
}
