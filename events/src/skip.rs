//! A commit that an operator has let be passed over.

use serde::{Deserialize, Serialize};

use crate::{id::TenantId, revision::Position};

/// The longest reason, in characters.
pub const REASON_MAX_CHARS: usize = 500;

/// The stream of a tenant may be folded past one of its commits that cannot be read or folded. An event of the operators' own
/// stream ([`crate::tenant::SYSTEM`]) and of no other, as a damaged stream cannot record its own; who says it is its actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Whose stream.
    pub tenant: TenantId,
    /// Where this log has the commit.
    pub position: Position,
    /// Why, in the operator's words.
    pub reason: String,
}
