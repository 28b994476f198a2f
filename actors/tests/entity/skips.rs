//! A commit that cannot be folded keeps its tenant from waking until an operator has skipped it.

use wasmwiz_actors::tenant::SYSTEM;
use wasmwiz_events::{id::TenantId, revision::Position, skip::Skipped};

use super::*;

/// A tenant with six commits, one event each but the first, of which that at `place` is damaged. It was awake meanwhile.
async fn damaged_at(place: u64) -> Arc<MemoryLog> {
    let node = Node::start(&Arc::new(MemoryLog::new()), RegionConfig::default()).await;
    node.ask(register()).await.unwrap();
    for n in 2..=6 {
        node.ask(rename(&format!("name {n}"))).await.unwrap();
        if n == place {
            node.log.damage_last_body();
        }
    }
    node.log
}

async fn skip(node: &Node, place: u64) {
    let system = TenantId::new(SYSTEM).unwrap();
    let by = Authority::Operator("ada".to_owned());
    let ask = |command, by| Ask { command, by, origin: Origin::internal(Ids.command()), payloads: vec![] };
    let register = Command::Register { name: "System".into(), tier: Tier::Enterprise, first_key: None };
    // It is registered once.
    let _ = node.region.ask(&system, ask(register, Authority::System)).await;
    let (tenant, position) = (acme(), Position::new(place));
    let skip = Command::SkipCommit(Skipped { tenant, position, reason: "a sector is gone".to_owned() });
    node.region.ask(&system, ask(skip, by)).await.unwrap();
}

async fn is_refused(node: &Node, why: &str) {
    match node.ask(rename("name 6")).await {
        Err(AskError::Unavailable { reason, .. }) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_entity_wakes_past_a_skipped_commit_and_goes_on_from_the_end_of_its_stream() {
    let log = damaged_at(4).await;
    let node = Node::start(&log, RegionConfig::default()).await;
    is_refused(&node, "revision 5").await;
    // Another place was skipped: that says nothing of this one.
    skip(&node, 3).await;
    is_refused(&node, "revision 5").await;
    skip(&node, 4).await;
    assert!(node.ask(rename("name 6")).await.unwrap().events.is_empty(), "it has another name");
    node.ask(rename("and on")).await.unwrap();
    // The next one wakes so too, and what was decided since is there.
    let again = Node::start(&log, RegionConfig::default()).await;
    assert!(again.ask(rename("and on")).await.unwrap().events.is_empty());
}

#[tokio::test]
async fn what_was_said_by_a_skipped_commit_is_not_in_effect() {
    let node = Node::start(&Arc::new(MemoryLog::new()), RegionConfig::default()).await;
    node.ask(register()).await.unwrap();
    node.ask(publish()).await.unwrap();
    node.log.damage_last_body();
    node.ask(rename("behind")).await.unwrap();
    let again = Node::start(&node.log, RegionConfig::default()).await;
    skip(&again, 2).await;
    assert!(matches!(again.execute().await, Err(AskError::Refused(Refusal::ModuleUnknown))));
}

#[tokio::test]
async fn a_skip_at_the_end_of_a_stream_does_not_say_where_that_is() {
    let log = damaged_at(6).await;
    let node = Node::start(&log, RegionConfig::default()).await;
    is_refused(&node, "revision 7").await;
    skip(&node, 6).await;
    is_refused(&node, "its newest commit was skipped").await;
}

#[tokio::test]
async fn where_commits_are_missing_no_sound_one_is_skipped() {
    let log = damaged_at(0).await;
    // It is in no index either: only the revisions say that something is missing.
    log.lose(Position::new(4));
    let node = Node::start(&log, RegionConfig::default()).await;
    is_refused(&node, "missing between positions 3 and 5").await;
    for place in 3..=5 {
        skip(&node, place).await;
    }
    is_refused(&node, "missing between positions 3 and 5").await;
}

#[tokio::test]
async fn a_state_that_stands_on_a_damaged_commit_is_passed_over_for_the_one_before_it() {
    let (folder, log) = (tempfile::tempdir().unwrap(), damaged_at(0).await);
    let keeping = || async {
        let snapshots = wasmwiz_actors::snapshots::SnapshotConfig { every_events: 1, at_rest_events: 1, keep: 2 };
        let config = RegionConfig { snapshots, ..RegionConfig::default() };
        let files = wasmwiz_actors::snapshots::FileSnapshots::new(folder.path());
        Node::keeping(&log, config, Some(Arc::new(files))).await
    };
    // States at the seventh commit and at the eighth, of which the eighth is damaged then, and a ninth without one.
    for name in ["at seven", "at eight"] {
        let node = keeping().await;
        node.ask(rename(name)).await.unwrap();
        let file = folder.path().join(format!("acme/{:020}.snap", node.revision()));
        // Another may be on its way to its file, and then this one is the next.
        node.region.shutdown(Duration::from_secs(5)).await;
        node.eventually("a state that stands on the newest commit", |_| file.exists()).await;
    }
    let newest = log.commits().last().unwrap().clone();
    Node::start(&log, RegionConfig::default()).await.ask(rename("behind")).await.unwrap();
    log.damage(newest.position);

    let node = keeping().await;
    is_refused(&node, &format!("position {}", newest.position)).await;
    skip(&node, newest.position.get()).await;
    assert!(node.ask(rename("behind")).await.unwrap().events.is_empty(), "it has another name");
}

#[tokio::test]
async fn of_a_past_that_was_skipped_past_no_state_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let log = damaged_at(4).await;
    let keeping = || async {
        let snapshots = wasmwiz_actors::snapshots::SnapshotConfig { every_events: 1, at_rest_events: 1, keep: 2 };
        let config = RegionConfig { snapshots, ..RegionConfig::default() };
        let files = wasmwiz_actors::snapshots::FileSnapshots::new(folder.path());
        Node::keeping(&log, config, Some(Arc::new(files))).await
    };
    let node = keeping().await;
    skip(&node, 4).await;
    node.ask(rename("and on")).await.unwrap();
    node.region.shutdown(Duration::from_secs(5)).await;
    assert!(!folder.path().join("acme").exists(), "once the commit can be read again, it counts again");
}
