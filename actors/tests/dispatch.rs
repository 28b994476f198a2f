//! An execution from its request to its recorded end, with a real executor, a real blob store and a log in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use wasmwiz_actors::{
    aggregate::Authority,
    bus::CommandBus,
    disk_space::DiskSpace,
    dispatch::{Code, Dispatch, DispatchDeps, DispatchError, Done, End, Hold, Request, Upload},
    executor::{ExecutorConfig, Executors, Rejection},
    handle::{Ask, AskError, Decided, Origin},
    ids::Ids,
    limits::Policy,
    ownership::Alone,
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
    log::{AppendError, EventLog, memory::MemoryLog},
    revision::{Epoch, Revision},
    settings::Settings,
    tenant::Tier,
    time::SystemClock,
};

#[path = "dispatch/compiling.rs"]
mod compiling;
#[path = "dispatch/late.rs"]
mod late;
#[path = "dispatch/queued.rs"]
mod queued;
#[path = "dispatch/settings.rs"]
mod settings;
#[path = "dispatch/space.rs"]
mod space;
#[path = "dispatch/uploads.rs"]
mod uploads;

const ECHO: &str = include_str!("../../examples/echo.wat");

struct Node {
    log: Arc<MemoryLog>,
    blobs: Arc<FsBlobs>,
    region: Region,
    dispatch: Dispatch,
    _data: TempDir,
}

impl Node {
    async fn start() -> Self {
        Self::start_with(executors()).await
    }

    async fn start_with(config: ExecutorConfig) -> Self {
        Self::start_in(config, RegionConfig::default()).await
    }

    async fn start_in(config: ExecutorConfig, region: RegionConfig) -> Self {
        let data = tempfile::tempdir().unwrap();
        let blobs = Arc::new(FsBlobs::open(data.path()).unwrap());
        let over = Arc::clone(&blobs) as Arc<dyn Blobs>;
        Self::over(over, blobs, data, config, region).await
    }

    /// A node that keeps its bytes by `over`, which is over `blobs`.
    async fn over(
        over: Arc<dyn Blobs>,
        blobs: Arc<FsBlobs>,
        data: TempDir,
        config: ExecutorConfig,
        region: RegionConfig,
    ) -> Self {
        let node = Self::on(Arc::new(MemoryLog::new()), (blobs, over), data, config, region).await;
        let first_key = NewKey {
            key_id: key(),
            name: "first".into(),
            scopes: Scopes::TENANT,
            hash: Digest::of(b"secret"),
            expires_at: None,
        };
        let command = Command::Register { name: "Acme".into(), tier: Tier::Basic, first_key: Some(first_key) };
        node.ask(command).await.unwrap();
        node
    }

    async fn on(
        log: Arc<MemoryLog>,
        (blobs, over): (Arc<FsBlobs>, Arc<dyn Blobs>),
        data: TempDir,
        config: ExecutorConfig,
        region: RegionConfig,
    ) -> Self {
        let (node, boot) = (NodeId::new("node-1").unwrap(), Ids.boot());
        let deps = RegionDeps {
            log: Arc::clone(&log) as Arc<dyn EventLog>,
            clock: Arc::new(SystemClock),
            policy: Policy::default(),
            ownership: Arc::new(Alone { node: node.clone(), boot }),
            snapshots: None,
        };
        let region = Region::start(region, deps).await.unwrap();
        let executors = Executors::start(config).unwrap();
        let deps_log = Arc::clone(&log) as Arc<dyn EventLog>;
        let bus = CommandBus::alone(region.clone());
        let deps = DispatchDeps { bus, executors, blobs: over, log: deps_log, node, boot, space: DiskSpace::default() };
        Self { log, blobs, region, dispatch: Dispatch::new(deps), _data: data }
    }

    /// Another writer of the same streams.
    async fn beside(&self) -> Self {
        let data = tempfile::tempdir().unwrap();
        let (log, blobs) = (Arc::clone(&self.log), Arc::clone(&self.blobs));
        let over = Arc::clone(&blobs) as Arc<dyn Blobs>;
        Self::on(log, (blobs, over), data, executors(), RegionConfig::default()).await
    }

    async fn ask(&self, command: Command) -> Result<Decided, AskError> {
        let ask = Ask { command, by: Authority::System, origin: origin(), payloads: vec![] };
        self.region.ask(&acme(), ask).await
    }

    async fn publish(&self, wasm: Bytes) -> Result<(), DispatchError> {
        self.publish_as(ModuleName::new("echo").unwrap(), wasm).await
    }

    async fn publish_as(&self, name: ModuleName, wasm: Bytes) -> Result<(), DispatchError> {
        self.publish_with(name, wasm, Settings::default()).await.map(drop)
    }

    async fn publish_with(&self, name: ModuleName, wasm: Bytes, settings: Settings) -> Result<Decided, DispatchError> {
        let (by, hold) = (Authority::Key(key()), Hold::default());
        self.dispatch.publish(Upload { tenant: acme(), by, origin: origin(), name, wasm, settings, hold }).await
    }

    async fn execute(&self, code: Code, stdin: impl Into<Bytes>) -> Result<Done, DispatchError> {
        self.dispatch.execute(request(code, stdin, 5_000)).await
    }

    /// Waits until the log holds what is wanted.
    async fn eventually(&self, what: &str, holds: impl Fn(&[Event]) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !holds(&self.events()) {
            assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}: {:?}", self.events());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn events(&self) -> Vec<Event> {
        let commits = self.log.commits();
        let events = commits.iter().flat_map(|recorded| recorded.commit.events().unwrap().to_vec());
        events.map(|envelope| envelope.event).collect()
    }
}

/// Other bytes, and the same module.
fn with_a_custom_section(n: u8) -> Bytes {
    let mut bytes = echo().to_vec();
    bytes.extend_from_slice(&[0, 3, 1, b'n', n]);
    bytes.into()
}

fn request(code: Code, stdin: impl Into<Bytes>, timeout_ms: u64) -> Request {
    Request {
        tenant: acme(),
        by: Authority::Key(key()),
        origin: origin(),
        code,
        stdin: stdin.into(),
        args: vec![],
        timeout_ms: Some(timeout_ms),
        fuel: None,
        rerun: None,
        hold: Hold::default(),
    }
}

fn executors() -> ExecutorConfig {
    ExecutorConfig { threads: 1, guests_max: 4, ..ExecutorConfig::default() }
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

/// A guest that runs until its deadline.
fn spin() -> Bytes {
    let wat = r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;
    wat::parse_str(wat).unwrap().into()
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
async fn a_kept_module_that_is_run_again_is_not_removed_meanwhile_and_one_that_is_gone_is_refused() {
    let data = tempfile::tempdir().unwrap();
    // A life before has kept it.
    let digest = FsBlobs::open(data.path()).unwrap().put(echo()).await.unwrap();
    let blobs = Arc::new(FsBlobs::open(data.path()).unwrap().swept());
    let over = Arc::clone(&blobs) as Arc<dyn Blobs>;
    let node = Node::over(over, blobs, data, executors(), RegionConfig::default()).await;
    let done = node.execute(Code::Kept(digest), "again").await.unwrap();
    assert_eq!(done.stdout, "again");
    assert_eq!(node.blobs.remove(digest).await.unwrap(), None);
    assert!(node.blobs.contains(digest).await.unwrap());
    let gone = node.execute(Code::Kept(Digest::of(b"gone")), "").await;
    assert!(matches!(gone, Err(DispatchError::NotVerifiable(_))), "{gone:?}");
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
async fn a_guest_runs_while_its_admission_is_synced_and_nobody_hears_of_it_before() {
    let node = Arc::new(Node::start().await);
    node.publish(echo()).await.unwrap();
    let before = node.log.commits().len();
    node.log.hold();
    let caller = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.execute(named(None), "hello").await }
    });
    node.log.held_back(1).await;
    // 32 commands make a commit on top of the one that is held back: these, and the end of the guest.
    let renames: Vec<_> = (0..31)
        .map(|n| {
            let node = Arc::clone(&node);
            let command = Command::Change { name: Some(format!("name {n}")), tier: None };
            tokio::spawn(async move { node.ask(command).await })
        })
        .collect();
    node.log.held_back(2).await;
    assert!(!caller.is_finished() && node.log.commits().len() == before, "nothing is durable yet");
    node.log.release();
    let done = caller.await.unwrap().unwrap();
    assert_eq!(done.stdout, "hello");
    for rename in renames {
        rename.await.unwrap().unwrap();
    }
    let commits = node.log.commits();
    let has_end = |n: usize| {
        let events = commits[before + n].commit.events().unwrap();
        events.iter().any(|envelope| matches!(envelope.event, Event::ExecutionFinished(_)))
    };
    assert_eq!((commits.len() - before, has_end(0), has_end(1)), (2, false, true));
}

#[tokio::test]
async fn an_admission_that_was_not_stored_is_asked_for_afresh_and_ends_once() {
    let node = Arc::new(Node::start().await);
    node.publish(echo()).await.unwrap();
    for _ in 0..20 {
        let revision = Revision::new(node.events().len() as u64);
        node.log.fail_next_append(AppendError::Conflict { expected: revision, actual: revision, epoch: Epoch::FIRST });
        let done = node.execute(named(None), "hello").await.unwrap();
        let events = node.events();
        let [.., Event::ExecutionAccepted(accepted), Event::ExecutionFinished(finished)] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(accepted.execution_id, done.accepted.execution_id);
        assert_eq!(finished.execution_id, done.accepted.execution_id);
    }
    let accepted = node.events().iter().filter(|event| matches!(event, Event::ExecutionAccepted(_))).count();
    assert_eq!(accepted, 20);
}

#[tokio::test]
async fn what_ran_is_what_was_admitted_also_when_the_stream_has_moved_on() {
    let node = Node::start().await;
    node.publish(echo()).await.unwrap();
    node.execute(named(None), "one").await.unwrap();
    // The entity of this node does not know of the second version: it begins to run the first.
    let silent = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap();
    node.beside().await.publish(silent.clone().into()).await.unwrap();
    let done = node.execute(named(None), "two").await.unwrap();
    assert_eq!(done.accepted.module.version, Some(2));
    assert_eq!(done.accepted.module.digest, Digest::of(&silent));
    assert_eq!(done.stdout, "");
}

#[tokio::test]
async fn an_admission_of_which_nobody_knows_does_not_stay_open_without_a_guest() {
    let node = Node::start_in(executors(), RegionConfig { offer_within_ms: 200, ..RegionConfig::default() }).await;
    node.publish(echo()).await.unwrap();
    // More often than one commit is offered: it is stored, and its owner is never told.
    (0..32).for_each(|_| node.log.lose_next_answer());
    let error = node.execute(named(None), "hello").await.unwrap_err();
    assert!(matches!(error, DispatchError::Ask(AskError::Unavailable { .. })), "{error}");
    let accepted = |event: &&Event| matches!(event, Event::ExecutionAccepted(_));
    assert_eq!(node.events().iter().filter(accepted).count(), 1);
    // Long before its deadline and its grace: until then it would count against its tenant.
    node.eventually("its loss", |events| matches!(events.last(), Some(Event::ExecutionLost(_)))).await;
}

#[tokio::test]
async fn an_admission_that_cannot_be_stored_leaves_no_guest_behind() {
    let node = Arc::new(Node::start().await);
    node.publish(spin()).await.unwrap();
    node.log.hold();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.execute(named(None), "").await })
        })
        .collect();
    node.log.held_back(1).await;
    node.log.poison("the disk is gone");
    node.log.release();
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert!(matches!(error, DispatchError::Ask(AskError::Unavailable { .. })), "{error}");
    }
    // Their slots are free again long before the guests would have ended.
    let error = node.execute(named(None), "").await.unwrap_err();
    assert!(matches!(error, DispatchError::Ask(AskError::Unavailable { .. })), "{error}");
}

#[tokio::test]
async fn however_requests_end_their_slots_are_free_again() {
    let node = Arc::new(Node::start().await);
    node.publish(echo()).await.unwrap();
    let trap = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;
    let trapping = Code::Inline(wat::parse_str(trap).unwrap().into());
    for round in 0..15 {
        let revision = Revision::new(node.events().len() as u64);
        match round % 5 {
            0 => node.log.fail_next_append(AppendError::Conflict {
                expected: revision,
                actual: revision,
                epoch: Epoch::FIRST,
            }),
            1 => node.log.fail_next_append(AppendError::TooLarge),
            2 => node.log.hold(),
            _ => {}
        }
        let code = if round % 5 == 3 { trapping.clone() } else { named(None) };
        let caller = tokio::spawn({
            let node = Arc::clone(&node);
            async move { node.execute(code, "hello").await }
        });
        if round % 5 == 2 {
            // It hangs up while its admission is on the way.
            node.log.held_back(1).await;
            caller.abort();
            node.log.release();
        }
        assert_eq!(caller.await.is_ok_and(|done| done.is_ok()), !matches!(round % 5, 1 | 2));
    }
    let open = |events: &[Event]| {
        let accepted = events.iter().filter(|event| matches!(event, Event::ExecutionAccepted(_))).count();
        accepted - events.iter().filter(|event| matches!(event, Event::ExecutionFinished(_))).count()
    };
    node.eventually("every end", |events| open(events) == 0).await;
    node.publish_as(ModuleName::new("spin").unwrap(), spin()).await.unwrap();
    let all: Vec<_> = (0..4)
        .map(|_| {
            let node = Arc::clone(&node);
            let code = Code::Named { name: ModuleName::new("spin").unwrap(), version: None };
            tokio::spawn(async move { node.execute(code, "").await })
        })
        .collect();
    node.eventually("four at once", |events| open(events) == 4).await;
    all.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_node_without_a_free_slot_says_when_to_come_back() {
    let node = Arc::new(Node::start().await);
    node.publish(spin()).await.unwrap();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.execute(named(None), "").await })
        })
        .collect();
    while node.events().iter().filter(|event| matches!(event, Event::ExecutionAccepted(_))).count() < 4 {
        tokio::task::yield_now().await;
    }
    let error = node.execute(named(None), "one too many").await.unwrap_err();
    assert!(matches!(error, DispatchError::Busy { .. }), "{error}");
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
}
