//! Nodes of one cluster in one process: one log, a table of owners that a test sets, and wires that it may cut.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::watch;
use wasmwiz_actors::{
    aggregate::Authority,
    bus::{BusConfig, CommandBus, Letter, Server, Transport, Unanswered},
    disk_space::DiskSpace,
    dispatch::{Cancel, Cancelling, Code, Dispatch, DispatchDeps, DispatchError, Done, Hold, Request, Upload},
    executor::{ExecutorConfig, Executors},
    handle::{Ask, AskError, Decided, Origin},
    ids::Ids,
    limits::Policy,
    ownership::{Owner, Ownership},
    region::{Region, RegionConfig, RegionDeps},
    tenant::{Command, NewKey},
    topology::Topology,
};
use wasmwiz_events::{
    blobs::{Blobs, fs::FsBlobs},
    digest::Digest,
    event::Event,
    id::{BootId, ExecutionId, KeyId, ModuleName, NodeId, TenantId},
    key::Scopes,
    ledger::Verifier,
    log::{EventLog, memory::MemoryLog},
    revision::Epoch,
    settings::Settings,
    shard::Shard,
    tenant::Tier,
    time::SystemClock,
};

pub(crate) const ECHO: &str = include_str!("../../../examples/echo.wat");

/// A guest that runs until its deadline.
pub(crate) const SPIN: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;

pub(crate) fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

pub(crate) fn key() -> KeyId {
    KeyId::new("key1").unwrap()
}

pub(crate) fn name(n: usize) -> NodeId {
    NodeId::new(&format!("node-{n}")).unwrap()
}

/// Who owns the shard of the one tenant, and which lives have ended.
pub(crate) struct Table {
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    owner: Option<(NodeId, Epoch)>,
    ended: Vec<BootId>,
}

impl Table {
    pub(crate) fn give(&self, owner: Option<(usize, u64)>) {
        self.state.send_modify(|state| state.owner = owner.map(|(node, epoch)| (name(node), Epoch::new(epoch))));
    }

    pub(crate) fn end(&self, boot: BootId) {
        self.state.send_modify(|state| state.ended.push(boot));
    }
}

/// The table as one node sees it.
pub(crate) struct View {
    me: NodeId,
    table: Arc<Table>,
    /// What it believes, whatever the table says.
    pub(crate) believes: Mutex<Option<Owner>>,
}

#[async_trait]
impl Ownership for View {
    fn owner(&self, _: Shard) -> Owner {
        if let Some(believed) = self.believes.lock().unwrap().clone() {
            return believed;
        }
        match self.table.state.borrow().owner.clone() {
            Some((node, epoch)) if node == self.me => Owner::Here(epoch),
            Some((node, epoch)) => Owner::There { node, epoch },
            None => Owner::Nobody,
        }
    }

    async fn changed(&self, shard: Shard, seen: &Owner) {
        let mut state = self.table.state.subscribe();
        while self.owner(shard) == *seen {
            state.changed().await.unwrap();
        }
    }

    fn has_ended(&self, _: &NodeId, boot: BootId) -> bool {
        self.table.state.borrow().ended.contains(&boot)
    }

    /// The test says who owns what.
    fn is_outdated(&self, _: Shard, _: Epoch) {}

    /// Nobody asks.
    fn topology(&self) -> Topology {
        Topology::alone(&self.me, Ids.boot())
    }
}

/// What happens to the next letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None: it arrives, and so does its answer.
    Deliver,
    /// It arrives, and its answer does not.
    LoseAnswer,
    /// It arrives, and the connection breaks before its answer.
    Break,
    /// It does not arrive, and nobody says so.
    Swallow,
    /// Nobody says whether it arrives, and it does after the next one was answered.
    Late,
    /// It arrives torn.
    Tear,
    /// It arrives, and its answer is garbage.
    Garble,
    /// Nobody takes it.
    Nobody,
}

/// Connects the nodes.
#[derive(Default)]
pub(crate) struct Wires {
    ends: Mutex<HashMap<NodeId, (Server, Arc<View>)>>,
    pub(crate) faults: Mutex<VecDeque<Fault>>,
    pub(crate) sent: AtomicUsize,
    late: Mutex<Option<Letter>>,
}

impl Wires {
    pub(crate) fn next(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    fn end(&self, node: &NodeId) -> Option<(Server, Arc<View>)> {
        self.ends.lock().unwrap().get(node).cloned()
    }

    /// What a node answers to these bytes.
    pub(crate) async fn raw(&self, node: usize, frame: &[u8]) -> Bytes {
        self.end(&name(node)).unwrap().0.serve(Bytes::copy_from_slice(frame)).await
    }
}

#[async_trait]
impl Transport for Wires {
    async fn request(&self, letter: Letter) -> Result<Bytes, Unanswered> {
        self.sent.fetch_add(1, Ordering::SeqCst);
        let fault = self.faults.lock().unwrap().pop_front();
        // Who is not owner in this epoch does not listen for it.
        let end = self.end(&letter.node).filter(|(_, view)| view.owner(letter.shard) == Owner::Here(letter.epoch));
        let (Some((server, _)), false) = (end, fault == Some(Fault::Nobody)) else {
            return Err(Unanswered::NoResponders);
        };
        match fault {
            None | Some(Fault::Deliver | Fault::Nobody) => {
                let answer = server.serve(letter.frame).await;
                let late = self.late.lock().unwrap().take();
                if let Some(late) = late {
                    server.serve(late.frame).await;
                }
                Ok(answer)
            }
            Some(Fault::Late) => {
                *self.late.lock().unwrap() = Some(letter);
                Err(Unanswered::Lost("cut".into()))
            }
            Some(Fault::LoseAnswer) => {
                server.serve(letter.frame).await;
                std::future::pending().await
            }
            Some(Fault::Break) => {
                server.serve(letter.frame).await;
                Err(Unanswered::Lost("cut".into()))
            }
            Some(Fault::Swallow) => std::future::pending().await,
            Some(Fault::Tear) => {
                let torn = letter.frame.slice(..letter.frame.len() - 1);
                Ok(server.serve(torn).await)
            }
            Some(Fault::Garble) => {
                server.serve(letter.frame).await;
                Ok(Bytes::from_static(b"garbage"))
            }
        }
    }

    async fn tell(&self, node: &NodeId, frame: Bytes) -> Result<(), Unanswered> {
        let (server, _) = self.end(node).ok_or(Unanswered::NoResponders)?;
        server.hear(&frame);
        Ok(())
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) name: NodeId,
    pub(crate) boot: BootId,
    pub(crate) view: Arc<View>,
    pub(crate) bus: CommandBus,
    pub(crate) dispatch: Dispatch,
}

/// Nodes on one log. They are numbered from 1.
pub(crate) struct Cluster {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) table: Arc<Table>,
    pub(crate) wires: Arc<Wires>,
    nodes: Vec<Arc<Node>>,
    _data: TempDir,
}

/// Bounds of a cluster for tests.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) region: RegionConfig,
    pub(crate) bus: BusConfig,
}

impl Default for Bounds {
    fn default() -> Self {
        let region = RegionConfig { wake_every_ms: 20, ..RegionConfig::default() };
        Self { region, bus: BusConfig { try_within_ms: 200, ..BusConfig::default() } }
    }
}

impl Cluster {
    /// Three nodes; the first owns the tenant, which is registered and has its modules.
    pub(crate) async fn start(bounds: Bounds) -> Self {
        let state = watch::Sender::new(State::default());
        let (table, wires, data) =
            (Arc::new(Table { state }), Arc::new(Wires::default()), tempfile::tempdir().unwrap());
        let mut cluster = Self { log: Arc::new(MemoryLog::new()), table, wires, nodes: vec![], _data: data };
        for n in 1..=3 {
            let node = cluster.begin(n, bounds).await;
            cluster.nodes.push(node);
        }
        cluster.table.give(Some((1, 1)));
        let first_key = NewKey {
            key_id: key(),
            name: "first".into(),
            scopes: Scopes::TENANT,
            hash: Digest::of(b"secret"),
            expires_at: None,
        };
        let command = Command::Register { name: "Acme".into(), tier: Tier::Enterprise, first_key: Some(first_key) };
        cluster.node(1).ask(command).await.unwrap();
        for (module, wat) in [("echo", ECHO), ("spin", SPIN)] {
            cluster.node(1).publish(module, wat).await.unwrap();
        }
        cluster
    }

    async fn begin(&self, n: usize, bounds: Bounds) -> Arc<Node> {
        let (node, boot, log) = (name(n), Ids.boot(), Arc::clone(&self.log) as Arc<dyn EventLog>);
        let view = Arc::new(View { me: node.clone(), table: Arc::clone(&self.table), believes: Mutex::default() });
        let deps = RegionDeps {
            log: Arc::clone(&log),
            clock: Arc::new(SystemClock),
            policy: Policy::default(),
            ownership: Arc::clone(&view) as _,
            snapshots: None,
        };
        let region = Region::start(bounds.region, deps).await.unwrap();
        let bus = CommandBus::new(region.clone(), Arc::clone(&self.wires) as _, bounds.bus);
        let config = ExecutorConfig { threads: 1, guests_max: 16, ..ExecutorConfig::default() };
        let executors = Executors::start(config).unwrap();
        let blobs: Arc<dyn Blobs> = Arc::new(FsBlobs::open(self._data.path()).unwrap());
        let dispatch = Dispatch::new(DispatchDeps {
            bus: bus.clone(),
            executors,
            blobs,
            log,
            node: node.clone(),
            boot,
            space: DiskSpace::default(),
        });
        let server = Server::new(region, dispatch.clone(), bounds.bus);
        self.wires.ends.lock().unwrap().insert(node.clone(), (server, Arc::clone(&view)));
        Arc::new(Node { name: node, boot, view, bus, dispatch })
    }

    pub(crate) fn node(&self, n: usize) -> &Arc<Node> {
        self.nodes.get(n - 1).unwrap()
    }

    pub(crate) fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// Moves the tenant, as a placement does.
    pub(crate) async fn hand_over(&self, from: usize, to: usize, epoch: u64) {
        let shard = Shard::of(&acme());
        self.node(from).bus.region().release(shard, Duration::from_secs(10)).await.unwrap();
        self.table.give(None);
        self.table.give(Some((to, epoch)));
        self.node(to).bus.region().take_up(shard, Epoch::new(epoch));
    }

    /// All events of the stream; its chain must be whole, and its epochs must not decrease.
    pub(crate) fn history(&self) -> Vec<Event> {
        let mut verifier = Verifier::new(acme());
        let mut events = vec![];
        for recorded in self.log.commits() {
            verifier.step(&recorded.commit).unwrap();
            events.extend(recorded.commit.events().unwrap().iter().map(|envelope| envelope.event.clone()));
        }
        events
    }

    pub(crate) fn epochs(&self) -> Vec<u64> {
        let mut epochs: Vec<u64> =
            self.log.commits().iter().map(|recorded| recorded.commit.header().owner_epoch.get()).collect();
        epochs.dedup();
        epochs
    }

    /// How often the tenant was given this name.
    pub(crate) fn renamed(&self, to: &str) -> usize {
        let is = |event: &&Event| matches!(event, Event::TenantRenamed(renamed) if renamed.name == to);
        self.history().iter().filter(is).count()
    }

    /// By execution, how many ends it has.
    pub(crate) fn ends(&self) -> BTreeMap<ExecutionId, usize> {
        let mut ends = BTreeMap::new();
        for event in self.history() {
            match event {
                Event::ExecutionAccepted(accepted) => assert_eq!(ends.insert(accepted.execution_id, 0), None),
                Event::ExecutionFinished(finished) => *ends.get_mut(&finished.execution_id).unwrap() += 1,
                Event::ExecutionLost(lost) => *ends.get_mut(&lost.execution_id).unwrap() += 1,
                _ => {}
            }
        }
        ends
    }
}

impl Node {
    pub(crate) async fn ask(&self, command: Command) -> Result<Decided, AskError> {
        self.ask_from(command, Origin::internal(Ids.command())).await
    }

    pub(crate) async fn ask_from(&self, command: Command, origin: Origin) -> Result<Decided, AskError> {
        self.bus.ask(&acme(), Ask { command, by: Authority::System, origin, payloads: vec![] }).await
    }

    pub(crate) async fn publish(&self, module: &str, wat: &str) -> Result<Decided, DispatchError> {
        self.publish_with(module, wat, Settings::default()).await
    }

    pub(crate) async fn publish_with(
        &self,
        module: &str,
        wat: &str,
        settings: Settings,
    ) -> Result<Decided, DispatchError> {
        let upload = Upload {
            tenant: acme(),
            by: Authority::Key(key()),
            origin: Origin::internal(Ids.command()),
            name: ModuleName::new(module).unwrap(),
            wasm: wat::parse_str(wat).unwrap().into(),
            settings,
            hold: Hold::default(),
        };
        self.dispatch.publish(upload).await
    }

    pub(crate) fn request(module: &str, stdin: &str) -> Request {
        Request {
            tenant: acme(),
            by: Authority::Key(key()),
            origin: Origin::internal(Ids.command()),
            code: Code::Named { name: ModuleName::new(module).unwrap(), version: None },
            stdin: Bytes::copy_from_slice(stdin.as_bytes()),
            args: vec![],
            timeout_ms: None,
            fuel: None,
            rerun: None,
            hold: Hold::default(),
        }
    }

    pub(crate) async fn execute(&self, module: &str, stdin: &str) -> Result<Done, DispatchError> {
        self.dispatch.execute(Self::request(module, stdin)).await
    }

    pub(crate) async fn cancel(&self, execution_id: ExecutionId) -> Result<Cancelling, DispatchError> {
        let (by, origin) = (Authority::Key(key()), Origin::internal(Ids.command()));
        self.dispatch.cancel(Cancel { tenant: acme(), by, origin, execution_id }).await
    }
}

/// Waits until it holds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
