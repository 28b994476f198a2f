//! How often a tenant may start executions: a token bucket and a count a day.
//!
//! The bucket is kept as one time: when it will be full again (the generic cell rate algorithm, ITU-T I.371, in its
//! virtual scheduling form). Each admission writes the new value into its event, so a replay needs no configuration.

use wasmwiz_events::{execution::Accepted, time::Timestamp};

use super::Refusal;
use crate::limits::TierLimits;

const DAY_MS: u64 = 86_400_000;

/// What has been used.
#[derive(Debug, Clone, Default)]
pub struct Quota {
    bucket_full_at: Timestamp,
    day: i64,
    day_count: u64,
}

impl Quota {
    /// Admits one execution and gives the bucket's new state, if the tier has a rate.
    pub(super) fn admit(&self, limits: &TierLimits, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
        let per_day = limits.executions_per_day;
        if per_day > 0 && self.day == now.utc_day() && self.day_count >= per_day {
            let retry_after_ms = DAY_MS - now.unix_ms().rem_euclid(86_400_000).unsigned_abs();
            return Err(Refusal::DailyQuotaUsed { per_day, retry_after_ms });
        }
        let Some(interval_ms) = limits.token_interval_ms() else { return Ok(None) };
        let full_at = self.bucket_full_at.max(now).plus_ms(interval_ms);
        let horizon = now.plus_ms(interval_ms.saturating_mul(u64::from(limits.executions_burst.max(1))));
        if full_at > horizon {
            let retry_after_ms = full_at.ms_since(horizon);
            return Err(Refusal::RateLimited { per_minute: limits.executions_per_minute, retry_after_ms });
        }
        Ok(Some(full_at))
    }

    pub(super) fn accepted(&mut self, accepted: &Accepted) {
        if let Some(full_at) = accepted.bucket_full_at {
            self.bucket_full_at = full_at;
        }
        let day = accepted.start_time.utc_day();
        self.day_count = if self.day == day { self.day_count + 1 } else { 1 };
        self.day = day;
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::tenant::Tier;

    use super::*;
    use crate::tenant::scenario::*;

    /// Admits executions at `at` until one is refused; ends each at once.
    fn admitted_until_refused(tenant: &mut Given, at: Timestamp) -> (u32, Refusal) {
        for count in 0..100_000 {
            match tenant.admit_and_end(at) {
                Ok(()) => {}
                Err(refusal) => return (count, refusal),
            }
        }
        unreachable!("the tier has no limit");
    }

    #[test]
    fn a_burst_is_admitted_and_then_the_rate() {
        let mut tenant = given([registered("Acme", Tier::Free), key_issued(K1), published(HELLO)]).by(K1);
        let (burst, refusal) = admitted_until_refused(&mut tenant, NOON);
        assert_eq!((burst, refusal), (5, Refusal::RateLimited { per_minute: 10, retry_after_ms: 6_000 }));
        let (next, _) = admitted_until_refused(&mut tenant, NOON.plus_ms(5_999));
        assert_eq!(next, 0);
        let (next, _) = admitted_until_refused(&mut tenant, NOON.plus_ms(6_000));
        assert_eq!(next, 1);
        let (after_a_pause, _) = admitted_until_refused(&mut tenant, NOON.plus_ms(600_000));
        assert_eq!(after_a_pause, 5);
    }

    #[test]
    fn the_day_has_a_quota_that_midnight_renews() {
        let mut tenant = given([registered("Acme", Tier::Free), key_issued(K1), published(HELLO)]).by(K1);
        for minute in 0..20 {
            let (count, _) = admitted_until_refused(&mut tenant, NOON.plus_ms(minute * 60_000));
            assert_eq!(count, 5);
        }
        let later = NOON.plus_ms(3_600_000);
        let expected = Refusal::DailyQuotaUsed { per_day: 100, retry_after_ms: 11 * 3_600_000 };
        assert_eq!(tenant.admit_and_end(later), Err(expected));
        assert_eq!(tenant.admit_and_end(NOON.plus_ms(12 * 3_600_000)), Ok(()));
    }

    #[test]
    fn a_tier_without_a_rate_has_no_bucket() {
        let accepted = given([registered("Acme", Tier::Enterprise), key_issued(K1), published(HELLO)])
            .by(K1)
            .when(execute(HELLO))
            .accepted();
        assert_eq!(accepted.bucket_full_at, None);
    }

    #[test]
    fn a_clock_that_steps_back_neither_refills_nor_blocks() {
        let mut tenant = given([registered("Acme", Tier::Free), key_issued(K1), published(HELLO)]).by(K1);
        admitted_until_refused(&mut tenant, NOON);
        let earlier = Timestamp::from_unix_ms(NOON.unix_ms() - 1_000);
        assert!(matches!(tenant.admit_and_end(earlier), Err(Refusal::RateLimited { retry_after_ms: 7_000, .. })));
    }
}
