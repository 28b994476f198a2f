//! How often a tenant may start executions, by a token bucket and a count a day; and how often its keys may change keys and
//! modules, by a bucket of their own.
//!
//! A bucket is kept as one time: when it will be full again (the generic cell rate algorithm, ITU-T I.371, in its virtual
//! scheduling form). Whatever takes a token writes the new value into its event, so a replay needs no configuration.

use wasmwiz_events::{event::Event, execution::Accepted, time::Timestamp};

use super::Refusal;
use crate::limits::{Rate, TierLimits};

const DAY_MS: u64 = 86_400_000;

/// What has been used.
#[derive(Debug, Clone, Default)]
pub struct Quota {
    bucket_full_at: Timestamp,
    writes_full_at: Timestamp,
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
        let Some(rate) = limits.executions_rate() else { return Ok(None) };
        let per_minute = rate.per_minute();
        let taken = take(self.bucket_full_at, rate, now);
        taken.map(Some).map_err(|retry_after_ms| Refusal::RateLimited { per_minute, retry_after_ms })
    }

    /// Takes a token for one change of keys or modules and gives the bucket's new state, if the tier has a rate.
    pub(super) fn write(&self, limits: &TierLimits, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
        let Some(rate) = limits.writes_rate() else { return Ok(None) };
        let per_minute = rate.per_minute();
        let taken = take(self.writes_full_at, rate, now);
        taken.map(Some).map_err(|retry_after_ms| Refusal::WritesLimited { per_minute, retry_after_ms })
    }

    pub(super) const fn wrote(&mut self, full_at: Option<Timestamp>) {
        if let Some(full_at) = full_at {
            self.writes_full_at = full_at;
        }
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

/// How far a clock may have been ahead of this one until what it said of a bucket is no longer believed, in milliseconds:
/// far more than clocks differ that somebody looks after.
const CLOCK_SLACK_MS: u64 = 60_000;

/// Takes a token of the bucket that is full at `full_at`: when it is full then, or how many milliseconds there is none.
fn take(full_at: Timestamp, rate: Rate, now: Timestamp) -> Result<Timestamp, u64> {
    let horizon = now.plus_ms(rate.fill_ms());
    if full_at > horizon.plus_ms(CLOCK_SLACK_MS) {
        // Nothing empties a bucket more than wholly. A clock was wrong, or the rate was far slower: this is its last token.
        return Ok(horizon);
    }
    let full_at = full_at.max(now).plus_ms(rate.interval_ms());
    if full_at > horizon { Err(full_at.ms_since(horizon)) } else { Ok(full_at) }
}

/// Where a change of keys or modules notes the state of its bucket; `None` for every other event.
pub(super) const fn write_note(event: &mut Event) -> Option<&mut Option<Timestamp>> {
    match event {
        Event::KeyIssued(issued) => Some(&mut issued.writes_full_at),
        Event::KeyRotated(rotated) => Some(&mut rotated.writes_full_at),
        Event::ModulePublished(published) => Some(&mut published.writes_full_at),
        Event::ModuleRejected(rejected) => Some(&mut rejected.writes_full_at),
        Event::ModuleDeleted(deleted) => Some(&mut deleted.writes_full_at),
        Event::TenantRegistered(_)
        | Event::TenantRenamed(_)
        | Event::TenantTierChanged(_)
        | Event::TenantSuspended(_)
        | Event::TenantResumed(_)
        // A leaked key is revoked at once, whatever its holder has written; and no more can be revoked than was issued.
        | Event::KeyRevoked(_)
        | Event::ExecutionAccepted(_)
        | Event::ExecutionStarted(_)
        | Event::ExecutionFinished(_)
        | Event::ExecutionLost(_)
        | Event::RequestsDenied(_)
        | Event::Unknown(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::tenant::Tier;

    use super::*;
    use crate::tenant::{Command, scenario::*};

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

    /// Issues keys at `at` until one is refused, and revokes each, which takes nothing.
    fn written_until_refused(tenant: &mut Given, at: Timestamp) -> (u32, Refusal) {
        for count in 0..100_000 {
            let id = format!("k{}x{count}", at.unix_ms());
            if let Err(refusal) = tenant.decide_and_apply(Command::IssueKey(new_key(&id)), at) {
                return (count, refusal);
            }
            assert_eq!(tenant.decide_and_apply(Command::RevokeKey { key_id: key_id(&id) }, at), Ok(()));
        }
        unreachable!("the tier has no limit");
    }

    #[test]
    fn what_keys_write_has_a_burst_and_then_a_rate() {
        let mut tenant = given([registered("Acme", Tier::Free), key_issued(K1)]).by(K1);
        let (burst, refusal) = written_until_refused(&mut tenant, NOON);
        assert_eq!((burst, refusal.clone()), (15, Refusal::WritesLimited { per_minute: 30, retry_after_ms: 2_000 }));
        // Every way to write takes from the same bucket, and what writes nothing takes nothing.
        let delete = || Command::DeleteModule { name: module_name(HELLO) };
        assert_eq!(tenant.decide_and_apply(publish(HELLO, b"one"), NOON), Err(refusal.clone()));
        assert_eq!(tenant.decide_and_apply(Command::Preview(Box::new(publish(HELLO, b"one"))), NOON), Err(refusal));
        let gone = Command::RevokeKey { key_id: key_id(&format!("k{}x0", NOON.unix_ms())) };
        assert_eq!(tenant.decide_and_apply(gone, NOON), Ok(()));
        assert_eq!(tenant.decide_and_apply(publish(HELLO, b"one"), NOON.plus_ms(2_000)), Ok(()));
        assert!(matches!(tenant.decide_and_apply(delete(), NOON.plus_ms(2_000)), Err(Refusal::WritesLimited { .. })));
        assert_eq!(tenant.decide_and_apply(delete(), NOON.plus_ms(4_000)), Ok(()));
    }

    #[test]
    fn operators_and_the_platform_write_without_a_rate_and_tiers_may_have_none() {
        let mut tenant = given([registered("Acme", Tier::Free)]);
        for n in 0..100 {
            assert_eq!(tenant.decide_and_apply(Command::IssueKey(new_key(&format!("more{n}"))), NOON), Ok(()));
        }
        let mut policy = crate::limits::Policy::default();
        policy.free.writes_per_minute = 0;
        let mut tenant = given([registered("Acme", Tier::Free), key_issued(K1)]).by(K1).under(policy);
        for n in 0..100 {
            assert_eq!(tenant.decide_and_apply(Command::IssueKey(new_key(&format!("more{n}"))), NOON), Ok(()));
        }
    }

    #[test]
    fn the_state_of_the_bucket_is_in_the_event_and_a_replay_needs_nothing_else() {
        let history = [registered("Acme", Tier::Free), key_issued(K1)];
        let mut events = given(history.clone()).by(K1).when(Command::IssueKey(new_key(K2))).events();
        let [Event::KeyIssued(issued)] = &mut events[..] else { panic!("{events:?}") };
        assert_eq!(issued.writes_full_at, Some(NOON.plus_ms(2_000)));
        issued.writes_full_at = Some(NOON.plus_ms(60_000));
        let replayed = given(history.into_iter().chain(events)).by(K1);
        let refusal = Refusal::WritesLimited { per_minute: 30, retry_after_ms: 32_000 };
        replayed.when(publish(HELLO, b"one")).then_refused(refusal);
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
    fn a_clock_that_was_a_day_ahead_blocks_nobody_for_a_day() {
        let mut tenant = given([registered("Acme", Tier::Free), key_issued(K1), published(HELLO)]).by(K1);
        admitted_until_refused(&mut tenant, NOON.plus_ms(DAY_MS));
        // Now it is right: one is admitted, and from then on the rate holds.
        let (count, refusal) = admitted_until_refused(&mut tenant, NOON);
        assert_eq!((count, refusal), (1, Refusal::RateLimited { per_minute: 10, retry_after_ms: 6_000 }));
        assert_eq!(admitted_until_refused(&mut tenant, NOON.plus_ms(6_000)).0, 1);
    }

    #[test]
    fn a_clock_that_steps_back_neither_refills_nor_blocks() {
        let mut tenant = given([registered("Acme", Tier::Free), key_issued(K1), published(HELLO)]).by(K1);
        admitted_until_refused(&mut tenant, NOON);
        let earlier = Timestamp::from_unix_ms(NOON.unix_ms() - 1_000);
        assert!(matches!(tenant.admit_and_end(earlier), Err(Refusal::RateLimited { retry_after_ms: 7_000, .. })));
    }
}
