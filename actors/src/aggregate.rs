//! What a decision is given besides the command: the moment, the rules' numbers, and who asks.
//!
//! ```text
//! decide(&state, command, context) -> Ok(events) | Err(refusal)      every rule, no effect
//! apply(&mut state, event, moment)                                   no rule, cannot fail
//! ```
//! `Ok` of no events means: already so. Asking twice writes once.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    digest::Digest,
    envelope::Actor,
    id::{BootId, InvalidId, KeyId, NodeId},
    idempotency::Idempotency,
    key::Scopes,
    time::{Steady, Timestamp},
};

use crate::{limits::Policy, tenant::expected::Seen};

/// One life of a node: from a start of its process to the end of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Life {
    /// The node.
    pub node: NodeId,
    /// Which of its lives.
    pub boot: BootId,
}

/// On whose authority a command is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Authority {
    /// A key of the tenant. The aggregate checks its state and scopes itself.
    Key(KeyId),
    /// A token that was given for a key of the tenant. The aggregate checks the key as if it had come itself; the token may
    /// do what both allow.
    Token {
        /// The key.
        key: KeyId,
        /// What the token may do at most.
        scopes: Scopes,
    },
    /// Somebody for whom an issuer outside vouches, authenticated by the gateway.
    Subject(Subject),
    /// An operator of the platform, authenticated by the gateway; the text names the credential.
    Operator(String),
    /// The platform itself: it reports how executions ended, and sets up its own tenants.
    System,
}

impl Authority {
    /// How the events name it.
    pub fn actor(&self) -> Actor {
        match self {
            Self::Key(id) | Self::Token { key: id, .. } => Actor::key(id),
            Self::Subject(subject) => subject.actor.clone(),
            Self::Operator(subject) => Actor::operator(subject),
            Self::System => Actor::system(),
        }
    }

    /// What the tenant's own things are counted for: its key, or what stands for one. `None`: not on behalf of the tenant.
    pub const fn credential(&self) -> Option<&KeyId> {
        match self {
            Self::Key(id) | Self::Token { key: id, .. } => Some(id),
            Self::Subject(subject) => Some(&subject.id),
            Self::Operator(_) | Self::System => None,
        }
    }
}

/// Somebody of a tenant who has no key: a subject of an issuer outside. It is never an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    id: KeyId,
    actor: Actor,
    scopes: Scopes,
}

impl Subject {
    /// The subject `subject` of the issuer that this platform calls `issuer`. Its id is drawn from both, is the same at
    /// every node and every time, and is longer than that of any key.
    ///
    /// # Errors
    /// None in fact: an id that is made of a digest is valid.
    pub fn new(issuer: &str, subject: &str, scopes: Scopes) -> Result<Self, InvalidId> {
        // 112 bits: whoever chooses the names at an issuer still finds no two subjects with the same id.
        const ID_HEX_CHARS: usize = 28;
        let actor = Actor::subject(issuer, subject);
        let digest: String = Digest::of(actor.as_str().as_bytes()).to_hex().chars().take(ID_HEX_CHARS).collect();
        Ok(Self { id: KeyId::new(&["oidc", &digest].concat())?, actor, scopes: scopes.and(Scopes::TENANT) })
    }

    /// What stands for its key in events and lists.
    pub const fn id(&self) -> &KeyId {
        &self.id
    }

    /// What it may do.
    pub const fn scopes(&self) -> Scopes {
        self.scopes
    }
}

/// What a decision is given besides the command.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The moment of the decision, by the wall clock: a fact for the events, and what dates are compared with.
    pub now: Timestamp,
    /// The same, by the clock that does not step: what durations and deadlines are measured by.
    pub steady: Steady,
    /// What each tier allows.
    pub policy: &'a Policy,
    /// On whose authority.
    pub by: &'a Authority,
    /// How the request is known again, when its caller may send it again.
    pub once: Option<&'a Idempotency>,
    /// What the caller has seen of what it wants to change, when it says so.
    pub expected: Option<Seen>,
    /// The lives of nodes that have ended, of those that have begun an execution which is open. What they began runs no
    /// more. A life that is not among them may still end what it began.
    pub ended: &'a [Life],
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{event::Event, key::Scope, tenant::Tier};

    use super::*;
    use crate::tenant::{Command, Refusal, scenario::*};

    const RUN: Scopes = Scopes::NONE.with(Scope::ExecutionsRun);

    fn token(scopes: Scopes) -> Authority {
        Authority::Token { key: key_id(K1), scopes }
    }

    fn subject(scopes: Scopes) -> Subject {
        Subject::new("corp", "ada", scopes).unwrap()
    }

    fn history(rest: impl IntoIterator<Item = Event>) -> Given {
        given([registered("Acme", Tier::Pro), key_issued(K1), published(HELLO)].into_iter().chain(rest))
    }

    #[test]
    fn a_token_ends_with_its_key() {
        history([]).on(token(RUN)).when(execute(HELLO)).then_accepted();
        history([key_revoked(K1)]).on(token(RUN)).when(execute(HELLO)).then_refused(Refusal::KeyRevoked);
        let foreign = Authority::Token { key: key_id(K2), scopes: RUN };
        history([]).on(foreign).when(execute(HELLO)).then_refused(Refusal::KeyUnknown);
    }

    #[test]
    fn a_token_does_what_it_and_its_key_allow() {
        let delete = || Command::DeleteModule { name: module_name(HELLO) };
        history([]).on(token(RUN)).when(delete()).then_refused(Refusal::MissingScope(Scope::ModulesWrite));
        let narrow = wasmwiz_events::key::Issued { scopes: RUN, ..issued(K1) };
        given([registered("Acme", Tier::Pro), Event::KeyIssued(narrow), published(HELLO)])
            .on(token(Scopes::TENANT))
            .when(delete())
            .then_refused(Refusal::MissingScope(Scope::ModulesWrite));
        let manage = Scopes::NONE.with(Scope::KeysManage);
        history([]).on(token(manage)).when(Command::IssueKey(new_key(K2))).then_refused(Refusal::WiderScopes);
    }

    #[test]
    fn a_subject_does_what_its_issuer_allows_and_never_operates() {
        let by = |scopes| history([]).on(Authority::Subject(subject(scopes)));
        by(RUN).when(execute(HELLO)).then_accepted();
        by(RUN).when(Command::IssueKey(new_key(K2))).then_refused(Refusal::MissingScope(Scope::KeysManage));
        by(Scopes::TENANT).when(Command::Resume).then_refused(Refusal::MissingScope(Scope::Operator));
        let all = subject(Scopes::TENANT.with(Scope::Operator));
        assert_eq!(all.scopes(), Scopes::TENANT);
    }

    #[test]
    fn nobody_of_a_suspended_tenant_acts() {
        for by in [token(RUN), Authority::Subject(subject(RUN))] {
            history([suspended()]).on(by).when(execute(HELLO)).then_refused(Refusal::Suspended);
        }
    }

    #[test]
    fn a_subject_is_known_by_an_id_that_no_key_has_and_by_its_name() {
        let (ada, other) = (subject(RUN), Subject::new("corp2", "ada", RUN).unwrap());
        assert_eq!((ada.id().as_str().len(), ada.id() == other.id()), (32, false));
        assert_eq!(*ada.id(), *subject(Scopes::TENANT).id());
        assert_eq!(Authority::Subject(ada).actor().as_str(), "oidc:corp:ada");
    }
}
