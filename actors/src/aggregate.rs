//! What a decision is given besides the command: the moment, the rules' numbers, and who asks.
//!
//! ```text
//! decide(&state, command, context) -> Ok(events) | Err(refusal)      every rule, no effect
//! apply(&mut state, event)                                           no rule, cannot fail
//! ```
//! `Ok` of no events means: already so. Asking twice writes once.

use wasmwiz_events::{envelope::Actor, id::KeyId, time::Timestamp};

use crate::limits::Policy;

/// On whose authority a command is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// A key of the tenant. The aggregate checks its state and scopes itself.
    Key(KeyId),
    /// An operator of the platform, authenticated by the gateway; the text names the credential.
    Operator(String),
    /// The platform itself: it reports how executions ended, and sets up its own tenants.
    System,
}

impl Authority {
    /// How the events name it.
    pub fn actor(&self) -> Actor {
        match self {
            Self::Key(id) => Actor::key(id),
            Self::Operator(subject) => Actor::operator(subject),
            Self::System => Actor::system(),
        }
    }
}

/// What a decision is given besides the command.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The moment of the decision.
    pub now: Timestamp,
    /// What each tier allows.
    pub policy: &'a Policy,
    /// On whose authority.
    pub by: &'a Authority,
}
