//! Histories and a log for tests.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;
use wasmwiz_events::{
    commit::{Commit, Header, Recorded},
    digest::Digest,
    envelope::{Actor, Cause, Envelope},
    event::{Event, Unknown},
    execution::{Accepted, Content, Finished, Limits, Lost, ModuleRef, Outcome, Output, Seed},
    id::{BootId, CommandId, CommitId, EventId, ExecutionId, KeyId, ModuleName, NodeId, TenantId},
    key,
    ledger::Head,
    log::{Append, AppendError, Appended, EventLog, ReadError, ReadLimit, Subscription},
    module,
    payload::Payload,
    revision::{Epoch, Position, Revision},
    tenant,
    time::{Millis, Timestamp},
};

use crate::{Config, Views};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// 2026-11-23T00:00:00Z.
pub(crate) const EPOCH_MS: i64 = 1_795_392_000_000;

pub(crate) fn tenant_id(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub(crate) fn key_id(name: &str) -> KeyId {
    KeyId::new(name).unwrap()
}

pub(crate) fn module_name(name: &str) -> ModuleName {
    ModuleName::new(name).unwrap()
}

/// A version of a module as executions name it.
pub(crate) fn module_ref(name: &str, version: u32) -> ModuleRef {
    let digest = Digest::of(format!("{name}@{version}").as_bytes());
    ModuleRef { name: Some(module_name(name)), version: Some(version), digest }
}

/// The `n`-th execution, asked for `n` milliseconds after the epoch of the tests.
pub(crate) fn execution_id(n: u32) -> ExecutionId {
    let unix_ms = u128::try_from(EPOCH_MS + i64::from(n)).unwrap();
    ExecutionId::new(Uuid::from_u128((unix_ms << 80) | (0x7 << 76) | (0x8 << 60) | u128::from(n)))
}

pub(crate) fn registered(name: &str) -> Event {
    Event::TenantRegistered(tenant::Registered { name: name.to_owned(), tier: tenant::Tier::Free })
}

pub(crate) fn issued(key: &str) -> Event {
    Event::KeyIssued(key::Issued {
        key_id: key_id(key),
        name: format!("name of {key}"),
        scopes: key::Scopes::TENANT,
        hash: Digest::of(key.as_bytes()),
        expires_at: None,
        writes_full_at: None,
    })
}

pub(crate) fn published(name: &str, version: u32) -> Event {
    Event::ModulePublished(module::Published {
        name: module_name(name),
        version,
        digest: module_ref(name, version).digest,
        size_bytes: 671,
        kind: module::Kind::Core,
        imports: vec!["wasi_snapshot_preview1.fd_write".to_owned()],
        exports: vec!["_start".to_owned()],
        writes_full_at: None,
    })
}

pub(crate) fn accepted(n: u32, key: &str, module: ModuleRef) -> Event {
    Event::ExecutionAccepted(Box::new(Accepted {
        execution_id: execution_id(n),
        attempt: 1,
        module,
        key_id: key_id(key),
        stdin: Content { digest: Digest::of(&n.to_be_bytes()), size_bytes: 4 },
        args: Vec::new(),
        limits: Limits { wall_ms: 5_000, memory_bytes: 1 << 26, stdin_bytes: 1, stdout_bytes: 1, stderr_bytes: 1 },
        seed: Seed::new([7; 16]),
        start_time: Timestamp::from_unix_ms(EPOCH_MS),
        engine: "wasmtime-48".to_owned(),
        node: NodeId::new("n1").unwrap(),
        boot: BootId::new(Uuid::from_u128(1)),
        bucket_full_at: None,
        start_by: None,
    }))
}

pub(crate) fn finished(n: u32, outcome: Outcome) -> Event {
    Event::ExecutionFinished(Box::new(Finished {
        execution_id: execution_id(n),
        attempt: 1,
        outcome,
        exit_code: Some(0),
        stdout: Output { digest: Digest::of(b"out"), size_bytes: 3, truncated: true },
        stderr: Output { digest: Digest::of(b""), size_bytes: 0, truncated: false },
        fuel: Some(10),
        cpu_ms: Millis::from_micros(16),
        wall_ms: Millis::from_micros(20 + u64::from(n)),
        peak_memory_bytes: 65_536 * u64::from(n % 7 + 1),
        trace_digest: None,
        deterministic: true,
        message: None,
    }))
}

pub(crate) fn lost(n: u32) -> Event {
    Event::ExecutionLost(Lost { execution_id: execution_id(n), attempt: 1, reason: "its node is gone".to_owned() })
}

pub(crate) fn unknown() -> Event {
    let data = serde_json::value::RawValue::from_string(r#"{"craters":3}"#.to_owned()).unwrap();
    Event::Unknown(Unknown { type_name: "dev.wasmwiz.moon.landed.v1".to_owned(), data })
}

/// A commit whose body is not what a log stores.
pub(crate) fn undecodable(after: &Recorded) -> Arc<Recorded> {
    let header = Header {
        first_revision: after.commit.last_revision().next(),
        count: 1,
        prev_hash: after.commit.hash(),
        ..after.commit.header().clone()
    };
    let commit = Commit::from_stored(header, after.commit.hash(), Bytes::from_static(b"[{}]"));
    Arc::new(Recorded { position: after.position.next(), commit })
}

/// Small, seeded, and the same everywhere: xorshift64*.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }
}

#[derive(Debug, Default)]
struct Life {
    keys: u32,
    modules: BTreeMap<String, u32>,
    open: Vec<u32>,
}

/// A history in the making: commits of any tenants, each continuing its stream.
#[derive(Debug)]
pub(crate) struct History {
    dice: Dice,
    heads: BTreeMap<TenantId, Head>,
    lives: BTreeMap<TenantId, Life>,
    position: Position,
    now: Timestamp,
    drawn: u128,
    executions: u32,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            heads: BTreeMap::new(),
            lives: BTreeMap::new(),
            position: Position::START,
            now: Timestamp::from_unix_ms(EPOCH_MS),
            drawn: 0,
            executions: 0,
        }
    }

    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    /// Sets the clock that records on, or back.
    pub(crate) fn step_ms(&mut self, ms: i64) {
        self.now = Timestamp::from_unix_ms(self.now.unix_ms() + ms);
    }

    pub(crate) const fn now(&self) -> Timestamp {
        self.now
    }

    fn uuid(&mut self) -> Uuid {
        self.drawn += 1;
        Uuid::from_u128(self.drawn)
    }

    /// The next commit of a tenant, by the actor `system`.
    pub(crate) fn commit(&mut self, tenant: &TenantId, events: Vec<Event>) -> Arc<Recorded> {
        self.commit_by(tenant, Actor::system(), events)
    }

    pub(crate) fn commit_by(&mut self, tenant: &TenantId, actor: Actor, events: Vec<Event>) -> Arc<Recorded> {
        let head = self.heads.get(tenant).copied().unwrap_or_else(|| Head::genesis(tenant));
        let command = CommandId::new(self.uuid());
        let cause = Cause { command, correlation: None, actor, traceparent: None, idempotency: None };
        let mut envelopes = Vec::new();
        for (event, ahead) in events.into_iter().zip(1..) {
            envelopes.push(Envelope {
                id: EventId::new(self.uuid()),
                tenant: tenant.clone(),
                revision: head.revision.plus(ahead),
                time: self.now,
                cause: cause.clone(),
                event,
            });
        }
        let id = CommitId::new(self.uuid());
        let commit = Commit::seal(&head, tenant.clone(), id, Epoch::FIRST, self.now, envelopes).unwrap();
        self.heads.insert(tenant.clone(), commit.head());
        self.position = self.position.next();
        self.now = self.now.plus_ms(1);
        Arc::new(Recorded { position: self.position, commit })
    }

    /// `count` random commits of four tenants.
    pub(crate) fn commits(&mut self, count: usize) -> Vec<Arc<Recorded>> {
        (0..count).map(|_| self.random_commit()).collect()
    }

    fn random_commit(&mut self) -> Arc<Recorded> {
        let tenant = tenant_id(&format!("t-{}", self.dice.below(4)));
        let mut life = self.lives.remove(&tenant);
        let mut events = Vec::new();
        if life.is_none() {
            events.push(registered(tenant.as_str()));
        }
        let life_of = life.get_or_insert_default();
        for _ in 0..=self.dice.below(8) {
            let event = self.random_event(&tenant, life_of);
            events.push(event);
        }
        self.lives.insert(tenant.clone(), life.unwrap());
        let ms = self.dice.below(400_000);
        self.pass_ms(ms);
        self.commit(&tenant, events)
    }

    fn random_event(&mut self, tenant: &TenantId, life: &mut Life) -> Event {
        let name = format!("m{}", self.dice.below(5));
        let key = |life: &Life, n: u64| format!("{}k{}", tenant.as_str().replace('-', ""), n % u64::from(life.keys));
        let n = self.dice.below(1_000);
        match self.dice.below(20) {
            _ if life.keys == 0 => {
                life.keys = 1;
                issued(&key(life, 0))
            }
            0 => {
                life.keys += 1;
                issued(&key(life, u64::from(life.keys) - 1))
            }
            1 => Event::KeyRotated(key::Rotated {
                key_id: key_id(&key(life, n)),
                hash: Digest::of(&n.to_be_bytes()),
                grace_until: self.now.plus_ms(n),
                writes_full_at: None,
            }),
            2 => Event::KeyRevoked(key::Revoked { key_id: key_id(&key(life, n)) }),
            3 => {
                let version = life.modules.entry(name.clone()).or_default();
                *version += 1;
                published(&name, *version)
            }
            4 => Event::ModuleDeleted(module::Deleted { name: module_name(&name), writes_full_at: None }),
            5 => Event::TenantSuspended(tenant::Suspended { reason: Some("unpaid".to_owned()) }),
            6 => Event::TenantResumed(tenant::Resumed {}),
            7 => unknown(),
            8 => Event::TenantTierChanged(tenant::TierChanged { tier: tenant::Tier::Pro }),
            9..=13 if !life.open.is_empty() => {
                let at = usize::try_from(n).unwrap() % life.open.len();
                let execution = life.open.swap_remove(at);
                if n.is_multiple_of(9) { lost(execution) } else { finished(execution, Outcome::ALL[(n % 8) as usize]) }
            }
            _ => {
                self.executions += 1;
                life.open.push(self.executions);
                let module = if n.is_multiple_of(4) {
                    ModuleRef { name: None, version: None, digest: Digest::of(&(n % 40).to_be_bytes()) }
                } else {
                    module_ref(&name, 1)
                };
                accepted(self.executions, &key(life, n), module)
            }
        }
    }
}

/// A log in memory that tests write to directly.
#[derive(Debug, Clone)]
pub(crate) struct TestLog(Arc<watch::Sender<Vec<Arc<Recorded>>>>, Arc<AtomicU32>);

impl TestLog {
    pub(crate) fn of(commits: &[Arc<Recorded>]) -> Self {
        Self(Arc::new(watch::Sender::new(commits.to_vec())), Arc::default())
    }

    /// The same log, of which every other of the next reads fails, `times` times in all.
    pub(crate) fn failing(&self, times: u32) -> Self {
        Self(Arc::clone(&self.0), Arc::new(AtomicU32::new(2 * times)))
    }

    pub(crate) fn push(&self, recorded: Arc<Recorded>) -> Position {
        let position = recorded.position;
        self.0.send_modify(|commits| commits.push(recorded));
        position
    }

    pub(crate) fn end(&self) -> Position {
        self.0.borrow().last().map(|recorded| recorded.position).unwrap_or_default()
    }

    pub(crate) async fn views(&self, folder: &Path) -> Views {
        self.views_with(folder, Config::default()).await
    }

    pub(crate) async fn views_with(&self, folder: &Path, config: Config) -> Views {
        Views::open(folder, config, Arc::new(self.clone())).await.unwrap()
    }
}

fn after(commits: &[Arc<Recorded>], position: Position, limit: ReadLimit) -> Vec<Arc<Recorded>> {
    let start = commits.partition_point(|recorded| recorded.position <= position);
    let mut bytes = 0;
    let fits = |recorded: &&Arc<Recorded>| {
        let first = bytes == 0;
        bytes += recorded.commit.body().len();
        first || bytes <= limit.bytes
    };
    commits[start..].iter().take(limit.commits.max(1)).take_while(fits).cloned().collect()
}

#[async_trait]
impl EventLog for TestLog {
    async fn append(&self, _append: Append) -> Result<Appended, AppendError> {
        Err(AppendError::Busy)
    }

    async fn read_stream(
        &self,
        _tenant: &TenantId,
        _from: Revision,
        _limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        Ok(Vec::new())
    }

    async fn read_all(&self, from: Position, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        Ok(after(&self.0.borrow(), from, limit))
    }

    async fn read_at(&self, position: Position) -> Result<Option<Arc<Recorded>>, ReadError> {
        Ok(self.0.borrow().iter().find(|recorded| recorded.position == position).cloned())
    }

    async fn payloads(&self, _position: Position) -> Result<Vec<Payload>, ReadError> {
        Ok(Vec::new())
    }

    async fn subscribe(&self, after: Position) -> Result<Box<dyn Subscription>, ReadError> {
        Ok(Box::new(Follower { commits: self.0.subscribe(), after, failing: Arc::clone(&self.1) }))
    }

    async fn head(&self, tenant: &TenantId) -> Result<Head, ReadError> {
        Ok(Head::genesis(tenant))
    }

    async fn tail(&self) -> Result<Position, ReadError> {
        Ok(self.end())
    }

    async fn poisoned(&self) -> Arc<str> {
        std::future::pending().await
    }
}

struct Follower {
    commits: watch::Receiver<Vec<Arc<Recorded>>>,
    after: Position,
    failing: Arc<AtomicU32>,
}

#[async_trait]
impl Subscription for Follower {
    async fn next(&mut self, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let left = self.failing.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok_and(|left| left % 2 == 1) {
            return Err(ReadError::Unavailable("out of reach".into()));
        }
        let from = self.after;
        let more = |commits: &Vec<Arc<Recorded>>| commits.last().is_some_and(|recorded| recorded.position > from);
        let next = {
            let commits = self.commits.wait_for(more).await;
            after(&commits.map_err(|_| ReadError::Unavailable("closed".into()))?, from, limit)
        };
        self.after = next.last().map_or(from, |recorded| recorded.position);
        Ok(next)
    }
}

/// Views of `commits`, caught up.
pub(crate) async fn views_of(folder: &Path, commits: &[Arc<Recorded>]) -> Views {
    let log = TestLog::of(commits);
    let views = log.views(folder).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    views
}
