//! Bodies: counted while they come, in time, and within what all bodies together may take.

use std::time::Duration;

use bytes::Bytes;
use http::{Version, header};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::body::Body as _;
use poem::Request;
use tokio::time::Instant;
use wasmwiz_events::tenant::Tier;

use crate::{
    config::GatewayConfig,
    memory::{Room, Share},
    problem::{Kind, Problem},
};

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
    use crate::memory::{
        Memory,
        tests::{memory, share},
    };

    const LIMIT: Limit = Limit { bytes: 10, what: "A module", tier: Some(Tier::Free) };

    fn chunked(pieces: &[&'static [u8]]) -> Request {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece))).collect();
        Request::builder().body(Body::from_bytes_stream(stream::iter(pieces)))
    }

    async fn read_with(memory: &Memory, mut request: Request) -> Result<Held, Problem> {
        read(&GatewayConfig::default(), &share(memory, "t-a"), &mut request, LIMIT).await
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together() {
        let memory = memory(1 << 20, 1 << 20);
        let bodies: [&[&'static [u8]]; 4] = [&[], &[b"abc"], &[b"abc", b"def"], &[b"", b"abcde", b"", b"fghij"]];
        for pieces in bodies {
            let held = read_with(&memory, chunked(pieces)).await.unwrap();
            assert_eq!(held.bytes, pieces.concat());
        }
    }

    #[test]
    fn memory_is_taken_as_bytes_come_and_not_as_they_are_named() {
        let share = share(&memory(1 << 20, 1 << 20), "t-a");
        let (mut body, mut room) = (Vec::new(), share.room(0).unwrap());
        append(&mut body, b"ab", 1 << 30, &mut room).unwrap();
        assert!(body.capacity() < 64, "{}", body.capacity());
        for _ in 0..1_000 {
            append(&mut body, b"abc", 3_002, &mut room).unwrap();
            assert!(body.capacity() <= 3_002.min(2 * body.len() + 8), "{} for {}", body.capacity(), body.len());
            assert!(body.capacity() as u64 <= room.bytes(), "{} in {}", body.capacity(), room.bytes());
        }
        assert_eq!((body.len(), body.capacity()), (3_002, 3_002));
    }

    #[tokio::test]
    async fn a_body_that_grows_past_its_limit_is_stopped_there() {
        let problem = read_with(&memory(1 << 20, 1 << 20), chunked(&[b"0123456789", b"0"])).await.unwrap_err();
        assert_eq!(problem.kind(), Kind::BodyTooLarge);
        assert!(problem.detail().contains("10 bytes in tier free"), "{problem:?}");
    }

    #[tokio::test]
    async fn a_named_length_over_the_limit_is_refused_unread() {
        let request = Request::builder()
            .header("content-length", "11")
            .body(Body::from_bytes_stream(stream::pending::<Result<Bytes, std::io::Error>>()));
        let problem = read_with(&memory(1 << 20, 1 << 20), request).await.unwrap_err();
        assert_eq!(problem.kind(), Kind::BodyTooLarge);
    }

    #[tokio::test]
    async fn bodies_together_have_a_bound_and_give_it_back() {
        let memory = memory(1_024, 1_024);
        let held = read_with(&memory, chunked(&[b"a"])).await.unwrap();
        let problem = read_with(&memory, chunked(&[b"b"])).await.unwrap_err();
        assert_eq!(problem.kind(), Kind::TooManyBodies);
        drop(held);
        assert!(read_with(&memory, chunked(&[b"b"])).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_is_given_up() {
        let stalled =
            Request::builder().body(Body::from_bytes_stream(stream::pending::<Result<Bytes, std::io::Error>>()));
        let problem = read_with(&memory(1_024, 1_024), stalled).await.unwrap_err();
        assert_eq!(problem.kind(), Kind::BodyTooSlow);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_the_callers_fault() {
        let broken = stream::iter([Ok(Bytes::from_static(b"a")), Err(std::io::Error::other("reset"))]);
        let request = Request::builder().body(Body::from_bytes_stream(broken));
        let problem = read_with(&memory(1_024, 1_024), request).await.unwrap_err();
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
