//! How many guests may run on this node at once, and who waits for a place.

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

use super::metrics;

/// The right to run one guest. Dropped, it is the next one's.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// The node runs as many guests as it may, and enough requests wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node runs as many guests as it may; try again in {retry_after_ms} ms")]
pub struct Busy {
    /// When it makes sense to try again, in milliseconds.
    pub retry_after_ms: u64,
}

pub(crate) struct Slots {
    places: Arc<Semaphore>,
    /// Apart from the others, so that a full node can still tell that it works.
    spare: Arc<Semaphore>,
    waiting: AtomicU32,
    waiting_max: u32,
    wait: Duration,
    places_max: u32,
}

impl Slots {
    pub(crate) fn new(places_max: u32, waiting_max: u32, wait: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places_max as usize)),
            spare: Arc::new(Semaphore::new(1)),
            waiting: AtomicU32::new(0),
            waiting_max,
            wait,
            places_max,
        }
    }

    /// A place, at once or after waiting in line.
    pub(crate) async fn reserve(&self) -> Result<Slot, Busy> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            ::metrics::histogram!(metrics::EXECUTOR_WAIT_SECONDS).record(0.0);
            return Ok(Slot { _permit: permit });
        }
        let started = Instant::now();
        let permit = self.wait_in_line().await;
        ::metrics::histogram!(metrics::EXECUTOR_WAIT_SECONDS).record(started.elapsed().as_secs_f64());
        permit.map(|permit| Slot { _permit: permit }).ok_or_else(|| {
            ::metrics::counter!(metrics::EXECUTOR_BUSY_TOTAL).increment(1);
            Busy { retry_after_ms: u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX).max(100) }
        })
    }

    async fn wait_in_line(&self) -> Option<OwnedSemaphorePermit> {
        let _place_in_line = Waiting::enter(&self.waiting, self.waiting_max)?;
        tokio::time::timeout(self.wait, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok()
    }

    /// The place of the health check.
    pub(crate) async fn spare(&self) -> Option<Slot> {
        Arc::clone(&self.spare).acquire_owned().await.ok().map(|permit| Slot { _permit: permit })
    }

    /// Waits until nobody runs, and lets nobody in any more.
    pub(crate) async fn drain(&self, deadline: Duration) -> bool {
        let drained = tokio::time::timeout(deadline, self.places.acquire_many(self.places_max)).await.is_ok();
        self.places.close();
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
