//! A tenant: who may do what here, which modules there are, and which executions are open.
//!
//! Pure: every rule is in [`Tenant::decide`] and the parts it asks; [`Tenant::apply`] only remembers.

use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution,
    id::{BootId, ExecutionId, KeyId, ModuleName, NodeId, TenantId},
    key::{Scope, Scopes},
    module,
    tenant::{self, Tier},
    time::Timestamp,
};

use crate::{
    aggregate::{Authority, Context},
    limits::TierLimits,
};

pub mod executions;
pub mod keys;
pub mod modules;
pub mod quota;
pub mod refusal;
#[cfg(test)]
pub(crate) mod scenario;

pub use refusal::Refusal;

/// The tenant whose keys operate the platform.
pub const SYSTEM: &str = "system";

/// The longest name of a tenant or a key, in characters.
pub const NAME_MAX_CHARS: usize = 100;

/// A key that is to be issued. Its secret stays with whoever drew it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The public part.
    pub key_id: KeyId,
    /// What the tenant calls it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Hash of its secret.
    pub hash: Digest,
    /// When it stops working by itself.
    pub expires_at: Option<Timestamp>,
}

/// Which code an execution is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModuleChoice {
    /// A published module; the latest version when none is named.
    Named {
        /// Its name.
        name: ModuleName,
        /// Its version.
        version: Option<u32>,
    },
    /// A module that came with the request.
    Inline {
        /// SHA-256 of its bytes.
        digest: Digest,
        /// How many they are.
        size_bytes: u64,
    },
}

/// A request to run a module once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execute {
    /// The id that the execution will have.
    pub execution_id: ExecutionId,
    /// What to run.
    pub module: ModuleChoice,
    /// Its input.
    pub stdin: execution::Content,
    /// Its arguments.
    pub args: Vec<String>,
    /// The most wall-clock time the caller wants to wait, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Where its random numbers come from.
    pub seed: execution::Seed,
    /// Fingerprint of the engine that will run it.
    pub engine: String,
    /// The node that will run it.
    pub node: NodeId,
    /// The life of that node.
    pub boot: BootId,
}

/// What may be asked of a tenant. It may be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Register the tenant, and issue its first key with it.
    Register {
        /// Its name, for people.
        name: String,
        /// Its tier.
        tier: Tier,
        /// Its first key, if it is to have one at once.
        first_key: Option<NewKey>,
    },
    /// Give it another name, another tier, or both at once.
    Change {
        /// The name from now on.
        name: Option<String>,
        /// The tier from now on.
        tier: Option<Tier>,
    },
    /// Stop it from acting.
    Suspend {
        /// Why.
        reason: Option<String>,
    },
    /// Let it act again.
    Resume,
    /// Issue a key.
    IssueKey(NewKey),
    /// Revoke a key.
    RevokeKey {
        /// Which.
        key_id: KeyId,
    },
    /// Publish a module as the next version of its name. The bytes are in the blob store already.
    PublishModule {
        /// The name.
        name: ModuleName,
        /// SHA-256 of the bytes.
        digest: Digest,
        /// How many.
        size_bytes: u64,
        /// What it is.
        kind: module::Kind,
        /// Its imports.
        imports: Vec<String>,
        /// Its exports.
        exports: Vec<String>,
    },
    /// Record that an upload was no module that this platform runs.
    RejectModule {
        /// The name it was to have.
        name: ModuleName,
        /// SHA-256 of the bytes.
        digest: Digest,
        /// How many.
        size_bytes: u64,
        /// What was wrong.
        reason: String,
    },
    /// Delete all versions of a module.
    DeleteModule {
        /// Which.
        name: ModuleName,
    },
    /// Admit an execution.
    Execute(Box<Execute>),
    /// Ask whether another command would be refused now, before bytes are kept for it. Nothing follows from it.
    Preview(Box<Self>),
    /// Ask whether a key may act under a scope now: for what its tenant's own commands do not cover, such as an
    /// operator's commands to other tenants. Nothing follows from it.
    Authorise(Scope),
    /// Record how an execution ended.
    Finish(Box<execution::Finished>),
    /// Declare lost what an earlier life of `node` accepted and never finished.
    Reap {
        /// The node.
        node: NodeId,
        /// Its present life.
        boot: BootId,
    },
    /// Declare lost what is past its deadline and its grace.
    Expire,
}

impl Command {
    /// The scope that a key needs for it; `None`: not for keys at all.
    fn scope(&self) -> Option<Scope> {
        match self {
            Self::Preview(command) => command.scope(),
            Self::Authorise(scope) => Some(*scope),
            Self::Register { .. }
            | Self::Change { .. }
            | Self::Suspend { .. }
            | Self::Resume
            | Self::Finish(_)
            | Self::Reap { .. }
            | Self::Expire => None,
            Self::IssueKey(_) | Self::RevokeKey { .. } => Some(Scope::KeysManage),
            Self::PublishModule { .. } | Self::RejectModule { .. } | Self::DeleteModule { .. } => {
                Some(Scope::ModulesWrite)
            }
            Self::Execute(_) => Some(Scope::ExecutionsRun),
        }
    }

    /// Does it record what has happened already? Then a suspension does not stop it.
    pub(crate) const fn is_report(&self) -> bool {
        matches!(self, Self::Finish(_) | Self::Reap { .. } | Self::Expire)
    }

    /// Its name, for traces and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Change { .. } => "change",
            Self::Suspend { .. } => "suspend",
            Self::Resume => "resume",
            Self::IssueKey(_) => "issue_key",
            Self::RevokeKey { .. } => "revoke_key",
            Self::PublishModule { .. } => "publish_module",
            Self::RejectModule { .. } => "reject_module",
            Self::DeleteModule { .. } => "delete_module",
            Self::Execute(_) => "execute",
            Self::Preview(_) => "preview",
            Self::Authorise(_) => "authorise",
            Self::Finish(_) => "finish",
            Self::Reap { .. } => "reap",
            Self::Expire => "expire",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unregistered,
    Active,
    Suspended,
}

/// The state of one tenant, folded from its stream.
#[derive(Debug, Clone)]
pub struct Tenant {
    id: TenantId,
    standing: Standing,
    name: String,
    tier: Tier,
    keys: keys::Keys,
    modules: modules::Modules,
    executions: executions::Executions,
    quota: quota::Quota,
}

impl Tenant {
    /// The state before the first event.
    pub fn new(id: TenantId) -> Self {
        Self {
            id,
            standing: Standing::Unregistered,
            name: String::new(),
            tier: Tier::Free,
            keys: keys::Keys::default(),
            modules: modules::Modules::default(),
            executions: executions::Executions::default(),
            quota: quota::Quota::default(),
        }
    }

    /// Executions that have no terminal event yet.
    pub const fn executions(&self) -> &executions::Executions {
        &self.executions
    }

    /// Decides a command: the events that follow from it, or why not.
    ///
    /// # Errors
    /// [`Refusal`]. Nothing follows from a refused command.
    pub fn decide(&self, command: Command, context: &Context<'_>) -> Result<Vec<Event>, Refusal> {
        self.check_standing(&command, context)?;
        let issuer = self.authorise(&command, context)?;
        let events = self.follow(command, issuer, context)?;
        self.charge(events, context)
    }

    /// What follows from a command of somebody who may give it. `issuer` holds the scopes of the key that asks.
    fn follow(&self, command: Command, issuer: Option<Scopes>, context: &Context<'_>) -> Result<Vec<Event>, Refusal> {
        match command {
            Command::Register { name, tier, first_key } => self.register(name, tier, first_key, context),
            Command::Change { name, tier } => self.change(name, tier),
            Command::Suspend { .. } if self.id.as_str() == SYSTEM => Err(Refusal::SystemTenant),
            Command::Suspend { .. } if self.standing == Standing::Suspended => Ok(vec![]),
            Command::Suspend { reason } => Ok(vec![Event::TenantSuspended(tenant::Suspended { reason })]),
            Command::Resume if self.standing == Standing::Active => Ok(vec![]),
            Command::Resume => Ok(vec![Event::TenantResumed(tenant::Resumed {})]),
            Command::IssueKey(new) => self.keys.issue(&self.id, new, issuer, context),
            Command::RevokeKey { key_id } => self.keys.revoke(key_id),
            Command::PublishModule { name, digest, size_bytes, kind, imports, exports } => {
                check_module_size(size_bytes, self.limits(context))?;
                self.modules.publish(name, digest, size_bytes, kind, imports, exports, context.policy)
            }
            // A flood of bad uploads must not become a flood of events.
            Command::RejectModule { .. } if self.modules.rejected_lately(context.now) => Ok(vec![]),
            Command::RejectModule { name, digest, size_bytes, reason } => {
                let at = context.now;
                Ok(vec![Event::ModuleRejected(module::Rejected {
                    name,
                    digest,
                    size_bytes,
                    reason,
                    at,
                    writes_full_at: None,
                })])
            }
            Command::DeleteModule { name } => self.modules.delete(name),
            Command::Execute(execute) => self.admit(*execute, context),
            Command::Preview(command) => self.decide(*command, context).map(|_| vec![]),
            // Whoever is not refused by now may.
            Command::Authorise(_) => Ok(vec![]),
            Command::Finish(finished) => self.executions.finish(*finished),
            Command::Reap { node, boot } => Ok(self.executions.reap(&node, boot)),
            Command::Expire => Ok(self.executions.expire(context.now, context.policy.lost_grace_ms)),
        }
    }

    /// Takes a token for what a key changes, and notes in the event what is left. Each such command gives one event.
    fn charge(&self, mut events: Vec<Event>, context: &Context<'_>) -> Result<Vec<Event>, Refusal> {
        if let Authority::Key(_) = context.by
            && let Some(note) = events.iter_mut().find_map(quota::write_note)
        {
            *note = self.quota.write(self.limits(context), context.now)?;
        }
        Ok(events)
    }

    /// Remembers what happened.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::TenantRegistered(registered) => {
                self.standing = Standing::Active;
                self.name.clone_from(&registered.name);
                self.tier = registered.tier;
            }
            Event::TenantRenamed(renamed) => self.name.clone_from(&renamed.name),
            Event::TenantTierChanged(changed) => self.tier = changed.tier,
            Event::TenantSuspended(_) => self.standing = Standing::Suspended,
            Event::TenantResumed(_) => self.standing = Standing::Active,
            Event::KeyIssued(issued) => {
                self.keys.issued(issued);
                self.quota.wrote(issued.writes_full_at);
            }
            Event::KeyRotated(_) | Event::RequestsDenied(_) | Event::Unknown(_) => {}
            Event::KeyRevoked(revoked) => self.keys.revoked(&revoked.key_id),
            Event::ModulePublished(published) => {
                self.modules.published(published);
                self.quota.wrote(published.writes_full_at);
            }
            Event::ModuleRejected(rejected) => {
                self.modules.rejected(rejected);
                self.quota.wrote(rejected.writes_full_at);
            }
            Event::ModuleDeleted(deleted) => {
                self.modules.deleted(&deleted.name);
                self.quota.wrote(deleted.writes_full_at);
            }
            Event::ExecutionAccepted(accepted) => {
                self.executions.accepted(accepted);
                self.quota.accepted(accepted);
            }
            Event::ExecutionFinished(finished) => self.executions.ended(finished.execution_id),
            Event::ExecutionLost(lost) => self.executions.ended(lost.execution_id),
        }
    }

    fn limits<'a>(&self, context: &Context<'a>) -> &'a TierLimits {
        context.policy.of(self.tier)
    }

    fn check_standing(&self, command: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        match (self.standing, command) {
            (Standing::Unregistered, Command::Register { .. }) => Ok(()),
            // A sweep over tenants that were never registered finds nothing, and that is no failure.
            (Standing::Unregistered, Command::Reap { .. } | Command::Expire) => Ok(()),
            (Standing::Unregistered, _) => Err(Refusal::NotRegistered),
            (_, Command::Register { .. }) => Err(Refusal::AlreadyRegistered),
            (Standing::Active, _) => Ok(()),
            (Standing::Suspended, command) if command.is_report() => Ok(()),
            (Standing::Suspended, _) if matches!(context.by, Authority::Key(_)) => Err(Refusal::Suspended),
            (Standing::Suspended, _) => Ok(()),
        }
    }

    /// Checks the authority and gives the scopes of the key that asks, `None` when it is not a key that asks.
    fn authorise(&self, command: &Command, context: &Context<'_>) -> Result<Option<Scopes>, Refusal> {
        match (context.by, command.scope()) {
            (Authority::Key(id), Some(scope)) => self.keys.authorise(id, scope, context.now).map(Some),
            (Authority::Key(_), None) => Err(Refusal::MissingScope(Scope::Operator)),
            (Authority::Operator(_) | Authority::System, _) => Ok(None),
        }
    }

    fn register(
        &self,
        name: String,
        tier: Tier,
        first_key: Option<NewKey>,
        context: &Context<'_>,
    ) -> Result<Vec<Event>, Refusal> {
        check_name(&name)?;
        let mut events = vec![Event::TenantRegistered(tenant::Registered { name, tier })];
        if let Some(new) = first_key {
            events.extend(self.keys.issue(&self.id, new, None, context)?);
        }
        Ok(events)
    }

    fn change(&self, name: Option<String>, tier: Option<Tier>) -> Result<Vec<Event>, Refusal> {
        let name = name.filter(|name| *name != self.name);
        name.as_deref().map_or(Ok(()), check_name)?;
        let renamed = name.map(|name| Event::TenantRenamed(tenant::Renamed { name }));
        let tier = tier.filter(|tier| *tier != self.tier);
        let moved = tier.map(|tier| Event::TenantTierChanged(tenant::TierChanged { tier }));
        Ok(renamed.into_iter().chain(moved).collect())
    }

    fn admit(&self, execute: Execute, context: &Context<'_>) -> Result<Vec<Event>, Refusal> {
        let Authority::Key(key_id) = context.by else { return Err(Refusal::NotAKey) };
        let limits = self.limits(context);
        let module = match execute.module {
            ModuleChoice::Named { name, version } => self.modules.resolve(&name, version)?,
            ModuleChoice::Inline { digest, size_bytes } => {
                check_module_size(size_bytes, limits)?;
                execution::ModuleRef { name: None, version: None, digest }
            }
        };
        executions::check_input(&execute.stdin, &execute.args, limits)?;
        self.executions.check_concurrency(limits)?;
        let bucket_full_at = self.quota.admit(limits, context.now)?;
        let accepted = execution::Accepted {
            execution_id: execute.execution_id,
            attempt: 1,
            module,
            key_id: key_id.clone(),
            stdin: execute.stdin,
            args: execute.args,
            limits: limits.grant(execute.timeout_ms),
            seed: execute.seed,
            start_time: context.now,
            engine: execute.engine,
            node: execute.node,
            boot: execute.boot,
            bucket_full_at,
        };
        Ok(vec![Event::ExecutionAccepted(Box::new(accepted))])
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let printable = name.chars().all(|c| !c.is_control());
    let length = name.chars().count();
    if printable && (1..=NAME_MAX_CHARS).contains(&length) { Ok(()) } else { Err(Refusal::InvalidName) }
}

const fn check_module_size(size_bytes: u64, limits: &TierLimits) -> Result<(), Refusal> {
    if size_bytes > limits.module_bytes {
        return Err(Refusal::ModuleTooLarge { limit_bytes: limits.module_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{scenario::*, *};

    #[test]
    fn an_unregistered_tenant_can_only_be_registered() {
        given([]).when(Command::Suspend { reason: None }).then_refused(Refusal::NotRegistered);
        given([]).by(K1).when(execute(HELLO)).then_refused(Refusal::NotRegistered);
        given([]).when(register("Acme", Tier::Pro)).then([registered("Acme", Tier::Pro)]);
    }

    #[test]
    fn a_tenant_is_registered_once() {
        given([registered("Acme", Tier::Pro)])
            .when(register("Acme", Tier::Pro))
            .then_refused(Refusal::AlreadyRegistered);
    }

    #[test]
    fn a_first_key_comes_with_the_registration() {
        let command = Command::Register { name: "Acme".into(), tier: Tier::Free, first_key: Some(new_key(K1)) };
        given([]).when(command).then([registered("Acme", Tier::Free), key_issued(K1)]);
    }

    #[test]
    fn a_name_has_bounds_and_no_control_characters() {
        for name in ["", "a\nb", &"x".repeat(101)] {
            given([]).when(register(name, Tier::Free)).then_refused(Refusal::InvalidName);
        }
        given([]).when(register("Ünïcode 漢字", Tier::Free)).then([registered("Ünïcode 漢字", Tier::Free)]);
    }

    #[test]
    fn asking_for_what_is_so_writes_nothing() {
        let history = || given([registered("Acme", Tier::Pro)]);
        history().when(Command::Change { name: Some("Acme".into()), tier: Some(Tier::Pro) }).then([]);
        history().when(Command::Resume).then([]);
        given([registered("Acme", Tier::Pro), suspended()]).when(Command::Suspend { reason: None }).then([]);
    }

    #[test]
    fn name_and_tier_change_together_or_not_at_all() {
        let change = |name: &str| Command::Change { name: Some(name.into()), tier: Some(Tier::Free) };
        let renamed = Event::TenantRenamed(tenant::Renamed { name: "Ajax".into() });
        let moved = Event::TenantTierChanged(tenant::TierChanged { tier: Tier::Free });
        let history = || given([registered("Acme", Tier::Pro)]);
        history().when(change("Ajax")).then([renamed, moved]);
        history().when(change("")).then_refused(Refusal::InvalidName);
    }

    #[test]
    fn the_system_tenant_cannot_be_suspended() {
        given_of(SYSTEM, [registered("System", Tier::Enterprise)])
            .when(Command::Suspend { reason: None })
            .then_refused(Refusal::SystemTenant);
    }

    #[test]
    fn a_preview_refuses_alike_and_writes_nothing() {
        let preview = |command| Command::Preview(Box::new(command));
        given(ready()).by(K1).when(preview(execute(HELLO))).then([]);
        given(ready()).by(K2).when(preview(execute(HELLO))).then_refused(Refusal::KeyUnknown);
        given(ready()).by(K1).when(preview(execute("unknown"))).then_refused(Refusal::ModuleUnknown);
    }

    #[test]
    fn a_key_is_authorised_by_its_tenant_and_nothing_is_written() {
        let operator = || {
            let scopes = Scopes::NONE.with(Scope::Operator);
            Event::KeyIssued(wasmwiz_events::key::Issued { scopes, ..issued(K1) })
        };
        let system = |rest: Vec<Event>| {
            let history = [registered("System", Tier::Enterprise), operator()].into_iter().chain(rest);
            given_of(SYSTEM, history).by(K1)
        };
        let authorise = || Command::Authorise(Scope::Operator);
        system(vec![]).when(authorise()).then([]);
        system(vec![]).when(Command::Authorise(Scope::AuditRead)).then_refused(Refusal::MissingScope(Scope::AuditRead));
        system(vec![key_revoked(K1)]).when(authorise()).then_refused(Refusal::KeyRevoked);
        system(vec![]).by(K2).when(authorise()).then_refused(Refusal::KeyUnknown);
    }

    #[test]
    fn a_suspended_tenant_cannot_act() {
        let history = || given([registered("Acme", Tier::Pro), key_issued(K1), published(HELLO), suspended()]).by(K1);
        history().when(execute(HELLO)).then_refused(Refusal::Suspended);
        history().when(Command::IssueKey(new_key(K2))).then_refused(Refusal::Suspended);
        history().when(Command::DeleteModule { name: module_name(HELLO) }).then_refused(Refusal::Suspended);
    }

    #[test]
    fn what_runs_when_a_tenant_is_suspended_may_still_end() {
        given([registered("Acme", Tier::Pro), key_issued(K1), published(HELLO), accepted(1), suspended()])
            .when(finish(1))
            .then([finished(1)]);
    }

    #[test]
    fn a_resumed_tenant_acts_again() {
        given([registered("Acme", Tier::Pro), key_issued(K1), published(HELLO), suspended(), resumed()])
            .by(K1)
            .when(execute(HELLO))
            .then_accepted();
    }

    #[test]
    fn a_key_never_has_an_operators_powers() {
        for command in [register("x", Tier::Free), Command::Suspend { reason: None }, Command::Resume, finish(1)] {
            let history = if matches!(command, Command::Register { .. }) { vec![] } else { running() };
            given(history).by(K1).when(command).then_refused(Refusal::MissingScope(Scope::Operator));
        }
    }
}
