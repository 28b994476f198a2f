//! Bytes that are kept before the commit that names them: in their tenant's turn, which lasts until that is decided.
//!
//! ```text
//! tenant's turn ─► would it be refused? ─► node's place ─► kept ─► decided ─► the next one's turn
//! ```
//! So whoever looks finds decided what was kept before, but for the few that have their turns at the same time. What is refused all
//! the same stays, and is counted for nobody: another request of its tenant, which keeps nothing, may have had the last token or the last
//! room between. How much that may be in an hour is bounded.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use wasmwiz_events::{digest::Digest, id::TenantId};

use super::{DispatchError, Shared};
use crate::{
    handle::AskError,
    shares::{Full, Place, Shares},
};

/// Modules and inputs that are written at the same time: each is in memory as a whole.
const PLACES: usize = 16;

/// Of them, modules of one tenant, and inputs of one tenant: a quarter, so that others that are as greedy leave room.
const TURNS_PER_TENANT: usize = 4;

/// Modules of one tenant that wait for their turn. Each takes some milliseconds. Inputs wait as well, as many as there are: requests are
/// bounded by the memory that they take, and by their slots.
const MODULES_WAITING_PER_TENANT: usize = 28;

/// How long anything waits for its turn, and for its place: what takes longer than that is a disk in trouble.
const WAIT: Duration = Duration::from_secs(10);

/// Outputs of one execution that have more than this together, in bytes, are kept in their tenant's turn: one at a time of each, so that what
/// one tenant writes is hashed and synced beside what others do, and not before it.
pub(super) const LARGE_OUTPUTS_BYTES: usize = 1 << 20;

/// When to try again while too much is being kept, in milliseconds: each takes some.
const RETRY_MS: u64 = 1_000;

/// A tenant of which more than this, in bytes, was kept for requests that were refused has nothing else kept until the hour is over.
const IN_VAIN_MAX_BYTES: u64 = 64 << 20;

/// That hour, which begins with the first of them.
const HOUR: Duration = Duration::from_secs(3_600);

/// What a file takes at least, in bytes.
const FILE_MIN_BYTES: u64 = 4_096;

/// The places of a node, and its tenants' turns.
pub(super) struct Keeping {
    places: Semaphore,
    modules: Arc<Shares>,
    inputs: Arc<Shares>,
    outputs: Arc<Shares>,
    in_vain: Arc<InVain>,
}

impl Default for Keeping {
    fn default() -> Self {
        Self {
            places: Semaphore::new(PLACES),
            modules: Shares::new(TURNS_PER_TENANT, MODULES_WAITING_PER_TENANT),
            inputs: Shares::new(TURNS_PER_TENANT, 0),
            outputs: Shares::new(1, 0),
            in_vain: Arc::default(),
        }
    }
}

/// The right to have something kept. Dropped, it is the next one's.
pub(super) struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: Place,
}

impl Keeping {
    /// The tenant's turn to have a module kept. It takes none of the node's places, so that nobody waits for what another's entity
    /// takes to answer.
    pub(super) async fn turn_of_module(&self, tenant: &TenantId) -> Result<Turn, DispatchError> {
        Self::turn(self.modules.enter(tenant, false)).await
    }

    /// The tenant's turn to have an input kept. Lines of their own: whoever waits for this one has a slot, and whoever waits for a slot may
    /// have a module's turn.
    pub(super) async fn turn_of_input(&self, tenant: &TenantId) -> Result<Turn, DispatchError> {
        Self::turn(self.inputs.enter(tenant, true)).await
    }

    async fn turn_of_outputs(&self, tenant: &TenantId) -> Option<Turn> {
        Self::turn(self.outputs.enter(tenant, true)).await.ok()
    }

    async fn turn(place: Result<Place, Full>) -> Result<Turn, DispatchError> {
        let place =
            place.map_err(|Full { limit }| DispatchError::TooManyUploads { limit, retry_after_ms: RETRY_MS })?;
        // Dropped in time, or given up: what does not get on waits in nobody's memory.
        let turn = tokio::time::timeout(WAIT, place.turn()).await;
        match turn {
            Ok(Some(turn)) => Ok(Turn { _turn: turn, _place: place }),
            _ => Err(DispatchError::Busy { retry_after_ms: RETRY_MS }),
        }
    }

    /// What is going to be kept for one command.
    pub(super) fn begin(&self, tenant: &TenantId) -> Kept {
        let (in_vain, tenant) = (Arc::clone(&self.in_vain), tenant.clone());
        Kept { in_vain, tenant, files: vec![], is_settled: AtomicBool::new(false) }
    }
}

impl Shared {
    /// The tenant's turn to have large outputs hashed and kept. What has run is never refused, and must not be declared lost meanwhile: what has
    /// waited for long goes on without, `None`, and so does all once guests are cut off.
    pub(super) async fn turn_of_outputs(&self, tenant: &TenantId) -> Option<Turn> {
        tokio::select! {
            biased;
            () = self.runs.until_cut_off() => None,
            turn = self.keeping.turn_of_outputs(tenant) => turn,
        }
    }

    /// Keeps bytes, durably, in one of the node's places. It is their tenant's turn, and what they are for would not be refused.
    pub(super) async fn keep_for(&self, kept: &mut Kept, digest: Digest, bytes: &Bytes) -> Result<(), DispatchError> {
        self.keeping.in_vain.check(&kept.tenant, &digest, Instant::now())?;
        let Ok(Ok(_place)) = tokio::time::timeout(WAIT, self.keeping.places.acquire()).await else {
            return Err(DispatchError::Busy { retry_after_ms: RETRY_MS });
        };
        self.require_space()?;
        self.deps.blobs.put(bytes.clone()).await?;
        kept.files.push((digest, bytes.len() as u64));
        Ok(())
    }
}

/// What is kept for a command that is not decided yet. Dropped before anything was said of it, it was kept in vain.
pub(super) struct Kept {
    in_vain: Arc<InVain>,
    tenant: TenantId,
    files: Vec<(Digest, u64)>,
    is_settled: AtomicBool,
}

impl Kept {
    /// The command has its answer.
    pub(super) fn is_answered<T>(&self, asked: &Result<T, AskError>) {
        match asked {
            Ok(_) => self.is_named(),
            // It may be in the log all the same.
            Err(AskError::Unavailable { .. }) => self.is_settled.store(true, Ordering::Relaxed),
            Err(AskError::Refused(_) | AskError::Busy { .. }) => {}
        }
    }

    /// The log names it.
    pub(super) fn is_named(&self) {
        self.is_settled.store(true, Ordering::Relaxed);
        if !self.files.is_empty() {
            self.in_vain.remove(&self.tenant, &self.files);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.files.is_empty() && !self.is_settled.load(Ordering::Relaxed) {
            self.in_vain.add(&self.tenant, &self.files, Instant::now());
        }
    }
}

/// What was kept in vain, by tenant, since this life of the node began.
#[derive(Debug, Default)]
struct InVain(Mutex<HashMap<TenantId, Window>>);

/// An hour of one tenant.
#[derive(Debug)]
struct Window {
    until: Instant,
    files: HashMap<Digest, u64>,
    bytes: u64,
}

impl InVain {
    /// May the tenant have this kept? The same bytes are there already.
    fn check(&self, tenant: &TenantId, digest: &Digest, now: Instant) -> Result<(), DispatchError> {
        let windows = self.windows();
        let Some(window) = windows.get(tenant) else { return Ok(()) };
        if now >= window.until || window.bytes <= IN_VAIN_MAX_BYTES || window.files.contains_key(digest) {
            return Ok(());
        }
        let left = window.until.saturating_duration_since(now);
        let retry_after_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        Err(DispatchError::KeptInVain { limit_bytes: IN_VAIN_MAX_BYTES, retry_after_ms })
    }

    fn add(&self, tenant: &TenantId, files: &[(Digest, u64)], now: Instant) {
        let mut windows = self.windows();
        // So there are none but those of the last hour.
        windows.retain(|_, window| now < window.until);
        let window = windows.entry(tenant.clone());
        let window = window.or_insert_with(|| Window { until: now + HOUR, files: HashMap::new(), bytes: 0 });
        for (digest, size_bytes) in files {
            let bytes = (*size_bytes).max(FILE_MIN_BYTES);
            if window.files.insert(*digest, bytes).is_none() {
                window.bytes = window.bytes.saturating_add(bytes);
            }
        }
    }

    fn remove(&self, tenant: &TenantId, files: &[(Digest, u64)]) {
        let mut windows = self.windows();
        let Some(window) = windows.get_mut(tenant) else { return };
        for (digest, _) in files {
            let bytes = window.files.remove(digest).unwrap_or_default();
            window.bytes = window.bytes.saturating_sub(bytes);
        }
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<TenantId, Window>> {
        // What it guards is whole after every statement, but for a sum that is a little too small.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::tenant::Refusal;

    const MIB: u64 = 1 << 20;

    fn tenant(id: &str) -> TenantId {
        TenantId::new(id).unwrap()
    }

    fn file(n: u8, size_bytes: u64) -> (Digest, u64) {
        (Digest::of(&[n]), size_bytes)
    }

    #[tokio::test]
    async fn whoever_has_a_turn_has_none_of_the_nodes_places() {
        // Given a node.
        let keeping = Keeping::default();
        // When tenants have all their turns, more of them than there are places.
        let mut turns = vec![];
        for id in ["a", "b", "c", "d", "e"].map(tenant) {
            for _ in 0..TURNS_PER_TENANT {
                turns.push(keeping.turn_of_module(&id).await.unwrap());
                turns.push(keeping.turn_of_input(&id).await.unwrap());
            }
        }
        // Then all places are free.
        assert_eq!((turns.len(), keeping.places.available_permits()), (40, PLACES));
    }

    #[tokio::test]
    async fn large_outputs_of_a_tenant_take_turns() {
        // Given a node on which a tenant's outputs are being kept.
        let (keeping, acme) = (Keeping::default(), tenant("acme"));
        let turn = keeping.turn_of_outputs(&acme).await;
        assert!(turn.is_some());
        // When it has more, and another tenant has some.
        let mut more = Box::pin(keeping.turn_of_outputs(&acme));
        // Then the other does not wait, and the tenant waits for itself.
        assert!(keeping.turn_of_outputs(&tenant("ajax")).now_or_never().flatten().is_some());
        assert!(more.as_mut().now_or_never().is_none());
        drop(turn);
        let turn = more.await;
        assert!(turn.is_some());
        // And when it has waited for long, it goes on without.
        tokio::time::pause();
        assert!(keeping.turn_of_outputs(&acme).await.is_none());
    }

    #[test]
    fn whoever_has_had_much_kept_in_vain_has_nothing_else_kept_within_the_hour() {
        // Given a tenant with as much kept in vain as it may, and another.
        let (in_vain, now) = (InVain::default(), Instant::now());
        let (acme, ajax) = (tenant("acme"), tenant("ajax"));
        in_vain.add(&acme, &[file(1, 40 * MIB), file(2, 24 * MIB)], now);
        let may = |id: &TenantId, n, now| in_vain.check(id, &file(n, 0).0, now).is_ok();
        assert!(may(&acme, 3, now));
        // When there is more, which takes a file however little it is.
        in_vain.add(&acme, &[file(3, 1)], now);
        // Then nothing else is kept, but for what is there already.
        let refused = in_vain.check(&acme, &file(4, 0).0, now + Duration::from_secs(600));
        let Err(DispatchError::KeptInVain { limit_bytes, retry_after_ms }) = refused else { panic!("{refused:?}") };
        assert_eq!((limit_bytes, retry_after_ms), (64 * MIB, 3_000_000));
        assert_eq!([may(&acme, 1, now), may(&ajax, 4, now), may(&acme, 4, now + HOUR)], [true; 3]);
        // When one of them is named after all, it was not in vain.
        in_vain.remove(&acme, &[file(2, 24 * MIB)]);
        assert!(may(&acme, 4, now));
        assert_eq!(in_vain.windows()[&acme].bytes, 40 * MIB + FILE_MIN_BYTES);
        // An hour later it is forgotten.
        in_vain.add(&ajax, &[file(1, 1)], now + HOUR);
        assert_eq!(in_vain.windows().len(), 1);
    }

    #[test]
    fn what_is_refused_was_kept_in_vain_and_what_is_named_or_may_be_was_not() {
        let unavailable = AskError::Unavailable { reason: "the log is away".into(), retry_after_ms: 1 };
        for (answer, in_vain_bytes) in [
            (Some(Ok(())), 0),
            (Some(Err(unavailable)), 0),
            (Some(Err(AskError::Refused(Refusal::Stale))), 9 * MIB),
            (Some(Err(AskError::Busy { retry_after_ms: 1 })), 9 * MIB),
            (None, 9 * MIB),
        ] {
            // Given something that is kept, when its command has this answer, or none.
            let keeping = Keeping::default();
            let mut kept = keeping.begin(&tenant("acme"));
            kept.files.push(file(1, 9 * MIB));
            answer.iter().for_each(|answer| kept.is_answered(answer));
            drop(kept);
            // Then it is counted, or is not.
            let bytes: u64 = keeping.in_vain.windows().values().map(|window| window.bytes).sum();
            assert_eq!(bytes, in_vain_bytes, "{answer:?}");
        }
    }
}
