//! Given / when / then for the tenant: no store, no async, no mock.

use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::{Accepted, Content, Finished, Limits, Lost, ModuleRef, Outcome, Output, Seed, Started},
    id::{BootId, ExecutionId, KeyId, ModuleName, NodeId, TenantId},
    key::{self, Scopes},
    module,
    revision::Revision,
    settings::Settings,
    tenant::{self, Tier},
    time::{Millis, Moment, Steady, Timestamp},
};

use super::{Command, Execute, ModuleChoice, NewKey, NewVersion, Refusal, Tenant};
use crate::{
    aggregate::{Authority, Context, Life},
    limits::Policy,
};

/// 2026-11-23T12:00:00Z.
pub(crate) const NOON: Timestamp = Timestamp::from_unix_ms(1_795_435_200_000);
pub(crate) const K1: &str = "key1";
pub(crate) const K2: &str = "key2";
pub(crate) const HELLO: &str = "hello";

#[derive(Debug)]
pub(crate) struct Given {
    state: Tenant,
    by: Authority,
    at: Timestamp,
    policy: Policy,
    life: u128,
    /// How far the wall clock has been set on, or back.
    wall_step_ms: i64,
}

#[derive(Debug)]
pub(crate) struct Then(Result<Vec<Event>, Refusal>);

pub(crate) fn given(history: impl IntoIterator<Item = Event>) -> Given {
    given_of("acme", history)
}

pub(crate) fn given_of(tenant: &str, history: impl IntoIterator<Item = Event>) -> Given {
    let mut state = Tenant::new(TenantId::new(tenant).unwrap());
    for (event, revision) in history.into_iter().zip(1..) {
        state.reach(Revision::new(revision), NOON);
        state.apply(&event, even(NOON));
    }
    Given { state, by: Authority::System, at: NOON, policy: Policy::default(), life: 1, wall_step_ms: 0 }
}

/// A moment at which both clocks say the same.
pub(crate) const fn even(at: Timestamp) -> Moment {
    Moment { wall: at, steady: Steady::from_ms(at.unix_ms()) }
}

impl Given {
    pub(crate) fn by(self, key: &str) -> Self {
        Self { by: Authority::Key(key_id(key)), ..self }
    }

    pub(crate) fn on(self, by: Authority) -> Self {
        Self { by, ..self }
    }

    pub(crate) fn at(self, at: Timestamp) -> Self {
        Self { at, ..self }
    }

    pub(crate) fn under(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// In this life of the node; all others of it have ended.
    pub(crate) fn in_life(self, life: u128) -> Self {
        Self { life, ..self }
    }

    pub(crate) fn restart(&mut self) {
        self.life += 1;
    }

    pub(crate) fn when(self, command: Command) -> Then {
        Then(self.decide(command, self.at))
    }

    /// Sets the wall clock on, or back, while no time passes.
    pub(crate) const fn step_wall_ms(&mut self, ms: i64) {
        self.wall_step_ms += ms;
    }

    /// What the clocks say when the steady one is at `at`.
    const fn moment(&self, at: Timestamp) -> Moment {
        Moment { wall: Timestamp::from_unix_ms(at.unix_ms() + self.wall_step_ms), ..even(at) }
    }

    fn decide(&self, command: Command, at: Timestamp) -> Result<Vec<Event>, Refusal> {
        let present = Life { node: node(), boot: boot(self.life) };
        let ended: Vec<Life> = self.state.executions().lives().filter(|life| **life != present).cloned().collect();
        let (policy, by) = (&self.policy, &self.by);
        let Moment { wall: now, steady } = self.moment(at);
        self.state.decide(command, &Context { now, steady, policy, by, once: None, expected: None, ended: &ended })
    }

    pub(crate) fn decide_and_apply(&mut self, command: Command, at: Timestamp) -> Result<(), Refusal> {
        self.decide_apply_and_give(command, at).map(drop)
    }

    /// Decides as the platform does, applies, and gives the events.
    pub(crate) fn decide_apply_and_give(&mut self, command: Command, at: Timestamp) -> Result<Vec<Event>, Refusal> {
        let events = self.decide(command, at)?;
        let moment = self.moment(at);
        events.iter().for_each(|event| self.state.apply(event, moment));
        Ok(events)
    }

    pub(crate) fn admit_and_end(&mut self, at: Timestamp) -> Result<(), Refusal> {
        self.decide_and_apply(execute(HELLO), at)?;
        let moment = self.moment(at);
        self.state.apply(&finished(EXECUTED), moment);
        Ok(())
    }
}

impl Then {
    #[track_caller]
    pub(crate) fn then(self, expected: impl IntoIterator<Item = Event>) {
        assert_eq!(self.0, Ok(expected.into_iter().collect()));
    }

    #[track_caller]
    pub(crate) fn then_refused(self, expected: Refusal) {
        assert_eq!(self.0, Err(expected));
    }

    #[track_caller]
    pub(crate) fn then_accepted(self) {
        self.accepted();
    }

    #[track_caller]
    pub(crate) fn then_published(self, name: &str, version: u32) {
        match self.0.as_deref() {
            Ok([Event::ModulePublished(published)]) => {
                assert_eq!((published.name.as_str(), published.version), (name, version));
            }
            other => panic!("not published: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn accepted(self) -> Accepted {
        match self.0.as_deref() {
            Ok([Event::ExecutionAccepted(accepted)]) => (**accepted).clone(),
            other => panic!("not accepted: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn events(self) -> Vec<Event> {
        self.0.unwrap()
    }
}

/// The id that [`execute`] asks for.
const EXECUTED: u128 = 77;

pub(crate) fn ready() -> Vec<Event> {
    vec![registered("Acme", Tier::Pro), key_issued(K1), published_as(HELLO, 1, b"one")]
}

pub(crate) fn running() -> Vec<Event> {
    ready().into_iter().chain([accepted(1)]).collect()
}

pub(crate) fn registered(name: &str, tier: Tier) -> Event {
    Event::TenantRegistered(tenant::Registered { name: name.into(), tier })
}

pub(crate) fn suspended() -> Event {
    Event::TenantSuspended(tenant::Suspended { reason: None })
}

pub(crate) fn resumed() -> Event {
    Event::TenantResumed(tenant::Resumed {})
}

pub(crate) fn key_id(id: &str) -> KeyId {
    KeyId::new(id).unwrap()
}

pub(crate) fn issued(id: &str) -> key::Issued {
    let new = new_key(id);
    key::Issued {
        key_id: new.key_id,
        name: new.name,
        scopes: new.scopes,
        hash: new.hash,
        expires_at: None,
        writes_full_at: None,
    }
}

pub(crate) fn key_issued(id: &str) -> Event {
    Event::KeyIssued(issued(id))
}

pub(crate) fn key_revoked(id: &str) -> Event {
    Event::KeyRevoked(key::Revoked { key_id: key_id(id) })
}

pub(crate) fn new_key(id: &str) -> NewKey {
    let (name, hash) = (id.to_owned(), Digest::of(id.as_bytes()));
    NewKey { key_id: key_id(id), name, scopes: Scopes::TENANT, hash, expires_at: None }
}

pub(crate) fn register(name: &str, tier: Tier) -> Command {
    Command::Register { name: name.into(), tier, first_key: None }
}

pub(crate) fn module_name(name: &str) -> ModuleName {
    ModuleName::new(name).unwrap()
}

pub(crate) fn publish(name: &str, bytes: &[u8]) -> Command {
    Command::PublishModule {
        name: module_name(name),
        digest: Digest::of(bytes),
        size_bytes: bytes.len() as u64,
        kind: module::Kind::Core,
        imports: vec![],
        exports: vec!["_start".into()],
    }
}

pub(crate) fn publish_with(name: &str, bytes: &[u8], settings: Settings) -> Command {
    Command::PublishVersion(NewVersion {
        name: module_name(name),
        digest: Digest::of(bytes),
        size_bytes: bytes.len() as u64,
        kind: module::Kind::Core,
        imports: vec![],
        exports: vec!["_start".into()],
        settings,
    })
}

/// A version with settings.
pub(crate) fn published_with(name: &str, version: u32, settings: Settings) -> Event {
    let Event::ModulePublished(published) = published_as(name, version, b"one") else { unreachable!() };
    Event::ModulePublished(module::Published { settings, ..published })
}

pub(crate) fn published(name: &str) -> Event {
    published_as(name, 1, b"one")
}

pub(crate) fn published_as(name: &str, version: u32, bytes: &[u8]) -> Event {
    Event::ModulePublished(module::Published {
        name: module_name(name),
        version,
        digest: Digest::of(bytes),
        size_bytes: bytes.len() as u64,
        kind: module::Kind::Core,
        imports: vec![],
        exports: vec!["_start".into()],
        settings: Default::default(),
        writes_full_at: None,
    })
}

pub(crate) fn deleted(name: &str) -> Event {
    Event::ModuleDeleted(module::Deleted { name: module_name(name), writes_full_at: None })
}

pub(crate) fn node() -> NodeId {
    NodeId::new("node-1").unwrap()
}

pub(crate) fn boot(n: u128) -> BootId {
    BootId::new(uuid::Uuid::from_u128(n))
}

pub(crate) fn execution_id(n: u128) -> ExecutionId {
    ExecutionId::new(uuid::Uuid::from_u128(n))
}

pub(crate) fn execute(module: &str) -> Command {
    Command::Execute(Box::new(Execute {
        execution_id: execution_id(EXECUTED),
        module: ModuleChoice::Named { name: module_name(module), version: None },
        stdin: Content::of(b"in"),
        args: vec![],
        timeout_ms: None,
        seed: Seed::new([7; 16]),
        engine: "test".into(),
        node: node(),
        boot: boot(1),
        asynchronous: false,
        deadline: None,
    }))
}

/// Accepted at noon, to begin within an hour.
pub(crate) fn queued(n: u128) -> Event {
    Event::ExecutionAccepted(Box::new(Accepted { start_by: Some(NOON.plus_ms(3_600_000)), ..accepted_data(n) }))
}

/// Begun at noon, in this life of the node.
pub(crate) fn started(n: u128, attempt: u32, life: u128) -> Event {
    let (execution_id, node, boot) = (execution_id(n), node(), boot(life));
    Event::ExecutionStarted(Started { execution_id, attempt, node, boot, start_time: NOON })
}

pub(crate) fn start(n: u128, life: u128) -> Command {
    Command::Start { execution_id: execution_id(n), node: node(), boot: boot(life) }
}

pub(crate) fn cancel(n: u128) -> Command {
    Command::Cancel { execution_id: execution_id(n) }
}

pub(crate) fn accepted(n: u128) -> Event {
    Event::ExecutionAccepted(Box::new(accepted_data(n)))
}

fn accepted_data(n: u128) -> Accepted {
    Accepted {
        execution_id: execution_id(n),
        attempt: 1,
        module: ModuleRef { name: Some(module_name(HELLO)), version: Some(1), digest: Digest::of(b"one") },
        key_id: key_id(K1),
        stdin: Content::of(b"in"),
        args: vec![],
        limits: Limits {
            wall_ms: 30_000,
            memory_bytes: 1 << 20,
            stdin_bytes: 1 << 20,
            stdout_bytes: 1 << 20,
            stderr_bytes: 1 << 20,
        },
        seed: Seed::new([7; 16]),
        start_time: NOON,
        engine: "test".into(),
        node: node(),
        boot: boot(1),
        bucket_full_at: None,
        start_by: None,
        rerun_of: None,
        fuel: None,
        sleep: Default::default(),
        clock: Default::default(),
        uploaded_bytes: None,
    }
}

/// Of a module that came along, of which so many bytes were not stored before.
pub(crate) fn uploaded(n: u128, wasm: &[u8], uploaded_bytes: u64) -> Event {
    let module = ModuleRef { name: None, version: None, digest: Digest::of(wasm) };
    Event::ExecutionAccepted(Box::new(Accepted { module, uploaded_bytes: Some(uploaded_bytes), ..accepted_data(n) }))
}

/// Asks for an execution of a module that comes along.
pub(crate) fn upload(n: u128, wasm: &[u8]) -> Command {
    let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
    let module = ModuleChoice::Inline { digest: Digest::of(wasm), size_bytes: wasm.len() as u64 };
    Command::Execute(Box::new(Execute { execution_id: execution_id(n), module, ..*execute }))
}

fn finished_data(n: u128) -> Finished {
    let output = |bytes: &[u8]| Output { digest: Digest::of(bytes), size_bytes: bytes.len() as u64, truncated: false };
    Finished {
        execution_id: execution_id(n),
        attempt: 1,
        outcome: Outcome::Succeeded,
        exit_code: Some(0),
        stdout: output(b"out"),
        stderr: output(b""),
        fuel: None,
        cpu_ms: Millis::from_micros(16),
        wall_ms: Millis::from_micros(20),
        peak_memory_bytes: 65_536,
        trace_digest: None,
        trace_readings: None,
        deterministic: false,
        reproducibility: None,
        message: None,
    }
}

pub(crate) fn finished(n: u128) -> Event {
    Event::ExecutionFinished(Box::new(finished_data(n)))
}

pub(crate) fn finish(n: u128) -> Command {
    Command::Finish(Box::new(finished_data(n)))
}

pub(crate) fn lost_data(n: u128) -> Lost {
    let reason = "the node that ran it was restarted or went away".into();
    Lost { execution_id: execution_id(n), attempt: 1, reason }
}

pub(crate) fn lost(n: u128) -> Event {
    Event::ExecutionLost(lost_data(n))
}
