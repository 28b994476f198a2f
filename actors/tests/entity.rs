//! The entity and its region against a log: gathering, conflicts, crashes, passivation and losses.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use wasmwiz_actors::{
    aggregate::Authority,
    handle::{Ask, AskError, Decided, Origin},
    ids::Ids,
    limits::Policy,
    ownership::Alone,
    region::{Region, RegionConfig, RegionDeps},
    snapshots::Snapshots,
    tenant::{Command, Execute, ModuleChoice, NewKey, Refusal},
};
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::{Content, Seed},
    id::{BootId, KeyId, ModuleName, NodeId, TenantId},
    key::Scopes,
    ledger::Verifier,
    log::{AppendError, EventLog, memory::MemoryLog},
    module::Kind,
    revision::{Epoch, Revision},
    tenant::Tier,
    time::{ManualClock, Timestamp},
};

#[path = "entity/commits.rs"]
mod commits;
#[path = "entity/long.rs"]
mod long;
#[path = "entity/losses.rs"]
mod losses;
#[path = "entity/skips.rs"]
mod skips;
#[path = "entity/snapshots.rs"]
mod snapshots;
#[path = "entity/stages.rs"]
mod stages;

const NOON: Timestamp = Timestamp::from_unix_ms(1_795_435_200_000);

struct Node {
    log: Arc<MemoryLog>,
    clock: Arc<ManualClock>,
    region: Region,
    boot: BootId,
}

impl Node {
    async fn start(log: &Arc<MemoryLog>, config: RegionConfig) -> Self {
        Self::keeping(log, config, None).await
    }

    /// One that keeps the states of its tenants.
    async fn keeping(log: &Arc<MemoryLog>, config: RegionConfig, snapshots: Option<Arc<dyn Snapshots>>) -> Self {
        let (clock, boot) = (Arc::new(ManualClock::at(NOON)), Ids.boot());
        let deps = RegionDeps {
            log: Arc::clone(log) as Arc<dyn EventLog>,
            clock: Arc::clone(&clock) as _,
            policy: Policy::default(),
            ownership: Arc::new(Alone { node: NodeId::new("node-1").unwrap(), boot }),
            snapshots,
        };
        let region = Region::start(config, deps).await.unwrap();
        Self { log: Arc::clone(log), clock, region, boot }
    }

    async fn with_tenant() -> Self {
        Self::with_tenant_in(RegionConfig::default()).await
    }

    async fn with_tenant_in(config: RegionConfig) -> Self {
        let node = Self::start(&Arc::new(MemoryLog::new()), config).await;
        node.ask(register()).await.unwrap();
        node.ask(publish()).await.unwrap();
        node
    }

    /// The end of the one stream.
    fn revision(&self) -> u64 {
        self.log.commits().last().map_or(0, |recorded| recorded.commit.last_revision().get())
    }

    async fn ask(&self, command: Command) -> Result<Decided, AskError> {
        self.ask_by(Authority::System, command).await
    }

    /// Asks an entity that is awake, and leaves the command in its mailbox: the answer is still to come.
    fn enter(&self, command: Command) -> BoxFuture<'_, Result<Decided, AskError>> {
        let mut asked = self.ask(command).boxed();
        assert!((&mut asked).now_or_never().is_none(), "it was answered before its entity could have read it");
        asked
    }

    async fn execute(&self) -> Result<Decided, AskError> {
        let command = Command::Execute(Box::new(Execute {
            execution_id: Ids.execution(),
            module: ModuleChoice::Named { name: ModuleName::new("hello").unwrap(), version: None },
            stdin: Content::of(b""),
            args: vec![],
            timeout_ms: None,
            seed: Seed::new([0; 16]),
            engine: "test".into(),
            node: NodeId::new("node-1").unwrap(),
            boot: self.boot,
            asynchronous: false,
            deadline: None,
        }));
        self.ask_by(Authority::Key(KeyId::new("key1").unwrap()), command).await
    }

    async fn ask_by(&self, by: Authority, command: Command) -> Result<Decided, AskError> {
        let ask = Ask { command, by, origin: Origin::internal(Ids.command()), payloads: vec![] };
        self.region.ask(&acme(), ask).await
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(tokio::time::Instant::now() < deadline, "waited in vain for: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// All events of the stream; the chain must be whole.
    fn history(&self) -> Vec<Event> {
        let mut verifier = Verifier::new(acme());
        let mut events = vec![];
        for recorded in self.log.commits() {
            verifier.step(&recorded.commit).unwrap();
            events.extend(recorded.commit.events().unwrap().iter().map(|envelope| envelope.event.clone()));
        }
        events
    }
}

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn register() -> Command {
    let first_key = NewKey {
        key_id: KeyId::new("key1").unwrap(),
        name: "first".into(),
        scopes: Scopes::TENANT,
        hash: Digest::of(b"secret"),
        expires_at: None,
    };
    Command::Register { name: "Acme".into(), tier: Tier::Enterprise, first_key: Some(first_key) }
}

fn publish() -> Command {
    Command::PublishModule {
        name: ModuleName::new("hello").unwrap(),
        digest: Digest::of(b"wasm"),
        size_bytes: 4,
        kind: Kind::Core,
        imports: vec![],
        exports: vec![],
    }
}

fn rename(name: &str) -> Command {
    Command::Change { name: Some(name.into()), tier: None }
}

#[tokio::test]
async fn an_answer_comes_after_the_ack_and_says_where() {
    let node = Node::start(&Arc::new(MemoryLog::new()), RegionConfig::default()).await;
    let decided = node.ask(register()).await.unwrap();
    assert_eq!(decided.events.len(), 2);
    assert_eq!(decided.revision, Revision::new(2));
    assert_eq!(node.log.tail().await.unwrap(), decided.position);
}

#[tokio::test]
async fn nobody_hears_of_a_decision_before_its_commit_is_durable() {
    let node = Arc::new(Node::with_tenant().await);
    node.log.hold();
    let asked = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.ask(rename("held")).await }
    });
    node.log.held_back(1).await;
    // A refusal that would follow from the undurable state has to wait as well.
    let refused = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.ask(register()).await }
    });
    tokio::task::yield_now().await;
    assert!(!asked.is_finished() && !refused.is_finished());
    node.log.release();
    asked.await.unwrap().unwrap();
    assert!(matches!(refused.await.unwrap(), Err(AskError::Refused(Refusal::AlreadyRegistered))));
}

#[tokio::test]
async fn a_command_that_changes_nothing_writes_nothing() {
    let node = Node::with_tenant().await;
    let before = node.log.commits().len();
    let decided = node.ask(rename("Acme")).await.unwrap();
    assert!(decided.events.is_empty());
    assert_eq!(decided.position, node.log.tail().await.unwrap());
    assert_eq!(node.log.commits().len(), before);
}

#[tokio::test]
async fn an_entity_whose_stream_has_moved_on_reads_it_again() {
    let node = Node::with_tenant().await;
    let other = Node::start(&node.log, RegionConfig::default()).await;
    other.ask(rename("by the other")).await.unwrap();
    // The first node's entity does not know of that; its commit is refused, and the command is decided afresh.
    let decided = node.ask(rename("by the first")).await.unwrap();
    assert_eq!(decided.revision, Revision::new(5));
    assert_eq!(node.history().len(), 5);
}

#[tokio::test]
async fn a_fenced_entity_gives_up() {
    let node = Node::with_tenant().await;
    for _ in 0..3 {
        node.log.fail_next_append(AppendError::Fenced { offered: Epoch::FIRST, current: Epoch::new(2) });
    }
    assert!(matches!(node.ask(rename("zombie")).await, Err(AskError::Unavailable { .. })));
    assert_eq!(node.history().len(), 3);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_recorded_once() {
    let node = Node::with_tenant().await;
    node.log.lose_next_answer();
    let decided = node.ask(rename("once")).await.unwrap();
    assert_eq!(decided.revision, Revision::new(4));
    assert_eq!(node.history().len(), 4);
}

#[tokio::test]
async fn a_log_that_has_failed_refuses_everything() {
    let node = Node::with_tenant().await;
    node.log.poison("the disk is gone");
    let error = node.ask(rename("x")).await.unwrap_err();
    assert!(matches!(&error, AskError::Unavailable { reason, .. } if reason.contains("the disk is gone")), "{error}");
}

#[tokio::test]
async fn a_full_mailbox_refuses_and_reports_still_enter() {
    let config = RegionConfig { mailbox_max: 4, ..RegionConfig::default() };
    let node = Node::start(&Arc::new(MemoryLog::new()), config).await;
    node.ask(register()).await.unwrap();
    node.ask(publish()).await.unwrap();
    let execution = node.execute().await.unwrap();
    let Some(Event::ExecutionAccepted(accepted)) = execution.events.first() else { panic!("{execution:?}") };
    node.log.hold();
    let waiting: Vec<_> = (0..4).map(|n| node.enter(rename(&format!("name {n}")))).collect();
    node.log.held_back(1).await;
    assert!(matches!(node.ask(rename("one too many")).await, Err(AskError::Busy { .. })));
    let report = node.enter(Command::Finish(Box::new(finished(accepted.execution_id))));
    node.log.release();
    report.await.unwrap();
    for asked in waiting {
        asked.await.unwrap();
    }
}

fn finished(execution_id: wasmwiz_events::id::ExecutionId) -> wasmwiz_events::execution::Finished {
    let nothing = wasmwiz_events::execution::Output { digest: Digest::of(b""), size_bytes: 0, truncated: false };
    wasmwiz_events::execution::Finished {
        execution_id,
        attempt: 1,
        outcome: wasmwiz_events::execution::Outcome::Succeeded,
        exit_code: Some(0),
        stdout: nothing,
        stderr: nothing,
        fuel: None,
        cpu_ms: Default::default(),
        wall_ms: Default::default(),
        peak_memory_bytes: 0,
        trace_digest: None,
        trace_readings: None,
        deterministic: true,
        reproducibility: Some(wasmwiz_events::reproducibility::Reproducibility::Pure),
        message: None,
    }
}

#[tokio::test]
async fn an_idle_entity_leaves_memory_and_comes_back_as_it_was() {
    let config = RegionConfig { wake_every_ms: 5, ..RegionConfig::default() };
    let node = Node::start(&Arc::new(MemoryLog::new()), config).await;
    node.ask(register()).await.unwrap();
    assert_eq!(node.region.entities(), 1);
    node.clock.advance_ms(120_000);
    node.eventually("passivation", |node| node.region.entities() == 0).await;
    assert!(matches!(node.ask(register()).await, Err(AskError::Refused(Refusal::AlreadyRegistered))));
}

#[tokio::test]
async fn a_broken_history_is_not_built_upon() {
    let log = Arc::new(MemoryLog::new());
    let node = Node::start(&log, RegionConfig::default()).await;
    node.ask(register()).await.unwrap();
    log.damage_last_body();
    let next = Node::start(&log, RegionConfig::default()).await;
    let error = next.ask(rename("x")).await.unwrap_err();
    assert!(matches!(&error, AskError::Unavailable { reason, .. } if reason.contains("revision 1")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_asks_for_a_broken_history_is_told_where_it_is_broken() {
    let log = Arc::new(MemoryLog::new());
    let node = Node::start(&log, RegionConfig::default()).await;
    node.ask(register()).await.unwrap();
    log.damage_last_body();
    let next = Node::start(&log, RegionConfig::default()).await;
    for _ in 0..100 {
        // Some come before it is known, some while the entity stops, some after.
        let asked = futures_util::future::join_all((0..16).map(|_| next.ask(rename("x")))).await;
        for error in asked.into_iter().map(Result::unwrap_err) {
            assert!(matches!(&error, AskError::Unavailable { reason, .. } if reason.contains("revision 1")), "{error}");
        }
    }
}

#[tokio::test]
async fn a_node_that_stops_lets_the_commit_in_flight_become_durable() {
    let node = Node::with_tenant().await;
    node.log.hold();
    let asked = node.enter(rename("last words"));
    node.log.held_back(1).await;
    let mut stopping = node.region.shutdown(Duration::from_secs(10)).boxed();
    // The entity is told to stop before it is told that its commit is durable.
    assert!((&mut stopping).now_or_never().is_none(), "nothing was in flight");
    node.log.release();
    asked.await.unwrap();
    stopping.await;
    assert!(matches!(node.ask(rename("too late")).await, Err(AskError::Unavailable { .. })));
    assert!(matches!(node.history().last(), Some(Event::TenantRenamed(_))));
}
