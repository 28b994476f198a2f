//! Requests that were denied, counted: a flood of denials must not become a flood of events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Requests were denied in a window of time. At most one such event a minute for a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// When the window began.
    pub from: Timestamp,
    /// When it ended.
    pub to: Timestamp,
    /// How many by reason; the reasons are the slugs of the problem types.
    pub counts: BTreeMap<String, u64>,
}
