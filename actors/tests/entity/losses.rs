//! Executions whose end nobody reports: when they are declared lost, and when not.

use super::*;

#[tokio::test]
async fn a_later_life_of_the_node_declares_lost_what_an_earlier_one_accepted() {
    let first = Node::with_tenant().await;
    first.execute().await.unwrap();
    // The first life ends without a word; the second reads the stream as soon as anybody asks.
    let second = Node::start(&first.log, RegionConfig::default()).await;
    second.ask(rename("asked")).await.unwrap();
    let history = second.history();
    let lost = history.iter().filter(|event| matches!(event, Event::ExecutionLost(_))).count();
    assert_eq!(lost, 1);
}

#[tokio::test]
async fn what_this_life_runs_survives_its_entity() {
    let node = Node::with_tenant().await;
    let execution = node.execute().await.unwrap();
    let Some(Event::ExecutionAccepted(accepted)) = execution.events.first() else { panic!("{execution:?}") };
    // Another writer makes the entity stop; the execution goes on, and its end is recorded by the next entity.
    node.log.fail_next_append(AppendError::Conflict {
        expected: Revision::new(4),
        actual: Revision::new(5),
        epoch: Epoch::FIRST,
    });
    node.ask(Command::Finish(Box::new(finished(accepted.execution_id)))).await.unwrap();
    assert!(matches!(node.history().last(), Some(Event::ExecutionFinished(_))));
}

#[tokio::test]
async fn silence_past_deadline_and_grace_is_a_loss() {
    let config = RegionConfig { wake_every_ms: 5, ..RegionConfig::default() };
    let node = Node::start(&Arc::new(MemoryLog::new()), config).await;
    node.ask(register()).await.unwrap();
    node.ask(publish()).await.unwrap();
    node.execute().await.unwrap();
    node.clock.advance_ms(300_000 + 59_999);
    node.region.look();
    // The entity answers after it has looked.
    node.ask(rename("Acme")).await.unwrap();
    assert_eq!(node.history().len(), 4);
    node.clock.advance_ms(1);
    node.eventually("the loss", |node| matches!(node.history().last(), Some(Event::ExecutionLost(_)))).await;
}

#[tokio::test]
async fn a_tenant_that_never_rests_has_its_losses_declared_all_the_same() {
    let config = RegionConfig { wake_every_ms: 1, ..RegionConfig::default() };
    let node = Arc::new(Node::start(&Arc::new(MemoryLog::new()), config).await);
    node.ask(register()).await.unwrap();
    node.ask(publish()).await.unwrap();
    node.execute().await.unwrap();
    let spawn = |name: &'static str| {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.ask(rename(name)).await.unwrap() })
    };
    node.log.hold();
    let first = spawn("in flight");
    node.log.held_back(1).await;
    let second = spawn("waits for the next commit");
    node.clock.advance_ms(300_000 + 60_000);
    // The entity goes from one append to the next without a rest; it wakes many times before.
    tokio::time::sleep(Duration::from_millis(50)).await;
    node.log.release();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let commits = node.log.commits();
    let next = commits.iter().find(|recorded| recorded.position == second.position).unwrap();
    let events = next.commit.events().unwrap();
    let lost = events.iter().filter(|envelope| matches!(envelope.event, Event::ExecutionLost(_))).count();
    assert_eq!((first.events.len(), events.len(), lost), (1, 2, 1));
}
