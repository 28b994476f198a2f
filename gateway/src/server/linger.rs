//! Bodies that nobody reads to their end: read away, so that a client which is still sending gets its answer.
//!
//! A connection that is closed while bytes come in is reset, and a reset throws away what the client has not read yet:
//! the answer that says why its body was refused.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Version, header};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::body::{Body, Frame, SizeHint};
use poem::Request;

/// The most that is read away, in bytes. A body that announces more is not worth the wait: the connection is closed.
const LINGER_BYTES: u64 = 16 << 20;

/// How long it may take.
const LINGER: Duration = Duration::from_secs(2);

type Inner = BoxBody<Bytes, std::io::Error>;

/// A body whose rest is read away when it is dropped.
struct Lingering(Option<Inner>);

/// Makes the body of `request` one that lingers. HTTP/2 needs none of this: it resets a stream and not a connection. Nor
/// does a client that waits for `100 Continue`: it has sent nothing.
pub(super) fn linger(request: &mut Request) {
    let waits = request.headers().contains_key(header::EXPECT);
    if !waits && request.version() <= Version::HTTP_11 {
        let body: Inner = request.take_body().into();
        request.set_body(Lingering(Some(body)).boxed());
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.get_mut().0.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        if body.size_hint().lower() > LINGER_BYTES {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LINGER, read_away(body)));
        }
    }
}

async fn read_away(mut body: Inner) {
    let mut bytes = 0_u64;
    while bytes <= LINGER_BYTES {
        let Some(Ok(frame)) = body.frame().await else { return };
        bytes = bytes.saturating_add(frame.data_ref().map_or(0, |data| data.len() as u64));
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

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_handler_leaves_of_a_body_is_read_away() {
        let (mut request, taken) = request(false);
        linger(&mut request);
        drop(request);
        settle().await;
        assert_eq!(taken.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn a_body_is_given_on_unchanged() {
        let (mut request, _) = request(false);
        linger(&mut request);
        assert_eq!(request.take_body().into_bytes().await.unwrap(), "piece".repeat(5));
    }

    #[tokio::test]
    async fn who_waits_for_leave_to_send_is_not_made_to() {
        let (mut request, taken) = request(true);
        linger(&mut request);
        drop(request);
        settle().await;
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }
}
