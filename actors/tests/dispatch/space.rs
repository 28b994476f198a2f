//! A disk that becomes full while requests are on their way: what has not begun is refused or waits, and what has begun ends.

use wasmwiz_actors::disk_space::Level;

use super::{
    queued::{begun, ended},
    *,
};

/// Writes 200,000 bytes, more than ride with a commit, and runs until its deadline.
const LOUD: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 8)
    (func (export "_start")
      (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 200000))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
      (loop (br 0))))"#;

#[tokio::test]
async fn without_room_nothing_is_taken_in_and_nothing_is_recorded_of_it() {
    let node = Node::start().await;
    node.publish(echo()).await.unwrap();
    let before = node.events();
    for level in [Level::Low, Level::Least] {
        node.dispatch.space().set(level);
        let published = node.publish(with_a_custom_section(1)).await;
        assert!(matches!(published, Err(DispatchError::DiskFull)), "{published:?}");
        for code in [named(None), Code::Inline(echo())] {
            let executed = node.execute(code.clone(), "hello").await;
            assert!(matches!(executed, Err(DispatchError::DiskFull)), "{executed:?}");
            let queued = node.dispatch.enqueue(request(code, "hello", 5_000), None).await;
            assert!(matches!(queued, Err(DispatchError::DiskFull)), "{queued:?}");
        }
    }
    assert_eq!(node.events(), before);
    node.dispatch.space().set(Level::Plenty);
    assert_eq!(node.execute(named(None), "hello").await.unwrap().stdout, "hello");
}

#[tokio::test]
async fn what_waits_for_its_turn_when_the_disk_becomes_low_goes_on_waiting() {
    let (node, running, waited_for) = Node::with_its_slot_taken().await;
    let waiting = node.enqueue(named(None), "hello").await.unwrap();
    node.dispatch.space().set(Level::Low);
    node.cancel(running).await;
    waited_for.await.unwrap().unwrap();
    // Its slot is free. Time for it to begin, if it did.
    for n in 0..50 {
        node.ask(Command::Change { name: Some(format!("name {n}")), tier: None }).await.unwrap();
    }
    assert_eq!(begun(&node.events(), waiting), None);
    node.dispatch.space().set(Level::Plenty);
    node.eventually("its end", |events| ended(events, waiting).is_some()).await;
}

#[tokio::test]
async fn what_may_not_begin_any_more_ends_while_there_is_no_room() {
    let (node, running, waited_for) = Node::with_its_slot_taken().await;
    let late = node.dispatch.enqueue(request(named(None), "hello", 300), None).await.unwrap().accepted.execution_id;
    node.dispatch.space().set(Level::Least);
    node.cancel(running).await;
    waited_for.await.unwrap().unwrap();
    node.eventually("its end", |events| ended(events, late).is_some()).await;
    assert_eq!((begun(&node.events(), late), node.dispatch.space().level()), (None, Level::Least));
}

#[tokio::test]
async fn at_the_last_level_a_large_output_gives_way_to_the_end_of_its_execution() {
    let node = Arc::new(Node::start().await);
    node.publish(wat::parse_str(LOUD).unwrap().into()).await.unwrap();
    let caller = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.dispatch.execute(request(named(None), "", 2_000)).await }
    });
    node.eventually("its acceptance", |events| matches!(events.last(), Some(Event::ExecutionAccepted(_)))).await;
    node.dispatch.space().set(Level::Least);
    let done = caller.await.unwrap().unwrap();
    let End::Finished(finished) = &done.end else { panic!("{:?}", done.end) };
    assert_eq!((finished.outcome, finished.stdout.size_bytes, done.stdout.len()), (Outcome::Failed, 0, 0));
    assert!(finished.message.as_deref().is_some_and(|message| message.contains("could not keep the output")));
    assert_eq!(node.dispatch.space().level(), Level::Least);
}
