//! What a caller believes to change: a command that names it is refused when something else has come in between.
//!
//! What is compared is known here, at the one writer, and not in a view that may be a moment behind.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{envelope::Envelope, event::Event, revision::Revision};

use super::{Command, Refusal, Tenant, modules::NewVersion};
use crate::aggregate::Context;

/// The state that a caller has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// A tenant or a key as the event of this revision left it.
    Revision(Revision),
    /// A module whose latest version was this.
    Version(u32),
    /// Something that never was here.
    Other,
}

impl Tenant {
    /// Refuses a command to what is no longer as its caller has seen it. What is absent is refused for being absent.
    pub(super) fn check_expected(&self, command: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        let Some(seen) = context.expected else { return Ok(()) };
        let is = match command {
            Command::Preview(command) => return self.check_expected(command, context),
            Command::Change { .. } | Command::Suspend { .. } | Command::Resume => Some(Seen::Revision(self.changed_at)),
            Command::RevokeKey { key_id } | Command::RotateKey { key_id, .. } => {
                self.keys.changed_at(key_id).map(Seen::Revision)
            }
            Command::DeleteModule { name } => self.modules.latest(name).map(Seen::Version),
            // Here what is absent is not as it was seen: there is nothing to be refused for otherwise.
            Command::PublishModule { name, .. } | Command::PublishVersion(NewVersion { name, .. }) => {
                Some(self.modules.latest(name).map_or(Seen::Other, Seen::Version))
            }
            Command::Register { .. }
            | Command::IssueKey(_)
            | Command::RejectModule { .. }
            | Command::Execute(_)
            | Command::Authorise(_)
            | Command::RecordDenials(_)
            | Command::Start { .. }
            | Command::Cancel { .. }
            | Command::Finish(_)
            | Command::Reap
            | Command::Lose { .. }
            | Command::Expire
            | Command::RecordVerification(_)
            | Command::Rerun(_)
            | Command::Metered(_)
            | Command::Configured(_)
            | Command::SkipCommit(_)
            | Command::ReleasePayloads => None,
        };
        match is {
            Some(is) if is != seen || seen == Seen::Other => Err(Refusal::Stale),
            _ => Ok(()),
        }
    }

    /// Remembers where a tenant or a key was last changed, as their views do.
    pub(super) fn note_revision(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::TenantRegistered(_)
            | Event::TenantRenamed(_)
            | Event::TenantTierChanged(_)
            | Event::TenantSuspended(_)
            | Event::TenantResumed(_) => self.changed_at = envelope.revision,
            Event::KeyIssued(issued) => self.keys.note_revision(&issued.key_id, envelope.revision),
            Event::KeyRotated(rotated) => self.keys.note_revision(&rotated.key_id, envelope.revision),
            Event::KeyRevoked(_)
            | Event::ModulePublished(_)
            | Event::ModuleRejected(_)
            | Event::ModuleDeleted(_)
            | Event::ExecutionAccepted(_)
            | Event::ExecutionStarted(_)
            | Event::ExecutionFinished(_)
            | Event::ExecutionLost(_)
            | Event::ExecutionVerified(_)
            | Event::RequestsDenied(_)
            | Event::CommitSkipped(_)
            | Event::PayloadsReleased(_)
            | Event::Unknown(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{
        digest::Digest,
        envelope::{Actor, Cause},
        id::{CommandId, EventId, TenantId},
        tenant::Tier,
    };

    use super::*;
    use crate::{aggregate::Authority, limits::Policy, tenant::scenario::*};

    /// The tenant of these events, numbered from 1.
    fn of(history: impl IntoIterator<Item = Event>) -> Tenant {
        let tenant = TenantId::new("acme").unwrap();
        let mut state = Tenant::new(tenant.clone());
        for (n, event) in (1..).zip(history) {
            let cause = Cause {
                command: CommandId::new(uuid::Uuid::from_u128(1)),
                correlation: None,
                actor: Actor::system(),
                traceparent: None,
                idempotency: None,
            };
            let (id, revision) = (EventId::new(uuid::Uuid::from_u128(n)), Revision::new(u64::try_from(n).unwrap()));
            state.fold(&Envelope { id, tenant: tenant.clone(), revision, time: NOON, cause, event }, even(NOON).steady);
        }
        state
    }

    fn decide(state: &Tenant, command: Command, seen: Seen) -> Result<Vec<Event>, Refusal> {
        let (policy, by) = (Policy::default(), Authority::System);
        let steady = even(NOON).steady;
        let context =
            Context { now: NOON, steady, policy: &policy, by: &by, once: None, expected: Some(seen), ended: &[] };
        state.decide(command, &context)
    }

    fn revision(n: u64) -> Seen {
        Seen::Revision(Revision::new(n))
    }

    #[test]
    fn a_tenant_is_changed_as_it_was_seen_or_not_at_all() {
        let state = of([registered("Acme", Tier::Pro), key_issued(K1), suspended(), published(HELLO)]);
        assert_eq!(decide(&state, Command::Resume, revision(3)), Ok(vec![resumed()]));
        for seen in [revision(1), revision(4), Seen::Version(3), Seen::Other] {
            assert_eq!(decide(&state, Command::Resume, seen), Err(Refusal::Stale), "{seen:?}");
        }
        // Also when it would change nothing: whoever asks has seen something else.
        assert_eq!(decide(&state, Command::Suspend { reason: None }, revision(1)), Err(Refusal::Stale));
    }

    #[test]
    fn a_key_is_changed_as_it_was_seen() {
        let state = of([registered("Acme", Tier::Pro), key_issued(K1), key_issued(K2)]);
        let rotate = || Command::RotateKey { key_id: key_id(K1), hash: Digest::of(b"new"), grace_ms: 0 };
        let revoke = |id| Command::RevokeKey { key_id: key_id(id) };
        let Ok(events) = decide(&state, rotate(), revision(2)) else { panic!("refused") };
        assert_eq!(decide(&state, rotate(), revision(3)), Err(Refusal::Stale));
        let state = of([registered("Acme", Tier::Pro), key_issued(K1), key_issued(K2)].into_iter().chain(events));
        assert_eq!(decide(&state, revoke(K1), revision(2)), Err(Refusal::Stale));
        assert_eq!(decide(&state, revoke(K1), revision(4)), Ok(vec![key_revoked(K1)]));
        assert_eq!(decide(&state, revoke("none"), revision(2)), Err(Refusal::KeyUnknown));
    }

    #[test]
    fn a_module_is_replaced_or_deleted_in_the_version_that_was_seen() {
        let history = || vec![registered("Acme", Tier::Pro), published(HELLO), published_as(HELLO, 2, b"two")];
        let delete = || Command::DeleteModule { name: module_name(HELLO) };
        let state = of(history());
        assert_eq!(decide(&state, delete(), Seen::Version(1)), Err(Refusal::Stale));
        assert_eq!(decide(&state, delete(), Seen::Version(2)), Ok(vec![deleted(HELLO)]));
        assert_eq!(decide(&state, publish(HELLO, b"three"), Seen::Version(1)), Err(Refusal::Stale));
        let preview = Command::Preview(Box::new(publish(HELLO, b"three")));
        assert_eq!(decide(&state, preview, Seen::Version(1)), Err(Refusal::Stale));
        assert_eq!(decide(&state, publish(HELLO, b"three"), Seen::Version(2)).map(|events| events.len()), Ok(1));
        let state = of(history().into_iter().chain([deleted(HELLO)]));
        assert_eq!(decide(&state, delete(), Seen::Version(2)), Err(Refusal::ModuleUnknown));
        assert_eq!(decide(&state, publish(HELLO, b"three"), Seen::Version(2)), Err(Refusal::Stale));
        assert_eq!(decide(&state, publish("new", b"three"), Seen::Other), Err(Refusal::Stale));
    }
}
