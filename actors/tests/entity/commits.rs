//! Commits under way: what gathers for the next one, and what becomes of two of them when the log refuses, forgets or fails.

use super::*;

#[tokio::test]
async fn what_gathers_during_an_append_is_one_commit() {
    let node = Node::with_tenant().await;
    let before = node.log.commits().len();
    node.log.hold();
    let first = node.enter(rename("first"));
    node.log.held_back(1).await;
    let rest: Vec<_> = (0..100).map(|n| node.enter(rename(&format!("name {n}")))).collect();
    node.log.held_back(2).await;
    node.log.release();
    first.await.unwrap();
    for asked in rest {
        asked.await.unwrap();
    }
    // Enough gathered for a second commit on top of the first; everything else had to wait for a place.
    assert_eq!(node.log.commits().len(), before + 3);
    assert_eq!(node.history().len(), 3 + 101);
}

/// 33 commands, of which the last 32 gathered while the log held the first back: two commits are under way.
async fn two_commits_held_back(node: &Arc<Node>) -> Vec<tokio::task::JoinHandle<Result<Decided, AskError>>> {
    let spawn = |name: String| {
        let node = Arc::clone(node);
        tokio::spawn(async move { node.ask(rename(&name)).await })
    };
    node.log.hold();
    let mut asked = vec![spawn("first".into())];
    node.log.held_back(1).await;
    asked.extend((0..32).map(|n| spawn(format!("name {n}"))));
    node.log.held_back(2).await;
    asked
}

#[tokio::test]
async fn a_second_commit_is_offered_before_the_first_is_acknowledged() {
    let node = Arc::new(Node::with_tenant().await);
    let before = node.log.commits().len();
    let asked = two_commits_held_back(&node).await;
    assert!(asked.iter().all(|asked| !asked.is_finished()), "nothing is durable yet");
    node.log.release();
    for (n, asked) in asked.into_iter().enumerate() {
        let decided = asked.await.unwrap().unwrap();
        // The position is that of its own commit, not of the newest.
        assert_eq!(decided.position.get(), (before + 1 + n.min(1)) as u64);
    }
    assert_eq!(node.log.commits().len(), before + 2);
    assert_eq!(node.history().len(), 3 + 33);
}

#[tokio::test]
async fn what_changes_nothing_waits_for_the_commits_that_it_rests_on() {
    let node = Arc::new(Node::with_tenant().await);
    let spawn = |command: Command| {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.ask(command).await })
    };
    node.log.hold();
    let first = spawn(rename("first"));
    node.log.held_back(1).await;
    // As many as make a second commit, and none has anything for it: the name is theirs already, ahead of the log.
    let same: Vec<_> = (0..32).map(|_| spawn(rename("first"))).collect();
    let refused = spawn(register());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(same.iter().all(|asked| !asked.is_finished()) && !refused.is_finished() && !first.is_finished());
    node.log.release();
    let durable = first.await.unwrap().unwrap().position;
    for asked in same {
        let decided = asked.await.unwrap().unwrap();
        assert_eq!((decided.events.len(), decided.position), (0, durable));
    }
    assert!(matches!(refused.await.unwrap(), Err(AskError::Refused(Refusal::AlreadyRegistered))));
}

#[tokio::test]
async fn a_commit_that_is_refused_takes_along_what_was_decided_on_top_of_it() {
    let node = Arc::new(Node::with_tenant().await);
    let asked = two_commits_held_back(&node).await;
    node.log.fail_next_append(AppendError::Conflict {
        expected: Revision::new(3),
        actual: Revision::new(4),
        epoch: Epoch::FIRST,
    });
    node.log.release();
    // Neither is stored; both are decided afresh by the next entity, each command once.
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(node.history().len(), 3 + 33);
}

#[tokio::test]
async fn a_lost_answer_does_not_let_the_second_commit_overtake_the_first() {
    let node = Arc::new(Node::with_tenant().await);
    let asked = two_commits_held_back(&node).await;
    node.log.lose_next_answer();
    node.log.release();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(node.history().len(), 3 + 33);
}

#[tokio::test]
async fn two_commits_of_which_nobody_knows_are_not_decided_again() {
    let node = Arc::new(Node::with_tenant_in(RegionConfig { offer_within_ms: 200, ..RegionConfig::default() }).await);
    let asked = two_commits_held_back(&node).await;
    // More often than two commits are offered in that time: both are stored, and their owner is never told.
    (0..64).for_each(|_| node.log.lose_next_answer());
    node.log.release();
    for asked in asked {
        assert!(matches!(asked.await.unwrap(), Err(AskError::Unavailable { .. })));
    }
    assert_eq!(node.history().len(), 3 + 33);
    node.log.forget_faults();
    let decided = node.ask(rename("by the next entity")).await.unwrap();
    assert_eq!(decided.revision, Revision::new(3 + 33 + 1));
}

#[tokio::test]
async fn a_log_that_fails_with_two_commits_under_way_answers_both() {
    let node = Arc::new(Node::with_tenant().await);
    let asked = two_commits_held_back(&node).await;
    node.log.poison("the disk is gone");
    for asked in asked {
        assert!(matches!(asked.await.unwrap(), Err(AskError::Unavailable { .. })));
    }
    assert_eq!(node.history().len(), 3);
}

#[tokio::test]
async fn a_log_that_is_busy_for_long_costs_an_answer_and_no_entity() {
    let config = RegionConfig { answer_within_ms: 100, ..RegionConfig::default() };
    let node = Node::with_tenant_in(config).await;
    // The pauses between as many offers are some seconds together.
    (0..14).for_each(|_| node.log.fail_next_append(AppendError::Busy));
    let error = node.ask(rename("once")).await.unwrap_err();
    assert!(error.to_string().contains("not known"), "{error}");
    let named = |name: &str| {
        let renamed = |event: &Event| matches!(event, Event::TenantRenamed(renamed) if renamed.name == name);
        node.history().iter().filter(|event| renamed(event)).count()
    };
    node.eventually("the commit that was offered again", |_| named("once") > 0).await;
    node.ask(rename("twice")).await.unwrap();
    assert_eq!((named("once"), named("twice")), (1, 1));
}

#[tokio::test]
async fn two_commits_that_a_busy_log_turned_away_are_offered_again_in_their_order() {
    let node = Arc::new(Node::with_tenant().await);
    let asked = two_commits_held_back(&node).await;
    (0..6).for_each(|_| node.log.fail_next_append(AppendError::Busy));
    node.log.release();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(node.history().len(), 3 + 33);
    // Both are as they were sealed at first: none was decided afresh.
    let lengths: Vec<_> = node.log.commits().iter().map(|it| it.commit.header().count).collect();
    assert_eq!(lengths[lengths.len() - 2..], [1, 32], "{lengths:?}");
}
