//! How often a tenant may start executions, or have them run again, by a token bucket and a count a day; and how often its keys may change keys and
//! modules, by a bucket of their own.
//!
//! A bucket is kept as one time: when it will be full again (the generic cell rate algorithm, ITU-T I.371, in its virtual
//! scheduling form). Whatever takes a token writes the new value into its event, so a replay needs no configuration.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    event::Event,
    execution::Accepted,
    time::{Moment, Steady, Timestamp},
    verification::Verified,
};

use super::Refusal;
use crate::{
    aggregate::Context,
    limits::{Rate, TierLimits},
};

const DAY_MS: u64 = 86_400_000;

/// What has been used.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Quota {
    executions: Bucket,
    writes: Bucket,
    days: Days,
}

impl Quota {
    /// Admits one execution and gives the bucket's new state, if the tier has a rate.
    pub(super) fn admit(&self, limits: &TierLimits, context: &Context<'_>) -> Result<Option<Timestamp>, Refusal> {
        let (per_day, now) = (limits.executions_per_day, context.now);
        if per_day > 0 && self.days.count_of(now.utc_day()) >= per_day {
            let retry_after_ms = DAY_MS - now.unix_ms().rem_euclid(86_400_000).unsigned_abs();
            return Err(Refusal::DailyQuotaUsed { per_day, retry_after_ms });
        }
        let Some(rate) = limits.executions_rate() else { return Ok(None) };
        let per_minute = rate.per_minute();
        let taken = self.executions.take(rate, context);
        taken.map(Some).map_err(|retry_after_ms| Refusal::RateLimited { per_minute, retry_after_ms })
    }

    /// An execution that was run again.
    pub(super) fn verified(&mut self, verified: &Verified, at: Moment) {
        if let Some(full_at) = verified.bucket_full_at {
            self.executions = Bucket::recorded(full_at, at);
        }
        self.days.count(at.wall.utc_day());
    }

    /// Takes a token for one change of keys or modules and gives the bucket's new state, if the tier has a rate.
    pub(super) fn write(&self, limits: &TierLimits, context: &Context<'_>) -> Result<Option<Timestamp>, Refusal> {
        let Some(rate) = limits.writes_rate() else { return Ok(None) };
        let per_minute = rate.per_minute();
        let taken = self.writes.take(rate, context);
        taken.map(Some).map_err(|retry_after_ms| Refusal::WritesLimited { per_minute, retry_after_ms })
    }

    /// Moves every time onto a clock that is ahead by `ms`.
    pub(super) fn shift(&mut self, ms: i64) {
        let Self { executions, writes, days: _ } = self;
        for Bucket { full_at } in [executions, writes] {
            *full_at = full_at.map(|at| at.shifted_ms(ms));
        }
    }

    pub(super) const fn wrote(&mut self, full_at: Option<Timestamp>, at: Moment) {
        if let Some(full_at) = full_at {
            self.writes = Bucket::recorded(full_at, at);
        }
    }

    pub(super) fn accepted(&mut self, accepted: &Accepted, at: Moment) {
        if let Some(full_at) = accepted.bucket_full_at {
            self.executions = Bucket::recorded(full_at, at);
        }
        self.days.count(at.wall.utc_day());
    }
}

/// A bucket of tokens, which fills at an even pace. Events write down when it will be full by the wall clock; here that is
/// measured by the clock that does not step, from the moment of the event on. So a wall clock that steps neither fills it
/// nor keeps it empty, and what was recorded by one that was wrong counts from when it is read.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Bucket {
    /// `None`: no token was ever taken.
    full_at: Option<Steady>,
}

impl Bucket {
    /// As an event of that moment says.
    const fn recorded(full_at: Timestamp, at: Moment) -> Self {
        Self { full_at: Some(at.steady.plus_ms(full_at.ms_since(at.wall))) }
    }

    /// Takes a token: when the bucket is full then, or how many milliseconds there is none.
    fn take(self, rate: Rate, context: &Context<'_>) -> Result<Timestamp, u64> {
        let (now, fill_ms) = (context.steady, rate.fill_ms());
        // Nothing empties a bucket more than wholly: what is left to fill of a slower rate's is at most what this one's has.
        let missing_ms = self.full_at.map_or(0, |full_at| full_at.ms_since(now)).min(fill_ms);
        let missing_ms = missing_ms.saturating_add(rate.interval_ms());
        if missing_ms > fill_ms { Err(missing_ms - fill_ms) } else { Ok(context.now.plus_ms(missing_ms)) }
    }
}

/// Executions of the two days that were counted last. A clock that was set to another day, and then right again, finds the
/// count of this one: a day's quota is gained by it once at most, and none is lost.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Days {
    /// The one that was counted last, and its count.
    last: (i64, u64),
    before: (i64, u64),
}

impl Days {
    const fn count_of(self, day: i64) -> u64 {
        if self.last.0 == day {
            self.last.1
        } else if self.before.0 == day {
            self.before.1
        } else {
            0
        }
    }

    const fn count(&mut self, day: i64) {
        let count = self.count_of(day).saturating_add(1);
        if self.last.0 != day {
            self.before = self.last;
        }
        self.last = (day, count);
    }
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
        | Event::ExecutionVerified(_)
        | Event::RequestsDenied(_)
        | Event::CommitSkipped(_)
        | Event::PayloadsReleased(_)
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
        issued.writes_full_at = Some(NOON.plus_ms(29_000));
        let replayed = given(history.into_iter().chain(events)).by(K1);
        let refusal = Refusal::WritesLimited { per_minute: 30, retry_after_ms: 1_000 };
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

    /// Each step of the wall clock while 0 ms pass, and one second later by the clock that does not step.
    #[test]
    fn a_wall_clock_that_steps_neither_fills_the_bucket_nor_keeps_it_empty() {
        for step_ms in [-2_592_000_000, -86_400_000, -600_000, -1_000, 1_000, 600_000, 86_400_000, 2_592_000_000_i64] {
            let mut tenant = given([registered("Acme", Tier::Free), key_issued(K1), published(HELLO)]).by(K1);
            admitted_until_refused(&mut tenant, NOON);
            tenant.step_wall_ms(step_ms);
            let waits = |retry_after_ms| (0, Refusal::RateLimited { per_minute: 10, retry_after_ms });
            assert_eq!(admitted_until_refused(&mut tenant, NOON), waits(6_000), "stepped by {step_ms}");
            assert_eq!(admitted_until_refused(&mut tenant, NOON.plus_ms(1_000)), waits(5_000), "stepped by {step_ms}");
            assert_eq!(admitted_until_refused(&mut tenant, NOON.plus_ms(6_000)).0, 1, "stepped by {step_ms}");
            assert_eq!(admitted_until_refused(&mut tenant, NOON.plus_ms(600_000)).0, 5, "stepped by {step_ms}");
        }
    }

    #[test]
    fn what_a_clock_that_was_ahead_recorded_counts_from_when_it_is_read() {
        let full_at = |at: Timestamp| Moment { wall: at, steady: Steady::from_ms(0) };
        let read = Moment { wall: NOON, steady: Steady::from_ms(0) };
        let ahead = NOON.plus_ms(30 * DAY_MS);
        let seen = read.of_record(ahead);
        assert_eq!(seen.steady, full_at(NOON).steady);
        let bucket = Bucket::recorded(ahead.plus_ms(30_000), seen);
        assert_eq!(bucket.full_at, Some(Steady::from_ms(30_000)));
    }

    #[test]
    fn a_day_that_comes_back_has_its_count() {
        let mut days = Days::default();
        for day in [5, 5, 35, 5, 35, 35, 6, 5] {
            days.count(day);
        }
        // The 30 days ahead were counted apart, and forgotten for the days that followed.
        assert_eq!((days.count_of(5), days.count_of(6), days.count_of(35)), (1, 1, 0));
        let mut days = Days::default();
        for day in [5, 5, 35, 5] {
            days.count(day);
        }
        assert_eq!((days.count_of(5), days.count_of(35)), (3, 1));
    }

    #[test]
    fn a_clock_that_steps_over_midnight_renews_no_quota_twice() {
        let mut tenant = given([registered("Acme", Tier::Free), key_issued(K1), published(HELLO)]).by(K1);
        let use_up = |tenant: &mut Given, from: Timestamp| {
            for minute in 0..20 {
                let (count, _) = admitted_until_refused(tenant, from.plus_ms(minute * 60_000));
                assert_eq!(count, 5);
            }
        };
        use_up(&mut tenant, NOON);
        let later = NOON.plus_ms(3_600_000);
        for back in 0..3 {
            assert!(matches!(tenant.admit_and_end(later), Err(Refusal::DailyQuotaUsed { .. })), "{back}");
            tenant.step_wall_ms(86_400_000);
            if back == 0 {
                use_up(&mut tenant, later);
            }
            let after = later.plus_ms(3_600_000);
            assert!(matches!(tenant.admit_and_end(after), Err(Refusal::DailyQuotaUsed { .. })), "{back}");
            tenant.step_wall_ms(-86_400_000);
        }
    }
}
