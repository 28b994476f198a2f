//! The keys of a tenant: who may issue, what a key may do, when it stops.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    id::{KeyId, TenantId},
    key::{self, Scope, Scopes},
    revision::Revision,
    time::Timestamp,
};

use super::{NewKey, Refusal, SYSTEM, check_name};
use crate::aggregate::Context;

/// Revoked keys that a tenant remembers as such; older ones are merely unknown. Bounds what an endless rotation leaves. Ids
/// are drawn at random, so none of them comes back; the system tenant alone is given ids by settings, and forgets nothing.
const REVOKED_REMEMBERED: usize = 1_000;

/// How long an old secret may go on working after a rotation, in milliseconds: a week is enough to bring a new one anywhere,
/// and an old one that leaked is worth little after it.
pub const GRACE_MAX_MS: u64 = 7 * 86_400_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Key {
    scopes: Scopes,
    hash: Digest,
    expires_at: Option<Timestamp>,
    /// Where it was issued or given its present secret.
    changed_at: Revision,
}

/// Live keys, and the ids of those that were revoked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Keys {
    live: BTreeMap<KeyId, Key>,
    revoked: BTreeSet<KeyId>,
    /// Those of them that may be forgotten, the oldest first.
    forgettable: VecDeque<KeyId>,
}

/// What `scopes` allow within `tenant`: operators also manage the keys of the system tenant, which are their own. Without
/// it a leaked operator's key could not be revoked by anybody.
pub fn in_effect(scopes: Scopes, tenant: &TenantId) -> Scopes {
    if tenant.as_str() == SYSTEM && scopes.contains(Scope::Operator) { scopes.with(Scope::KeysManage) } else { scopes }
}

impl Keys {
    /// Gives the scopes of a key that works now.
    pub(super) fn authorise(&self, id: &KeyId, now: Timestamp) -> Result<Scopes, Refusal> {
        let Some(key) = self.live.get(id) else {
            return Err(if self.revoked.contains(id) { Refusal::KeyRevoked } else { Refusal::KeyUnknown });
        };
        match key.expires_at {
            Some(expires_at) if expires_at <= now => Err(Refusal::KeyExpired(expires_at)),
            _ => Ok(key.scopes),
        }
    }

    /// `issuer` holds the scopes of the key that asks; `None` when an operator or the platform asks.
    pub(super) fn issue(
        &self,
        tenant: &TenantId,
        new: NewKey,
        issuer: Option<Scopes>,
        context: &Context<'_>,
    ) -> Result<Vec<Event>, Refusal> {
        check_name(&new.name)?;
        if new.scopes.is_empty() {
            return Err(Refusal::NoScopes);
        }
        // Operators are keys of the system tenant, and of no other, whoever asks.
        let possible = if tenant.as_str() == SYSTEM { Scopes::TENANT.with(Scope::Operator) } else { Scopes::TENANT };
        if !issuer.unwrap_or(possible).covers(new.scopes) || !possible.covers(new.scopes) {
            return Err(Refusal::WiderScopes);
        }
        if new.expires_at.is_some_and(|at| at <= context.now) {
            return Err(Refusal::ExpiresInThePast);
        }
        if let Some(live) = self.live.get(&new.key_id) {
            // The same key with the same secret, as a node asks for its operator's at each start: asking twice writes once.
            let same = live.hash == new.hash && live.scopes == new.scopes && live.expires_at == new.expires_at;
            return if same { Ok(vec![]) } else { Err(Refusal::KeyExists) };
        }
        if self.revoked.contains(&new.key_id) {
            return Err(Refusal::KeyExists);
        }
        if self.live.len() >= context.policy.keys_max as usize {
            return Err(Refusal::TooManyKeys { limit: context.policy.keys_max });
        }
        let NewKey { key_id, name, scopes, hash, expires_at } = new;
        Ok(vec![Event::KeyIssued(key::Issued { key_id, name, scopes, hash, expires_at, writes_full_at: None })])
    }

    pub(super) fn revoke(&self, key_id: KeyId) -> Result<Vec<Event>, Refusal> {
        if self.live.contains_key(&key_id) {
            return Ok(vec![Event::KeyRevoked(key::Revoked { key_id })]);
        }
        if self.revoked.contains(&key_id) { Ok(vec![]) } else { Err(Refusal::KeyUnknown) }
    }

    /// `issuer` as for [`Keys::issue`]: whoever gets the new secret gets all that the key may do.
    pub(super) fn rotate(
        &self,
        key_id: KeyId,
        hash: Digest,
        grace_ms: u64,
        issuer: Option<Scopes>,
        now: Timestamp,
    ) -> Result<Vec<Event>, Refusal> {
        let Some(key) = self.live.get(&key_id) else {
            return Err(if self.revoked.contains(&key_id) { Refusal::KeyNotLive } else { Refusal::KeyUnknown });
        };
        if issuer.is_some_and(|issuer| !issuer.covers(key.scopes)) {
            return Err(Refusal::WiderScopes);
        }
        if key.expires_at.is_some_and(|at| at <= now) {
            return Err(Refusal::KeyNotLive);
        }
        if grace_ms > GRACE_MAX_MS {
            return Err(Refusal::GraceTooLong { limit_seconds: GRACE_MAX_MS / 1_000 });
        }
        let grace_until = now.plus_ms(grace_ms);
        Ok(vec![Event::KeyRotated(key::Rotated { key_id, hash, grace_until, writes_full_at: None })])
    }

    /// The old secret is a matter of who authenticates: here a key is its id, whichever secret came with it.
    pub(super) fn rotated(&mut self, rotated: &key::Rotated) {
        if let Some(key) = self.live.get_mut(&rotated.key_id) {
            key.hash = rotated.hash;
        }
    }

    pub(super) fn issued(&mut self, issued: &key::Issued) {
        self.live.insert(
            issued.key_id.clone(),
            Key {
                scopes: issued.scopes,
                hash: issued.hash,
                expires_at: issued.expires_at,
                changed_at: Revision::default(),
            },
        );
    }

    /// Where a live key was last changed.
    pub(super) fn changed_at(&self, key_id: &KeyId) -> Option<Revision> {
        self.live.get(key_id).map(|key| key.changed_at)
    }

    pub(super) fn note_revision(&mut self, key_id: &KeyId, revision: Revision) {
        if let Some(key) = self.live.get_mut(key_id) {
            key.changed_at = revision;
        }
    }

    pub(super) fn revoked(&mut self, tenant: &TenantId, key_id: &KeyId) {
        self.live.remove(key_id);
        if !self.revoked.insert(key_id.clone()) || tenant.as_str() == SYSTEM {
            return;
        }
        self.forgettable.push_back(key_id.clone());
        if self.forgettable.len() > REVOKED_REMEMBERED
            && let Some(oldest) = self.forgettable.pop_front()
        {
            self.revoked.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::tenant::Tier;

    use super::*;
    use crate::tenant::{Command, scenario::*};

    #[test]
    fn a_revoked_key_cannot_start_an_execution() {
        given([registered("Acme", Tier::Pro), key_issued(K1), published(HELLO), key_revoked(K1)])
            .by(K1)
            .when(execute(HELLO))
            .then_refused(Refusal::KeyRevoked);
    }

    #[test]
    fn an_unknown_key_cannot_do_anything() {
        given(running()).by(K2).when(execute(HELLO)).then_refused(Refusal::KeyUnknown);
    }

    #[test]
    fn a_key_stops_at_the_moment_it_expires() {
        let expiring = |at| Event::KeyIssued(key::Issued { expires_at: Some(at), ..issued(K1) });
        let history = |at| given([registered("Acme", Tier::Pro), expiring(at), published(HELLO)]).by(K1);
        history(NOON).when(execute(HELLO)).then_refused(Refusal::KeyExpired(NOON));
        history(NOON.plus_ms(1)).when(execute(HELLO)).then_accepted();
    }

    #[test]
    fn a_key_does_only_what_its_scopes_say() {
        let reader = key::Issued { scopes: Scopes::NONE.with(Scope::ModulesRead), ..issued(K1) };
        let history = || given([registered("Acme", Tier::Pro), Event::KeyIssued(reader.clone()), published(HELLO)]);
        history().by(K1).when(execute(HELLO)).then_refused(Refusal::MissingScope(Scope::ExecutionsRun));
        history()
            .by(K1)
            .when(Command::DeleteModule { name: module_name(HELLO) })
            .then_refused(Refusal::MissingScope(Scope::ModulesWrite));
        history().by(K1).when(Command::IssueKey(new_key(K2))).then_refused(Refusal::MissingScope(Scope::KeysManage));
    }

    #[test]
    fn a_key_cannot_mint_a_wider_one() {
        let narrow = key::Issued { scopes: Scopes::NONE.with(Scope::KeysManage), ..issued(K1) };
        given([registered("Acme", Tier::Pro), Event::KeyIssued(narrow)])
            .by(K1)
            .when(Command::IssueKey(new_key(K2)))
            .then_refused(Refusal::WiderScopes);
    }

    #[test]
    fn only_the_system_tenant_has_operators() {
        let operator = NewKey { scopes: Scopes::NONE.with(Scope::Operator), ..new_key(K1) };
        given([registered("Acme", Tier::Pro)])
            .when(Command::IssueKey(operator.clone()))
            .then_refused(Refusal::WiderScopes);
        let issued = key::Issued { scopes: operator.scopes, ..issued(K1) };
        given_of(SYSTEM, [registered("System", Tier::Enterprise)])
            .when(Command::IssueKey(operator))
            .then([Event::KeyIssued(issued)]);
    }

    fn operator(id: &str) -> Event {
        Event::KeyIssued(key::Issued { scopes: Scopes::NONE.with(Scope::Operator), ..issued(id) })
    }

    #[test]
    fn an_operator_manages_the_keys_of_the_system_tenant_and_nothing_else_of_it() {
        let system = || given_of(SYSTEM, [registered("System", Tier::Enterprise), operator(K1), operator(K2)]).by(K1);
        system().when(Command::RevokeKey { key_id: key_id(K2) }).then([key_revoked(K2)]);
        system().when(Command::RevokeKey { key_id: key_id(K1) }).then([key_revoked(K1)]);
        assert_eq!(system().when(rotate(K2, 0)).events().len(), 1);
        let another = NewKey { scopes: Scopes::NONE.with(Scope::Operator), ..new_key("another") };
        assert_eq!(system().when(Command::IssueKey(another)).events().len(), 1);
        // It mints nothing that it could not do itself.
        system().when(Command::IssueKey(new_key("wider"))).then_refused(Refusal::WiderScopes);
        system().when(execute(HELLO)).then_refused(Refusal::MissingScope(Scope::ExecutionsRun));
    }

    #[test]
    fn elsewhere_the_operators_scope_gives_nothing() {
        given([registered("Acme", Tier::Pro), operator(K1), key_issued(K2)])
            .by(K1)
            .when(Command::RevokeKey { key_id: key_id(K2) })
            .then_refused(Refusal::MissingScope(Scope::KeysManage));
    }

    #[test]
    fn the_system_tenant_never_forgets_a_revocation() {
        let many = (0..REVOKED_REMEMBERED + 10).flat_map(|n| {
            let id = format!("key{n:05}");
            [operator(&id), key_revoked(&id)]
        });
        let history: Vec<_> = [registered("System", Tier::Enterprise)].into_iter().chain(many).collect();
        let again = NewKey { scopes: Scopes::NONE.with(Scope::Operator), ..new_key("key00000") };
        given_of(SYSTEM, history.clone()).when(Command::IssueKey(again.clone())).then_refused(Refusal::KeyExists);
        // Elsewhere what is remembered is bounded: ids are drawn there, and none is drawn twice.
        let tenant = NewKey { scopes: Scopes::TENANT, ..again };
        assert_eq!(given(history).when(Command::IssueKey(tenant)).events().len(), 1);
    }

    #[test]
    fn a_key_needs_a_name_a_scope_and_a_future() {
        let history = || given([registered("Acme", Tier::Pro)]);
        let with = |change: fn(&mut NewKey)| {
            let mut new = new_key(K1);
            change(&mut new);
            Command::IssueKey(new)
        };
        history().when(with(|key| key.name.clear())).then_refused(Refusal::InvalidName);
        history().when(with(|key| key.scopes = Scopes::NONE)).then_refused(Refusal::NoScopes);
        history().when(with(|key| key.expires_at = Some(NOON))).then_refused(Refusal::ExpiresInThePast);
    }

    #[test]
    fn issuing_the_same_key_twice_writes_once() {
        given([registered("Acme", Tier::Pro), key_issued(K1)]).when(Command::IssueKey(new_key(K1))).then([]);
    }

    #[test]
    fn an_id_is_never_used_for_another_key() {
        let history = [registered("Acme", Tier::Pro), key_issued(K1)];
        let other_secret = NewKey { hash: Digest::of(b"another secret"), ..new_key(K1) };
        let other_scopes = NewKey { scopes: Scopes::NONE.with(Scope::AuditRead), ..new_key(K1) };
        for other in [other_secret, other_scopes] {
            given(history.clone()).when(Command::IssueKey(other)).then_refused(Refusal::KeyExists);
        }
        given(history.into_iter().chain([key_revoked(K1)]))
            .when(Command::IssueKey(new_key(K1)))
            .then_refused(Refusal::KeyExists);
    }

    #[test]
    fn revoking_twice_writes_once_and_an_unknown_key_is_refused() {
        let revoke = |id| Command::RevokeKey { key_id: key_id(id) };
        let history = || vec![registered("Acme", Tier::Pro), key_issued(K1)];
        given(history()).when(revoke(K1)).then([key_revoked(K1)]);
        given(history().into_iter().chain([key_revoked(K1)])).when(revoke(K1)).then([]);
        given(history()).when(revoke(K2)).then_refused(Refusal::KeyUnknown);
    }

    fn rotate(id: &str, grace_ms: u64) -> Command {
        Command::RotateKey { key_id: key_id(id), hash: Digest::of(b"new secret"), grace_ms }
    }

    fn rotated(id: &str, grace_ms: u64) -> Event {
        let (key_id, hash, grace_until) = (key_id(id), Digest::of(b"new secret"), NOON.plus_ms(grace_ms));
        Event::KeyRotated(key::Rotated { key_id, hash, grace_until, writes_full_at: None })
    }

    #[test]
    fn a_key_gets_a_new_secret_and_the_old_one_has_a_bounded_grace() {
        let history = || given([registered("Acme", Tier::Pro), key_issued(K1)]);
        for grace_ms in [0, 1, GRACE_MAX_MS] {
            history().when(rotate(K1, grace_ms)).then([rotated(K1, grace_ms)]);
        }
        history().when(rotate(K1, GRACE_MAX_MS + 1)).then_refused(Refusal::GraceTooLong { limit_seconds: 604_800 });
        history().when(rotate(K2, 0)).then_refused(Refusal::KeyUnknown);
    }

    #[test]
    fn the_tenant_knows_the_new_hash() {
        let history = || given([registered("Acme", Tier::Pro), key_issued(K1), rotated(K1, 0)]);
        history().when(Command::IssueKey(new_key(K1))).then_refused(Refusal::KeyExists);
        let same = NewKey { hash: Digest::of(b"new secret"), ..new_key(K1) };
        history().when(Command::IssueKey(same)).then([]);
    }

    #[test]
    fn a_key_that_is_revoked_or_expired_gets_no_new_secret() {
        given([registered("Acme", Tier::Pro), key_issued(K1), key_revoked(K1)])
            .when(rotate(K1, 0))
            .then_refused(Refusal::KeyNotLive);
        let expired = Event::KeyIssued(key::Issued { expires_at: Some(NOON), ..issued(K1) });
        given([registered("Acme", Tier::Pro), expired]).when(rotate(K1, 0)).then_refused(Refusal::KeyNotLive);
    }

    #[test]
    fn a_key_cannot_take_over_a_wider_one_by_giving_it_a_new_secret() {
        let narrow = key::Issued { scopes: Scopes::NONE.with(Scope::KeysManage), ..issued(K1) };
        let history = || given([registered("Acme", Tier::Pro), Event::KeyIssued(narrow.clone()), key_issued(K2)]);
        history().by(K1).when(rotate(K2, 0)).then_refused(Refusal::WiderScopes);
        assert_eq!(history().by(K1).when(rotate(K1, 0)).events().len(), 1);
        let lacking = key::Issued { scopes: Scopes::NONE.with(Scope::ExecutionsRun), ..issued(K1) };
        given([registered("Acme", Tier::Pro), Event::KeyIssued(lacking)])
            .by(K1)
            .when(rotate(K1, 0))
            .then_refused(Refusal::MissingScope(Scope::KeysManage));
    }

    #[test]
    fn a_new_secret_takes_a_token_of_what_keys_write() {
        let mut tenant = given([registered("Acme", Tier::Free), key_issued(K1)]).by(K1);
        for _ in 0..15 {
            assert_eq!(tenant.decide_and_apply(rotate(K1, 0), NOON), Ok(()));
        }
        assert!(matches!(tenant.decide_and_apply(rotate(K1, 0), NOON), Err(Refusal::WritesLimited { .. })));
    }

    #[test]
    fn there_is_a_most_of_keys() {
        let keys =
            (0..1_000).map(|n| Event::KeyIssued(key::Issued { key_id: key_id(&format!("key{n:05}")), ..issued(K1) }));
        given([registered("Acme", Tier::Pro)].into_iter().chain(keys))
            .when(Command::IssueKey(new_key(K1)))
            .then_refused(Refusal::TooManyKeys { limit: 1_000 });
    }
}
