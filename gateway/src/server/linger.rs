//! Bodies that nobody reads to their end: read away, so that a client which is still sending gets its answer.
//!
//! A connection that is closed while bytes come in is reset, and a reset throws away what the client has not read yet:
//! the answer that says why its body was refused.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Version, header};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::body::{Body, Frame, SizeHint};
use poem::Request;
use tokio::{sync::Semaphore, time::Instant};

use super::ServerConfig;

/// What a body may take to be read away whatever its size.
const GRACE: Duration = Duration::from_secs(2);

/// Bodies that are no larger than this, in bytes, are read away however many others are: those that clients mostly send.
const SMALL_BYTES: u64 = 1 << 20;

type Inner = BoxBody<Bytes, std::io::Error>;

/// Reads away what the requests of a listener leave. Clones share its bounds. It takes time and no memory.
#[derive(Debug, Clone)]
pub(super) struct Linger {
    seats: Arc<Semaphore>,
    bytes_max: u64,
    rate_bytes: u64,
}

/// A body whose rest is read away when it is dropped.
struct Lingering {
    body: Option<Inner>,
    linger: Linger,
    /// May its client have sent some of it? One that waits for `100 Continue` is given it when the body is read for the first time.
    begun: bool,
}

impl Linger {
    pub(super) fn new(config: &ServerConfig) -> Self {
        let seats = Arc::new(Semaphore::new(config.linger_max.min(Semaphore::MAX_PERMITS)));
        Self { seats, bytes_max: config.linger_bytes_max, rate_bytes: config.linger_rate_bytes.max(1) }
    }

    /// Makes the body of `request` one that lingers. HTTP/2 needs none of this: it resets a stream and not a connection. Nor
    /// does a client that still waits for `100 Continue` when its answer comes: it has sent nothing.
    pub(super) fn over(&self, request: &mut Request) {
        if request.version() <= Version::HTTP_11 {
            let begun = !waits(request);
            let body: Inner = request.take_body().into();
            request.set_body(Lingering { body: Some(body), linger: self.clone(), begun }.boxed());
        }
    }

    async fn read_away(self, mut body: Inner) {
        // A small body is read away whoever else lingers; more would be as many as there are connections.
        let seat = self.seats.try_acquire();
        let bytes_max = if seat.is_ok() { self.bytes_max } else { self.bytes_max.min(SMALL_BYTES) };
        let (begun, mut bytes) = (Instant::now(), 0_u64);
        // A body that announces more is not worth the wait: the connection is closed.
        while bytes.saturating_add(body.size_hint().lower()) <= bytes_max {
            let earned = Duration::from_millis(bytes.saturating_mul(1_000) / self.rate_bytes);
            let Ok(Some(Ok(frame))) = tokio::time::timeout_at(begun + GRACE + earned, body.frame()).await else {
                return;
            };
            bytes = bytes.saturating_add(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
    }
}

/// Does its client send nothing before it is told to? There is no such thing in HTTP/1.0.
fn waits(request: &Request) -> bool {
    let continues = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    request.version() == Version::HTTP_11 && request.headers().get(header::EXPECT).is_some_and(continues)
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = self.get_mut();
        this.begun = true;
        this.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let begun = self.begun;
        let Some(body) = self.body.take().filter(|body| begun && !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.linger.clone().read_away(body));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use poem::Body as PoemBody;

    use super::*;

    /// A request with a body of five pieces, and how many of them were taken.
    fn request(expect: bool) -> (Request, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let pieces = (0..5).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from_static(b"piece"))
        });
        let body = PoemBody::from_bytes_stream(futures_util::stream::iter(pieces));
        let request = Request::builder();
        let request = if expect { request.header("expect", "100-continue") } else { request };
        (request.body(body), taken)
    }

    fn linger(linger_bytes_max: u64, linger_max: usize) -> Linger {
        Linger::new(&ServerConfig { linger_bytes_max, linger_max, ..Default::default() })
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_handler_leaves_of_a_body_is_read_away() {
        let (mut request, taken) = request(false);
        linger(1 << 20, 1).over(&mut request);
        drop(request);
        settle().await;
        assert_eq!(taken.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn a_body_is_given_on_unchanged() {
        let (mut request, _) = request(false);
        linger(1 << 20, 1).over(&mut request);
        assert_eq!(request.take_body().into_bytes().await.unwrap(), "piece".repeat(5));
    }

    #[tokio::test]
    async fn who_waits_for_leave_to_send_is_not_made_to() {
        let (mut request, taken) = request(true);
        linger(1 << 20, 1).over(&mut request);
        drop(request);
        settle().await;
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn who_was_given_leave_to_send_is_read_to_the_end() {
        let (mut request, taken) = request(true);
        linger(1 << 20, 1).over(&mut request);
        let mut body: Inner = request.take_body().into();
        body.frame().await.unwrap().unwrap();
        drop(body);
        settle().await;
        assert_eq!(taken.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn no_more_is_read_away_than_may_be() {
        for (bytes_max, seats, pieces) in [(12, 1, 3), (0, 1, 1), (SMALL_BYTES, 0, 5)] {
            let (mut request, taken) = request(false);
            linger(bytes_max, seats).over(&mut request);
            drop(request);
            settle().await;
            assert_eq!(taken.load(Ordering::Relaxed), pieces, "{bytes_max} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_nothing_more_is_left_after_a_moment() {
        let linger = linger(1 << 20, 1);
        let silent = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let begun = Instant::now();
        linger.clone().read_away(PoemBody::from_bytes_stream(silent).into()).await;
        assert_eq!((begun.elapsed(), linger.seats.available_permits()), (GRACE, 1));
    }
}
