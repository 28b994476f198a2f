//! What a copy has in the end, and what stops it.

use bytes::Bytes;

use super::*;
use crate::{
    blobs::fs::FsBlobs,
    event::Event,
    id::ModuleName,
    ledger::ChainHash,
    log::{
        conformance::Stream,
        memory::MemoryLog,
        sqlite::{SqliteLog, SqliteLogConfig},
    },
    module,
    payload::Payload,
};

struct Place {
    log: Arc<MemoryLog>,
    store: Store,
    _folder: tempfile::TempDir,
}

fn place() -> Place {
    let (log, folder) = (Arc::new(MemoryLog::new()), tempfile::tempdir().unwrap());
    let blobs = Arc::new(FsBlobs::open(folder.path()).unwrap());
    let store = Store { log: Arc::clone(&log) as Arc<dyn EventLog>, blobs };
    Place { log, store, _folder: folder }
}

async fn written(place: &Place, tenants: usize, commits: usize) -> Vec<Stream> {
    let log = Arc::clone(&place.store.log);
    let mut streams: Vec<Stream> = (0..tenants).map(|_| Stream::fresh()).collect();
    for _ in 0..commits {
        for stream in &mut streams {
            stream.append(&log, 2).await;
        }
    }
    streams
}

async fn done(from: &Place, to: &Place) -> Result<Copied, CopyError> {
    copy(&from.store, &to.store, Order::Kept, |_| ()).await
}

async fn done_in_any_order(from: &Place, to: &Place) -> Result<Copied, CopyError> {
    copy(&from.store, &to.store, Order::Any, |_| ()).await
}

fn hashes(place: &Place) -> Vec<ChainHash> {
    place.log.commits().iter().map(|recorded| recorded.commit.hash()).collect()
}

#[tokio::test]
async fn every_stream_has_the_same_commits_in_the_target() {
    let (from, kept, any) = (place(), place(), place());
    let streams = written(&from, 40, 3).await;
    let copies = [(done(&from, &kept).await.unwrap(), &kept), (done_in_any_order(&from, &any).await.unwrap(), &any)];
    for (copied, to) in copies {
        assert_eq!((copied.tenants, copied.commits, copied.present, copied.events), (40, 120, 0, 240));
        for stream in &streams {
            let of = |place: &Place| {
                let commits = place.log.commits().into_iter().filter(|it| *it.commit.tenant() == stream.tenant);
                commits.map(|it| (it.commit.hash(), it.commit.body().clone())).collect::<Vec<_>>()
            };
            assert_eq!(of(&from), of(to));
            assert_eq!(to.log.head(&stream.tenant).await.unwrap(), stream.head);
        }
    }
    assert_eq!(hashes(&kept), hashes(&from));
    assert_ne!(hashes(&any), hashes(&from), "the tenants of the test do not take turns any more");
}

#[tokio::test]
async fn a_target_in_another_order_is_refused_unless_any_will_do() {
    let (from, to) = (place(), place());
    written(&from, 5, 3).await;
    done_in_any_order(&from, &to).await.unwrap();
    assert!(matches!(done(&from, &to).await, Err(CopyError::Disordered { .. })));
    assert_eq!(done_in_any_order(&from, &to).await.unwrap().present, 15);
}

#[tokio::test]
async fn a_target_that_has_more_than_the_source_is_no_copy() {
    let (from, to) = (place(), place());
    written(&from, 3, 2).await;
    done(&from, &to).await.unwrap();
    let log = Arc::clone(&to.store.log);
    // A node was started on it, and a tenant was registered.
    let mut other = Stream::fresh();
    other.append(&log, 1).await;
    for error in [done(&from, &to).await.unwrap_err(), done_in_any_order(&from, &to).await.unwrap_err()] {
        assert!(matches!(&error, CopyError::Beyond { tenant, .. } if *tenant == other.tenant), "{error}");
    }
    let (from, to) = (place(), place());
    done(&from, &to).await.unwrap();
    let log = Arc::clone(&to.store.log);
    Stream::fresh().append(&log, 1).await;
    assert!(matches!(done(&from, &to).await, Err(CopyError::Beyond { .. })), "the source is empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_file_another_program_has_for_a_while_is_waited_for() {
    let (from, to, folder) = (place(), place(), tempfile::tempdir().unwrap());
    written(&from, 5, 60).await;
    let short = SqliteLogConfig { busy_timeout_ms: 1, batch_appends: 16, ..SqliteLogConfig::default() };
    let log = Arc::new(SqliteLog::open(folder.path(), short.held()).unwrap());
    let backup = rusqlite::Connection::open(folder.path().join("events.db")).unwrap();
    backup.execute_batch("BEGIN IMMEDIATE").unwrap();
    let target = Store { log: Arc::clone(&log) as Arc<dyn EventLog>, blobs: Arc::clone(&to.store.blobs) };
    let copying = tokio::spawn({
        let from = from.store.clone();
        async move { copy(&from, &target, Order::Kept, |_| ()).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(log.tail().await.unwrap(), Position::START);
    backup.execute_batch("COMMIT").unwrap();
    assert_eq!(copying.await.unwrap().unwrap().commits, 300);
    let copied = log.read_all(Position::START, ReadLimit::default()).await.unwrap();
    assert_eq!(copied.iter().map(|recorded| recorded.commit.hash()).collect::<Vec<_>>(), hashes(&from));
}

#[tokio::test]
async fn what_the_target_has_is_found_and_the_rest_comes_behind_it() {
    let (part, from, to) = (place(), place(), place());
    let mut streams = written(&part, 3, 2).await;
    done(&part, &to).await.unwrap();
    done(&part, &from).await.unwrap();
    let log = Arc::clone(&from.store.log);
    for stream in &mut streams {
        stream.append(&log, 1).await;
    }
    let copied = done(&from, &to).await.unwrap();
    assert_eq!((copied.commits, copied.present, hashes(&to)), (9, 6, hashes(&from)));
}

#[tokio::test]
async fn many_are_under_way_into_a_log_that_keeps_their_order_and_none_behind_one_that_was_not_taken_in() {
    let (from, to) = (place(), place());
    written(&from, 7, 100).await;
    to.log.hold();
    let copying = tokio::spawn({
        let (from, to) = (from.store.clone(), to.store.clone());
        async move { copy(&from, &to, Order::Kept, |_| ()).await }
    });
    to.log.held_back(UNDER_WAY_MAX).await;
    to.log.fail_next_append(AppendError::Busy);
    to.log.release();
    // Others were offered behind it: it is not offered again, and the copy is to be run again.
    assert!(matches!(copying.await.unwrap(), Err(CopyError::Target { .. })));
    to.log.fail_next_append(AppendError::Busy);
    assert_eq!(done(&from, &to).await.unwrap().commits, 700);
    assert_eq!(hashes(&to), hashes(&from));
}

#[tokio::test]
async fn a_copy_that_broke_off_goes_on() {
    let (from, to) = (place(), place());
    written(&from, 3, 4).await;
    to.log.fail_next_append(AppendError::TooLarge);
    assert!(matches!(done(&from, &to).await, Err(CopyError::Target { .. })));
    let before = to.log.commits().len() as u64;
    let copied = done(&from, &to).await.unwrap();
    assert_eq!((copied.commits, copied.present), (12, before));
    assert_eq!(to.log.commits().len(), 12);
    assert_eq!(done(&from, &to).await.unwrap().present, 12, "a third copy found something to do");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_is_asked_for_again() {
    let (from, to) = (place(), place());
    written(&from, 1, 3).await;
    to.log.fail_next_append(AppendError::Busy);
    to.log.lose_next_answer();
    let copied = done(&from, &to).await.unwrap();
    assert_eq!((copied.commits, to.log.commits().len()), (3, 3));
}

#[tokio::test]
async fn payloads_ride_along() {
    let (from, to) = (place(), place());
    let (mut stream, payload) = (Stream::fresh(), Payload::new(Bytes::from_static(b"input")));
    let append = Append { commit: stream.seal(1), payloads: vec![payload.clone()] };
    from.store.log.append(append).await.unwrap();
    stream.head = from.log.head(&stream.tenant).await.unwrap();
    done(&from, &to).await.unwrap();
    let position = to.log.tail().await.unwrap();
    assert_eq!(to.log.payloads(position).await.unwrap(), [payload]);
}

#[tokio::test]
async fn blobs_that_events_name_are_there_before_their_commit() {
    let (from, to, stream) = (place(), place(), Stream::fresh());
    let module = |digest, name: &str| {
        Event::ModulePublished(module::Published {
            name: ModuleName::new(name).unwrap(),
            version: 1,
            digest,
            size_bytes: 4,
            kind: module::Kind::Core,
            imports: vec![],
            exports: vec![],
            settings: Default::default(),
            writes_full_at: None,
        })
    };
    let (kept, gone) = (Bytes::from_static(b"kept"), Bytes::from_static(b"gone"));
    let digest = from.store.blobs.put(kept.clone()).await.unwrap();
    let events = vec![module(digest, "a"), module(digest, "b"), module(Digest::of(&gone), "c")];
    from.store.log.append(Append { commit: stream.seal_events(events), payloads: vec![] }).await.unwrap();
    // A target that takes no commit has the blobs all the same.
    to.log.fail_next_append(AppendError::TooLarge);
    assert!(done(&from, &to).await.is_err());
    assert_eq!(to.store.blobs.get(digest).await.unwrap(), Some(kept));
    let copied = done(&from, &to).await.unwrap();
    assert_eq!((copied.blobs, copied.missing), (1, 1));
}

#[tokio::test]
async fn a_source_that_was_changed_is_not_carried_on() {
    let (from, to) = (place(), place());
    written(&from, 1, 2).await;
    from.log.damage_last_body();
    assert!(matches!(done(&from, &to).await, Err(CopyError::Broken(_))));
    assert!(to.log.commits().is_empty());
}

#[tokio::test]
async fn a_target_that_has_gone_another_way_is_refused() {
    let (from, to) = (place(), place());
    let mut stream = written(&from, 1, 2).await.remove(0);
    done(&from, &to).await.unwrap();
    let log = Arc::clone(&to.store.log);
    stream.append(&log, 1).await;
    assert!(matches!(done(&from, &to).await, Err(CopyError::Beyond { .. })));
    assert!(matches!(done_in_any_order(&from, &to).await, Err(CopyError::Differs { .. })));
    let elsewhere = place();
    let mut other = Stream::of(stream.tenant.clone());
    other.append(&(Arc::clone(&elsewhere.store.log)), 1).await;
    assert!(matches!(done(&from, &elsewhere).await, Err(CopyError::Disordered { .. })));
    assert!(matches!(done_in_any_order(&from, &elsewhere).await, Err(CopyError::Target { .. })));
}
