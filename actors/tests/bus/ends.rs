//! How executions of other nodes end: their end is recorded once, or they are declared lost.

use wasmwiz_actors::dispatch::DispatchError;
use wasmwiz_events::key::Scope;

use super::*;

#[tokio::test]
async fn the_end_of_an_execution_is_reported_until_it_is_known_to_be_recorded() {
    let cluster = Cluster::start(Bounds::default()).await;
    // One letter for the admission, and then those for the end.
    for fault in [Fault::Deliver, Fault::Swallow, Fault::Nobody, Fault::LoseAnswer] {
        cluster.wires.next(fault);
    }
    let done = cluster.node(2).execute("echo", "hello").await.unwrap();
    assert_eq!((done.stdout.as_ref(), cluster.wires.sent()), (&b"hello"[..], 5));
    let End::Finished(finished) = done.end else { panic!("{:?}", done.end) };
    assert_eq!(finished.outcome, Outcome::Succeeded);
    assert!(cluster.ends().values().all(|ends| *ends == 1));
}

#[tokio::test]
async fn an_end_that_an_owner_refuses_which_has_not_read_the_admission_is_offered_again() {
    let cluster = Cluster::start(Bounds::default()).await;
    let (old, new, asker) = (cluster.node(1), cluster.node(2), Arc::clone(cluster.node(3)));
    // The admission is on its way to the log when another owner takes over and reads the stream.
    *old.view.believes.lock().unwrap() = Some(Owner::Here(Epoch::FIRST));
    cluster.log.hold();
    let running = tokio::spawn(async move { asker.execute("echo", "hello").await });
    cluster.log.held_back(1).await;
    cluster.table.give(Some((2, 2)));
    new.ask(Command::Authorise(Scope::Operator)).await.unwrap();
    let before = cluster.wires.sent();
    cluster.log.release();
    // The new owner knows of no such execution. Nobody writes anything, so that it has to look by itself.
    eventually("the end is offered again", || cluster.wires.sent() > before + 1).await;
    let done = running.await.unwrap().unwrap();
    assert_eq!(done.stdout, "hello");
    assert!(matches!(done.end, End::Finished(_)), "{:?}", done.end);
    assert!(cluster.ends().values().all(|ends| *ends == 1), "{:?}", cluster.ends());
}

#[tokio::test]
async fn an_end_that_nobody_takes_in_is_declared_lost_as_soon_as_somebody_does() {
    let cluster = Arc::new(Cluster::start(short()).await);
    let node = Arc::clone(cluster.node(2));
    cluster.log.hold();
    let running = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.execute("echo", "hello").await }
    });
    cluster.log.held_back(1).await;
    // Its admission is still answered; of the owner it knows nothing from here on, and offers the end in vain.
    *node.view.believes.lock().unwrap() = Some(Owner::Nobody);
    cluster.log.release();
    let error = tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, DispatchError::Ask(AskError::Unavailable { .. })), "{error}");
    assert!(cluster.ends().values().eq(&[0]), "{:?}", cluster.ends());
    *node.view.believes.lock().unwrap() = None;
    eventually("it is declared lost", || cluster.ends().values().eq(&[1])).await;
}

#[tokio::test]
async fn an_execution_is_lost_when_the_life_of_its_node_has_ended_and_not_before() {
    let cluster = Arc::new(Cluster::start(Bounds::default()).await);
    let dying = Arc::clone(cluster.node(2));
    let (boot, running) = (dying.boot, tokio::spawn(async move { dying.execute("spin", "").await }));
    eventually("it is accepted", || cluster.ends().len() == 1).await;
    // It is read back by another owner, which knows that the node lives.
    cluster.hand_over(1, 3, 2).await;
    cluster.node(1).ask(Command::Reap).await.unwrap();
    assert!(cluster.ends().values().all(|ends| *ends == 0));
    cluster.table.end(boot);
    eventually("it is declared lost", || cluster.ends().values().eq(&[1])).await;
    assert!(cluster.history().iter().any(|event| matches!(event, Event::ExecutionLost(_))));
    running.abort();
}

#[tokio::test]
async fn an_admission_of_which_its_node_never_heard_is_lost_also_when_that_node_becomes_the_owner() {
    let cluster = Arc::new(Cluster::start(Bounds::default()).await);
    cluster.wires.next(Fault::LoseAnswer);
    let asking = tokio::spawn({
        let node = Arc::clone(cluster.node(2));
        async move { node.execute("echo", "hello").await }
    });
    eventually("it is accepted", || cluster.ends().len() == 1).await;
    // Its owner dies before it has answered, and of all nodes the one that asked is the next.
    cluster.table.give(Some((2, 2)));
    assert!(asking.await.unwrap().is_err());
    eventually("it is declared lost", || cluster.ends().values().eq(&[1])).await;
}

#[tokio::test]
async fn an_admission_that_comes_after_its_tenant_knew_of_no_execution_is_lost_all_the_same() {
    let cluster = Cluster::start(Bounds::default()).await;
    cluster.wires.next(Fault::Late);
    let request = Node::request("echo", "hello");
    let error = cluster.node(2).dispatch.execute(request).await.unwrap_err();
    assert!(error.to_string().contains("not known"), "{error}");
    assert!(cluster.ends().is_empty(), "it is there already");
    eventually("it is accepted, late", || cluster.ends().len() == 1).await;
    eventually("it is declared lost", || cluster.ends().values().eq(&[1])).await;
}

#[tokio::test]
async fn what_a_node_ran_is_lost_as_soon_as_its_owner_is_told_that_lives_have_ended() {
    let bounds = Bounds::default();
    let seldom = RegionConfig { wake_every_ms: 3_600_000, ..bounds.region };
    let cluster = Arc::new(Cluster::start(Bounds { region: seldom, ..bounds }).await);
    let dying = Arc::clone(cluster.node(2));
    let (boot, running) = (dying.boot, tokio::spawn(async move { dying.execute("spin", "").await }));
    eventually("it is accepted", || cluster.ends().len() == 1).await;
    cluster.table.end(boot);
    cluster.node(1).bus.region().look();
    eventually("it is declared lost", || cluster.ends().values().eq(&[1])).await;
    running.abort();
}
