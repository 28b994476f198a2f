//! The view of executions: its fold and its queries, given events.

use wasmwiz_events::digest::Digest;

use super::*;
use crate::{
    Config,
    testing::{
        DEADLINE, EPOCH_MS, History, TestLog, accepted, execution_id, finished, issued, lost, module_name, module_ref,
        registered, tenant_id, views_of,
    },
};

fn numbers(listed: &[ExecutionRecord]) -> Vec<u128> {
    listed.iter().map(|record| record.id.as_uuid().as_u128() & 0xffff_ffff).collect()
}

#[tokio::test]
async fn an_execution_that_ended_has_everything_its_events_say() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let module = module_ref("hello", 3);
    let commits = [
        history.commit(&acme, vec![registered("Acme"), accepted(1, "k123", module.clone())]),
        history.commit(&acme, vec![finished(1, Outcome::Exited), accepted(2, "k123", module.clone())]),
    ];
    let expected_end = ExecutionEnd {
        outcome: Outcome::Exited,
        exit_code: Some(0),
        stdout: Some(Output { digest: Digest::of(b"out"), size_bytes: 3, truncated: true }),
        stderr: Some(Output { digest: Digest::of(b""), size_bytes: 0, truncated: false }),
        fuel: Some(10),
        cpu: Millis::from_micros(16),
        wall: Millis::from_micros(21),
        peak_memory_bytes: 131_072,
        reproducibility: Reproducibility::VirtualTime,
        message: None,
        finished_at: Timestamp::from_unix_ms(EPOCH_MS + 1),
        finished_position: Position::new(2),
    };
    let expected = ExecutionRecord {
        id: execution_id(1),
        attempt: 1,
        module,
        key_id: "k123".parse().unwrap(),
        stdin: Content { digest: Digest::of(&1_u32.to_be_bytes()), size_bytes: 4 },
        accepted_at: Timestamp::from_unix_ms(EPOCH_MS),
        accepted_position: Position::new(1),
        rerun_of: None,
        fuel: None,
        started_at: Some(Timestamp::from_unix_ms(EPOCH_MS)),
        end: Some(expected_end),
    };
    // In one batch it is one insertion; in two, an insertion and a change of the row.
    for batch_events in [1_000, 1] {
        let folder = tempfile::tempdir().unwrap();
        let log = TestLog::of(&commits);
        let views = log.views_with(folder.path(), Config { batch_events, ..Config::default() }).await;
        views.wait_for(log.end(), DEADLINE).await.unwrap();
        let executions = views.executions();
        assert_eq!(executions.get(&acme, execution_id(1)).await.unwrap().as_ref(), Some(&expected));
        assert_eq!(executions.get(&acme, execution_id(2)).await.unwrap().unwrap().end, None);
        assert_eq!(executions.get(&acme, execution_id(3)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_lost_execution_has_no_outputs_and_says_why() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let commits =
        [history.commit(&acme, vec![registered("Acme"), accepted(1, "k123", module_ref("hello", 1)), lost(1)])];
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let end = views.executions().get(&acme, execution_id(1)).await.unwrap().unwrap().end.unwrap();
    assert_eq!((end.outcome, end.stdout, end.stderr), (Outcome::Lost, None, None));
    assert_eq!(end.message.as_deref(), Some("its node is gone"));
}

#[tokio::test]
async fn open_tenants_are_those_with_an_execution_without_end() {
    let (acme, busy, idle) = (tenant_id("acme"), tenant_id("busy"), tenant_id("idle"));
    let mut history = History::new(1);
    let module = module_ref("hello", 1);
    let commits = [
        history.commit(&acme, vec![registered("Acme"), accepted(1, "k123", module.clone())]),
        history.commit(&busy, vec![registered("Busy"), accepted(2, "k456", module.clone())]),
        history.commit(&busy, vec![accepted(3, "k456", module)]),
        history.commit(&idle, vec![registered("Idle"), issued("k789")]),
        history.commit(&acme, vec![lost(1)]),
        history.commit(&busy, vec![finished(3, Outcome::Succeeded)]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    assert_eq!(views.executions().open_tenants().await.unwrap(), [busy]);
}

#[tokio::test]
async fn each_filter_shows_its_executions_and_no_other_tenants() {
    let (acme, other) = (tenant_id("acme"), tenant_id("other"));
    let mut history = History::new(1);
    let (hello, world) = (module_ref("hello", 1), module_ref("world", 2));
    let mut commits = vec![
        history.commit(
            &acme,
            vec![registered("Acme"), accepted(1, "k123", hello.clone()), accepted(2, "k456", hello.clone())],
        ),
        history.commit(&other, vec![registered("Other"), accepted(3, "k123", hello)]),
    ];
    history.pass_ms(998);
    commits.push(history.commit(&acme, vec![finished(1, Outcome::Trapped), accepted(1_000, "k123", world)]));
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let all = ExecutionFilter::default();
    let later = Some(Timestamp::from_unix_ms(EPOCH_MS + 1_000));
    let cases = [
        (all.clone(), vec![1_000, 2, 1]),
        (ExecutionFilter { module: Some(module_name("hello")), ..all.clone() }, vec![2, 1]),
        (ExecutionFilter { module: Some(module_name("absent")), ..all.clone() }, vec![]),
        (ExecutionFilter { outcome: Some(Outcome::Trapped), ..all.clone() }, vec![1]),
        (ExecutionFilter { key: Some("k123".parse().unwrap()), ..all.clone() }, vec![1_000, 1]),
        (ExecutionFilter { from: later, ..all.clone() }, vec![1_000]),
        (ExecutionFilter { to: later, ..all.clone() }, vec![2, 1]),
    ];
    for (filter, expected) in cases {
        let listed = views.executions().list(&acme, filter.clone(), Page::first(10)).await.unwrap();
        assert_eq!(numbers(&listed.items), expected, "{filter:?}");
        assert_eq!(listed.next, None, "{filter:?}");
    }
    assert_eq!(views.executions().get(&acme, execution_id(3)).await.unwrap(), None);
}

#[tokio::test]
async fn a_page_stays_where_it_is_while_executions_come() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let module = module_ref("hello", 1);
    let begun = |range: std::ops::Range<u32>| range.map(|n| accepted(n, "k123", module.clone())).collect::<Vec<_>>();
    let log = TestLog::of(&[history.commit(&acme, [vec![registered("Acme")], begun(1..6)].concat())]);
    let folder = tempfile::tempdir().unwrap();
    let views = log.views(folder.path()).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    let list = async |page| views.executions().list(&acme, ExecutionFilter::default(), page).await.unwrap();

    let first = list(Page::first(2)).await;
    views.wait_for(log.push(history.commit(&acme, begun(6..9))), DEADLINE).await.unwrap();
    let second = list(Page::following(2, first.next.unwrap())).await;
    let third = list(Page::following(2, second.next.unwrap())).await;

    assert_eq!(numbers(&first.items), [5, 4]);
    assert_eq!(numbers(&second.items), [3, 2]);
    assert_eq!((numbers(&third.items), third.next), (vec![1], None));
}

#[tokio::test]
async fn a_filter_that_few_pass_looks_at_a_bounded_number_of_rows_and_goes_on() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let module = module_ref("hello", 1);
    let mut commits = vec![history.commit(&acme, vec![registered("Acme"), accepted(0, "rare", module.clone())])];
    for first in (1..=SCANNED_ROWS + 500).step_by(500) {
        let events = (first..first + 500).map(|n| accepted(n, "k123", module.clone())).collect();
        commits.push(history.commit(&acme, events));
    }
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let filter = ExecutionFilter { key: Some("rare".parse().unwrap()), ..ExecutionFilter::default() };
    let first = views.executions().list(&acme, filter.clone(), Page::first(10)).await.unwrap();
    assert!(first.items.is_empty());
    let second = views.executions().list(&acme, filter, Page::following(10, first.next.unwrap())).await.unwrap();
    assert_eq!((numbers(&second.items), second.next), (vec![0], None));
}

/// What a list shows, page by page.
async fn listed(views: &crate::Views, filter: &ExecutionFilter, items: u32) -> Vec<u128> {
    let acme = tenant_id("acme");
    let (mut all, mut page) = (Vec::new(), Page::first(items));
    loop {
        let listed = views.executions().list(&acme, filter.clone(), page).await.unwrap();
        all.extend(numbers(&listed.items));
        let Some(next) = listed.next else { return all };
        page = Page::following(items, next);
    }
}

#[tokio::test]
async fn a_clock_that_steps_takes_no_execution_out_of_a_list_and_shows_none_twice() {
    const DAY_MS: i64 = 86_400_000;
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let mut commits = vec![history.commit(&acme, vec![registered("Acme")])];
    // Each with its recorded time, in the order of the stream.
    let mut all: Vec<(u128, i64)> = Vec::new();
    let steps = [0, -1_000, 1_000, -600_000, 600_000, -DAY_MS, 30 * DAY_MS, -30 * DAY_MS, DAY_MS, 7];
    for (round, step) in (0..).zip(steps) {
        history.step_ms(step);
        for commit in 0..60 {
            let first = round * 600 + commit * 10;
            // Ids are drawn by several clocks: here they run against the stream.
            let ids = (first..first + 10).map(|n| 1_000_000 - n);
            let at = history.now().unix_ms();
            all.extend(ids.clone().map(|id| (u128::from(id), at)));
            let events = ids.map(|id| accepted(id, "k123", module_ref("hello", 1))).collect();
            commits.push(history.commit(&acme, events));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    all.reverse();
    let at = |ms: i64| Some(Timestamp::from_unix_ms(EPOCH_MS + ms));
    let windows = [
        (None, None),
        (at(0), None),
        (None, at(0)),
        (at(-500), at(500)),
        (at(-DAY_MS), at(-DAY_MS / 2)),
        (at(DAY_MS), at(40 * DAY_MS)),
        (at(-2 * DAY_MS), at(-599_000)),
    ];
    for (from, to) in windows {
        let filter = ExecutionFilter { from, to, ..ExecutionFilter::default() };
        let is_in = |ms: i64| from.is_none_or(|from| from.unix_ms() <= ms) && to.is_none_or(|to| ms < to.unix_ms());
        let expected: Vec<_> = all.iter().filter(|(_, ms)| is_in(*ms)).map(|(id, _)| *id).collect();
        for items in [7, 200] {
            assert_eq!(listed(&views, &filter, items).await, expected, "{filter:?} by {items}");
        }
    }
}
