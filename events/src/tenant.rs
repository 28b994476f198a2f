//! What happens to a tenant itself: registration, tier, suspension.

use serde::{Deserialize, Serialize};

/// The tenant whose keys operate the platform. Its stream says what operators do that no other stream can say.
pub const SYSTEM: &str = "system";

/// A class of limits. What each tier allows is configuration; which tier a tenant has is an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// To try the platform out.
    Free,
    /// Small steady use.
    Basic,
    /// Production use.
    Pro,
    /// No rate limits, the widest executions.
    Enterprise,
}

impl Tier {
    /// All tiers, narrowest first.
    pub const ALL: [Self; 4] = [Self::Free, Self::Basic, Self::Pro, Self::Enterprise];

    /// The tier's name in the API and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Basic => "basic",
            Self::Pro => "pro",
            Self::Enterprise => "enterprise",
        }
    }
}

/// The text names no tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tier is one of free, basic, pro and enterprise")]
pub struct NotATier;

impl std::str::FromStr for Tier {
    type Err = NotATier;

    fn from_str(text: &str) -> Result<Self, NotATier> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == text).ok_or(NotATier)
    }
}

/// A tenant was registered: the first event of every stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The tenant's name, for people.
    pub name: String,
    /// The tier it begins with.
    pub tier: Tier,
}

/// The tenant's tier was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierChanged {
    /// The tier from now on.
    pub tier: Tier,
}

/// The tenant was renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    /// The name from now on.
    pub name: String,
}

/// The tenant may not act until it is resumed. Executions that run go on to their end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspended {
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The tenant may act again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {}
