//! Answers on their way: who takes them too slowly, and whose may not go on.
//!
//! On HTTP/1 an answer that is not taken stops the socket, which sees it. On HTTP/2 the socket goes on, for pings and for
//! other streams; a client that opens no window holds what is meant for it. So each answer is given out in small pieces,
//! the next only when there is window for it, and how long a piece waits is watched until its last byte is with the system: a
//! piece is let go of only then, wherever it waits.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{ended::Ended, patience::Patience};
use crate::lease::Lease;

/// The most that is given out at a time, in bytes: what one stream holds whose client opens no window. The largest frame
/// that every client must take.
const PIECE_BYTES: usize = 16 << 10;

/// What the error says that ends a stream.
const SUSPENDED: &str = "the answer is for a tenant that has been suspended";

type Inner = BoxBody<Bytes, io::Error>;

/// On HTTP/1, what an answer has to be watched at all, in bytes: less is with the system at once, mostly.
const SMALL_BYTES: u64 = 64 << 10;

/// The answers of one connection that are on their way. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Answers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    grace: Duration,
    rate_bytes: u64,
    under_way: Mutex<UnderWay>,
}

/// At most one entry a stream: their number is bounded by the connection's settings.
#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    answers: HashMap<u64, Entry>,
}

/// An answer, until its last byte is with the system.
#[derive(Debug)]
struct Entry {
    /// Pieces that were given out and not let go of.
    pieces: usize,
    /// Until when the client may take its time with them; never on HTTP/1.
    until: Option<Instant>,
    patience: Patience,
    /// Is there more to be given out?
    is_open: bool,
    is_http2: bool,
    lease: Option<Lease>,
    /// Must it not go on? Then its stream ends where the next piece would be given out.
    is_over: bool,
    /// Who waits for that piece.
    waits: Option<Waker>,
}

impl Answers {
    /// Answers that must be taken at `rate_bytes` a second each, less a grace.
    pub(super) fn new(grace: Duration, rate_bytes: u64) -> Self {
        Self(Arc::new(Shared { grace, rate_bytes, under_way: Mutex::default() }))
    }

    /// Is there none?
    pub(super) fn is_empty(&self) -> bool {
        self.under_way().answers.is_empty()
    }

    /// Why the connection has to end, if it has to: an answer waits longer than it may, or must not go on. Where
    /// answers that may go on are on it, too, or requests of others are under way (`is_shared`), only the streams of
    /// those end that must not.
    pub(super) fn verdict(&self, is_shared: bool) -> Option<Ended> {
        let now = Instant::now();
        let leases: Vec<_> = {
            let under_way = self.under_way();
            if under_way.answers.values().any(|answer| answer.until.is_some_and(|until| until <= now)) {
                return Some(Ended::SlowReader);
            }
            let leased = |(id, answer): (&u64, &Entry)| Some((*id, answer.is_http2, answer.lease.clone()?));
            under_way.answers.iter().filter_map(leased).collect()
        };
        // Asked outside of the lock: what they ask has locks of its own.
        let (on, over): (Vec<_>, Vec<_>) = leases.into_iter().partition(|(_, _, lease)| lease.holds());
        if over.is_empty() {
            return None;
        }
        if over.iter().any(|(_, is_http2, _)| !is_http2) || (on.is_empty() && !is_shared) {
            return Some(Ended::Suspended);
        }
        let mut under_way = self.under_way();
        for (id, ..) in over {
            let Some(answer) = under_way.answers.get_mut(&id) else { continue };
            answer.is_over = true;
            answer.waits.take().into_iter().for_each(Waker::wake);
        }
        None
    }

    /// The body of an answer that rests on `lease`, watched if it is one of HTTP/2, or large.
    pub(super) fn watch(&self, body: Inner, is_http2: bool, lease: Option<Lease>) -> Answer {
        let is_large = body.size_hint().upper().is_none_or(|bytes| bytes > SMALL_BYTES);
        let watched = (is_http2 || (is_large && lease.is_some())).then(|| {
            let patience = Patience::new(self.0.grace, self.0.rate_bytes);
            let mut under_way = self.under_way();
            under_way.next = under_way.next.wrapping_add(1);
            let id = under_way.next;
            let entry =
                Entry { pieces: 0, until: None, patience, is_open: true, is_http2, lease, is_over: false, waits: None };
            under_way.answers.insert(id, entry);
            Watched { answers: self.clone(), id, is_http2, rest: Bytes::new() }
        });
        Answer { body, watched }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    body: Inner,
    watched: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    answers: Answers,
    id: u64,
    is_http2: bool,
    /// Of a piece of the body, what is not given out yet.
    rest: Bytes,
}

impl Watched {
    fn give(&mut self) -> Bytes {
        let most = if self.is_http2 { PIECE_BYTES } else { usize::MAX };
        let bytes = self.rest.split_to(self.rest.len().min(most));
        if let Some(entry) = self.answers.under_way().answers.get_mut(&self.id) {
            entry.pieces = entry.pieces.saturating_add(1);
            if self.is_http2 {
                entry.until = Some(entry.patience.wait());
            }
        }
        Bytes::from_owner(Given { bytes, answers: self.answers.clone(), id: self.id })
    }
}

impl Watched {
    /// Must it not go on? The task that waits for its next piece is woken when that comes to be.
    fn is_over(&self, context: &Context<'_>) -> bool {
        let mut under_way = self.answers.under_way();
        let Some(entry) = under_way.answers.get_mut(&self.id).filter(|entry| entry.lease.is_some()) else {
            return false;
        };
        if !entry.waits.as_ref().is_some_and(|waits| waits.will_wake(context.waker())) {
            entry.waits = Some(context.waker().clone());
        }
        entry.is_over
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut under_way = self.answers.under_way();
        if let Some(entry) = under_way.answers.get_mut(&self.id) {
            entry.is_open = false;
            if entry.pieces == 0 {
                under_way.answers.remove(&self.id);
            }
        }
    }
}

/// A piece that was given out. It is dropped once its bytes are with the system, or never will be.
struct Given {
    bytes: Bytes,
    answers: Answers,
    id: u64,
}

impl AsRef<[u8]> for Given {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let mut under_way = self.answers.under_way();
        let Some(entry) = under_way.answers.get_mut(&self.id) else { return };
        entry.pieces = entry.pieces.saturating_sub(1);
        if entry.until.take().is_some() {
            entry.patience.took(self.bytes.len());
            // Others of it may be out still.
            entry.until = (entry.pieces > 0).then(|| entry.patience.wait());
        }
        if entry.pieces == 0 && !entry.is_open {
            under_way.answers.remove(&self.id);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self { body, watched } = self.get_mut();
        let Some(watched) = watched else { return Pin::new(body).poll_frame(context) };
        if watched.is_over(context) {
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::PermissionDenied, SUSPENDED))));
        }
        if watched.rest.is_empty() {
            match std::task::ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => watched.rest = data,
                    Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => return Poll::Ready(end),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(watched.give()))))
    }

    fn is_end_stream(&self) -> bool {
        self.watched.as_ref().is_none_or(|watched| watched.rest.is_empty()) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.watched.as_ref().map_or(0, |watched| watched.rest.len() as u64);
        let mut hint = self.body.size_hint();
        if rest > 0 {
            let (lower, upper) =
                (hint.lower().saturating_add(rest), hint.upper().map(|upper| upper.saturating_add(rest)));
            hint = SizeHint::new();
            hint.set_lower(lower);
            upper.into_iter().for_each(|upper| hint.set_upper(upper));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::{BodyExt as _, Full};

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn answer(answers: &Answers, bytes: usize, is_http2: bool) -> Answer {
        let body = Full::new(Bytes::from(vec![b'x'; bytes])).map_err(|never| match never {}).boxed();
        answers.watch(body, is_http2, None)
    }

    async fn piece(answer: &mut Answer) -> Bytes {
        answer.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_in_pieces_and_is_whole() {
        let answers = Answers::new(GRACE, 1_000);
        let mut answer = answer(&answers, 40_000, true);
        assert_eq!(answer.size_hint().exact(), Some(40_000));
        let first = piece(&mut answer).await;
        assert_eq!((first.len(), answer.size_hint().exact()), (PIECE_BYTES, Some(40_000 - PIECE_BYTES as u64)));
        assert_eq!(answer.collect().await.unwrap().to_bytes().len(), 40_000 - PIECE_BYTES);
        assert!(!answers.is_empty());
        drop(first);
        assert!(answers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_that_is_not_taken_in_time_stalls_the_connection_also_the_last() {
        for bytes in [1, 40_000] {
            let answers = Answers::new(GRACE, 1_000);
            let mut answer = answer(&answers, bytes, true);
            let piece = piece(&mut answer).await;
            // Wherever the piece waits: also when all of the answer was given out.
            drop(answer);
            tokio::time::advance(GRACE - Duration::from_millis(1)).await;
            assert_eq!(answers.verdict(false), None);
            tokio::time::advance(Duration::from_millis(2)).await;
            assert_eq!(answers.verdict(false), Some(Ended::SlowReader));
            drop(piece);
            assert_eq!((answers.verdict(false), answers.is_empty()), (None, true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_whose_pieces_are_taken_at_the_rate_never_stalls() {
        let answers = Answers::new(GRACE, 1_000);
        let mut answer = answer(&answers, 200_000, true);
        // Whoever sends it asks for the next before the last is gone.
        let mut waiting = piece(&mut answer).await;
        while !answer.is_end_stream() {
            let next = piece(&mut answer).await;
            tokio::time::advance(Duration::from_secs(9)).await;
            assert_eq!(answers.verdict(false), None);
            waiting = next;
        }
        tokio::time::advance(GRACE).await;
        assert_eq!((waiting.is_empty(), answers.verdict(false)), (false, Some(Ended::SlowReader)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_for_the_server_is_not_stalled() {
        let answers = Answers::new(GRACE, 1_000);
        let pieces = futures_util::stream::pending::<Result<Bytes, io::Error>>();
        let mut answer = answers.watch(poem::Body::from_bytes_stream(pieces).into(), true, None);
        assert!(tokio::time::timeout(GRACE * 2, answer.frame()).await.is_err());
        assert_eq!(answers.verdict(false), None);
    }

    #[tokio::test]
    async fn on_http_1_an_answer_is_given_as_it_is() {
        let answers = Answers::new(GRACE, 1_000);
        let mut answer = answer(&answers, 40_000, false);
        assert_eq!(piece(&mut answer).await.len(), 40_000);
        assert!(answer.is_end_stream() && answers.is_empty());
    }

    #[tokio::test]
    async fn an_answer_whose_lease_has_ended_ends_alone_beside_those_of_others() {
        let answers = Answers::new(GRACE, 1_000);
        let leased = |holds: &Arc<AtomicBool>| {
            let holds = Arc::clone(holds);
            let body = Full::new(Bytes::from(vec![b'x'; 100_000])).map_err(|never| match never {}).boxed();
            answers.watch(body, true, Some(Lease::new(move || holds.load(Ordering::Relaxed))))
        };
        let (holds, others) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let (mut answer, mut other) = (leased(&holds), leased(&others));
        drop((piece(&mut answer).await, piece(&mut other).await));
        holds.store(false, Ordering::Relaxed);
        assert_eq!(answers.verdict(false), None);
        let ended = answer.frame().await.unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::PermissionDenied);
        drop(answer);
        // The other goes on to its end.
        assert_eq!(
            (answers.verdict(false), other.collect().await.unwrap().to_bytes().len()),
            (None, 100_000 - PIECE_BYTES)
        );

        // So does a request of another that has no answer yet; what nobody shares ends as a whole.
        holds.store(true, Ordering::Relaxed);
        let _answer = leased(&holds);
        holds.store(false, Ordering::Relaxed);
        assert_eq!((answers.verdict(true), answers.verdict(false)), (None, Some(Ended::Suspended)));
    }

    #[tokio::test]
    async fn who_waits_for_a_piece_is_woken_when_its_answer_must_not_go_on() {
        let answers = Answers::new(GRACE, 1_000);
        let holds = Arc::new(AtomicBool::new(true));
        let lease = {
            let holds = Arc::clone(&holds);
            Lease::new(move || holds.load(Ordering::Relaxed))
        };
        let pieces = futures_util::stream::pending::<Result<Bytes, io::Error>>();
        let mut answer = answers.watch(poem::Body::from_bytes_stream(pieces).into(), true, Some(lease));
        let ending = async {
            tokio::task::yield_now().await;
            holds.store(false, Ordering::Relaxed);
            answers.verdict(true)
        };
        let (ended, verdict) = tokio::join!(answer.frame(), ending);
        assert!(ended.unwrap().is_err() && verdict.is_none());
    }

    #[tokio::test]
    async fn an_answer_whose_lease_has_ended_ends_its_connection_until_its_last_byte_is_gone() {
        for is_http2 in [false, true] {
            let answers = Answers::new(GRACE, 1_000);
            let holds = Arc::new(AtomicBool::new(true));
            let lease = {
                let holds = Arc::clone(&holds);
                Lease::new(move || holds.load(Ordering::Relaxed))
            };
            let body = Full::new(Bytes::from(vec![b'x'; 100_000])).map_err(|never| match never {}).boxed();
            let mut answer = answers.watch(body, is_http2, Some(lease));
            let piece = piece(&mut answer).await;
            drop(answer);
            assert_eq!(answers.verdict(false), None);
            holds.store(false, Ordering::Relaxed);
            assert_eq!(answers.verdict(false), Some(Ended::Suspended));
            drop(piece);
            assert_eq!(answers.verdict(false), None);
        }
    }
}
