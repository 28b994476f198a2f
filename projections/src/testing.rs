//! Histories and a log for tests.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
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
    module,
    reproducibility::Reproducibility,
    revision::{Epoch, Position},
    tenant,
    time::{Millis, Timestamp},
};

use crate::Views;

mod log;

pub(crate) use log::TestLog;

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
        settings: Default::default(),
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
        rerun_of: None,
        fuel: None,
        sleep: Default::default(),
        clock: Default::default(),
        uploaded_bytes: None,
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
        trace_readings: None,
        deterministic: true,
        reproducibility: Some(Reproducibility::VirtualTime),
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

/// Views of `commits`, caught up.
pub(crate) async fn views_of(folder: &Path, commits: &[Arc<Recorded>]) -> Views {
    let log = TestLog::of(commits);
    let views = log.views(folder).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    views
}
