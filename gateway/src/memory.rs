//! The memory that requests and answers take: counted before it is taken, and for as long as it is, in a [`Ledger`].

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};
use wasmwiz_events::id::TenantId;

use crate::{
    config::GatewayConfig,
    metrics,
    problem::{Kind, Problem},
    shares::{Bounds, ConnectionId, Full, Holder, Ledger, Purpose},
};

/// The unit in which memory is shared out, in bytes.
const UNIT_BYTES: u64 = 1_024;

/// When to try again while bodies take all the memory they may, in milliseconds.
pub(crate) const RETRY_MS: u64 = 1_000;

/// How long an answer waits for room before it is given up, in milliseconds: what holds memory is mostly sent sooner.
const ROOM_WAIT_MS: u64 = 2_000;

/// The memory that all requests and answers share. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    /// Locked for an addition, never across a wait.
    ledger: Mutex<Ledger>,
    /// Told when something is given back.
    freed: Notify,
}

impl Memory {
    /// The memory that the settings allow.
    pub(crate) fn of(config: &GatewayConfig) -> Self {
        Self::new(Bounds {
            node_bytes: config.bodies_bytes_max,
            tenant_bytes: config.bodies_bytes_per_tenant_max,
            connection_bytes: config.bodies_bytes_per_connection_max,
            reserved_bytes: config.bodies_bytes_reserved,
        })
    }

    fn new(bounds: Bounds) -> Self {
        let up = |bytes: u64| bytes.div_ceil(UNIT_BYTES).saturating_mul(UNIT_BYTES);
        let Bounds { node_bytes, tenant_bytes, connection_bytes, reserved_bytes } = bounds;
        let bounds = Bounds {
            node_bytes: up(node_bytes),
            tenant_bytes: up(tenant_bytes),
            connection_bytes: up(connection_bytes),
            reserved_bytes: up(reserved_bytes),
        };
        Self(Arc::new(Pool { ledger: Mutex::new(Ledger::new(bounds)), freed: Notify::new() }))
    }

    /// What a tenant may have of it for its work, over this connection.
    pub(crate) fn share(&self, tenant: &TenantId, connection: Option<ConnectionId>) -> Share {
        let holder = Holder { tenant: tenant.clone(), connection };
        Share { pool: Arc::clone(&self.0), holder, reserve: None }
    }
}

impl Pool {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // What it guards is whole after every statement.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one tenant may take of the memory.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pool: Arc<Pool>,
    holder: Holder,
    /// For what it may take from the reserve, where its share is used up.
    reserve: Option<Purpose>,
}

impl Share {
    /// The same, with a part of the reserve where there is no room otherwise: for cheap requests that must always be answered.
    #[must_use]
    pub(crate) fn with_reserve(self, purpose: Purpose) -> Self {
        Self { reserve: Some(purpose), ..self }
    }

    /// Room for `bytes`, if there is any.
    pub(crate) fn room(&self, bytes: u64) -> Result<Room, Problem> {
        let mut room = self.no_room();
        room.grow_to(bytes)?;
        Ok(room)
    }

    /// Room for the `bytes` of an answer to what was done already, waiting for it a moment. Those that wait have their
    /// outputs in memory meanwhile, uncounted: as many as ran, for no longer than that.
    pub(crate) async fn room_in_time(&self, bytes: u64) -> Result<Room, Problem> {
        let deadline = Instant::now() + Duration::from_millis(ROOM_WAIT_MS);
        let mut room = self.no_room();
        loop {
            let mut freed = pin!(self.pool.freed.notified());
            // From here on nothing that is given back is missed.
            freed.as_mut().enable();
            match room.try_grow_to(bytes) {
                Ok(()) => return Ok(room),
                Err(Full::Always) => return Err(Full::Always.into()),
                Err(full) => tokio::time::timeout_at(deadline, freed).await.map_err(|_| full)?,
            }
        }
    }

    fn no_room(&self) -> Room {
        Room { share: self.clone(), work_bytes: 0, reserve_bytes: 0 }
    }
}

/// Room for one body or answer; it is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    share: Share,
    work_bytes: u64,
    /// Of the reserve.
    reserve_bytes: u64,
}

impl Room {
    /// How much it is, in bytes.
    pub(crate) const fn bytes(&self) -> u64 {
        self.work_bytes.saturating_add(self.reserve_bytes)
    }

    /// Takes more room, until it is for `bytes`, if there is any.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> Result<(), Problem> {
        Ok(self.try_grow_to(bytes)?)
    }

    fn try_grow_to(&mut self, bytes: u64) -> Result<(), Full> {
        if bytes <= self.bytes() {
            return Ok(());
        }
        let more = bytes.saturating_sub(self.bytes()).div_ceil(UNIT_BYTES).saturating_mul(UNIT_BYTES);
        let Share { pool, holder, reserve } = &self.share;
        let mut ledger = pool.ledger();
        // What is there already does not make it fit.
        if !ledger.fits(bytes) {
            return Err(Full::Always);
        }
        match (ledger.take(holder, Purpose::Work, more), reserve) {
            (Ok(()), _) => self.work_bytes = self.work_bytes.saturating_add(more),
            (Err(full), Some(purpose)) => {
                ledger.take(holder, *purpose, more).map_err(|_| full)?;
                self.reserve_bytes = self.reserve_bytes.saturating_add(more);
            }
            (Err(full), None) => return Err(full),
        }
        ::metrics::gauge!(metrics::BODY_BYTES).increment(gauged(more));
        Ok(())
    }

    /// Gives back what it has beyond `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let kept = bytes.div_ceil(UNIT_BYTES).saturating_mul(UNIT_BYTES);
        let less = self.bytes().saturating_sub(kept);
        if less > 0 {
            // The reserve first: others wait for it.
            let reserve_bytes = less.min(self.reserve_bytes);
            self.give_back(less.saturating_sub(reserve_bytes), reserve_bytes);
        }
    }

    fn give_back(&mut self, work_bytes: u64, reserve_bytes: u64) {
        let Share { pool, holder, reserve } = &self.share;
        {
            let mut ledger = pool.ledger();
            ledger.give_back(holder, Purpose::Work, work_bytes);
            if let Some(purpose) = reserve {
                ledger.give_back(holder, *purpose, reserve_bytes);
            }
        }
        self.work_bytes = self.work_bytes.saturating_sub(work_bytes);
        self.reserve_bytes = self.reserve_bytes.saturating_sub(reserve_bytes);
        pool.freed.notify_waiters();
        ::metrics::gauge!(metrics::BODY_BYTES).decrement(gauged(work_bytes.saturating_add(reserve_bytes)));
    }

    /// Ties the room to `bytes`: it lasts as long as they do.
    pub(crate) fn keep(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Kept { bytes, _room: self })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes() > 0 {
            self.give_back(self.work_bytes, self.reserve_bytes);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is of floating point")]
fn gauged(bytes: u64) -> f64 {
    bytes as f64
}

/// Bytes of an answer and the room for them, which is given back once they have been sent.
struct Kept {
    bytes: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Full {
    /// Its name, for programs.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant-share",
            Self::Connection => "connection-share",
            Self::Crowded => "crowded",
            Self::Node => "node",
            Self::Always => "never-fits",
        }
    }
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        let detail = match full {
            Full::Tenant => {
                "The bodies of this tenant take all the memory of this node that one tenant may have. Try again after \
                 the pause."
            }
            Full::Connection => {
                "The bodies of this connection take all the memory of this node that one connection may have. Read the \
                 answers that are under way, and try again after the pause."
            }
            Full::Crowded => {
                "The bodies of other tenants leave less than this takes and one tenant may have of it. Try again after the pause."
            }
            Full::Node => {
                "The bodies that are on their way take all the memory of this node they may. Try again after the pause."
            }
            Full::Always => {
                return Self::new(
                    Kind::TooManyBodies,
                    "It takes more memory than one tenant may have on this node. Read the outputs of an execution by \
                     themselves, under /stdout and /stderr, or ask the operator for a larger \
                     gateway.bodies_bytes_per_tenant_max.",
                )
                .because(full.as_str());
            }
        };
        Self::new(Kind::TooManyBodies, detail).retry_after_ms(RETRY_MS).because(full.as_str())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! Memory of one size for all, for the tests of this crate.

    use super::*;

    /// Memory of so many bytes without a reserve, of which one tenant may have `tenant_bytes`, also over one connection.
    pub(crate) fn memory(node_bytes: u64, tenant_bytes: u64) -> Memory {
        Memory::new(Bounds { node_bytes, tenant_bytes, connection_bytes: tenant_bytes, reserved_bytes: 0 })
    }

    /// What is for a tenant, over no connection.
    pub(crate) fn share(memory: &Memory, tenant: &str) -> Share {
        memory.share(&TenantId::new(tenant).unwrap(), None)
    }

    #[test]
    fn one_tenant_does_not_take_all_memory() {
        let memory = memory(4 * 1_024, 2 * 1_024);
        let (one, other) = (share(&memory, "t-a"), share(&memory, "t-b"));
        let held = one.room(2 * 1_024).unwrap();
        assert_eq!(one.room(1).unwrap_err().kind(), Kind::TooManyBodies);
        assert!(other.room(2 * 1_024).is_ok());
        drop(held);
        let _held = (one.room(2 * 1_024).unwrap(), other.room(2 * 1_024).unwrap());
        // What the node has no room for is not counted for the tenant.
        assert!(share(&memory, "t-c").room(1).is_err());
        assert_eq!(memory.0.ledger().used(), 4 * 1_024);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_a_moment_for_room_and_no_longer() {
        let share = share(&memory(1_024, 1_024), "t-a");
        let held = share.room(1).unwrap();
        assert_eq!(share.room_in_time(1).await.unwrap_err().kind(), Kind::TooManyBodies);
        let give_back = async {
            tokio::time::sleep(Duration::from_millis(ROOM_WAIT_MS / 2)).await;
            drop(held);
        };
        let (room, ()) = tokio::join!(share.room_in_time(1), give_back);
        assert!(room.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_fits_is_not_waited_for() {
        let share = share(&memory(4 * 1_024, 2 * 1_024), "t-a");
        let begun = Instant::now();
        let problem = share.room_in_time(2 * 1_024 + 1).await.unwrap_err();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(problem.detail().contains("/stdout"), "{problem:?}");
    }

    #[test]
    fn room_for_an_answer_lasts_as_long_as_its_bytes() {
        let share = share(&memory(1_024, 1_024), "t-a");
        let bytes = share.room(3).unwrap().keep(Bytes::from_static(b"abc"));
        let part = bytes.slice(1..);
        drop(bytes);
        assert!(share.room(1).is_err());
        assert_eq!(part, "bc");
        drop(part);
        assert!(share.room(1).is_ok());
    }

    #[test]
    fn control_takes_from_the_reserve_what_its_tenant_has_no_room_for() {
        let bounds = Bounds {
            node_bytes: 8 * 1_024,
            tenant_bytes: 4 * 1_024,
            connection_bytes: 4 * 1_024,
            reserved_bytes: 4 * 1_024,
        };
        let memory = Memory::new(bounds);
        let work = share(&memory, "t-a");
        let (control, operator) = (work.clone().with_reserve(Purpose::Control), share(&memory, "system"));
        let operator = operator.with_reserve(Purpose::Operation);
        let held = work.room(4 * 1_024).unwrap();
        assert!(work.room(1).is_err() && share(&memory, "t-b").room(1).is_err());
        let mut kept = control.room(1_024).unwrap();
        kept.grow_to(2 * 1_024).unwrap();
        assert!(control.room(1).is_err(), "the rest is for operators");
        assert!(operator.room(2 * 1_024).is_ok());
        drop(held);
        let work_again = work.room(2 * 1_024).unwrap();
        assert_eq!(kept.reserve_bytes, 2 * 1_024, "what is taken stays what it is");
        drop((kept, work_again));
        assert_eq!(memory.0.ledger().used(), 0);
    }
}
