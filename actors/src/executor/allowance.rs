//! The processor time that compiling the modules of one tenant may take: a token bucket of it for each.
//!
//! What a compilation costs is known when it has ended, however it ended. So a tenant whose bucket is not empty may
//! have one compiled, and what that took is charged then, also where it is more than was left. A tenant never owes more
//! than what one compilation took, however many were charged that were not asked for here.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use wasmwiz_events::id::TenantId;

/// How many are remembered before those whose buckets are full again are looked for.
const REMEMBERED: usize = 1_024;

/// A tenant's bucket is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Empty {
    /// What comes back in a minute, in milliseconds of processor time.
    pub(crate) ms_per_minute: u64,
    /// When there is something in it, in milliseconds.
    pub(crate) retry_after_ms: u64,
}

pub(crate) struct Allowance {
    /// What comes back in a minute; 0 is without a limit.
    ms_per_minute: u64,
    /// How long an empty bucket takes to be full.
    fill: Duration,
    /// When each is full again. One that is full is as good as not here.
    full_at: Mutex<HashMap<TenantId, Instant>>,
}

impl Allowance {
    /// Buckets of `burst_ms` of processor time, to each of which so much comes back in a minute. 0 is without a limit.
    pub(crate) fn new(ms_per_minute: u64, burst_ms: u64) -> Self {
        let mut made = Self { ms_per_minute, fill: Duration::ZERO, full_at: Mutex::default() };
        made.fill = made.comes_back_in(Duration::from_millis(burst_ms));
        made
    }

    fn comes_back_in(&self, cpu: Duration) -> Duration {
        // Nothing is for nothing.
        let ms = cpu.as_millis().max(1).saturating_mul(60_000).div_ceil(u128::from(self.ms_per_minute.max(1)));
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// May a module of this tenant be compiled?
    pub(crate) fn has_some(&self, tenant: &TenantId, now: Instant) -> Result<(), Empty> {
        let full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = full_at.get(tenant) else { return Ok(()) };
        let missing = at.saturating_duration_since(now);
        match missing.checked_sub(self.fill) {
            Some(owed) if self.ms_per_minute > 0 => {
                let retry_after_ms = u64::try_from(owed.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
                Err(Empty { ms_per_minute: self.ms_per_minute, retry_after_ms })
            }
            _ => Ok(()),
        }
    }

    /// Charges a tenant what a compilation took. It owes no more than that afterwards, unless it did before.
    pub(crate) fn charge(&self, tenant: &TenantId, cpu: Duration, now: Instant) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if full_at.len() >= REMEMBERED {
            full_at.retain(|_, at| *at > now);
        }
        let at = full_at.entry(tenant.clone()).or_insert(now);
        let comes_back = self.comes_back_in(cpu);
        let most = now.checked_add(self.fill.saturating_add(comes_back));
        let charged = (*at).max(now).checked_add(comes_back);
        *at = charged.zip(most).map_or(*at, |(charged, most)| charged.min(most).max(*at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> TenantId {
        TenantId::new(id).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_compiles_until_its_bucket_is_empty_and_owes_what_the_last_one_took() {
        let allowance = Allowance::new(10_000, 60_000);
        let (flood, other, now) = (tenant("flood"), tenant("other"), Instant::now());
        for _ in 0..6 {
            assert_eq!(allowance.has_some(&flood, now), Ok(()));
            allowance.charge(&flood, Duration::from_secs(9), now);
        }
        assert_eq!(allowance.has_some(&flood, now), Ok(()), "6 seconds are left");
        allowance.charge(&flood, Duration::from_secs(9), now);
        // 3 seconds are owed, a sixth of a second comes back in each.
        let empty = Empty { ms_per_minute: 10_000, retry_after_ms: 18_001 };
        assert_eq!(allowance.has_some(&flood, now), Err(empty));
        assert_eq!(allowance.has_some(&other, now), Ok(()));
        assert_eq!(allowance.has_some(&flood, now + Duration::from_millis(18_001)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_owes_what_one_took_however_many_were_charged() {
        // Given a tenant all of whose modules are compiled again for executions that are admitted already.
        let allowance = Allowance::new(10_000, 60_000);
        let (tenant, now) = (tenant("upgraded"), Instant::now());
        for _ in 0..100 {
            allowance.charge(&tenant, Duration::from_secs(9), now);
        }
        // Nine seconds come back in six times as many.
        let empty = Empty { ms_per_minute: 10_000, retry_after_ms: 54_001 };
        assert_eq!(allowance.has_some(&tenant, now), Err(empty));
        // A small one forgives nothing.
        allowance.charge(&tenant, Duration::from_millis(1), now);
        assert_eq!(allowance.has_some(&tenant, now), Err(empty));
        assert_eq!(allowance.has_some(&tenant, now + Duration::from_millis(54_001)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_is_refused() {
        let (allowance, now) = (Allowance::new(0, 60_000), Instant::now());
        for _ in 0..100 {
            allowance.charge(&tenant("flood"), Duration::from_secs(10), now);
        }
        assert_eq!(allowance.has_some(&tenant("flood"), now), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_full_bucket_again_is_forgotten() {
        let (allowance, now) = (Allowance::new(60_000, 1_000), Instant::now());
        for number in 0..REMEMBERED {
            allowance.charge(&tenant(&format!("t-{number}")), Duration::from_millis(1), now);
        }
        allowance.charge(&tenant("last"), Duration::from_millis(1), now + Duration::from_secs(1));
        assert_eq!(allowance.full_at.lock().unwrap().len(), 1);
    }
}
