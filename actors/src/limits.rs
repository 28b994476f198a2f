//! What each tier allows: numbers from configuration, never from code.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{execution::Limits, retention::Class, tenant::Tier, time::Timestamp, transcript};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The most live versions that a tier may allow a tenant. The digest of each, 32 bytes, is in its entity's memory and in every
/// snapshot of it twice, by its number and with how many have it, and more beside it.
pub const MODULE_VERSIONS_MAX: u32 = 1_000_000;

/// The most asynchronous executions of one tenant that a tier may allow.
const QUEUED_MAX: u32 = 10_000;

/// What a tenant of one tier may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierLimits {
    /// Executions admitted a minute, on average; 0 means without limit. At most 60,000: the bucket counts milliseconds.
    pub executions_per_minute: u32,
    /// Executions admitted at once after a pause; the size of the token bucket.
    pub executions_burst: u32,
    /// Changes of keys and modules that the tenant's keys may make a minute, on average; 0 means without limit. At most
    /// 60,000. Each is an event for ever; operators are not limited.
    pub writes_per_minute: u32,
    /// Such changes at once after a pause.
    pub writes_burst: u32,
    /// Executions admitted a day (UTC); 0 means without limit.
    pub executions_per_day: u64,
    /// Executions that may be open at the same time.
    pub executions_concurrent: u32,
    /// Asynchronous executions that may wait or run at the same time; of these, as many run as may be open otherwise.
    pub executions_queued: u32,
    /// Wall-clock time of one execution, in milliseconds.
    pub wall_ms: u64,
    /// Linear memory of one execution, in bytes.
    pub memory_bytes: u64,
    /// Size of a module, in bytes.
    pub module_bytes: u64,
    /// Live versions of all modules of the tenant together: the digest of each, 32 bytes, is twice in its entity's memory.
    pub module_versions: u32,
    /// Standard input, in bytes.
    pub stdin_bytes: u64,
    /// Standard output kept, in bytes.
    pub stdout_bytes: u64,
    /// Standard error kept, in bytes.
    pub stderr_bytes: u64,
    /// All that the tenant stores, in bytes: modules, and inputs and outputs of executions; 0 means without limit.
    pub storage_bytes: u64,
    /// May versions of modules have `clock=host`? Whoever reads the host's clocks can measure what others do on the same machine, to a
    /// microsecond.
    pub host_clock: bool,
}

impl TierLimits {
    /// What one execution may use when its caller asks for at most `timeout_ms`.
    pub fn grant(&self, timeout_ms: Option<u64>) -> Limits {
        Limits {
            wall_ms: timeout_ms.map_or(self.wall_ms, |asked| asked.min(self.wall_ms)),
            memory_bytes: self.memory_bytes,
            stdin_bytes: self.stdin_bytes,
            stdout_bytes: self.stdout_bytes,
            stderr_bytes: self.stderr_bytes,
        }
    }

    /// Is every number in its range?
    ///
    /// # Errors
    /// The field that is not, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.executions_per_minute > 60_000 {
            return Err(("executions_per_minute", "is at most 60000; 0 means without limit"));
        }
        if self.writes_per_minute > 60_000 {
            return Err(("writes_per_minute", "is at most 60000; 0 means without limit"));
        }
        if self.executions_queued > QUEUED_MAX {
            return Err(("executions_queued", "is at most 10000: a tenant's queue is in its entity's memory"));
        }
        if !(1..=MODULE_VERSIONS_MAX).contains(&self.module_versions) {
            return Err(("module_versions", "is from 1 to 1000000: they are in the entity's memory"));
        }
        if self.wall_ms == 0 || self.executions_concurrent == 0 {
            return Err(("wall_ms and executions_concurrent", "must not be 0"));
        }
        if self.storage().is_some_and(|limit_bytes| limit_bytes < self.stored_at_once_bytes()) {
            let problem = "has no room for one execution, which may bring a module and an input, write its outputs, and have what it \
                           reads from the host's clocks kept; raise it, or set it to 0, which means without limit";
            return Err(("storage_bytes", problem));
        }
        Ok(())
    }

    /// All that the tenant may store; `None` without a limit.
    pub fn storage(&self) -> Option<u64> {
        (self.storage_bytes > 0).then_some(self.storage_bytes)
    }

    /// The most that one execution may store.
    fn stored_at_once_bytes(&self) -> u64 {
        let streams =
            [self.stdin_bytes, self.stdout_bytes, self.stderr_bytes, transcript::max_bytes(self.stdout_bytes)];
        streams.into_iter().fold(self.module_bytes, u64::saturating_add)
    }

    /// How executions are limited; `None` without a rate limit.
    pub fn executions_rate(&self) -> Option<Rate> {
        Rate::new(self.executions_per_minute, self.executions_burst)
    }

    /// How changes of keys and modules are limited; `None` without a rate limit.
    pub fn writes_rate(&self) -> Option<Rate> {
        Rate::new(self.writes_per_minute, self.writes_burst)
    }
}

/// A token bucket's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_minute: u32,
    burst: u32,
}

impl Rate {
    fn new(per_minute: u32, burst: u32) -> Option<Self> {
        (per_minute > 0).then_some(Self { per_minute, burst })
    }

    /// The average allowed.
    pub const fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Milliseconds that one token takes to come back.
    pub fn interval_ms(&self) -> u64 {
        60_000_u64.div_ceil(u64::from(self.per_minute))
    }

    /// How many whole tokens there are at `now` in the bucket that is full at `full_at`, and in how many milliseconds there
    /// is one more; 0 when it is full.
    pub fn left(&self, full_at: Timestamp, now: Timestamp) -> (u64, u64) {
        let missing_ms = full_at.ms_since(now);
        let (left, interval_ms) = (self.fill_ms().saturating_sub(missing_ms), self.interval_ms());
        // What is missing of the last token comes first; of a full bucket nothing is missing.
        let begun_ms = missing_ms.checked_rem(interval_ms).unwrap_or_default();
        let more_in_ms = if begun_ms == 0 { missing_ms.min(interval_ms) } else { begun_ms };
        (left.checked_div(interval_ms).unwrap_or_default(), more_in_ms)
    }

    /// Milliseconds that an empty bucket takes to be full.
    pub fn fill_ms(&self) -> u64 {
        self.interval_ms().saturating_mul(u64::from(self.burst.max(1)))
    }
}

/// The limits of all tiers, and the bounds that hold for every tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// To try the platform out.
    pub free: TierLimits,
    /// Small steady use.
    pub basic: TierLimits,
    /// Production use.
    pub pro: TierLimits,
    /// Without rate limits.
    pub enterprise: TierLimits,
    /// Live keys of one tenant: they are all in its entity's memory.
    pub keys_max: u32,
    /// Modules of one tenant, for the same reason.
    pub modules_max: u32,
    /// Module names of one tenant, deleted ones among them: their versions are never used twice, so they are remembered.
    pub module_names_max: u32,
    /// Live versions of one module.
    pub versions_max: u32,
    /// Requests with an idempotency key of one tenant that are remembered for 24 hours, about 200 bytes each in its
    /// entity's memory.
    pub idempotency_keys_max: u32,
    /// Milliseconds past its deadline after which an execution without a word is declared lost. Longer than it takes to
    /// wait for a compilation and for memory, to compile, and to append its end.
    pub lost_grace_ms: u64,
    /// Milliseconds that an asynchronous execution may wait for its turn when its caller names no shorter time. What is
    /// older is not worth running any more.
    pub start_within_ms: u64,
    /// Attempts at an asynchronous execution: each further one follows a node that died while it ran. Few, because it
    /// may be what the node died of.
    pub attempts_max: u32,
    /// For how long payloads are kept: a setting of the node beside those of the tiers.
    #[serde(skip)]
    pub retention: Retention,
}

impl Policy {
    /// The limits of `tier`.
    pub const fn of(&self, tier: Tier) -> &TierLimits {
        match tier {
            Tier::Free => &self.free,
            Tier::Basic => &self.basic,
            Tier::Pro => &self.pro,
            Tier::Enterprise => &self.enterprise,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        let free = TierLimits {
            executions_per_minute: 10,
            executions_burst: 5,
            writes_per_minute: 30,
            writes_burst: 15,
            executions_per_day: 100,
            executions_concurrent: 2,
            executions_queued: 20,
            wall_ms: 5_000,
            memory_bytes: 64 * MIB,
            module_bytes: 4 * MIB,
            module_versions: 1_000,
            stdin_bytes: MIB,
            stdout_bytes: MIB,
            stderr_bytes: MIB,
            storage_bytes: GIB,
            host_clock: true,
        };
        let basic = TierLimits {
            executions_per_minute: 100,
            executions_burst: 20,
            writes_per_minute: 60,
            writes_burst: 30,
            executions_per_day: 10_000,
            executions_concurrent: 8,
            executions_queued: 100,
            wall_ms: 10_000,
            memory_bytes: 128 * MIB,
            module_bytes: 10 * MIB,
            module_versions: 5_000,
            storage_bytes: 32 * GIB,
            ..free
        };
        let pro = TierLimits {
            executions_per_minute: 1_000,
            executions_burst: 100,
            writes_per_minute: 300,
            writes_burst: 100,
            executions_per_day: 1_000_000,
            executions_concurrent: 64,
            executions_queued: 1_000,
            wall_ms: 30_000,
            memory_bytes: 256 * MIB,
            module_bytes: 32 * MIB,
            module_versions: 20_000,
            stdin_bytes: 4 * MIB,
            stdout_bytes: 4 * MIB,
            stderr_bytes: 4 * MIB,
            storage_bytes: 256 * GIB,
            host_clock: true,
        };
        let enterprise = TierLimits {
            executions_per_minute: 0,
            executions_burst: 0,
            writes_per_minute: 3_000,
            writes_burst: 1_000,
            executions_per_day: 0,
            executions_concurrent: 256,
            executions_queued: 2_000,
            wall_ms: 300_000,
            memory_bytes: 1_024 * MIB,
            module_bytes: 64 * MIB,
            module_versions: 100_000,
            stdin_bytes: 16 * MIB,
            stdout_bytes: 16 * MIB,
            stderr_bytes: 16 * MIB,
            storage_bytes: 0,
            host_clock: true,
        };
        Self {
            free,
            basic,
            pro,
            enterprise,
            keys_max: 1_000,
            modules_max: 1_000,
            module_names_max: 10_000,
            versions_max: 1_000,
            idempotency_keys_max: 100_000,
            lost_grace_ms: 60_000,
            start_within_ms: 3_600_000,
            attempts_max: 3,
            retention: Retention::default(),
        }
    }
}

/// For how long payloads are kept once they are recorded, in days; `None`: for ever. Of modules that counts from when no version of
/// them is live any more, or they came along with an execution last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Standard inputs.
    pub inputs_days: Option<u32>,
    /// Standard outputs and errors.
    pub outputs_days: Option<u32>,
    /// What guests read from the host's clocks.
    pub transcripts_days: Option<u32>,
    /// Modules of which no version is live.
    pub modules_days: Option<u32>,
}

/// The longest time that payloads may be kept, in days, if not for ever: as many days of each class are remembered.
pub const RETENTION_DAYS_MAX: u32 = 366;

impl Retention {
    /// For how long, in days.
    pub const fn of(&self, class: Class) -> Option<u32> {
        match class {
            Class::Inputs => self.inputs_days,
            Class::Outputs => self.outputs_days,
            Class::Transcripts => self.transcripts_days,
            Class::Modules => self.modules_days,
        }
    }

    /// Is anything ever released?
    pub fn is_on(&self) -> bool {
        Class::ALL.into_iter().any(|class| self.of(class).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_that_has_no_room_for_one_execution_is_refused_and_every_tier_has() {
        let policy = Policy::default();
        for tier in Tier::ALL {
            assert_eq!(policy.of(tier).check(), Ok(()), "{}", tier.as_str());
        }
        // A module of 4 MiB, and a MiB each of input, output, error and readings.
        let bound = 8 * MIB;
        assert_eq!(TierLimits { storage_bytes: bound, ..policy.free }.check(), Ok(()));
        let refused = TierLimits { storage_bytes: bound - 1, ..policy.free }.check();
        assert_eq!(refused.map_err(|(field, _)| field), Err("storage_bytes"));
        assert_eq!((policy.free.storage(), policy.enterprise.storage()), (Some(GIB), None));
    }

    #[test]
    fn what_is_left_of_a_bucket_follows_from_when_it_is_full() {
        // A token every 6 seconds, 5 at once.
        let rate = Policy::default().free.executions_rate().unwrap();
        let now = Timestamp::from_unix_ms(1_000_000);
        for (missing_ms, left, more_in_ms) in [
            (0, 5, 0),
            (1, 4, 1),
            (6_000, 4, 6_000),
            (6_001, 3, 1),
            (29_999, 0, 5_999),
            (30_000, 0, 6_000),
            (90_000, 0, 6_000),
        ] {
            assert_eq!(rate.left(now.plus_ms(missing_ms), now), (left, more_in_ms), "{missing_ms}");
        }
        // A bucket that was full before is full.
        assert_eq!(rate.left(now, now.plus_ms(1)), (5, 0));
    }
}
