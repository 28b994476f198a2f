//! A tenant: who may do what here, which modules there are, and which executions are open.
//!
//! Pure: every rule is in [`Tenant::decide`] and the parts it asks; [`Tenant::apply`] only remembers.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    id::{KeyId, TenantId},
    key::{Scope, Scopes},
    module,
    revision::Revision,
    settings::Settings,
    tenant::{self, Tier},
    time::{Moment, Steady, Timestamp},
};

use crate::{
    aggregate::{Authority, Context, Life},
    limits::TierLimits,
};

pub mod admission;
pub mod command;
pub mod denials;
pub mod executions;
pub mod expected;
pub mod idempotency;
pub mod keys;
pub mod modules;
pub mod quota;
pub mod refusal;
#[cfg(test)]
mod replay_tests;
mod retention;
#[cfg(test)]
pub(crate) mod scenario;
#[cfg(test)]
mod size_tests;
pub mod skips;
mod storage;
mod verification;

pub use admission::{Again, Configured, Execute, FUEL_DEFAULT, FUEL_MAX, FUEL_MIN, Metered, ModuleChoice, Rerun};
pub use command::Command;
pub use modules::NewVersion;
pub use refusal::Refusal;
pub use wasmwiz_events::tenant::SYSTEM;

/// The longest name of a tenant or a key, in characters.
pub const NAME_MAX_CHARS: usize = 100;

/// A key that is to be issued. Its secret stays with whoever drew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Standing {
    Unregistered,
    Active,
    Suspended,
}

/// The state of one tenant, folded from its stream. Its serialised form is that of snapshots (`codec/snapshot`): a change of it
/// is a new version of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tenant {
    id: TenantId,
    standing: Standing,
    name: String,
    tier: Tier,
    /// Where it was last changed itself.
    changed_at: Revision,
    keys: keys::Keys,
    modules: modules::Modules,
    executions: executions::Executions,
    quota: quota::Quota,
    storage: storage::Storage,
    requests: idempotency::Requests,
    denials: denials::Denials,
    skips: skips::Skips,
}

impl Tenant {
    /// The state before the first event.
    pub fn new(id: TenantId) -> Self {
        Self {
            id,
            standing: Standing::Unregistered,
            name: String::new(),
            tier: Tier::Free,
            changed_at: Revision::default(),
            keys: keys::Keys::default(),
            modules: modules::Modules::default(),
            executions: executions::Executions::default(),
            quota: quota::Quota::default(),
            storage: storage::Storage::default(),
            requests: idempotency::Requests::default(),
            denials: denials::Denials::default(),
            skips: skips::Skips::default(),
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
        self.check_expected(&command, context)?;
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
            Command::RotateKey { key_id, hash, grace_ms } => {
                self.keys.rotate(key_id, hash, grace_ms, issuer, context.now)
            }
            Command::PublishModule { name, digest, size_bytes, kind, imports, exports } => {
                let settings = Settings::default();
                self.publish(NewVersion { name, digest, size_bytes, kind, imports, exports, settings }, context)
            }
            Command::PublishVersion(version) => self.publish(version, context),
            // A flood of bad uploads must not become a flood of events.
            Command::RejectModule { .. } if self.modules.rejected_lately(context.steady) => Ok(vec![]),
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
            Command::Execute(execute) => self.admit((*execute).into(), context),
            Command::Rerun(rerun) => self.admit(rerun.into(), context),
            Command::Metered(metered) => self.admit(metered.into(), context),
            Command::Configured(configured) => self.admit(configured, context),
            Command::Preview(command) => self.decide(*command, context).map(|_| vec![]),
            // Whoever is not refused by now may.
            Command::Authorise(_) => Ok(vec![]),
            Command::RecordDenials(denied) => self.denials.record(denied, context),
            Command::Start { execution_id, node, boot } => {
                let suspended = self.standing == Standing::Suspended;
                self.executions.start(execution_id, Life { node, boot }, suspended, self.limits(context), context)
            }
            Command::Cancel { execution_id } => self.executions.cancel(execution_id, context.ended),
            Command::Finish(finished) => self.executions.finish(*finished),
            Command::Reap => Ok(self.executions.reap(context.ended)),
            Command::Lose { execution_id, node, boot } => self.executions.lose(execution_id, &Life { node, boot }),
            Command::Expire => Ok(self.executions.expire(context.steady, context.policy.lost_grace_ms)),
            Command::RecordVerification(verified) => self.verified(*verified, context),
            Command::SkipCommit(skipped) => self.skips.skip(&self.id, skipped),
            Command::ReleasePayloads => {
                Ok(self.storage.release(&context.policy.retention, context.now, self.executions.first_open()))
            }
        }
    }

    /// Takes a token for what a key changes, and notes in the event what is left. Each such command gives one event.
    fn charge(&self, mut events: Vec<Event>, context: &Context<'_>) -> Result<Vec<Event>, Refusal> {
        if context.by.credential().is_some()
            && let Some(note) = events.iter_mut().find_map(quota::write_note)
        {
            *note = self.quota.write(self.limits(context), context)?;
        }
        Ok(events)
    }

    /// Goes on with a history that was read at `now`: how long what runs has run already, nobody here has measured.
    pub fn resume(&mut self, now: Steady) {
        self.executions.resume(now);
    }

    /// The same with every time on a clock that is ahead by `ms`. A steady clock means something to one process alone, so what
    /// is kept for another goes by way of the wall clock; what durations are measured from moves, and nothing else does.
    #[must_use]
    pub(crate) fn shifted(mut self, ms: i64) -> Self {
        let Self { executions, modules, quota, requests, denials, .. } = &mut self;
        executions.shift(ms);
        modules.shift(ms);
        quota.shift(ms);
        requests.shift(ms);
        denials.shift(ms);
        self
    }

    /// How many bytes it counts as stored.
    #[cfg(test)]
    pub(crate) const fn stored_bytes(&self) -> u64 {
        self.storage.bytes()
    }

    /// Whose state it is.
    pub(crate) const fn id(&self) -> &TenantId {
        &self.id
    }

    /// The next event is at this revision, and says this time.
    pub(crate) fn reach(&mut self, revision: Revision, time: Timestamp) {
        self.storage.reach(revision, time);
    }

    /// Remembers what happened, and when: now if it was just decided, or as long ago as its record says.
    pub fn apply(&mut self, event: &Event, at: Moment) {
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
                self.quota.wrote(issued.writes_full_at, at);
            }
            Event::KeyRotated(rotated) => {
                self.keys.rotated(rotated);
                self.quota.wrote(rotated.writes_full_at, at);
            }
            Event::RequestsDenied(_) => self.denials.recorded(at.steady),
            Event::CommitSkipped(skipped) => self.skips.skipped(skipped),
            Event::PayloadsReleased(released) => self.storage.released(released),
            Event::Unknown(_) => {}
            Event::KeyRevoked(revoked) => self.keys.revoked(&self.id, &revoked.key_id),
            Event::ModulePublished(published) => {
                self.storage.published(published, self.modules.have(&published.digest));
                self.storage.unpublished(self.modules.published(published));
                self.quota.wrote(published.writes_full_at, at);
            }
            Event::ModuleRejected(rejected) => {
                self.modules.rejected(at.steady);
                self.quota.wrote(rejected.writes_full_at, at);
            }
            Event::ModuleDeleted(deleted) => {
                self.storage.unpublished(self.modules.deleted(&deleted.name));
                self.quota.wrote(deleted.writes_full_at, at);
            }
            Event::ExecutionAccepted(accepted) => {
                self.executions.accepted(accepted, at, self.storage.revision());
                self.quota.accepted(accepted, at);
                self.storage.accepted(accepted);
            }
            Event::ExecutionStarted(started) => self.executions.started(started, at.steady),
            Event::ExecutionFinished(finished) => {
                self.executions.ended(finished.execution_id);
                self.storage.finished(finished);
            }
            Event::ExecutionLost(lost) => self.executions.ended(lost.execution_id),
            Event::ExecutionVerified(verified) => self.quota.verified(verified, at),
        }
    }

    fn limits<'a>(&self, context: &Context<'a>) -> &'a TierLimits {
        context.policy.of(self.tier)
    }

    fn check_standing(&self, command: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        match (self.standing, command) {
            (Standing::Unregistered, Command::Register { .. }) => Ok(()),
            // A sweep over tenants that were never registered finds nothing, and that is no failure.
            (Standing::Unregistered, Command::Reap | Command::Expire | Command::ReleasePayloads) => Ok(()),
            (Standing::Unregistered, _) => Err(Refusal::NotRegistered),
            (_, Command::Register { .. }) => Err(Refusal::AlreadyRegistered),
            (Standing::Active, _) => Ok(()),
            (Standing::Suspended, command) if command.is_report() => Ok(()),
            (Standing::Suspended, _) if context.by.credential().is_some() => Err(Refusal::Suspended),
            (Standing::Suspended, _) => Ok(()),
        }
    }

    /// Checks the authority and gives the scopes of the credential that asks, `None` when no tenant's credential asks.
    fn authorise(&self, command: &Command, context: &Context<'_>) -> Result<Option<Scopes>, Refusal> {
        let check = |scopes, scope| {
            let scopes = holds(scopes, scope)?;
            command.also().map_or(Ok(scopes), |also| holds(scopes, also))
        };
        match (context.by, command.scope()) {
            (Authority::Key(id), Some(scope)) => {
                let scopes = self.keys.authorise(id, context.now)?;
                check(keys::in_effect(scopes, &self.id), scope).map(Some)
            }
            (Authority::Token { key, scopes }, Some(scope)) => {
                let both = self.keys.authorise(key, context.now)?.and(*scopes);
                check(keys::in_effect(both, &self.id), scope).map(Some)
            }
            (Authority::Subject(subject), Some(scope)) => check(subject.scopes(), scope).map(Some),
            (Authority::Key(_) | Authority::Token { .. } | Authority::Subject(_), None) => {
                Err(Refusal::MissingScope(Scope::Operator))
            }
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

    fn publish(&self, version: NewVersion, context: &Context<'_>) -> Result<Vec<Event>, Refusal> {
        let limits = self.limits(context);
        modules::check_size(version.size_bytes, limits)?;
        modules::check_clock(version.settings.clock, limits)?;
        let needed_bytes = if self.modules.have(&version.digest) { 0 } else { version.size_bytes };
        let events = self.modules.publish(version, limits, context.policy)?;
        self.require_room(needed_bytes, limits)?;
        Ok(events)
    }

    /// Refuses what would store more than there is room for, beside all that is stored and that open executions may still write.
    fn require_room(&self, needed_bytes: u64, limits: &TierLimits) -> Result<(), Refusal> {
        self.storage.check(needed_bytes, self.executions.outputs_max_bytes(), limits)
    }

    fn change(&self, name: Option<String>, tier: Option<Tier>) -> Result<Vec<Event>, Refusal> {
        let name = name.filter(|name| *name != self.name);
        name.as_deref().map_or(Ok(()), check_name)?;
        let renamed = name.map(|name| Event::TenantRenamed(tenant::Renamed { name }));
        let tier = tier.filter(|tier| *tier != self.tier);
        let moved = tier.map(|tier| Event::TenantTierChanged(tenant::TierChanged { tier }));
        Ok(renamed.into_iter().chain(moved).collect())
    }
}

fn holds(scopes: Scopes, scope: Scope) -> Result<Scopes, Refusal> {
    if scopes.contains(scope) { Ok(scopes) } else { Err(Refusal::MissingScope(scope)) }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let printable = name.chars().all(|c| !c.is_control());
    let length = name.chars().count();
    if printable && (1..=NAME_MAX_CHARS).contains(&length) { Ok(()) } else { Err(Refusal::InvalidName) }
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
