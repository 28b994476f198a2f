//! Several nodes over one log: any of them answers, the owner decides, and what is said of a command is true.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

mod cluster;
#[path = "bus/ends.rs"]
mod ends;
#[path = "bus/window.rs"]
mod window;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cluster::{Bounds, Cluster, Fault, Node, acme, eventually};
use wasmwiz_actors::{
    bus::BusConfig,
    dispatch::{Cancelling, End},
    handle::{AskError, Origin},
    ids::Ids,
    ownership::Owner,
    region::RegionConfig,
    tenant::{Command, Refusal},
};
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::{Accepted, Outcome},
    idempotency::Idempotency,
    log::EventLog as _,
    revision::Epoch,
    settings::{Clock, Settings, Sleep},
    shard::Shard,
};

fn rename(name: &str) -> Command {
    Command::Change { name: Some(name.into()), tier: None }
}

fn short() -> Bounds {
    let bounds = Bounds::default();
    Bounds { region: RegionConfig { answer_within_ms: 400, ..bounds.region }, ..bounds }
}

fn reason(error: &AskError) -> String {
    let AskError::Unavailable { reason, .. } = error else { panic!("{error}") };
    reason.to_string()
}

fn with_key() -> Origin {
    let digest = Digest::of(b"key");
    Origin::internal(Ids.command()).once(Some(Idempotency { key: digest, request: digest }))
}

#[tokio::test]
async fn any_node_answers_and_the_owner_decides() {
    let cluster = Cluster::start(Bounds::default()).await;
    cluster.hand_over(1, 2, 2).await;
    for (n, node) in (1..).zip(cluster.nodes()) {
        let decided = node.ask(rename(&format!("by {n}"))).await.unwrap();
        assert!(matches!(&decided.events[..], [Event::TenantRenamed(renamed)] if renamed.name == format!("by {n}")));
        let done = node.execute("echo", &format!("hello {n}")).await.unwrap();
        assert_eq!((done.accepted.node, done.accepted.boot), (node.name.clone(), node.boot));
        assert_eq!(done.stdout, format!("hello {n}"));
        let End::Finished(finished) = done.end else { panic!("{:?}", done.end) };
        assert_eq!(finished.outcome, Outcome::Succeeded);
    }
    assert_eq!(cluster.epochs(), [1, 2]);
    assert!(cluster.ends().values().all(|ends| *ends == 1));
    let owners: Vec<_> = cluster.nodes().iter().map(|node| node.bus.region().entities()).collect();
    assert_eq!(owners, [0, 1, 0]);
}

#[tokio::test]
async fn a_version_runs_as_it_says_whichever_node_is_asked_and_whichever_runs_it() {
    let cluster = Cluster::start(Bounds::default()).await;
    cluster.hand_over(1, 2, 2).await;
    let settings = Settings { sleep: Sleep::Skip, clock: Clock::Virtual, fuel: Some(1_000_000) };
    let published = cluster.node(3).publish_with("set", cluster::ECHO, settings).await.unwrap();
    assert!(matches!(&published.events[..], [Event::ModulePublished(it)] if it.settings == settings), "{published:?}");
    let is_set = |accepted: &Accepted| (accepted.sleep, accepted.fuel) == (Sleep::Skip, Some(1_000_000));
    for node in cluster.nodes() {
        let done = node.execute("set", "hello").await.unwrap();
        let End::Finished(finished) = &done.end else { panic!("{:?}", done.end) };
        assert!(is_set(&done.accepted) && finished.fuel.is_some() && done.stdout == "hello", "{done:?}");
        // Nobody waits for it, and another node may run it.
        let queued = node.dispatch.enqueue(Node::request("set", "later"), None).await.unwrap();
        assert!(is_set(&queued.accepted), "{queued:?}");
    }
    let ended = |event: &Event| matches!(event, Event::ExecutionFinished(it) if it.fuel.is_some());
    let metered_ends = || cluster.history().iter().filter(|event| ended(event)).count();
    eventually("the ends of all", || metered_ends() == 6).await;
}

#[tokio::test]
async fn who_wakes_a_tenant_of_another_node_waits_longer_than_who_asks_it() {
    let cluster = Cluster::start(short()).await;
    cluster.hand_over(1, 2, 2).await;
    // Its owner has one commit of its past to read, and the rest later.
    cluster.log.page(Some(1));
    let bus = cluster.node(3).bus.clone();
    let waking = tokio::spawn(async move { bus.wake(&acme(), Duration::from_secs(60)).await });
    for name in ["too early", "still too early"] {
        let error = cluster.node(3).ask(rename(name)).await.unwrap_err();
        assert!(reason(&error).contains("not known"), "{error}");
    }
    assert!(!waking.is_finished(), "it waited no longer than a caller");
    cluster.log.page(None);
    waking.await.unwrap().unwrap();
    cluster.node(3).ask(rename("in time")).await.unwrap();
    assert_eq!((cluster.renamed("still too early"), cluster.renamed("in time")), (0, 1));
}

#[tokio::test]
async fn what_the_owner_refuses_is_refused_everywhere() {
    let cluster = Cluster::start(Bounds::default()).await;
    let register =
        || Command::Register { name: "Acme".into(), tier: wasmwiz_events::tenant::Tier::Pro, first_key: None };
    for node in cluster.nodes() {
        let refused = node.ask(register()).await;
        assert!(matches!(refused, Err(AskError::Refused(Refusal::AlreadyRegistered))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handover_in_the_middle_of_load_loses_nothing() {
    let cluster = Cluster::start(Bounds::default()).await;
    let enough = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..12)
        .map(|n| {
            let (node, enough) = (Arc::clone(&cluster.nodes()[n % 3]), Arc::clone(&enough));
            tokio::spawn(async move {
                for turn in (0..).take_while(|_| !enough.load(Ordering::Relaxed)) {
                    let done = node.execute("echo", &format!("{n}.{turn}")).await.unwrap();
                    assert_eq!(done.stdout, format!("{n}.{turn}"));
                }
            })
        })
        .collect();
    for (from, to, epoch) in [(1, 2, 2), (2, 3, 3), (3, 1, 4), (1, 3, 5)] {
        let before = cluster.ends().len();
        eventually("some more executions", || cluster.ends().len() > before + 5).await;
        cluster.hand_over(from, to, epoch).await;
    }
    enough.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    let ends = cluster.ends();
    assert!(ends.len() > 20 && ends.values().all(|ends| *ends == 1), "{ends:?}");
    let epochs = cluster.epochs();
    assert!(epochs.is_sorted(), "{epochs:?}");
}

#[tokio::test]
async fn of_two_that_both_believe_to_own_the_stale_one_is_fenced_and_retires() {
    let cluster = Cluster::start(short()).await;
    let zombie = cluster.node(1);
    zombie.ask(rename("before")).await.unwrap();
    *zombie.view.believes.lock().unwrap() = Some(Owner::Here(Epoch::FIRST));
    cluster.table.give(Some((2, 2)));
    cluster.node(3).ask(rename("by the owner")).await.unwrap();
    // It still has the tenant in memory, decides, and the log refuses.
    let error = zombie.ask(rename("by the zombie")).await.unwrap_err();
    assert!(reason(&error).contains("nothing was decided"), "{error}");
    eventually("the entity retires", || zombie.bus.region().entities() == 0).await;
    assert_eq!((cluster.renamed("by the owner"), cluster.renamed("by the zombie")), (1, 0));
    // As soon as it knows better it asks the owner.
    *zombie.view.believes.lock().unwrap() = None;
    zombie.ask(rename("by way of the zombie")).await.unwrap();
    assert_eq!((cluster.renamed("by way of the zombie"), cluster.epochs()), (1, vec![1, 2]));
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_not_made_twice_and_the_caller_is_told() {
    let cluster = Cluster::start(short()).await;
    for (fault, name) in [(Fault::LoseAnswer, "lost"), (Fault::Break, "broken"), (Fault::Garble, "garbled")] {
        cluster.wires.next(fault);
        let error = cluster.node(2).ask(rename(name)).await.unwrap_err();
        assert!(reason(&error).contains("not known"), "{error}");
        assert_eq!(cluster.renamed(name), 1);
    }
}

#[tokio::test]
async fn a_change_that_was_swallowed_is_not_known_and_not_made() {
    let cluster = Cluster::start(short()).await;
    cluster.wires.next(Fault::Swallow);
    let error = cluster.node(2).ask(rename("swallowed")).await.unwrap_err();
    assert!(reason(&error).contains("not known"), "{error}");
    assert_eq!((cluster.renamed("swallowed"), cluster.wires.sent()), (0, 1));
}

#[tokio::test]
async fn who_asked_an_owner_that_has_ended_is_told_soon_that_nobody_knows() {
    let cluster = Arc::new(Cluster::start(Bounds::default()).await);
    cluster.wires.next(Fault::Swallow);
    let asking = tokio::spawn({
        let cluster = Arc::clone(&cluster);
        async move { cluster.node(2).ask(rename("swallowed")).await }
    });
    eventually("it is sent", || cluster.wires.sent() == 1).await;
    cluster.table.give(Some((3, 2)));
    // It would have waited for the whole time of an answer, ten seconds.
    let error = tokio::time::timeout(Duration::from_secs(5), asking).await.unwrap().unwrap().unwrap_err();
    assert!(reason(&error).contains("not known"), "{error}");
    assert_eq!((cluster.renamed("swallowed"), cluster.wires.sent()), (0, 1));
}

#[tokio::test]
async fn a_change_with_a_key_is_sent_again_and_made_once() {
    let cluster = Cluster::start(Bounds::default()).await;
    for (fault, name) in [(Fault::LoseAnswer, "lost"), (Fault::Swallow, "swallowed")] {
        let digest = Digest::of(name.as_bytes());
        let once = Idempotency { key: digest, request: digest };
        cluster.wires.next(fault);
        let origin = Origin::internal(Ids.command()).once(Some(once));
        let decided = cluster.node(2).ask_from(rename(name), origin).await.unwrap();
        assert_eq!(decided.replayed.is_some(), fault == Fault::LoseAnswer);
        assert_eq!(cluster.renamed(name), 1);
    }
    assert_eq!(cluster.wires.sent(), 4);
}

#[tokio::test]
async fn where_nobody_answers_the_next_owner_is_asked() {
    let cluster = Arc::new(Cluster::start(Bounds::default()).await);
    // The table still names it, but it does not listen any more.
    *cluster.node(1).view.believes.lock().unwrap() = Some(Owner::Nobody);
    let asking = tokio::spawn({
        let cluster = Arc::clone(&cluster);
        async move { cluster.node(2).ask(rename("by the next")).await }
    });
    eventually("the first owner is asked", || cluster.wires.sent() > 0).await;
    cluster.hand_over(1, 3, 2).await;
    asking.await.unwrap().unwrap();
    assert_eq!(cluster.renamed("by the next"), 1);
}

#[tokio::test]
async fn who_becomes_the_owner_while_it_asks_decides_itself() {
    let cluster = Arc::new(Cluster::start(Bounds::default()).await);
    cluster.table.give(None);
    let asking = tokio::spawn({
        let cluster = Arc::clone(&cluster);
        async move { cluster.node(2).ask(rename("here")).await }
    });
    tokio::task::yield_now().await;
    cluster.table.give(Some((2, 2)));
    asking.await.unwrap().unwrap();
    assert_eq!((cluster.renamed("here"), cluster.wires.sent()), (1, 0));
}

#[tokio::test]
async fn without_an_owner_nothing_is_decided_and_the_caller_is_told_in_time() {
    let cluster = Cluster::start(short()).await;
    cluster.table.give(None);
    let before = cluster.log.tail().await.unwrap();
    let error =
        tokio::time::timeout(Duration::from_secs(5), cluster.node(2).ask(rename("x"))).await.unwrap().unwrap_err();
    assert!(reason(&error).contains("nothing was decided"), "{error}");
    assert_eq!(cluster.log.tail().await.unwrap(), before);
}

#[tokio::test]
async fn what_is_too_large_for_a_frame_is_not_sent() {
    let cluster = Cluster::start(Bounds::default()).await;
    let error = cluster.node(2).ask(rename(&"x".repeat(2 << 20))).await.unwrap_err();
    assert!(reason(&error).contains("1000000") && reason(&error).contains("nothing was decided"), "{error}");
    assert_eq!(cluster.wires.sent(), 0);
}

#[tokio::test]
async fn garbage_is_answered_and_does_no_harm() {
    let cluster = Cluster::start(short()).await;
    for garbage in [&b""[..], b"garbage", &[0; 14], b"wwzf\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00"] {
        assert!(!cluster.wires.raw(1, garbage).await.is_empty());
    }
    // A node of another version is told which is read here, by a header alone.
    let other = cluster.wires.raw(1, b"wwzf\x63\x01\x00\x00\x00\x00\x00\x00\x00\x00").await;
    assert_eq!((&other[..5], other.len()), (&b"wwzf\x01"[..], 14));
    cluster.wires.next(Fault::Tear);
    let error = cluster.node(2).ask(rename("torn")).await.unwrap_err();
    assert!(reason(&error).contains("torn") && reason(&error).contains("nothing was decided"), "{error}");
    assert_eq!(cluster.renamed("torn"), 0);
    cluster.node(2).ask(rename("whole")).await.unwrap();
}

#[tokio::test]
async fn a_flood_to_another_owner_is_bounded_where_it_begins() {
    let bounds = Bounds { bus: BusConfig { asks_per_node_max: 4, ..BusConfig::default() }, ..Bounds::default() };
    flood(bounds, 4).await;
}

#[tokio::test]
async fn a_flood_to_another_owner_is_bounded_where_it_arrives() {
    let bounds = Bounds { bus: BusConfig { serving_max: 3, ..BusConfig::default() }, ..Bounds::default() };
    flood(bounds, 3).await;
}

/// As many as may are decided, and the others are told that nothing was.
async fn flood(bounds: Bounds, most: usize) {
    let cluster = Arc::new(Cluster::start(bounds).await);
    cluster.log.hold();
    let asking: Vec<_> = (0..40)
        .map(|n| {
            let cluster = Arc::clone(&cluster);
            tokio::spawn(async move { cluster.node(2).ask(rename(&format!("name {n}"))).await })
        })
        .collect();
    cluster.log.held_back(1).await;
    eventually("the others are turned away", || asking.iter().filter(|asked| asked.is_finished()).count() >= 40 - most)
        .await;
    cluster.log.release();
    let mut decided = 0;
    for (n, asked) in asking.into_iter().enumerate() {
        let recorded = cluster.renamed(&format!("name {n}"));
        match asked.await.unwrap() {
            Ok(_) => decided += 1,
            Err(AskError::Busy { .. }) => assert_eq!(recorded, 0),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(decided, most);
    cluster.node(2).ask(rename("after the flood")).await.unwrap();
}

#[tokio::test]
async fn an_execution_is_cancelled_where_it_runs() {
    let cluster = Arc::new(Cluster::start(Bounds::default()).await);
    let running = tokio::spawn({
        let node = Arc::clone(cluster.node(2));
        async move { node.execute("spin", "").await }
    });
    eventually("it is accepted", || cluster.ends().len() == 1).await;
    let (id, _) = cluster.ends().pop_first().unwrap();
    assert_eq!(cluster.node(3).cancel(id).await.unwrap(), Cancelling::Requested);
    let done = running.await.unwrap().unwrap();
    let End::Finished(finished) = done.end else { panic!("{:?}", done.end) };
    assert_eq!(finished.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn what_nobody_waits_for_runs_at_its_owner_whoever_accepted_it() {
    let cluster = Cluster::start(Bounds::default()).await;
    let request = Node::request("echo", "later");
    let queued = cluster.node(3).dispatch.enqueue(request, None).await.unwrap();
    eventually("it has its end", || cluster.ends().get(&queued.accepted.execution_id) == Some(&1)).await;
    let started = |event: &Event| match event {
        Event::ExecutionStarted(started) => Some(started.node.clone()),
        _ => None,
    };
    assert_eq!(cluster.history().iter().find_map(started), Some(cluster.node(1).name.clone()));
}

#[tokio::test]
async fn who_waits_at_another_node_learns_of_the_end() {
    let cluster = Cluster::start(Bounds::default()).await;
    let waiting = cluster.node(3).dispatch.enqueue(Node::request("echo", "later"), Some(Duration::from_secs(10)));
    let queued = waiting.await.unwrap();
    assert!(queued.ended.is_some_and(|at| at > queued.position), "{queued:?} {:?}", cluster.history());
    assert_eq!(cluster.ends().get(&queued.accepted.execution_id), Some(&1));
}

#[tokio::test]
async fn what_waits_at_an_owner_that_ends_is_run_by_the_next() {
    let cluster = Cluster::start(Bounds::default()).await;
    let queued = cluster.node(1).dispatch.enqueue(Node::request("spin", ""), None).await.unwrap();
    let id = queued.accepted.execution_id;
    let started = |cluster: &Cluster| {
        let started = |event: Event| match event {
            Event::ExecutionStarted(started) => Some((started.node, started.attempt)),
            _ => None,
        };
        cluster.history().into_iter().filter_map(started).collect::<Vec<_>>()
    };
    eventually("it has begun", || started(&cluster).len() == 1).await;
    cluster.hand_over(1, 3, 2).await;
    cluster.table.end(cluster.node(1).boot);
    // Nobody asks anything: somebody must wake the tenant where it is now.
    assert_eq!(cluster.node(3).bus.region().next_taken_up().await, [Shard::of(&acme())].into());
    cluster.node(3).ask(Command::Reap).await.unwrap();
    eventually("it has begun again", || started(&cluster).len() == 2).await;
    assert_eq!(started(&cluster), [(cluster.node(1).name.clone(), 1), (cluster.node(3).name.clone(), 2)]);
    cluster.node(3).cancel(id).await.unwrap();
    eventually("it has its end", || cluster.ends().get(&id) == Some(&1)).await;
}

#[tokio::test]
async fn a_shard_that_is_released_is_decided_in_no_more_until_it_is_taken_up() {
    let cluster = Cluster::start(short()).await;
    let (node, shard) = (cluster.node(1), Shard::of(&acme()));
    node.bus.region().release(shard, Duration::from_secs(5)).await.unwrap();
    assert_eq!(node.bus.region().entities(), 0);
    let error = node.ask(rename("released")).await.unwrap_err();
    assert!(reason(&error).contains("nothing was decided"), "{error}");
    cluster.table.give(Some((1, 2)));
    node.bus.region().take_up(shard, Epoch::new(2));
    node.ask(rename("taken up")).await.unwrap();
    assert_eq!((cluster.renamed("released"), cluster.renamed("taken up"), cluster.epochs()), (0, 1, vec![1, 2]));
}

#[tokio::test]
async fn a_shard_is_taken_up_again_in_the_epoch_in_which_it_was_released() {
    let cluster = Cluster::start(short()).await;
    let (node, shard) = (cluster.node(1), Shard::of(&acme()));
    // Its lease ran out, and was renewed before anybody else had taken note.
    node.bus.region().release(shard, Duration::from_secs(5)).await.unwrap();
    node.bus.region().take_up(shard, Epoch::FIRST);
    node.ask(rename("taken up")).await.unwrap();
    assert_eq!((cluster.renamed("taken up"), cluster.epochs()), (1, vec![1]));
}

#[tokio::test]
async fn a_release_waits_for_what_is_in_flight() {
    let cluster = Arc::new(Cluster::start(Bounds::default()).await);
    cluster.log.hold();
    let asking = tokio::spawn({
        let cluster = Arc::clone(&cluster);
        async move { cluster.node(1).ask(rename("in flight")).await }
    });
    cluster.log.held_back(1).await;
    let (region, shard) = (cluster.node(1).bus.region().clone(), Shard::of(&acme()));
    assert!(region.release(shard, Duration::from_millis(50)).await.is_err());
    cluster.log.release();
    region.release(shard, Duration::from_secs(5)).await.unwrap();
    asking.await.unwrap().unwrap();
    assert_eq!(cluster.renamed("in flight"), 1);
}

#[tokio::test]
async fn the_same_request_is_known_again_at_the_next_owner() {
    let cluster = Cluster::start(Bounds::default()).await;
    cluster.node(2).ask_from(rename("once"), with_key()).await.unwrap();
    cluster.hand_over(1, 3, 2).await;
    let decided = cluster.node(2).ask_from(rename("once"), with_key()).await.unwrap();
    assert!(decided.replayed.is_some());
    assert_eq!(cluster.renamed("once"), 1);
}
