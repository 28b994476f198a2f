//! An end that the log does not take for a while: its caller is told so in time, and it is recorded without one.

use super::*;

#[tokio::test]
async fn a_caller_is_told_in_time_that_the_end_is_not_recorded_and_it_is_later() {
    // Given an execution whose guest computes, and a log that stands still from then on.
    let region = RegionConfig { answer_within_ms: 500, ..RegionConfig::default() };
    let node = Arc::new(Node::start_in(executors(), region).await);
    node.publish(spin()).await.unwrap();
    let caller = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.dispatch.execute(request(named(None), "", 2_000)).await }
    });
    node.eventually("its admission", |events| matches!(events.last(), Some(Event::ExecutionAccepted(_)))).await;
    node.log.hold();
    // When its end is offered, then its caller does not wait for as long as it is.
    node.log.held_back(1).await;
    let offered = tokio::time::Instant::now();
    let error = caller.await.unwrap().unwrap_err();
    let took = offered.elapsed();
    assert!(matches!(error, DispatchError::Ask(AskError::Unavailable { .. })), "{error}");
    assert!(took < Duration::from_secs(6), "a caller waited for {took:?}");
    // When the log goes on, then the end is in it.
    node.log.release();
    node.eventually("its end", |events| matches!(events.last(), Some(Event::ExecutionFinished(_)))).await;
}
