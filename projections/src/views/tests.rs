//! What all views promise together.

use std::{path::Path, sync::Arc, time::Duration};

use wasmwiz_events::{
    execution::Outcome,
    log::{
        Append,
        sqlite::{SqliteLog, SqliteLogConfig},
    },
    revision::Position,
};

use super::*;
use crate::{
    State,
    page::Page,
    testing::{DEADLINE, History, TestLog, accepted, finished, issued, module_ref, registered, tenant_id, views_of},
};

fn small_batches() -> Config {
    Config { batch_events: 7, linger_ms: 0, ..Config::default() }
}

async fn checksums_of(folder: &Path, log: &TestLog, config: Config) -> Vec<Checksum> {
    let views = log.views_with(folder, config).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    views.checksums().await.unwrap()
}

#[tokio::test]
async fn a_rebuilt_view_has_the_same_rows_however_the_log_is_cut_into_batches() {
    for seed in 1..=4 {
        let log = TestLog::of(&History::new(seed).commits(300));
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let at_once = checksums_of(folders[0].path(), &log, Config::default()).await;
        let by_seven = checksums_of(folders[1].path(), &log, small_batches()).await;
        assert_eq!(at_once, by_seven, "seed {seed}");
        assert!(at_once.iter().all(|checksum| checksum.position == log.end()));
        assert_eq!(at_once.len(), 5);
    }
}

#[tokio::test]
async fn a_view_that_died_on_the_way_goes_on_without_gap_or_repetition() {
    let commits = History::new(9).commits(200);
    let whole = TestLog::of(&commits);
    let fresh = tempfile::tempdir().unwrap();
    let expected = checksums_of(fresh.path(), &whole, Config::default()).await;
    for died_after in [1, 2, 3, 50, 117, 199] {
        let folder = tempfile::tempdir().unwrap();
        // Death comes while one batch after the other is written, and again at a place of its own for every view.
        for seen in [died_after, died_after, (died_after + 20).min(200)] {
            let log = TestLog::of(&commits[..seen]);
            let views = log.views_with(folder.path(), small_batches()).await;
            views.wait_for_view(View::Usage, Position::new(seen as u64 / 2), DEADLINE).await.unwrap();
            drop(views);
        }
        assert_eq!(checksums_of(folder.path(), &whole, small_batches()).await, expected, "died after {died_after}");
    }
}

#[tokio::test]
async fn a_view_that_has_a_part_of_the_log_tells_nothing_of_it_also_after_a_restart() {
    // Given a log of which the views can read a part.
    let all = History::new(3).commits(61);
    let (folder, log) = (tempfile::tempdir().unwrap(), TestLog::of(&all[..60]));
    let place = all[40].position;
    log.damage(place);
    log.forget_whose();
    // Then they answer nothing before they have all of it, in this life and in the next.
    for _ in 0..2 {
        let views = log.views_with(folder.path(), small_batches()).await;
        for view in [View::Keys, View::Modules, View::Executions, View::Usage, View::Audit] {
            assert!(views.wait_for_view(view, log.end(), DEADLINE).await.unwrap_err().stopped);
        }
        let refused = views.executions().open_tenants().await.unwrap_err();
        let QueryError::Building { view: "executions", position, tail } = refused else { panic!("{refused}") };
        assert!(position < place && tail == log.end(), "{position} of {tail}");
        assert!(views.status().iter().all(|view| view.building));
    }
    // When they have, they answer.
    log.repair();
    let views = log.views(folder.path()).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    views.executions().open_tenants().await.unwrap();
    views.until_live(View::Executions, DEADLINE).await.unwrap();
    drop(views);
    // And what they had is told, however far behind they fall later.
    log.damage(all[60].position);
    log.forget_whose();
    log.push(Arc::clone(&all[60]));
    let views = log.views(folder.path()).await;
    assert!(views.wait_for_view(View::Executions, log.end(), DEADLINE).await.unwrap_err().stopped);
    views.executions().open_tenants().await.unwrap();
}

#[tokio::test]
async fn half_a_view_with_a_stream_set_aside_tells_nothing_after_a_restart_either() {
    // Given views that are half built, with a stream set aside.
    let all = History::new(3).commits(60);
    let (folder, half) = (tempfile::tempdir().unwrap(), TestLog::of(&all[..40]));
    half.damage(all[10].position);
    let views = half.views(folder.path()).await;
    for view in [View::Keys, View::Modules, View::Executions, View::Usage, View::Audit] {
        views.until_live(view, DEADLINE).await.unwrap();
    }
    assert!(views.status().iter().all(|view| view.set_aside.len() == 1 && !view.building));
    drop(views);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".db") {
            std::fs::write(folder.path().join(format!("{name}.building")), "").unwrap();
        }
    }
    // When they try the stream again before they have the rest, then they still have a part.
    let log = TestLog::of(&all);
    log.damage(all[10].position);
    log.damage(all[50].position);
    log.forget_whose();
    let views = log.views(folder.path()).await;
    assert!(views.wait_for_view(View::Executions, log.end(), DEADLINE).await.unwrap_err().stopped);
    let refused = views.executions().open_tenants().await.unwrap_err();
    assert!(matches!(refused, QueryError::Building { .. }), "{refused}");
}

#[tokio::test]
async fn deleting_the_folder_gives_the_same_rows_again() {
    let log = TestLog::of(&History::new(5).commits(120));
    let folder = tempfile::tempdir().unwrap();
    let before = checksums_of(folder.path(), &log, Config::default()).await;
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(checksums_of(folder.path(), &log, Config::default()).await, before);
}

#[tokio::test]
async fn the_folder_and_its_files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (folder, log) = (dir.path().join("views"), TestLog::of(&History::new(13).commits(20)));
    let views = log.views(&folder).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.iter().any(|file| file.extension().is_some_and(|ending| ending == "db-wal")), "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}

#[tokio::test]
async fn a_damaged_file_is_folded_again() {
    let log = TestLog::of(&History::new(6).commits(120));
    let folder = tempfile::tempdir().unwrap();
    let before = checksums_of(folder.path(), &log, Config::default()).await;
    std::fs::write(folder.path().join("usage.v6.db"), b"this is no database, however long it may be").unwrap();
    std::fs::write(folder.path().join("audit.v2.db"), b"").unwrap();
    std::fs::write(folder.path().join("keys.v4.db.damaged"), b"").unwrap();
    assert_eq!(checksums_of(folder.path(), &log, Config::default()).await, before);
    assert!(!folder.path().join("keys.v4.db.damaged").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_whose_file_is_held_by_another_process_says_so_and_goes_on_once_it_is_free() {
    let commits = History::new(12).commits(120);
    let (folder, log) = (tempfile::tempdir().unwrap(), TestLog::of(&commits[..60]));
    let views = log.views(folder.path()).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    let holder = rusqlite::Connection::open(folder.path().join("usage.v6.db")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    for commit in &commits[60..] {
        log.push(Arc::clone(commit));
    }
    let usage = || views.status().into_iter().find(|view| view.name == "usage").unwrap();
    until(|| usage().trouble.is_some()).await;
    assert!(usage().trouble.is_some_and(|trouble| trouble.contains("locked")));
    assert_eq!(usage().state, State::Live, "it has not stopped");
    // The others are none of its business.
    views.wait_for_view(View::Keys, log.end(), DEADLINE).await.unwrap();

    holder.execute_batch("ROLLBACK").unwrap();
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    assert_eq!(usage().trouble, None);
    let fresh = tempfile::tempdir().unwrap();
    let expected = checksums_of(fresh.path(), &log, Config::default()).await;
    assert_eq!(views.checksums().await.unwrap(), expected);
}

#[tokio::test]
async fn views_of_another_log_are_folded_again() {
    let (first, second) = (TestLog::of(&History::new(7).commits(90)), TestLog::of(&History::new(8).commits(60)));
    let folder = tempfile::tempdir().unwrap();
    checksums_of(folder.path(), &first, Config::default()).await;
    let fresh = tempfile::tempdir().unwrap();
    let expected = checksums_of(fresh.path(), &second, Config::default()).await;
    assert_eq!(checksums_of(folder.path(), &second, Config::default()).await, expected);
}

#[tokio::test]
async fn files_of_other_versions_go_once_the_view_has_caught_up() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["keys.v0.db", "keys.v0.db-wal", "keys.v9.db", "keys.vx.db"] {
        std::fs::write(folder.path().join(file), b"old").unwrap();
    }
    let log = TestLog::of(&History::new(3).commits(10));
    let views = log.views(folder.path()).await;
    until(|| views.status().iter().all(|view| view.state == State::Live)).await;
    for (file, kept) in [("keys.v0.db", false), ("keys.v0.db-wal", false), ("keys.v9.db", false), ("keys.vx.db", true)]
    {
        // Live is entered just before the files go.
        until(|| folder.path().join(file).exists() == kept).await;
    }
    assert!(folder.path().join("keys.v4.db").exists());
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the condition holds in time");
}

#[tokio::test]
async fn a_reader_waits_for_the_position_it_names_and_not_for_the_linger() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let log = TestLog::of(&[history.commit(&acme, vec![registered("Acme")])]);
    let folder = tempfile::tempdir().unwrap();
    // A linger beyond the test's deadline: only the waiting reader makes the views write.
    let config = Config { linger_ms: 10 * 60 * 1_000, ..Config::default() };
    let views = log.views_with(folder.path(), config).await;
    let end = log.push(history.commit(&acme, vec![issued("k123")]));

    views.wait_for(end, DEADLINE).await.unwrap();

    assert!(views.keys().authenticate_lookup(&crate::testing::key_id("k123")).is_some());
    let page = views.keys().list_keys(&acme, Page::first(10)).await.unwrap();
    assert_eq!(page.items.len(), 1);
}

#[tokio::test]
async fn waiting_for_what_is_not_written_ends_at_the_timeout() {
    let log = TestLog::of(&History::new(1).commits(3));
    let folder = tempfile::tempdir().unwrap();
    let views = log.views(folder.path()).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    let wanted = log.end().next();
    let behind = views.wait_for(wanted, Duration::from_millis(5)).await.unwrap_err();
    assert_eq!((behind.position, behind.wanted, behind.stopped), (log.end(), wanted, false));
}

#[tokio::test]
async fn a_log_that_cannot_be_read_for_a_while_is_asked_again() {
    let log = TestLog::of(&History::new(4).commits(60));
    let (folder, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let views = log.failing(4).views_with(folder.path(), small_batches()).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    let expected = checksums_of(fresh.path(), &log, Config::default()).await;
    assert_eq!(views.checksums().await.unwrap(), expected);
}

#[tokio::test]
async fn shutdown_writes_what_was_gathered() {
    let mut history = History::new(2);
    let commits = history.commits(20);
    let log = TestLog::of(&commits);
    let folder = tempfile::tempdir().unwrap();
    let views = log.views_with(folder.path(), Config { linger_ms: 10 * 60 * 1_000, ..Config::default() }).await;
    // The views linger over the last commits, or have not yet seen them; in both cases shutdown must leave a prefix.
    views.shutdown().await;
    let checksums = views.checksums().await.unwrap();
    for checksum in checksums {
        let prefix = &commits[..usize::try_from(checksum.position.get()).unwrap()];
        let fresh = tempfile::tempdir().unwrap();
        let expected = views_of(fresh.path(), prefix).await.checksums().await.unwrap();
        assert!(expected.contains(&checksum), "{checksum:?}");
    }
}

#[tokio::test]
async fn a_hundred_thousand_events_are_folded() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let mut commits = vec![history.commit(&acme, vec![registered("Acme"), issued("k123")])];
    // 60 events a commit: 30 executions are accepted, and those of the commit before end.
    let module = module_ref("hello", 1);
    for first in (0..50_000_u32).step_by(30) {
        let ending = first.saturating_sub(30)..first;
        let ends = ending.map(|n| finished(n, Outcome::Succeeded));
        let begins = (first..first + 30).map(|n| accepted(n, "k123", module.clone()));
        commits.push(history.commit(&acme, ends.chain(begins).collect()));
    }
    let events: u64 = commits.iter().map(|recorded| u64::from(recorded.commit.header().count)).sum();
    // Commits that are decoded already, as they are in the process that appended them.
    let folder = tempfile::tempdir().unwrap();
    let log = TestLog::of(&commits);
    let started = tokio::time::Instant::now();
    let views = log.views(folder.path()).await;
    for view in [View::Keys, View::Modules, View::Usage, View::Audit, View::Executions] {
        views.wait_for_view(view, log.end(), DEADLINE).await.unwrap();
        println!("{view:?} has caught up on {events} events after {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn views_of_the_embedded_log_are_the_views_of_its_commits() {
    let commits = History::new(12).commits(150);
    let (data, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = data.path().join("views");
    let expected = checksums_of(fresh.path(), &TestLog::of(&commits), Config::default()).await;
    for half in [&commits[..70], &commits[70..]] {
        // The second time the log and the views are opened again, and go on where they were.
        let log: Arc<dyn EventLog> = Arc::new(SqliteLog::open(data.path(), SqliteLogConfig::default()).unwrap());
        let views = Views::open(&folder, small_batches(), Arc::clone(&log)).await.unwrap();
        for recorded in half {
            let append = Append { commit: recorded.commit.clone(), payloads: Vec::new() };
            assert_eq!(log.append(append).await.unwrap().position, recorded.position);
        }
        views.wait_for(log.tail().await.unwrap(), DEADLINE).await.unwrap();
        views.shutdown().await;
        if half.last().unwrap().position == commits.last().unwrap().position {
            assert_eq!(views.checksums().await.unwrap(), expected);
        }
    }
}
