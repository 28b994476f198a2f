//! A past that takes longer to read than anybody waits: it is read in stages, and comes to its end.

use std::path::Path;

use wasmwiz_actors::{
    bus::CommandBus,
    snapshots::{FileSnapshots, SnapshotConfig},
};
use wasmwiz_events::revision::Position;

use super::{snapshots::files, *};

/// A caller waits half a second, and what was read may be kept after every event.
fn config() -> RegionConfig {
    let snapshots = SnapshotConfig { every_events: 10, at_rest_events: 1, keep: 2 };
    RegionConfig { answer_within_ms: 500, wake_every_ms: 5, snapshots, ..RegionConfig::default() }
}

/// The log of a tenant with 33 events in 32 commits, of which nothing is kept.
async fn past() -> Arc<MemoryLog> {
    let node = Node::start(&Arc::new(MemoryLog::new()), RegionConfig::default()).await;
    node.ask(register()).await.unwrap();
    for n in node.revision() + 1..=33 {
        node.ask(rename(&format!("name {n}"))).await.unwrap();
    }
    node.log
}

async fn keeping(log: &Arc<MemoryLog>, folder: &Path) -> Node {
    Node::keeping(log, config(), Some(Arc::new(FileSnapshots::new(folder)))).await
}

/// Wakes the tenant, for as long as it takes.
fn wake(node: &Node) -> tokio::task::JoinHandle<Result<(), AskError>> {
    let bus = CommandBus::alone(node.region.clone());
    tokio::spawn(async move { bus.wake(&acme(), Duration::from_secs(60)).await })
}

/// Its name is the last one, and it goes on.
async fn is_as_it_was(node: &Node) {
    wake(node).await.unwrap().unwrap();
    assert!(node.ask(rename("name 33")).await.unwrap().events.is_empty(), "it has another name");
    node.ask(rename("and on")).await.unwrap();
}

fn is_late<T: std::fmt::Debug>(asked: Result<T, AskError>) {
    assert!(matches!(&asked, Err(AskError::Unavailable { reason, .. }) if reason.contains("in time")), "{asked:?}");
}

#[tokio::test]
async fn who_wakes_a_tenant_waits_longer_than_who_asks_it() {
    let log = past().await;
    let node = Node::start(&log, config()).await;
    log.page(Some(20));
    let waking = wake(&node);
    for name in ["too early", "still too early"] {
        is_late(node.ask(rename(name)).await);
    }
    assert!(!waking.is_finished(), "it waited no longer than a caller");
    log.page(None);
    waking.await.unwrap().unwrap();
    is_as_it_was(&node).await;
}

#[tokio::test]
async fn who_wakes_a_tenant_is_told_when_its_past_is_not_read_in_time_and_at_once_when_it_cannot_be() {
    let log = past().await;
    let node = Node::start(&log, config()).await;
    log.page(Some(20));
    let bus = CommandBus::alone(node.region.clone());
    is_late(bus.wake(&acme(), Duration::from_millis(50)).await);
    log.damage_last_body();
    let waking = wake(&node);
    log.page(None);
    let error = waking.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("revision 33"), "{error}");
}

#[tokio::test]
async fn a_tenant_that_was_never_registered_is_awake_at_once() {
    let node = Node::start(&Arc::new(MemoryLog::new()), config()).await;
    wake(&node).await.unwrap().unwrap();
    assert_eq!(node.revision(), 0, "something was recorded");
}

#[tokio::test]
async fn a_fold_that_nobody_waits_for_any_more_leaves_what_it_has_for_the_next_one() {
    let (folder, log) = (tempfile::tempdir().unwrap(), past().await);
    // Sooner than a stage.
    let config = RegionConfig { passivate_after_ms: 1_000, ..config() };
    let node = Node::keeping(&log, config, Some(Arc::new(FileSnapshots::new(folder.path())))).await;
    // The caller gives up after twenty commits, and nobody comes for as long as an idle tenant stays in memory.
    log.page(Some(20));
    is_late(node.ask(rename("too early")).await);
    log.paged().await;
    node.clock.advance_ms(1_000);
    node.eventually("the entity to give up", |node| node.region.entities() == 0).await;
    log.page(Some(1));
    node.eventually("what was read to be kept", |_| !files(folder.path()).is_empty()).await;
    // The next one reads on from there: what lies before it cannot be read any more.
    log.damage(Position::new(5));
    log.page(None);
    is_as_it_was(&node).await;
}

#[tokio::test]
async fn a_process_that_dies_in_the_middle_of_a_long_fold_has_kept_most_of_it() {
    let (folder, log) = (tempfile::tempdir().unwrap(), past().await);
    let node = keeping(&log, folder.path()).await;
    log.page(Some(20));
    let waking = wake(&node);
    log.paged().await;
    // Five seconds later.
    node.clock.advance_ms(5_000);
    log.page(Some(2));
    node.eventually("what was read to be kept", |_| !files(folder.path()).is_empty()).await;
    log.paged().await;
    assert!(!waking.is_finished(), "it has read all of it");
    // The first one does nothing more, and another life begins.
    waking.abort();
    node.region.shutdown(Duration::from_secs(5)).await;
    log.damage(Position::new(5));
    log.page(None);
    is_as_it_was(&keeping(&log, folder.path()).await).await;
}
