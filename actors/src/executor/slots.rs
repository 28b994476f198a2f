//! How many guests may run on this node at once, and who waits for a place: [`places`](super::places) says whose turn it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    metrics,
    places::{Place, Places, Whose},
};

/// The right to run one guest. Dropped, it is the next one's.
#[derive(Debug)]
pub struct Slot {
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Place { place: Place },
    Spare { _permit: OwnedSemaphorePermit },
}

impl Slot {
    /// Whose guest it is for; `None` for the one of the health check, which takes nothing that others need.
    pub(crate) const fn whose(&self) -> Option<&Whose> {
        match &self.kept {
            Kept::Place { place } => Some(place.whose()),
            Kept::Spare { .. } => None,
        }
    }
}

/// The node runs as many guests as it may, or as many of this tenant, and enough requests wait already; or guests of
/// this tenant that run here wait for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node runs as many guests as it may, or as many of this tenant, or guests of this tenant wait for memory; try \
     again in {retry_after_ms} ms"
)]
pub struct Busy {
    /// When it makes sense to try again, in milliseconds.
    pub retry_after_ms: u64,
}

pub(crate) struct Slots {
    places: Arc<Places>,
    /// Apart from the others, so that a full node can still tell that it works.
    spare: Arc<Semaphore>,
    wait: Duration,
}

impl Slots {
    pub(crate) fn new(places_max: u32, waiting_max: u32, wait: Duration) -> Self {
        Self { places: Places::new(places_max, waiting_max), spare: Arc::new(Semaphore::new(1)), wait }
    }

    /// A place, at once or after waiting in line.
    pub(crate) async fn reserve(&self, whose: Whose) -> Result<Slot, Busy> {
        let started = Instant::now();
        let place = match self.places.enter(&whose) {
            Some(place) => Some(place),
            None => tokio::time::timeout(self.wait, self.places.acquire(&whose)).await.ok().flatten(),
        };
        ::metrics::histogram!(metrics::EXECUTOR_WAIT_SECONDS).record(started.elapsed().as_secs_f64());
        place.map(|place| Slot { kept: Kept::Place { place } }).ok_or_else(|| {
            // That a tenant has its share is its own affair, and not the node's.
            if self.places.are_taken() {
                ::metrics::counter!(metrics::EXECUTOR_BUSY_TOTAL).increment(1);
            }
            Busy { retry_after_ms: u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX).max(100) }
        })
    }

    /// The place of the health check.
    pub(crate) async fn spare(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.spare).acquire_owned().await.ok()?;
        Some(Slot { kept: Kept::Spare { _permit: permit } })
    }

    /// Lets nobody in any more, and waits until nobody runs.
    pub(crate) async fn drain(&self, deadline: Duration) -> bool {
        self.places.close();
        let drained = tokio::time::timeout(deadline, self.places.empty()).await.is_ok();
        self.spare.close();
        drained
    }
}

/// One of those who wait in a bounded line.
pub(crate) struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    /// `None` when `max` wait already.
    pub(crate) fn enter(line: &'a AtomicU32, max: u32) -> Option<Self> {
        line.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| (waiting < max).then_some(waiting + 1))
            .ok()
            .map(|_| Self(line))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
