//! What happens to API keys, and the scopes they carry.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{digest::Digest, id::KeyId, time::Timestamp};

/// One thing a credential may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Scope {
    /// Run modules, cancel executions.
    ExecutionsRun,
    /// Read executions and their streams.
    ExecutionsRead,
    /// Read modules and their bytes.
    ModulesRead,
    /// Publish and delete modules.
    ModulesWrite,
    /// Issue, list and revoke keys.
    KeysManage,
    /// Read usage.
    UsageRead,
    /// Read the audit history.
    AuditRead,
    /// Operate the platform: register, change and suspend tenants.
    Operator,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 8] = [
        Self::ExecutionsRun,
        Self::ExecutionsRead,
        Self::ModulesRead,
        Self::ModulesWrite,
        Self::KeysManage,
        Self::UsageRead,
        Self::AuditRead,
        Self::Operator,
    ];

    /// The scope's name in the API and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExecutionsRun => "executions:run",
            Self::ExecutionsRead => "executions:read",
            Self::ModulesRead => "modules:read",
            Self::ModulesWrite => "modules:write",
            Self::KeysManage => "keys:manage",
            Self::UsageRead => "usage:read",
            Self::AuditRead => "audit:read",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a scope is one of executions:run, executions:read, modules:read, modules:write, keys:manage, usage:read, \
     audit:read and operator"
)]
pub struct NotAScope;

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(NotAScope)
    }
}

/// A set of scopes. Written as a list of names; a name this version does not know is dropped on reading, which can
/// only narrow what a credential may do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Scopes(u16);

impl Scopes {
    /// No scope.
    pub const NONE: Self = Self(0);

    /// Everything a tenant may do within itself: all scopes but `operator`.
    pub const TENANT: Self = Self(0x7f);

    /// This set and `scope`.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | (1 << scope as u16))
    }

    /// Is `scope` in the set?
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u16) != 0
    }

    /// Is every scope of `other` in this set?
    pub const fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// What is in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Is the set empty?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes of the set.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Scope::as_str)).finish()
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Some formats must know how many there are before the first.
        serializer.collect_seq(self.iter().map(Scope::as_str).collect::<Vec<_>>())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Ok(names.iter().filter_map(|name| name.parse::<Scope>().ok()).collect())
    }
}

/// A key was issued. Its secret is known to its holder only; the log has a hash of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The public part.
    pub key_id: KeyId,
    /// What the tenant calls it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// SHA-256 of the secret, or HMAC-SHA-256 of it under the node's pepper.
    pub hash: Digest,
    /// When it stops working by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When the tenant's write bucket is full again, if a key asked and its tier limits what keys write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_full_at: Option<Timestamp>,
}

/// A key got a new secret. The old one works until `grace_until`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// Which key.
    pub key_id: KeyId,
    /// Hash of the new secret.
    pub hash: Digest,
    /// Until when the old secret works too.
    pub grace_until: Timestamp,
    /// When the tenant's write bucket is full again, if a key asked and its tier limits what keys write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_full_at: Option<Timestamp>,
}

/// A key stopped working.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Which key.
    pub key_id: KeyId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_set_is_everything_but_operator() {
        let expected: Scopes = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Operator).collect();
        assert_eq!(Scopes::TENANT, expected);
        assert!(!Scopes::TENANT.covers(Scopes::NONE.with(Scope::Operator)));
        assert!(Scopes::TENANT.covers(Scopes::NONE.with(Scope::AuditRead)));
    }

    #[test]
    fn an_unknown_scope_only_narrows() {
        let scopes: Scopes = serde_json::from_str(r#"["executions:run","moon:walk"]"#).unwrap();
        assert_eq!(scopes, Scopes::NONE.with(Scope::ExecutionsRun));
    }
}
