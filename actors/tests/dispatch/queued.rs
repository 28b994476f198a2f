//! Asynchronous executions: whatever is lost on the way, each that was accepted runs and ends, and leaves its place.

use wasmwiz_actors::{
    dispatch::{Cancel, Cancelling, Queued},
    queue::QueueConfig,
};
use wasmwiz_events::id::ExecutionId;

use super::*;

impl Node {
    pub(super) async fn enqueue(&self, code: Code, stdin: impl Into<Bytes>) -> Result<ExecutionId, DispatchError> {
        let queued = self.dispatch.enqueue(request(code, stdin, 10_000), None).await;
        queued.map(|Queued { accepted, .. }| accepted.execution_id)
    }

    pub(super) async fn cancel(&self, execution_id: ExecutionId) -> Cancelling {
        let cancel = Cancel { tenant: acme(), by: Authority::System, origin: origin(), execution_id };
        self.dispatch.cancel(cancel).await.unwrap()
    }

    async fn with_queue(queue: QueueConfig, executors: ExecutorConfig) -> Arc<Self> {
        let region = RegionConfig { queue, offer_within_ms: 200, ..RegionConfig::default() };
        let node = Self::start_in(executors, region).await;
        for (name, wasm) in [("spin", spin()), ("echo", echo())] {
            node.publish_as(ModuleName::new(name).unwrap(), wasm).await.unwrap();
        }
        Arc::new(node)
    }

    /// A node whose one slot is taken, and the execution that somebody waits for in it.
    pub(super) async fn with_its_slot_taken()
    -> (Arc<Self>, ExecutionId, tokio::task::JoinHandle<Result<Done, DispatchError>>) {
        let node = Self::with_queue(QueueConfig::default(), ExecutorConfig { guests_max: 1, ..executors() }).await;
        let waited_for = tokio::spawn({
            let node = Arc::clone(&node);
            async move { node.execute(endless(), "").await }
        });
        node.eventually("the admission", |events| matches!(events.last(), Some(Event::ExecutionAccepted(_)))).await;
        let Some(Event::ExecutionAccepted(accepted)) = node.events().pop() else { panic!("nothing is admitted") };
        (node, accepted.execution_id, waited_for)
    }
}

fn endless() -> Code {
    Code::Named { name: ModuleName::new("spin").unwrap(), version: None }
}

pub(super) fn begun(events: &[Event], id: ExecutionId) -> Option<usize> {
    events.iter().position(|event| matches!(event, Event::ExecutionStarted(started) if started.execution_id == id))
}

pub(super) fn ended(events: &[Event], id: ExecutionId) -> Option<usize> {
    events.iter().position(|event| match event {
        Event::ExecutionFinished(finished) => finished.execution_id == id,
        Event::ExecutionLost(lost) => lost.execution_id == id,
        _ => false,
    })
}

#[tokio::test]
async fn one_whose_attempt_was_recorded_and_never_told_is_run_all_the_same() {
    let (node, first, waited_for) = Node::with_its_slot_taken().await;
    let id = node.enqueue(named(None), "hello").await.unwrap();
    // Every answer about the end of the first and about the attempt of the second is lost; both are stored.
    (0..64).for_each(|_| node.log.lose_next_answer());
    node.cancel(first).await;
    waited_for.await.unwrap().unwrap();
    node.eventually("its end", |events| ended(events, id).is_some()).await;
    let events = node.events();
    let starts = events.iter().filter(|event| matches!(event, Event::ExecutionStarted(_))).count();
    assert_eq!(starts, 1, "{events:?}");
    let Event::ExecutionFinished(finished) = &events[ended(&events, id).unwrap()] else { panic!("{events:?}") };
    assert_eq!((finished.outcome, finished.attempt), (Outcome::Succeeded, 1));
}

#[tokio::test]
async fn what_is_cancelled_in_its_line_makes_room_for_others_at_once() {
    let queue = QueueConfig { executions_max: 4, running_max: 1, ..QueueConfig::default() };
    let node = Node::with_queue(queue, executors()).await;
    let running = node.enqueue(endless(), "").await.unwrap();
    node.eventually("its attempt", |events| begun(events, running).is_some()).await;
    let mut waiting = vec![];
    for _ in 0..3 {
        waiting.push(node.enqueue(endless(), "").await.unwrap());
    }
    let error = node.enqueue(endless(), "").await.unwrap_err();
    assert!(matches!(error, DispatchError::Busy { .. }), "{error}");
    for id in waiting {
        assert!(matches!(node.cancel(id).await, Cancelling::Ended(_)));
    }
    // The first of them may be at the head of the line; the others have left it.
    for _ in 0..2 {
        node.enqueue(endless(), "").await.unwrap();
    }
}

#[tokio::test]
async fn an_attempt_does_not_begin_before_there_is_room_for_its_input() {
    let queue = QueueConfig { input_bytes_max: 1_024, ..QueueConfig::default() };
    let node = Node::with_queue(queue, executors()).await;
    let first = node.dispatch.enqueue(request(endless(), vec![1; 1_024], 500), None).await.unwrap();
    let first = first.accepted.execution_id;
    let second = node.enqueue(named(None), vec![2; 1_024]).await.unwrap();
    node.eventually("the second's attempt", |events| begun(events, second).is_some()).await;
    let events = node.events();
    assert!(ended(&events, first).is_some_and(|end| Some(end) < begun(&events, second)), "{events:?}");
}

#[tokio::test]
async fn one_tenants_input_that_finds_no_room_keeps_no_other_tenants_waiting() {
    let queue = QueueConfig { input_bytes_max: 96 << 10, ..QueueConfig::default() };
    let node = Node::with_queue(queue, executors()).await;
    let ajax = TenantId::new("ajax").unwrap();
    let first_key = NewKey {
        key_id: KeyId::new("key2").unwrap(),
        name: "first".into(),
        scopes: Scopes::TENANT,
        hash: Digest::of(b"another secret"),
        expires_at: None,
    };
    let command = Command::Register { name: "Ajax".into(), tier: Tier::Basic, first_key: Some(first_key) };
    let ask = Ask { command, by: Authority::System, origin: origin(), payloads: vec![] };
    node.region.ask(&ajax, ask).await.unwrap();

    // Given a tenant with one that runs for long, and one whose input finds no room beside that.
    let first = node.enqueue(endless(), vec![1; 40 << 10]).await.unwrap();
    node.eventually("the first's attempt", |events| begun(events, first).is_some()).await;
    let second = node.enqueue(endless(), vec![2; 60 << 10]).await.unwrap();
    // When another tenant has one run, then it does not wait for either.
    let by = Authority::Key(KeyId::new("key2").unwrap());
    let other = Request { tenant: ajax, by, ..request(Code::Inline(echo()), vec![3; 10 << 10], 10_000) };
    let other = node.dispatch.enqueue(other, None).await.unwrap().accepted.execution_id;
    node.eventually("the other's end", |events| ended(events, other).is_some()).await;
    let events = node.events();
    assert!(ended(&events, first).is_none() && begun(&events, second).is_none(), "{events:?}");
}

#[tokio::test]
async fn a_node_that_stops_waits_for_what_is_just_beginning() {
    let (node, first, waited_for) = Node::with_its_slot_taken().await;
    let id = node.enqueue(named(None), "hello").await.unwrap();
    node.ask(Command::Suspend { reason: None }).await.unwrap();
    node.cancel(first).await;
    waited_for.await.unwrap().unwrap();
    // It may begin from here on, and its attempt is on the way to the log when the node is told to stop.
    node.ask(Command::Resume).await.unwrap();
    node.log.hold();
    node.log.held_back(1).await;
    let stopping = tokio::spawn({
        let node = Arc::clone(&node);
        async move {
            node.dispatch.drain(Duration::from_secs(10)).await;
            node.region.shutdown(Duration::from_secs(10)).await;
        }
    });
    tokio::task::yield_now().await;
    node.log.release();
    stopping.await.unwrap();
    let events = node.events();
    assert!(begun(&events, id).is_some() && ended(&events, id).is_some(), "{events:?}");
}
