//! What the embedded log promises beyond what every log does.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::{
    commit::Commit,
    id::TenantId,
    log::conformance::{Log, Stream},
    revision::Epoch,
};

mod damage;

crate::event_log_conformance!({
    let (log, dir) = fresh();
    (log as Log, dir)
});

fn fresh() -> (Arc<SqliteLog>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open(dir.path()), dir)
}

fn open(dir: &Path) -> Arc<SqliteLog> {
    Arc::new(SqliteLog::open(dir, SqliteLogConfig::default()).unwrap())
}

fn bare(commit: Commit) -> Append {
    Append { commit, payloads: Vec::new() }
}

async fn all(log: &SqliteLog) -> Vec<Arc<Recorded>> {
    log.read_all(Position::START, ReadLimit { commits: usize::MAX, bytes: usize::MAX }).await.unwrap()
}

/// A log too small to keep anything in memory: every read goes to the disk.
#[tokio::test]
async fn without_memory_the_disk_keeps_the_same_promises() {
    crate::log::conformance::run(async || {
        let dir = tempfile::tempdir().unwrap();
        let config = SqliteLogConfig {
            recent_commits: 0,
            recent_bytes: 0,
            heads: 1,
            readers: 1,
            batch_appends: 1,
            checkpoint_bytes: 1,
            ..SqliteLogConfig::default()
        };
        (Arc::new(SqliteLog::open(dir.path(), config).unwrap()) as Log, dir)
    })
    .await;
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    for closed in [true, false] {
        let (log, dir) = fresh();
        let (mut one, mut other) = (Stream::fresh(), Stream::fresh());
        for _ in 0..5 {
            one.append(&(Arc::clone(&log) as Log), 2).await;
            other.append(&(Arc::clone(&log) as Log), 1).await;
        }
        let before = all(&log).await;
        if closed {
            log.close();
        }
        drop(log);
        let log = open(dir.path());
        let after = all(&log).await;
        assert_eq!(before.len(), 10);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((before.position, before.commit.hash()), (after.position, after.commit.hash()));
        }
        assert_eq!(log.tail().await.unwrap(), Position::new(10));
        assert_eq!(log.head(&one.tenant).await.unwrap(), one.head);
        let (position, _) = one.append(&(log as Log), 1).await;
        assert_eq!(position, Position::new(11));
    }
}

/// What is on the disk while the process runs is what a `kill -9` leaves.
#[tokio::test]
async fn what_was_acknowledged_is_on_the_disk_at_any_moment() {
    let (log, dir) = fresh();
    let mut stream = Stream::fresh();
    for round in 1..=20_u64 {
        stream.append(&(Arc::clone(&log) as Log), 1).await;
        let image = tempfile::tempdir().unwrap();
        for name in ["events.db", "events.db-wal"] {
            fs::copy(dir.path().join(name), image.path().join(name)).unwrap();
        }
        let found = open(image.path());
        assert_eq!(found.tail().await.unwrap(), Position::new(round));
        assert_eq!(found.head(&stream.tenant).await.unwrap(), stream.head);
    }
}

#[tokio::test]
async fn a_closed_log_refuses_appends_and_ends_its_subscriptions() {
    let (log, _dir) = fresh();
    let mut stream = Stream::fresh();
    let (position, _) = stream.append(&(Arc::clone(&log) as Log), 1).await;
    let mut subscription = log.subscribe(position).await.unwrap();
    log.close();
    log.close();
    assert!(matches!(log.append(bare(stream.seal(1))).await, Err(AppendError::Poisoned(_))));
    assert!(matches!(subscription.next(ReadLimit::default()).await, Err(ReadError::Unavailable(_))));
    assert_eq!(all(&log).await.len(), 1);
}

#[tokio::test]
async fn a_second_writer_is_refused_and_told_which_file() {
    let (log, dir) = fresh();
    let error = SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap_err();
    assert!(matches!(&error, OpenError::Locked { path } if path.ends_with("events.lock")), "{error}");
    assert!(error.to_string().contains("stop that process"), "{error}");
    drop(log);
    open(dir.path());
}

#[tokio::test]
async fn other_files_and_other_versions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE other (a)").unwrap();
    let error = SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap_err();
    assert!(matches!(error, OpenError::NotALog { .. }), "{error}");

    let (log, dir) = fresh();
    drop(log);
    let connection = rusqlite::Connection::open(dir.path().join("events.db")).unwrap();
    connection.pragma_update(None, "user_version", 2).unwrap();
    drop(connection);
    let error = SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap_err();
    assert!(matches!(error, OpenError::Version { found: 2, known: 1, .. }), "{error}");
    let missing = SqliteLog::open_read_only(&dir.path().join("nothing")).unwrap_err();
    assert!(matches!(missing, OpenError::Missing { .. }), "{missing}");
}

#[tokio::test]
async fn files_are_private_and_fully_synced() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("data/log");
    let log = open(&deep);
    Stream::fresh().append(&(Arc::clone(&log) as Log), 1).await;
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(deep.clone()), 0o700);
    for name in ["events.db", "events.db-wal", "events.db-shm", "events.lock"] {
        assert_eq!(mode(deep.join(name)), 0o600, "{name}");
    }
    let config = SqliteLogConfig::default();
    drop(log);
    let connection = schema::open_writer(&deep, &config).unwrap();
    let pragma =
        |name| connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
    assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
    for (name, expected) in [("synchronous", 2), ("page_size", 8192), ("wal_autocheckpoint", 0)] {
        assert_eq!(pragma(name), i64::into(expected), "{name}");
    }
}

/// Holds SQLite's write lock, so that appends queue up behind the transaction that waits for it.
fn block(dir: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(dir.join("events.db")).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

async fn queued(log: &SqliteLog, left: usize) {
    let queue = log.queue.read().unwrap().clone().unwrap();
    tokio::time::timeout(Duration::from_secs(30), async {
        while queue.max_capacity() - queue.capacity() != left {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the appends are not queued");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_wait_share_one_transaction() {
    let (log, dir) = fresh();
    let blocker = block(dir.path());
    let first = log.enqueue(bare(Stream::fresh().seal(1))).unwrap();
    queued(&log, 0).await;
    let more: Vec<_> = (1..100).map(|_| log.enqueue(bare(Stream::fresh().seal(1))).unwrap()).collect();
    drop(blocker);
    assert_eq!(first.await.unwrap().unwrap().position, Position::new(1));
    for (answer, position) in more.into_iter().zip(2..) {
        assert_eq!(answer.await.unwrap().unwrap().position, Position::new(position));
    }
    assert_eq!(log.transactions(), 2, "the first one, and the 99 that waited for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_of_one_stream_in_one_batch_follow_each_other() {
    let (log, dir) = fresh();
    let blocker = block(dir.path());
    let mut stream = Stream::fresh();
    let mut pending = Vec::new();
    for _ in 0..10 {
        let commit = stream.seal(2);
        stream.head = commit.head();
        // Queued in this order, each before the one before it is durable.
        pending.push(log.enqueue(bare(commit.clone())).unwrap());
        pending.push(log.enqueue(bare(commit)).unwrap());
    }
    drop(blocker);
    let mut answers = Vec::new();
    for answer in pending {
        let appended = answer.await.unwrap().unwrap();
        answers.push((appended.position.get(), appended.repeated));
    }
    assert_eq!(answers, (1..=10).flat_map(|n| [(n, false), (n, true)]).collect::<Vec<_>>());
    assert!(log.transactions() <= 2, "{}", log.transactions());
    assert_eq!(log.head(&stream.tenant).await.unwrap(), stream.head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_fails_in_a_batch_leaves_its_neighbours() {
    let (log, dir) = fresh();
    let victim = Stream::fresh();
    let connection = rusqlite::Connection::open(dir.path().join("events.db")).unwrap();
    let trigger = "CREATE TRIGGER broken BEFORE INSERT ON commits WHEN new.tenant = 'TENANT' BEGIN \
                   SELECT raise(ABORT, 'broken'); END; BEGIN IMMEDIATE;";
    connection.execute_batch(&trigger.replace("TENANT", victim.tenant.as_str())).unwrap();
    let (before, after) = (Stream::fresh(), Stream::fresh());
    let mut stale = Stream::fresh();
    stale.head.revision = Revision::new(7);
    let pending: Vec<_> =
        [&before, &victim, &stale, &after].map(|stream| log.enqueue(bare(stream.seal(1))).unwrap()).into();
    drop(connection);
    let mut answers = Vec::new();
    for answer in pending {
        answers.push(answer.await.unwrap());
    }
    assert_eq!(answers[0].as_ref().unwrap().position, Position::new(1));
    assert!(matches!(answers[1], Err(AppendError::Unknown(_))), "{:?}", answers[1]);
    assert!(matches!(answers[2], Err(AppendError::Conflict { .. })), "{:?}", answers[2]);
    assert_eq!(answers[3].as_ref().unwrap().position, Position::new(2));
    assert_eq!(log.head(&victim.tenant).await.unwrap(), Head::genesis(&victim.tenant));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteLogConfig { queue_appends: 2, batch_appends: 1, ..SqliteLogConfig::default() };
    let log = SqliteLog::open(dir.path(), config).unwrap();
    let blocker = block(dir.path());
    let first = log.enqueue(bare(Stream::fresh().seal(1))).unwrap();
    queued(&log, 0).await;
    let more = [0; 2].map(|_| log.enqueue(bare(Stream::fresh().seal(1))).unwrap());
    assert!(matches!(log.append(bare(Stream::fresh().seal(1))).await, Err(AppendError::Busy)));
    drop(blocker);
    assert!(first.await.unwrap().is_ok());
    for answer in more {
        assert!(answer.await.unwrap().is_ok());
    }
    assert!(log.append(bare(Stream::fresh().seal(1))).await.is_ok());
    assert_eq!(log.shared.queued_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_of_bytes_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteLogConfig { queue_bytes: 1_000, batch_appends: 1, ..SqliteLogConfig::default() };
    let log = SqliteLog::open(dir.path(), config).unwrap();
    let blocker = block(dir.path());
    let large = log.enqueue(bare(Stream::fresh().seal_named(1, &"x".repeat(1_000)))).unwrap();
    assert!(matches!(log.append(bare(Stream::fresh().seal(1))).await, Err(AppendError::Busy)));
    drop(blocker);
    assert!(large.await.unwrap().is_ok());
    assert!(log.append(bare(Stream::fresh().seal(1))).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_poisons_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteLogConfig { max_bytes: Some(200_000), ..SqliteLogConfig::default() };
    let log = Arc::new(SqliteLog::open(dir.path(), config).unwrap());
    let mut stream = Stream::fresh();
    let mut acknowledged = 0_u64;
    let error = loop {
        let commit = stream.seal_named(1, &"x".repeat(4_000));
        match log.append(bare(commit.clone())).await {
            Ok(appended) => {
                acknowledged = appended.position.get();
                stream.head = commit.head();
            }
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000, "the bound has no effect");
    };
    assert!(matches!(&error, AppendError::Poisoned(reason) if reason.contains("full")), "{error}");
    assert!(log.poisoned().await.contains("full"));
    assert!(matches!(log.append(bare(Stream::fresh().seal(1))).await, Err(AppendError::Poisoned(_))));
    assert_eq!(all(&log).await.len() as u64, acknowledged, "reads go on");
    let mut end = log.subscribe(log.tail().await.unwrap()).await.unwrap();
    assert!(matches!(end.next(ReadLimit::default()).await, Err(ReadError::Unavailable(_))));
    drop((log, end));
    let log = open(dir.path());
    assert_eq!(log.tail().await.unwrap(), Position::new(acknowledged));
    assert_eq!(log.head(&stream.tenant).await.unwrap(), stream.head);
    stream.append(&(log as Log), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_of_the_bound_is_known_before_it_is_in_the_database_and_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 1_000_000;
    let config = SqliteLogConfig { max_bytes: Some(bound), ..SqliteLogConfig::default() };
    let log = SqliteLog::open(dir.path(), config.clone()).unwrap();
    let (mut stream, empty) = (Stream::fresh(), log.used_bytes());
    assert!(empty > 0);
    for _ in 0..20 {
        let commit = stream.seal_named(1, &"x".repeat(10_000));
        log.append(bare(commit.clone())).await.unwrap();
        stream.head = commit.head();
    }
    // Nothing has been copied from the WAL yet.
    let used = log.used_bytes();
    assert!((empty + 200_000..bound).contains(&used), "{empty} {used}");
    assert!(std::fs::metadata(schema::path(dir.path())).unwrap().len() < used);
    drop(log);
    assert_eq!(SqliteLog::open(dir.path(), config).unwrap().used_bytes(), used);
}

#[tokio::test]
async fn payloads_are_forgotten_and_what_is_hashed_stays() {
    let (log, _dir) = fresh();
    let mut stream = Stream::fresh();
    let payload = |bytes: &'static [u8]| Payload::new(bytes.into());
    let rides = [vec![payload(b"in"), payload(b"out")], vec![], vec![payload(&[7; 60_000])], vec![payload(b"later")]];
    for payloads in rides {
        let commit = stream.seal(1);
        stream.head = commit.head();
        log.append(Append { commit, payloads }).await.unwrap();
    }
    let places = async |through, after, limit| {
        let (through, after) = (Revision::new(through), Position::new(after));
        let places = log.with_payloads(&stream.tenant, through, after, limit).await.unwrap();
        places.into_iter().map(Position::get).collect::<Vec<_>>()
    };
    assert_eq!(places(3, 0, 9).await, [1, 3]);
    assert_eq!(places(9, 0, 2).await, [1, 3]);
    assert_eq!(places(9, 3, 2).await, [4]);
    let before = all(&log).await;
    let stays = payload(b"out").digest();
    let kept = || vec![(Position::new(1), vec![stays]), (Position::new(2), vec![]), (Position::new(3), vec![])];
    assert_eq!(log.keep_payloads(kept()).await.unwrap(), 60_002);
    assert_eq!(log.keep_payloads(kept()).await.unwrap(), 0);
    assert_eq!(places(9, 0, 9).await, [1, 4]);
    assert_eq!(log.payloads(Position::new(1)).await.unwrap(), [payload(b"out")]);
    assert!(log.payloads(Position::new(3)).await.unwrap().is_empty());
    let hashes = |all: &[Arc<Recorded>]| all.iter().map(|found| found.commit.hash()).collect::<Vec<_>>();
    assert_eq!(hashes(&all(&log).await), hashes(&before));
    log.close();
    assert!(log.keep_payloads(kept()).await.is_err());
}

#[tokio::test]
async fn the_wal_is_copied_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteLogConfig { checkpoint_bytes: 200_000, ..SqliteLogConfig::default() };
    let log = Arc::new(SqliteLog::open(dir.path(), config).unwrap());
    let mut stream = Stream::fresh();
    stream.epoch = Epoch::new(2);
    // 10 MB, of which the WAL holds what the other thread has not copied yet: on a busy machine that is more than it should be.
    for _ in 0..1_000 {
        let commit = stream.seal_named(1, &"x".repeat(10_000));
        log.append(bare(commit.clone())).await.unwrap();
        stream.head = commit.head();
    }
    let size = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
    assert!(size("events.db-wal") < 5_000_000, "{}", size("events.db-wal"));
    assert!(size("events.db") > 5_000_000, "{}", size("events.db"));
    log.close();
    assert_eq!(size("events.db-wal"), 0);
}

#[tokio::test]
async fn reading_a_tenant_that_nobody_knows_is_empty() {
    let (log, _dir) = fresh();
    let tenant = TenantId::new("nobody").unwrap();
    assert!(log.read_stream(&tenant, Revision::new(1), ReadLimit::default()).await.unwrap().is_empty());
    assert_eq!(log.tail().await.unwrap(), Position::START);
}

#[tokio::test]
async fn a_reader_that_stays_delays_the_checkpoint_and_not_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteLogConfig { checkpoint_bytes: 100_000, wal_bytes: 400_000, ..SqliteLogConfig::default() };
    let log = Arc::new(SqliteLog::open(dir.path(), config).unwrap());
    let mut stream = Stream::fresh();
    stream.append(&(Arc::clone(&log) as Log), 1).await;
    let reader = rusqlite::Connection::open(dir.path().join("events.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM commits;").unwrap();
    let mut fill = async |commits: usize| {
        for _ in 0..commits {
            let commit = stream.seal_named(1, &"x".repeat(10_000));
            log.append(bare(commit.clone())).await.unwrap();
            stream.head = commit.head();
        }
    };
    let size = || fs::metadata(dir.path().join("events.db-wal")).unwrap().len();
    fill(50).await;
    assert!(size() > 400_000, "the reader needs the WAL: {}", size());
    drop(reader);
    fill(50).await;
    assert!(size() <= 450_000, "the WAL is cut when it starts over: {}", size());
}
