//! How much memory a guest may hold, and all guests together.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use wasmtime::ResourceLimiter;

use super::engine::TABLE_ELEMENTS_MAX;

/// What all guests of the node hold: linear memory and outputs. Taken at growth, given back when it is gone.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    used_bytes: AtomicU64,
    max_bytes: u64,
}

impl MemoryBudget {
    pub(crate) fn new(max_bytes: u64) -> Arc<Self> {
        Arc::new(Self { used_bytes: AtomicU64::new(0), max_bytes })
    }

    /// What all guests hold now, in bytes.
    #[cfg(test)]
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// What is held, and the most that may be, in bytes.
    pub(crate) fn state(&self) -> (u64, u64) {
        (self.used_bytes.load(Ordering::Relaxed), self.max_bytes)
    }

    fn take(&self, bytes: u64) -> bool {
        self.used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.max_bytes)
            })
            .is_ok()
    }

    fn give(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one holder has taken of the budget. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl Held {
    pub(crate) const fn nothing_of(budget: Arc<MemoryBudget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Takes `more` bytes, if the budget has as much left.
    pub(crate) fn grow(&mut self, more: u64) -> bool {
        let granted = self.budget.take(more);
        if granted {
            self.bytes += more;
        }
        granted
    }

    /// Gives back `bytes` of them.
    fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.budget.give(bytes);
        self.bytes -= bytes;
    }

    /// How many it has.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What they were taken from.
    pub(crate) fn budget(&self) -> Arc<MemoryBudget> {
        Arc::clone(&self.budget)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

/// Why a guest did not get what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// More linear memory than this execution may have.
    Memory { desired_bytes: u64, limit_bytes: u64 },
    /// The node's guests together hold all they may.
    Node,
    /// More table elements than any guest may have.
    Table { desired: usize },
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory { desired_bytes, limit_bytes } => {
                write!(f, "the guest wanted {desired_bytes} bytes of memory and may have {limit_bytes}")
            }
            Self::Node => f.write_str("the guests of this node hold all the memory they may have together"),
            Self::Table { desired } => {
                write!(f, "the guest wanted a table of {desired} elements and may have {TABLE_ELEMENTS_MAX}")
            }
        }
    }
}

/// The limits of one guest. Growth beyond them answers -1 to the guest, as WebAssembly has it, and is remembered.
#[derive(Debug)]
pub(crate) struct Limiter {
    held: Held,
    limit_bytes: u64,
    /// What the latest growth added: undone when the engine then fails to do it.
    latest_bytes: u64,
    peak_bytes: u64,
    denied: Option<Denied>,
    is_short: bool,
}

impl Limiter {
    pub(crate) fn new(budget: Arc<MemoryBudget>, limit_bytes: u64) -> Self {
        Self {
            held: Held::nothing_of(budget),
            limit_bytes,
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
        if !self.held.grow(more) {
            (self.denied, self.is_short) = (Some(Denied::Node), true);
            return Ok(false);
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
    use super::*;

    #[test]
    fn the_nodes_budget_is_shared_and_given_back() {
        let budget = MemoryBudget::new(100);
        let mut first = Limiter::new(Arc::clone(&budget), 80);
        let mut second = Limiter::new(Arc::clone(&budget), 80);
        assert!(first.memory_growing(0, 60, None).unwrap());
        assert!(!second.memory_growing(0, 60, None).unwrap());
        assert_eq!(second.denied(), Some(Denied::Node));
        drop(first);
        assert!(second.memory_growing(0, 60, None).unwrap());
        assert!(!second.memory_growing(60, 90, None).unwrap());
        assert_eq!(second.denied(), Some(Denied::Memory { desired_bytes: 90, limit_bytes: 80 }));
        assert!(second.is_short(), "it was once, whatever came after");
        drop(second);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_growth_that_the_engine_could_not_do_is_given_back() {
        let budget = MemoryBudget::new(100);
        let mut limiter = Limiter::new(Arc::clone(&budget), 100);
        assert!(limiter.memory_growing(0, 10, None).unwrap());
        assert!(limiter.memory_growing(10, 50, None).unwrap());
        limiter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert_eq!(budget.used_bytes(), 10);
    }
}
