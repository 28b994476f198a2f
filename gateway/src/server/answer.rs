//! Answers of HTTP/2, of which the client says how much it takes.
//!
//! On HTTP/1 an answer that is not taken stops the socket, which sees it. On HTTP/2 the socket goes on, for pings and for
//! other streams; a client that opens no window holds what is meant for it. So each answer is given out in small pieces,
//! the next only when there is window for it, and how long a piece waits for that is watched.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::patience::Patience;

/// The most that is given out at a time, in bytes: what one stream holds whose client opens no window. The largest frame
/// that every client must take.
const PIECE_BYTES: usize = 16 << 10;

type Inner = BoxBody<Bytes, io::Error>;

/// The answers of one connection that wait for their client, and until when. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Answers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    grace: Duration,
    rate_bytes: u64,
    waiting: Mutex<Waiting>,
}

/// At most one entry a stream: their number is bounded by the connection's settings.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    until: HashMap<u64, Instant>,
}

impl Answers {
    /// Answers that must be taken at `rate_bytes` a second each, less a grace.
    pub(super) fn new(grace: Duration, rate_bytes: u64) -> Self {
        Self(Arc::new(Shared { grace, rate_bytes, waiting: Mutex::default() }))
    }

    /// Does one wait longer than it may?
    pub(super) fn is_stalled(&self) -> bool {
        let now = Instant::now();
        self.waiting().until.values().any(|until| *until <= now)
    }

    /// The body of an answer, watched if it is one of HTTP/2.
    pub(super) fn watch(&self, body: Inner, is_http2: bool) -> Answer {
        let watched = is_http2.then(|| {
            let mut waiting = self.waiting();
            waiting.next = waiting.next.wrapping_add(1);
            let patience = Patience::new(self.0.grace, self.0.rate_bytes);
            Watched { answers: self.clone(), id: waiting.next, patience, rest: Bytes::new(), given: 0 }
        });
        Answer { body, watched }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
    patience: Patience,
    /// Of a piece of the body, what is not given out yet.
    rest: Bytes,
    /// Bytes that wait for the client.
    given: usize,
}

impl Watched {
    /// The client has taken what was given: that is why there is a next time.
    fn asked(&mut self) {
        if self.given > 0 {
            self.patience.took(self.given);
            self.given = 0;
            self.answers.waiting().until.remove(&self.id);
        }
    }

    fn give(&mut self) -> Bytes {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        self.given = piece.len();
        let until = self.patience.wait();
        self.answers.waiting().until.insert(self.id, until);
        piece
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.given > 0 {
            self.answers.waiting().until.remove(&self.id);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self { body, watched } = self.get_mut();
        let Some(watched) = watched else { return Pin::new(body).poll_frame(context) };
        watched.asked();
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
        // The last piece, too, is waited for: whoever sends it asks once more.
        self.watched.as_ref().is_none_or(|watched| watched.given == 0 && watched.rest.is_empty())
            && self.body.is_end_stream()
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
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn answer(answers: &Answers, bytes: usize, is_http2: bool) -> Answer {
        let body = Full::new(Bytes::from(vec![b'x'; bytes])).map_err(|never| match never {}).boxed();
        answers.watch(body, is_http2)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_in_pieces_and_is_whole() {
        let answers = Answers::new(GRACE, 1_000);
        let mut answer = answer(&answers, 40_000, true);
        assert_eq!(answer.size_hint().exact(), Some(40_000));
        let first = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((first.len(), answer.size_hint().exact()), (PIECE_BYTES, Some(40_000 - PIECE_BYTES as u64)));
        assert_eq!(answer.collect().await.unwrap().to_bytes().len(), 40_000 - PIECE_BYTES);
        assert!(answers.waiting().until.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_that_is_not_taken_in_time_stalls_the_connection_also_the_last() {
        for bytes in [1, 40_000] {
            let answers = Answers::new(GRACE, 1_000);
            let mut answer = answer(&answers, bytes, true);
            assert!(answer.frame().await.is_some());
            assert!(!answer.is_end_stream());
            tokio::time::advance(GRACE - Duration::from_millis(1)).await;
            assert!(!answers.is_stalled());
            tokio::time::advance(Duration::from_millis(2)).await;
            assert!(answers.is_stalled());
            drop(answer);
            assert!(!answers.is_stalled());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_whose_pieces_are_taken_at_the_rate_never_stalls() {
        let answers = Answers::new(GRACE, 1_000);
        let mut answer = answer(&answers, 200_000, true);
        while answer.frame().await.is_some() {
            tokio::time::advance(Duration::from_secs(9)).await;
            assert!(!answers.is_stalled());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_for_the_server_is_not_stalled() {
        let answers = Answers::new(GRACE, 1_000);
        let pieces = futures_util::stream::pending::<Result<Bytes, io::Error>>();
        let mut answer = answers.watch(poem::Body::from_bytes_stream(pieces).into(), true);
        assert!(tokio::time::timeout(GRACE * 2, answer.frame()).await.is_err());
        assert!(!answers.is_stalled());
    }

    #[tokio::test]
    async fn on_http_1_an_answer_is_given_as_it_is() {
        let answers = Answers::new(GRACE, 1_000);
        let mut answer = answer(&answers, 40_000, false);
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap().len(), 40_000);
        assert!(answer.is_end_stream() && answers.waiting().until.is_empty());
    }
}
