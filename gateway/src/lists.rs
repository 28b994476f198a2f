//! Whose turn it is to have a page of a list read and written down.
//!
//! A page may take milliseconds of a processor, and one connection asks for a hundred at once. A tenant's pages are made a few at a time, one on
//! a small machine, so that a tenant that lists a lot leaves the other processors to everybody else. Its turn is over when its page is ready to
//! be sent: a client that does not read holds memory, and no turn.

use std::{num::NonZero, sync::Arc, thread, time::Duration};

use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use wasmwiz_actors::shares::{Place, Shares};
use wasmwiz_events::id::TenantId;

use crate::{
    problem::{Kind, Problem},
    rate_limit::RateLimit,
};

/// Of so many processors, one makes pages of one tenant.
const PROCESSORS_PER_TURN: usize = 4;

/// Pages of one tenant that wait for their turn, beside those that have it: a few connections that ask for as many at once as one may.
const WAITING_MAX: usize = 512;

/// How long a page waits for its turn.
const WAIT: Duration = Duration::from_secs(10);

/// When to try again while a tenant has too many pages made, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The turns of all tenants.
pub(crate) struct Lists(Arc<Shares>);

/// A turn. Dropped, it is the next one's.
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: Place,
}

impl Default for Lists {
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self::new(processors / PROCESSORS_PER_TURN, WAITING_MAX)
    }
}

impl Lists {
    fn new(at_once: usize, waiting_max: usize) -> Self {
        Self(Shares::new(at_once, waiting_max))
    }

    /// The tenant's next turn, in the order in which its pages were asked for.
    ///
    /// # Errors
    /// A problem, when it has too many waiting already, or waited for too long.
    pub(crate) async fn turn(&self, tenant: &TenantId) -> Result<Turn, Problem> {
        let place = self.0.enter(tenant, false).map_err(|full| too_many(full.limit))?;
        match timeout(WAIT, place.turn()).await {
            Ok(Some(turn)) => Ok(Turn { _turn: turn, _place: place }),
            _ => Err(too_many(place.limit())),
        }
    }
}

fn too_many(limit: usize) -> Problem {
    let detail = "This tenant has too many pages of lists made at the moment. Ask for fewer at the same time, and try again after the pause.";
    let problem = Problem::new(Kind::RateLimited, detail).because("lists-share");
    RateLimit::used_up("lists", limit as u64, None, RETRY_MS).refuse(problem)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    fn tenant(id: &str) -> TenantId {
        TenantId::new(id).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_lists_a_lot_waits_for_itself_and_nobody_else_does() {
        // Given a tenant whose page is being made, and another of it that waits
        let (lists, acme) = (Lists::new(0, 1), tenant("acme"));
        let first = lists.turn(&acme).await.unwrap();
        let mut second = Box::pin(lists.turn(&acme));
        assert!(second.as_mut().now_or_never().is_none());

        // When it asks for one more, then that is refused at once, and another tenant's is not
        let begun = Instant::now();
        let refused = lists.turn(&acme).await.err().unwrap();
        assert_eq!((refused.kind(), begun.elapsed()), (Kind::RateLimited, Duration::ZERO));
        assert!(lists.turn(&tenant("ajax")).await.is_ok());

        // And when the first is ready, then the second has its turn
        drop(first);
        assert!(second.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_does_not_wait_for_ever() {
        let (lists, acme) = (Lists::new(1, 1), tenant("acme"));
        let _held = lists.turn(&acme).await.unwrap();
        let begun = Instant::now();
        assert!(lists.turn(&acme).await.is_err());
        assert_eq!(begun.elapsed(), WAIT);
        // It has left the line.
        assert!(lists.turn(&acme).now_or_never().is_none());
    }
}
