//! A socket that gives up on a peer which takes nothing, or next to nothing; and on one that has ended its side while it is
//! sent what has no end.

use std::{
    io,
    io::IoSlice,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use super::patience::Patience;

/// What the error of a write says that was given up.
const TOO_SLOW: &str = "the client takes its answer too slowly, or not at all";

/// What the error says when a stream of events has nobody to go to.
const ENDED: &str = "the client has ended its side of a stream that has no end";

/// Is the answer under way one without an end? A client that has sent its request and ends its side is answered all the same,
/// but whether it still listens shows only when something is sent, and a stream may have nothing to send for long. Clones
/// share the answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Endless(Arc<AtomicBool>);

impl Endless {
    pub(super) fn set(&self, endless: bool) {
        self.0.store(endless, Ordering::Relaxed);
    }
}

/// A connection of which it can be told that its peer has ended its side.
pub(super) trait Peer {
    /// Has it, or is it gone? Otherwise the task is woken when it does.
    fn has_ended(&self, context: &mut Context<'_>) -> bool;
}

impl Peer for TcpStream {
    fn has_ended(&self, context: &mut Context<'_>) -> bool {
        let mut byte = [0];
        matches!(self.poll_peek(context, &mut ReadBuf::new(&mut byte)), Poll::Ready(Ok(0) | Err(_)))
    }
}

/// Fails a write for which the peer has kept us waiting longer than it may.
#[derive(Debug)]
pub(super) struct Socket<S> {
    inner: S,
    patience: Patience,
    endless: Endless,
    /// Runs only while a write waits: a healthy connection never starts it.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Socket<S> {
    /// A socket whose peer must take `rate_bytes` a second, less a grace.
    pub(super) fn new(inner: S, grace: Duration, rate_bytes: u64, endless: Endless) -> Self {
        Self { inner, patience: Patience::new(grace, rate_bytes), endless, waiting: None }
    }

    fn watch(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(taken) = polled {
            self.waiting = None;
            self.patience.took(*taken.as_ref().unwrap_or(&0));
            return Poll::Ready(taken);
        }
        let deadline = self.patience.wait();
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, TOO_SLOW)))
    }

    /// As [`Self::watch`], for what takes no bytes.
    fn watch_end(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        self.watch(context, polled.map_ok(|()| 0)).map_ok(|_| ())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(context, buf)
    }
}

impl<S: AsyncWrite + Peer + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let polled = Pin::new(&mut socket.inner).poll_write(context, buf);
        socket.watch(context, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let polled = Pin::new(&mut socket.inner).poll_write_vectored(context, bufs);
        socket.watch(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if socket.endless.0.load(Ordering::Relaxed) && socket.inner.has_ended(context) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, ENDED)));
        }
        let polled = Pin::new(&mut socket.inner).poll_flush(context);
        socket.watch_end(context, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        let polled = Pin::new(&mut socket.inner).poll_shutdown(context);
        socket.watch_end(context, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::Instant,
    };

    use super::*;

    impl Peer for tokio::io::DuplexStream {
        fn has_ended(&self, _: &mut Context<'_>) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_client_and_an_answer_does_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, client) = tokio::join!(listener.accept(), client);
        let endless = Endless::default();
        let mut socket = Socket::new(accepted.unwrap().0, Duration::from_secs(20), 1_000, endless.clone());
        let mut client = client.unwrap();
        endless.set(true);
        socket.flush().await.unwrap();
        client.shutdown().await.unwrap();
        let ended = std::future::poll_fn(|context| match Pin::new(&mut socket).poll_flush(context) {
            Poll::Ready(Err(error)) => Poll::Ready(error.kind()),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        });
        assert_eq!(ended.await, io::ErrorKind::BrokenPipe);
        endless.set(false);
        socket.write_all(b"answered").await.unwrap();
        socket.flush().await.unwrap();
        let mut answer = [0; 8];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_fails_after_the_grace() {
        let ((near, _far), begun) = (tokio::io::duplex(8), Instant::now());
        let mut socket = Socket::new(near, Duration::from_secs(20), 1_000, Endless::default());
        let error = socket.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_in_drops_is_given_up_and_one_at_the_rate_is_not() {
        for (drop_bytes, whole) in [(1, false), (1_000, true)] {
            let (near, mut far) = tokio::io::duplex(1_000);
            let mut socket = Socket::new(near, Duration::from_secs(20), 1_000, Endless::default());
            let reader = tokio::spawn(async move {
                let mut taken = vec![0; drop_bytes];
                while far.read_exact(&mut taken).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
            let written =
                tokio::time::timeout(Duration::from_secs(300), socket.write_all(&[0; 100_000])).await.unwrap();
            assert_eq!(written.is_ok(), whole, "{drop_bytes} bytes a second");
            reader.abort();
        }
    }
}
