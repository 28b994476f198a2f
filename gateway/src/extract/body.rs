//! Bodies: counted while they come, in time, and within what all bodies together may take.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Version, header};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::body::Body as _;
use poem::Request;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use wasmwiz_events::{id::TenantId, tenant::Tier};

use crate::{
    config::GatewayConfig,
    metrics,
    problem::{Kind, Problem},
};

/// The unit in which memory is shared out, in bytes.
const UNIT_BYTES: u64 = 1_024;

/// When to try again while bodies take all the memory they may, in milliseconds.
pub(crate) const RETRY_MS: u64 = 1_000;

/// How long an answer waits for room before it is given up, in milliseconds: what holds memory is mostly sent sooner.
const ROOM_WAIT_MS: u64 = 2_000;

/// How much one body may be, and who says so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// The most bytes.
    pub(crate) bytes: u64,
    /// What the body is, for people.
    pub(crate) what: &'static str,
    /// The tier whose limit it is; `None` when it holds for everybody.
    pub(crate) tier: Option<Tier>,
}

impl Limit {
    pub(crate) fn exceeded(&self) -> Problem {
        let Self { bytes, what, tier } = self;
        let whose = tier.map_or_else(|| "here".to_owned(), |tier| format!("in tier {}", tier.as_str()));
        let remedy = if tier.is_some() { "Send less, or ask for another tier." } else { "Send less." };
        Problem::new(Kind::BodyTooLarge, format!("{what} may have {bytes} bytes {whose}. {remedy}"))
    }
}

/// The memory that all bodies share, and what each tenant holds of it.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    units: Arc<Semaphore>,
    units_max: u64,
    /// Told when something is given back.
    freed: Notify,
    units_per_tenant_max: u64,
    /// Tenants that hold any; in units. Locked for an addition, never across a wait.
    held: Mutex<HashMap<TenantId, u64>>,
}

impl Memory {
    pub(crate) fn new(bytes: u64, bytes_per_tenant: u64) -> Self {
        let units_max = bytes.div_ceil(UNIT_BYTES);
        let units = usize::try_from(units_max).unwrap_or(usize::MAX);
        Self(Arc::new(Pool {
            units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            units_max,
            freed: Notify::new(),
            units_per_tenant_max: bytes_per_tenant.div_ceil(UNIT_BYTES),
            held: Mutex::default(),
        }))
    }

    /// The part of it that is for one tenant.
    pub(crate) fn share(&self, tenant: &TenantId) -> Share {
        Share { pool: Arc::clone(&self.0), tenant: tenant.clone() }
    }
}

impl Pool {
    fn held(&self) -> MutexGuard<'_, HashMap<TenantId, u64>> {
        // What it guards is whole after every statement.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `units` for a tenant, if it may have them.
    fn hold(&self, tenant: &TenantId, units: u64) -> bool {
        let mut held = self.held();
        let all = held.get(tenant).copied().unwrap_or_default().saturating_add(units);
        if all > self.units_per_tenant_max {
            return false;
        }
        held.insert(tenant.clone(), all);
        true
    }

    fn let_go(&self, tenant: &TenantId, units: u64) {
        let mut held = self.held();
        let Some(all) = held.get_mut(tenant) else { return };
        *all = all.saturating_sub(units);
        // Only those who hold any are kept, so the map is no larger than there are bodies.
        if *all == 0 {
            held.remove(tenant);
        }
    }
}

/// What one tenant may take of the memory.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pool: Arc<Pool>,
    tenant: TenantId,
}

impl Share {
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
        Room { share: self.clone(), permit: None, bytes: 0 }
    }
}

/// Room for one body; it is given back when the body is no longer needed.
#[derive(Debug)]
pub(crate) struct Room {
    share: Share,
    permit: Option<OwnedSemaphorePermit>,
    bytes: u64,
}

impl Room {
    /// Takes more room, until it is for `bytes`, if there is any.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> Result<(), Problem> {
        Ok(self.try_grow_to(bytes)?)
    }

    fn try_grow_to(&mut self, bytes: u64) -> Result<(), Full> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let units = bytes.saturating_sub(self.bytes).div_ceil(UNIT_BYTES);
        let Share { pool, tenant } = &self.share;
        if bytes.div_ceil(UNIT_BYTES) > pool.units_per_tenant_max.min(pool.units_max) {
            return Err(Full::Always);
        }
        if !pool.hold(tenant, units) {
            return Err(Full::Tenant);
        }
        let more = u32::try_from(units).ok();
        let more = more.and_then(|units| Arc::clone(&pool.units).try_acquire_many_owned(units).ok());
        let Some(more) = more else {
            pool.let_go(tenant, units);
            return Err(Full::Node);
        };
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        self.bytes = self.bytes.saturating_add(units.saturating_mul(UNIT_BYTES));
        ::metrics::gauge!(metrics::BODY_BYTES).increment(gauged(units));
        Ok(())
    }
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    /// The tenant holds what one tenant may.
    Tenant,
    /// All tenants together hold all there is.
    Node,
    /// There is not as much for one tenant, whoever holds what.
    Always,
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        let detail = match full {
            Full::Tenant => {
                "The bodies of this tenant take all the memory of this node that one tenant may have. Try again after \
                 the pause."
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
                );
            }
        };
        Self::new(Kind::TooManyBodies, detail).retry_after_ms(RETRY_MS)
    }
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

impl Room {
    /// Ties the room to `bytes`: it lasts as long as they do.
    pub(crate) fn keep(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Kept { bytes, _room: self })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            drop(self.permit.take());
            self.share.pool.let_go(&self.share.tenant, self.bytes / UNIT_BYTES);
            self.share.pool.freed.notify_waiters();
            ::metrics::gauge!(metrics::BODY_BYTES).decrement(gauged(self.bytes / UNIT_BYTES));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is of floating point")]
fn gauged(units: u64) -> f64 {
    units.saturating_mul(UNIT_BYTES) as f64
}

/// A body that has come in full.
#[derive(Debug)]
pub(crate) struct Held {
    /// Its bytes.
    pub(crate) bytes: Bytes,
    /// Kept for as long as the bytes are worked on.
    pub(crate) room: Room,
}

/// How fast a body must come.
struct Pace {
    begun: Instant,
    idle: Duration,
    grace: Duration,
    rate_bytes: u64,
}

impl Pace {
    fn begin(config: &GatewayConfig) -> Self {
        let ms = Duration::from_millis;
        let (idle, grace) = (ms(config.body_idle_ms), ms(config.body_grace_ms));
        Self { begun: Instant::now(), idle, grace, rate_bytes: config.body_rate_bytes.max(1) }
    }

    /// When the next piece must be here, after `bytes` of them.
    fn deadline(&self, bytes: u64) -> Instant {
        let earned = Duration::from_millis(bytes.saturating_mul(1_000) / self.rate_bytes);
        (Instant::now() + self.idle).min(self.begun + self.grace + earned)
    }
}

/// Does the request have a body that says where it ends? HTTP/1.1 without a length has none; HTTP/1.0 may mean one that
/// ends with the connection, which is not taken.
pub(crate) fn has_length(request: &Request) -> bool {
    let given = |name| request.headers().contains_key(name);
    given(header::CONTENT_LENGTH)
        || given(header::TRANSFER_ENCODING)
        || !matches!(request.version(), Version::HTTP_09 | Version::HTTP_10 | Version::HTTP_11)
}

/// Refuses a request whose resource needs a body when it names no length.
pub(crate) fn require_length(request: &Request) -> Result<(), Problem> {
    if has_length(request) {
        return Ok(());
    }
    Err(Problem::new(Kind::LengthRequired, "This resource needs a body. Send it with a Content-Length, or chunked."))
}

/// Reads the body of `request`, which becomes empty.
pub(crate) async fn read(
    config: &GatewayConfig,
    share: &Share,
    request: &mut Request,
    limit: Limit,
) -> Result<Held, Problem> {
    let named =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    // Before any byte is read: a client that waits for `100 Continue` is spared the sending.
    if named.is_some_and(|bytes| bytes > limit.bytes) {
        return Err(limit.exceeded());
    }
    let mut room = share.room(0)?;
    let mut body: BoxBody<Bytes, std::io::Error> = request.take_body().into();
    let (mut first, mut rest, mut count) = (Bytes::new(), Vec::new(), 0_u64);
    let pace = Pace::begin(config);
    while !body.is_end_stream() {
        let frame = tokio::time::timeout_at(pace.deadline(count), body.frame()).await.map_err(|_| too_slow(config))?;
        let Some(frame) = frame else { break };
        let broken =
            |error| Problem::new(Kind::MalformedRequest, "The body broke off. Send it in full.").caused_by(error);
        let Ok(piece) = frame.map_err(|error: std::io::Error| broken(error))?.into_data() else { continue };
        count = count.saturating_add(piece.len() as u64);
        if count > limit.bytes {
            return Err(limit.exceeded());
        }
        if first.is_empty() && rest.is_empty() {
            // A body of one piece, which most are, is never copied.
            room.grow_to(count)?;
            first = piece;
            continue;
        }
        let most = named.unwrap_or(limit.bytes);
        if rest.is_empty() {
            append(&mut rest, &std::mem::take(&mut first), most, &mut room)?;
        }
        append(&mut rest, &piece, most, &mut room)?;
    }
    let bytes = if rest.is_empty() { first } else { rest.into() };
    Ok(Held { bytes, room })
}

/// Appends a piece of a body that has `most` bytes in the end. What is reserved is at most twice what has come, so a client
/// that only names a length takes no memory by it; and it is counted before it is reserved. (While a body moves to a larger
/// place it has both, for the time of a copy: as many of them as there are threads.)
fn append(body: &mut Vec<u8>, piece: &[u8], most: u64, room: &mut Room) -> Result<(), Problem> {
    let (needed, most) = (body.len().saturating_add(piece.len()), usize::try_from(most).unwrap_or(usize::MAX));
    if needed > body.capacity() {
        let capacity = body.capacity().saturating_mul(2).min(most).max(needed);
        room.grow_to(capacity as u64)?;
        body.reserve_exact(capacity.saturating_sub(body.len()));
    }
    body.extend_from_slice(piece);
    Ok(())
}

fn too_slow(config: &GatewayConfig) -> Problem {
    let (idle, rate) = (config.body_idle_ms, config.body_rate_bytes);
    Problem::new(
        Kind::BodyTooSlow,
        format!(
            "The body comes too slowly. Send at least {rate} bytes a second, without pauses of more than {idle} ms."
        ),
    )
    .header(header::CONNECTION, "close")
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use poem::Body;

    use super::*;

    const LIMIT: Limit = Limit { bytes: 10, what: "A module", tier: Some(Tier::Free) };

    fn chunked(pieces: &[&'static [u8]]) -> Request {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece))).collect();
        Request::builder().body(Body::from_bytes_stream(stream::iter(pieces)))
    }

    fn share(memory: &Memory, tenant: &str) -> Share {
        memory.share(&TenantId::new(tenant).unwrap())
    }

    async fn read_with(memory: &Memory, mut request: Request) -> Result<Held, Problem> {
        read(&GatewayConfig::default(), &share(memory, "t-a"), &mut request, LIMIT).await
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together() {
        let memory = Memory::new(1 << 20, 1 << 20);
        let bodies: [&[&'static [u8]]; 4] = [&[], &[b"abc"], &[b"abc", b"def"], &[b"", b"abcde", b"", b"fghij"]];
        for pieces in bodies {
            let held = read_with(&memory, chunked(pieces)).await.unwrap();
            assert_eq!(held.bytes, pieces.concat());
        }
    }

    #[test]
    fn memory_is_taken_as_bytes_come_and_not_as_they_are_named() {
        let share = share(&Memory::new(1 << 20, 1 << 20), "t-a");
        let (mut body, mut room) = (Vec::new(), share.no_room());
        append(&mut body, b"ab", 1 << 30, &mut room).unwrap();
        assert!(body.capacity() < 64, "{}", body.capacity());
        for _ in 0..1_000 {
            append(&mut body, b"abc", 3_002, &mut room).unwrap();
            assert!(body.capacity() <= 3_002.min(2 * body.len() + 8), "{} for {}", body.capacity(), body.len());
            assert!(body.capacity() as u64 <= room.bytes, "{} in {}", body.capacity(), room.bytes);
        }
        assert_eq!((body.len(), body.capacity()), (3_002, 3_002));
    }

    #[tokio::test]
    async fn a_body_that_grows_past_its_limit_is_stopped_there() {
        let problem = read_with(&Memory::new(1 << 20, 1 << 20), chunked(&[b"0123456789", b"0"])).await.unwrap_err();
        assert_eq!(problem.kind(), Kind::BodyTooLarge);
        assert!(problem.detail().contains("10 bytes in tier free"), "{problem:?}");
    }

    #[tokio::test]
    async fn a_named_length_over_the_limit_is_refused_unread() {
        let request = Request::builder()
            .header("content-length", "11")
            .body(Body::from_bytes_stream(stream::pending::<Result<Bytes, std::io::Error>>()));
        let problem = read_with(&Memory::new(1 << 20, 1 << 20), request).await.unwrap_err();
        assert_eq!(problem.kind(), Kind::BodyTooLarge);
    }

    #[tokio::test]
    async fn bodies_together_have_a_bound_and_give_it_back() {
        let memory = Memory::new(1_024, 1_024);
        let held = read_with(&memory, chunked(&[b"a"])).await.unwrap();
        let problem = read_with(&memory, chunked(&[b"b"])).await.unwrap_err();
        assert_eq!(problem.kind(), Kind::TooManyBodies);
        drop(held);
        assert!(read_with(&memory, chunked(&[b"b"])).await.is_ok());
    }

    #[test]
    fn one_tenant_does_not_take_all_memory() {
        let memory = Memory::new(4 * 1_024, 2 * 1_024);
        let (one, other) = (share(&memory, "t-a"), share(&memory, "t-b"));
        let held = one.room(2 * 1_024).unwrap();
        assert_eq!(one.room(1).unwrap_err().kind(), Kind::TooManyBodies);
        assert!(other.room(2 * 1_024).is_ok());
        drop(held);
        let _held = (one.room(2 * 1_024).unwrap(), other.room(2 * 1_024).unwrap());
        // What the node has no room for is not counted for the tenant.
        assert!(share(&memory, "t-c").room(1).is_err());
        assert_eq!(memory.0.held().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_a_moment_for_room_and_no_longer() {
        let share = share(&Memory::new(1_024, 1_024), "t-a");
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
        let share = share(&Memory::new(4 * 1_024, 2 * 1_024), "t-a");
        let begun = Instant::now();
        let problem = share.room_in_time(2 * 1_024 + 1).await.unwrap_err();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(problem.detail().contains("/stdout"), "{problem:?}");
    }

    #[test]
    fn room_for_an_answer_lasts_as_long_as_its_bytes() {
        let share = share(&Memory::new(1_024, 1_024), "t-a");
        let bytes = share.room(3).unwrap().keep(Bytes::from_static(b"abc"));
        let part = bytes.slice(1..);
        drop(bytes);
        assert!(share.room(1).is_err());
        assert_eq!(part, "bc");
        drop(part);
        assert!(share.room(1).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_is_given_up() {
        let stalled =
            Request::builder().body(Body::from_bytes_stream(stream::pending::<Result<Bytes, std::io::Error>>()));
        let problem = read_with(&Memory::new(1_024, 1_024), stalled).await.unwrap_err();
        assert_eq!(problem.kind(), Kind::BodyTooSlow);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_the_callers_fault() {
        let broken = stream::iter([Ok(Bytes::from_static(b"a")), Err(std::io::Error::other("reset"))]);
        let request = Request::builder().body(Body::from_bytes_stream(broken));
        let problem = read_with(&Memory::new(1_024, 1_024), request).await.unwrap_err();
        assert_eq!(problem.kind(), Kind::MalformedRequest);
    }

    #[test]
    fn only_old_requests_can_lack_a_length() {
        let request = |version| Request::builder().version(version).finish();
        assert!(require_length(&request(Version::HTTP_10)).is_err());
        assert!(require_length(&request(Version::HTTP_11)).is_err());
        assert!(require_length(&request(Version::HTTP_2)).is_ok());
    }
}
