//! How much memory one guest may hold.

use std::sync::Arc;

use tokio::time::Instant;
use wasmtime::ResourceLimiter;

use super::{
    budget::{Account, Full, Held},
    engine::TABLE_ELEMENTS_MAX,
};

/// Why a guest did not get what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// More linear memory than this execution may have.
    Memory { desired_bytes: u64, limit_bytes: u64 },
    /// More linear memory than any guest may have on this node.
    Node { desired_bytes: u64, most_bytes: u64 },
    /// The guests of this tenant, or of this node, hold what they may now. The guest learns of it only where it is too
    /// late to run it again.
    Now(Full),
    /// More table elements than any guest may have.
    Table { desired: usize },
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory { desired_bytes, limit_bytes } => {
                write!(f, "the guest wanted {desired_bytes} bytes of memory and may have {limit_bytes}")
            }
            Self::Node { desired_bytes, most_bytes } => write!(
                f,
                "the guest wanted {desired_bytes} bytes of memory, and this node has {most_bytes} for one guest; its \
                 operator can raise executor.memory_budget_bytes"
            ),
            Self::Now(full) => write!(f, "{full}"),
            Self::Table { desired } => {
                write!(f, "the guest wanted a table of {desired} elements and may have {TABLE_ELEMENTS_MAX}")
            }
        }
    }
}

/// What ends a guest that wants memory which others hold now.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("there is no memory for the guest now")]
struct SetBack;

/// The limits of one guest. Growth beyond them answers -1 to the guest, as WebAssembly has it, and is remembered. What
/// depends on others ends it instead, so that it can be run again, as long as it is early enough for that.
#[derive(Debug)]
pub(crate) struct Limiter {
    held: Held,
    limit_bytes: u64,
    /// Until when it may be run again.
    until: Instant,
    set_back: Option<Full>,
    /// What the latest growth added: undone when the engine then fails to do it.
    latest_bytes: u64,
    peak_bytes: u64,
    denied: Option<Denied>,
    is_short: bool,
}

impl Limiter {
    pub(crate) const fn new(account: Arc<Account>, limit_bytes: u64, until: Instant) -> Self {
        Self {
            held: Held::nothing_of(account),
            limit_bytes,
            until,
            set_back: None,
            latest_bytes: 0,
            peak_bytes: 0,
            denied: None,
            is_short: false,
        }
    }

    /// The most linear memory the guest held, in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    /// What the guest asked for last and did not get.
    pub(crate) fn denied(&self) -> Option<Denied> {
        self.denied
    }

    /// Why it was ended to be run again, if it was.
    pub(crate) const fn set_back(&self) -> Option<Full> {
        self.set_back
    }

    /// Did the host once have less for the guest than it may have? Elsewhere, or later, it might have gone on otherwise.
    pub(crate) const fn is_short(&self) -> bool {
        self.is_short
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.latest_bytes = 0;
        let desired_bytes = desired as u64;
        if desired_bytes > self.limit_bytes {
            self.denied = Some(Denied::Memory { desired_bytes, limit_bytes: self.limit_bytes });
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false); // The module's own maximum: no denial of ours.
        }
        let more = desired_bytes.saturating_sub(self.held.bytes());
        match self.held.grow(more) {
            Ok(()) => {}
            // Whatever it does without is its own, but elsewhere it might have more.
            Err(Full::Never { most_bytes }) => {
                (self.denied, self.is_short) = (Some(Denied::Node { desired_bytes, most_bytes }), true);
                return Ok(false);
            }
            Err(full @ (Full::Tenant | Full::Node)) => {
                self.denied = Some(Denied::Now(full));
                if Instant::now() < self.until {
                    self.set_back = Some(full);
                    return Err(SetBack.into());
                }
                self.is_short = true;
                return Ok(false);
            }
        }
        self.latest_bytes = more;
        self.peak_bytes = self.peak_bytes.max(self.held.bytes());
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.held.shrink(self.latest_bytes);
        self.latest_bytes = 0;
        self.is_short = true;
        Ok(())
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = desired <= TABLE_ELEMENTS_MAX;
        if !granted {
            self.denied = Some(Denied::Table { desired });
        }
        Ok(granted)
    }

    fn instances(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wasmwiz_events::id::TenantId;

    use super::*;
    use crate::executor::budget::MemoryBudget;

    fn limiter(budget: &Arc<MemoryBudget>, limit_bytes: u64) -> Limiter {
        Limiter::new(budget.account(None), limit_bytes, Instant::now() + Duration::from_secs(3_600))
    }

    #[test]
    fn a_guest_learns_of_its_own_limit_and_not_of_what_others_hold() {
        let budget = MemoryBudget::new(100);
        let (mut first, mut second) = (limiter(&budget, 80), limiter(&budget, 80));
        assert!(first.memory_growing(0, 60, None).unwrap());
        assert!(second.memory_growing(0, 60, None).is_err(), "it is ended");
        assert_eq!((second.denied(), second.set_back()), (Some(Denied::Now(Full::Tenant)), Some(Full::Tenant)));
        drop((first, second));
        let mut again = limiter(&budget, 80);
        assert!(again.memory_growing(0, 60, None).unwrap());
        assert!(!again.memory_growing(60, 90, None).unwrap());
        assert_eq!(again.denied(), Some(Denied::Memory { desired_bytes: 90, limit_bytes: 80 }));
        assert!(!again.is_short());
        drop(again);
        assert_eq!(budget.state().0, 0);
    }

    #[test]
    fn what_no_guest_gets_on_this_node_is_refused_and_remembered() {
        let budget = MemoryBudget::new(160);
        let account = budget.account(Some(TenantId::new("t-a").unwrap()));
        let mut guest = Limiter::new(account, 1_000, Instant::now());
        assert!(guest.memory_growing(0, 100, None).unwrap());
        assert!(!guest.memory_growing(100, 101, None).unwrap());
        assert_eq!(guest.denied(), Some(Denied::Node { desired_bytes: 101, most_bytes: 100 }));
        assert!(guest.is_short(), "whatever comes after");
    }

    #[test]
    fn a_guest_that_is_too_old_to_be_run_again_is_told_and_goes_on() {
        let budget = MemoryBudget::new(100);
        let mut first = limiter(&budget, 80);
        assert!(first.memory_growing(0, 60, None).unwrap());
        let mut old = Limiter::new(budget.account(None), 80, Instant::now());
        assert!(old.memory_growing(0, 30, None).unwrap());
        assert!(!old.memory_growing(30, 50, None).unwrap());
        assert_eq!((old.denied(), old.set_back()), (Some(Denied::Now(Full::Tenant)), None));
        assert!(old.is_short(), "elsewhere it might have had it");
        drop(first);
        assert!(old.memory_growing(30, 50, None).unwrap());
    }

    #[test]
    fn a_growth_that_the_engine_could_not_do_is_given_back() {
        let budget = MemoryBudget::new(100);
        let mut limiter = limiter(&budget, 100);
        assert!(limiter.memory_growing(0, 10, None).unwrap());
        assert!(limiter.memory_growing(10, 50, None).unwrap());
        limiter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert_eq!(budget.state().0, 10);
    }
}
