//! May an answer still go to its client? It is asked again while the answer is on its way.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// What an answer rests on; it travels with it. Clones share it.
#[derive(Clone)]
pub(crate) struct Lease(Arc<dyn Fn() -> bool + Send + Sync>);

impl Lease {
    /// One that holds for as long as `holds` says so. It must not wait.
    pub(crate) fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }

    /// Does it hold?
    pub(crate) fn holds(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease(…)")
    }
}

/// What the answer to a request will rest on, as soon as it is known who asks. It travels with the request; clones
/// share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asking(Arc<OnceLock<Lease>>);

impl Asking {
    /// Now it is known. The first word counts.
    pub(crate) fn rests_on(&self, lease: Lease) {
        let _ = self.0.set(lease);
    }

    /// Is it known who asks, and may that answer go out?
    pub(crate) fn holds(&self) -> bool {
        self.0.get().is_some_and(Lease::holds)
    }
}
