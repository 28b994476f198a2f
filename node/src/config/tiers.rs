//! Is what each tier allows in its range, and within what the node has?

use wasmwiz_events::tenant::Tier;

use super::{Config, ConfigError};

/// The most asynchronous executions of one tenant that a tier may allow.
const QUEUED_MAX: u32 = 10_000;

impl Config {
    /// Is every limit of every tier in its range?
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the first that is not.
    pub(super) fn check_tiers(&self) -> Result<(), ConfigError> {
        let bad = |key: &str, problem: &str| Err(ConfigError::Value { key: key.into(), problem: problem.into() });
        for tier in Tier::ALL {
            let (limits, key) = (self.tiers.of(tier), |field: &str| format!("tiers.{}.{field}", tier.as_str()));
            if limits.executions_per_minute > 60_000 {
                return bad(&key("executions_per_minute"), "is at most 60000; 0 means without limit");
            }
            if limits.writes_per_minute > 60_000 {
                return bad(&key("writes_per_minute"), "is at most 60000; 0 means without limit");
            }
            if limits.memory_bytes > self.executor.memory_max_bytes {
                return bad(&key("memory_bytes"), "is more than executor.memory_max_bytes; raise that or lower this");
            }
            if limits.executions_queued > QUEUED_MAX {
                return bad(&key("executions_queued"), "is at most 10000: a tenant's queue is in its entity's memory");
            }
            if !(1..=wasmwiz_actors::limits::MODULE_VERSIONS_MAX).contains(&limits.module_versions) {
                return bad(&key("module_versions"), "is from 1 to 1000000: they are in the entity's memory");
            }
            if limits.wall_ms == 0 || limits.executions_concurrent == 0 {
                return bad(&key("wall_ms and executions_concurrent"), "must not be 0");
            }
        }
        Ok(())
    }
}
