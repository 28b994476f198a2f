//! An execution from its request to its recorded end, with a real executor, a real blob store and a log in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use wasmwiz_actors::{
    aggregate::Authority,
    dispatch::{Code, Dispatch, DispatchDeps, DispatchError, Done, End, Hold, Request, Upload},
    executor::{ExecutorConfig, Executors, Rejection},
    handle::{Ask, AskError, Origin},
    ids::Ids,
    limits::Policy,
    region::{Region, RegionConfig, RegionDeps},
    tenant::{Command, NewKey, Refusal},
};
use wasmwiz_events::{
    blobs::{Blobs, fs::FsBlobs},
    digest::Digest,
    event::Event,
    execution::Outcome,
    id::{KeyId, ModuleName, NodeId, TenantId},
    key::Scopes,
    log::{EventLog, memory::MemoryLog},
    revision::Epoch,
    tenant::Tier,
    time::SystemClock,
};

const ECHO: &str = include_str!("../../examples/echo.wat");

struct Node {
    log: Arc<MemoryLog>,
    blobs: Arc<FsBlobs>,
    dispatch: Dispatch,
    _data: TempDir,
}

impl Node {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (log, blobs) = (Arc::new(MemoryLog::new()), Arc::new(FsBlobs::open(data.path()).unwrap()));
        let (node, boot) = (NodeId::new("node-1").unwrap(), Ids.boot());
        let deps = RegionDeps {
            log: Arc::clone(&log) as Arc<dyn EventLog>,
            clock: Arc::new(SystemClock),
            policy: Policy::default(),
            node: node.clone(),
            boot,
            epoch: Epoch::FIRST,
        };
        let region = Region::start(RegionConfig::default(), deps).await.unwrap();
        let first_key = NewKey {
            key_id: key(),
            name: "first".into(),
            scopes: Scopes::TENANT,
            hash: Digest::of(b"secret"),
            expires_at: None,
        };
        let command = Command::Register { name: "Acme".into(), tier: Tier::Basic, first_key: Some(first_key) };
        let ask = Ask { command, by: Authority::System, origin: origin(), payloads: vec![] };
        region.ask(&acme(), ask).await.unwrap();
        let config = ExecutorConfig { threads: 1, guests_max: 4, ..ExecutorConfig::default() };
        let executors = Executors::start(config).unwrap();
        let (deps_blobs, deps_log) = (Arc::clone(&blobs) as Arc<dyn Blobs>, Arc::clone(&log) as Arc<dyn EventLog>);
        let dispatch = Dispatch::new(DispatchDeps { region, executors, blobs: deps_blobs, log: deps_log, node, boot });
        Self { log, blobs, dispatch, _data: data }
    }

    async fn publish(&self, wasm: Bytes) -> Result<(), DispatchError> {
        let name = ModuleName::new("echo").unwrap();
        let upload =
            Upload { tenant: acme(), by: Authority::Key(key()), origin: origin(), name, wasm, hold: Hold::default() };
        self.dispatch.publish(upload).await.map(drop)
    }

    async fn execute(&self, code: Code, stdin: impl Into<Bytes>) -> Result<Done, DispatchError> {
        let (args, timeout_ms) = (vec![], Some(5_000));
        let (stdin, hold) = (stdin.into(), Hold::default());
        let request = Request { tenant: acme(), key: key(), origin: origin(), code, stdin, args, timeout_ms, hold };
        self.dispatch.execute(request).await
    }

    fn events(&self) -> Vec<Event> {
        let commits = self.log.commits();
        let events = commits.iter().flat_map(|recorded| recorded.commit.events().unwrap().to_vec());
        events.map(|envelope| envelope.event).collect()
    }
}

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn key() -> KeyId {
    KeyId::new("key1").unwrap()
}

fn origin() -> Origin {
    Origin::internal(Ids.command())
}

fn echo() -> Bytes {
    wat::parse_str(ECHO).unwrap().into()
}

fn named(version: Option<u32>) -> Code {
    Code::Named { name: ModuleName::new("echo").unwrap(), version }
}

#[tokio::test]
async fn a_published_module_runs_and_its_end_is_recorded_with_its_output() {
    let node = Node::start().await;
    node.publish(echo()).await.unwrap();
    let done = node.execute(named(None), "hello").await.unwrap();
    let End::Finished(finished) = &done.end else { panic!("{:?}", done.end) };
    assert_eq!((finished.outcome, finished.exit_code), (Outcome::Succeeded, Some(0)));
    assert_eq!(done.stdout, "hello");
    assert_eq!(finished.stdout.digest, Digest::of(b"hello"));
    assert_eq!(done.position, node.log.tail().await.unwrap());
    let kept = node.log.payload(done.position, Digest::of(b"hello")).await.unwrap();
    assert_eq!(kept.as_deref(), Some(&b"hello"[..]));
    assert!(matches!(node.events()[2..], [_, Event::ExecutionAccepted(_), Event::ExecutionFinished(_)]));
}

#[tokio::test]
async fn large_input_and_output_are_blobs_before_the_commit_that_names_them() {
    let node = Node::start().await;
    let input = Bytes::from(vec![7_u8; 200_000]);
    let done = node.execute(Code::Inline(echo()), input.clone()).await.unwrap();
    assert_eq!(done.stdout, input);
    let kept = node.blobs.get(done.accepted.stdin.digest).await.unwrap();
    assert_eq!(kept, Some(input));
    assert_eq!(node.log.payload(done.position, done.accepted.stdin.digest).await.unwrap(), None);
}

#[tokio::test]
async fn bytes_that_are_no_module_are_recorded_as_rejected() {
    let node = Node::start().await;
    let error = node.publish(Bytes::from_static(b"(module)")).await.unwrap_err();
    assert!(matches!(error, DispatchError::Rejected(Rejection::Text)), "{error}");
    assert!(matches!(node.events().last(), Some(Event::ModuleRejected(_))));
    let error = node.execute(Code::Inline(Bytes::from_static(b"nonsense")), "").await.unwrap_err();
    assert!(matches!(error, DispatchError::Rejected(Rejection::NotWasm)), "{error}");
}

#[tokio::test]
async fn what_the_tenant_refuses_does_not_run() {
    let node = Node::start().await;
    let error = node.execute(named(None), "").await.unwrap_err();
    assert!(matches!(error, DispatchError::Ask(AskError::Refused(Refusal::ModuleUnknown))), "{error}");
    assert_eq!(node.events().len(), 2);
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_no_execution_without_its_end() {
    let node = Arc::new(Node::start().await);
    node.publish(echo()).await.unwrap();
    node.log.hold();
    let caller = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.execute(named(None), "hello").await }
    });
    node.log.held_back(1).await;
    caller.abort();
    node.log.release();
    node.dispatch.drain(Duration::from_secs(10)).await;
    assert!(matches!(node.events().last(), Some(Event::ExecutionFinished(_))));
}

#[tokio::test]
async fn a_lost_answer_about_the_end_does_not_change_what_the_caller_is_told() {
    let node = Arc::new(Node::start().await);
    node.publish(echo()).await.unwrap();
    node.log.hold();
    let caller = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.execute(named(None), "hello").await }
    });
    node.log.held_back(1).await;
    // The admission's answer is lost, and the same commit is offered again.
    node.log.lose_next_answer();
    node.log.release();
    let done = caller.await.unwrap().unwrap();
    assert!(matches!(done.end, End::Finished(_)));
    let ends = node.events().iter().filter(|event| matches!(event, Event::ExecutionFinished(_))).count();
    assert_eq!(ends, 1);
}

#[tokio::test]
async fn a_node_without_a_free_slot_says_when_to_come_back() {
    let node = Arc::new(Node::start().await);
    node.publish(echo()).await.unwrap();
    node.log.hold();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.execute(named(None), "hello").await })
        })
        .collect();
    node.log.held_back(1).await;
    let error = node.execute(named(None), "one too many").await.unwrap_err();
    assert!(matches!(error, DispatchError::Busy { .. }), "{error}");
    node.log.release();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
}
