//! The view of usage: its fold and its queries, given events.

use wasmwiz_events::{digest::Digest, execution::ModuleRef};

use super::*;
use crate::{
    Config,
    testing::{
        DEADLINE, EPOCH_MS, History, TestLog, accepted, finished, lost, module_ref, registered, tenant_id, views_of,
    },
};

const HOUR_MS: u64 = 3_600_000;

fn hour(n: i64) -> Timestamp {
    Timestamp::from_unix_ms(EPOCH_MS + n * 3_600_000)
}

fn labels(report: &UsageReport) -> Vec<(String, u64)> {
    let label = |row: &UsageRow| match &row.bucket {
        UsageBucket::Time(time) => time.to_string(),
        UsageBucket::Label(label) => label.clone(),
    };
    report.rows.iter().map(|row| (label(row), row.executions_by_outcome.values().sum())).collect()
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
        let report = async |from, to, by| views.usage().usage(&acme, from, to, by).await.unwrap();

        let by_hour = report(hour(0), hour(48), UsageBy::Hour).await;
        let expected = [(hour(0).to_string(), 1), (hour(1).to_string(), 2), (hour(25).to_string(), 1)];
        assert_eq!(labels(&by_hour), expected);
        let second = &by_hour.rows[1];
        assert_eq!(second.executions_by_outcome, BTreeMap::from([(Outcome::Succeeded, 1), (Outcome::Trapped, 1)]));
        assert_eq!((second.fuel, second.cpu, second.wall), (20, Millis::from_micros(32), Millis::from_micros(45)));
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
        assert!(views.usage().usage(&acme, hour(0), hour(9), by).await.unwrap().rows.is_empty());
        assert_eq!(views.usage().usage(&other, hour(0), hour(9), by).await.unwrap().rows.len(), 1);
    }
}
