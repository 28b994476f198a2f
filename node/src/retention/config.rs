//! For how long payloads are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmwiz_actors::limits::{Policy, RETENTION_DAYS_MAX, Retention};

use crate::config::{Config, LogKind};

/// For how long payloads are kept, by class. A class that is left out is kept for ever, and where all are, nothing is removed. 0 days:
/// until the next sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Standard inputs of executions, in days.
    pub inputs_days: Option<u32>,
    /// Standard outputs and errors of executions, in days.
    pub outputs_days: Option<u32>,
    /// What guests have read from the host's clocks, in days.
    pub transcripts_days: Option<u32>,
    /// Modules of which no version is live, in days from their deletion, or from the last execution that they came along with.
    pub modules_days: Option<u32>,
    /// How often it is looked for what may be removed, in seconds. Each time the log is read once.
    pub every_seconds: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        let [inputs_days, outputs_days, transcripts_days, modules_days] = [None; 4];
        Self { inputs_days, outputs_days, transcripts_days, modules_days, every_seconds: 21_600 }
    }
}

impl RetentionConfig {
    /// # Errors
    /// The key that is wrong, and what to set.
    pub fn check(&self, log: LogKind) -> Result<(), (&'static str, &'static str)> {
        let all = [
            ("inputs_days", self.inputs_days),
            ("outputs_days", self.outputs_days),
            ("transcripts_days", self.transcripts_days),
            ("modules_days", self.modules_days),
        ];
        for (key, days) in all {
            if days.is_some_and(|days| days > RETENTION_DAYS_MAX) {
                return Err((key, "is at most 366; leave it out to keep them for ever"));
            }
            if days.is_some() && log == LogKind::Jetstream {
                return Err((key, "needs a log on SQLite: nothing is removed from JetStream; leave it out"));
            }
        }
        if !(1..=31_536_000).contains(&self.every_seconds) {
            return Err(("every_seconds", "must be from 1 to 31536000"));
        }
        Ok(())
    }

    /// How often it is looked for what may be removed.
    pub const fn every(&self) -> Duration {
        Duration::from_secs(self.every_seconds)
    }

    const fn retention(&self) -> Retention {
        let Self { inputs_days, outputs_days, transcripts_days, modules_days, every_seconds: _ } = *self;
        Retention { inputs_days, outputs_days, transcripts_days, modules_days }
    }
}

impl Config {
    /// What tenants are held to.
    pub fn policy(&self) -> Policy {
        Policy { retention: self.retention.retention(), ..self.tiers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_removed_unless_it_is_asked_for_and_never_from_a_log_on_jetstream() {
        let off = RetentionConfig::default();
        assert!(!Config::default().policy().retention.is_on());
        assert_eq!((off.check(LogKind::Sqlite), off.check(LogKind::Jetstream)), (Ok(()), Ok(())));
        let on = RetentionConfig { outputs_days: Some(30), ..off };
        assert_eq!(on.check(LogKind::Sqlite), Ok(()));
        assert_eq!(on.check(LogKind::Jetstream).unwrap_err().0, "outputs_days");
        let config = Config { retention: on, ..Config::default() };
        assert_eq!(config.policy().retention, Retention { outputs_days: Some(30), ..Retention::default() });
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let long = RetentionConfig { modules_days: Some(367), ..RetentionConfig::default() };
        assert_eq!(long.check(LogKind::Sqlite).unwrap_err().0, "modules_days");
        let never = RetentionConfig { every_seconds: 0, ..RetentionConfig::default() };
        assert_eq!(never.check(LogKind::Sqlite).unwrap_err().0, "every_seconds");
    }
}
