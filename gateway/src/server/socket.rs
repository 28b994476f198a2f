//! A socket that gives up on a peer which takes nothing, or next to nothing.

use std::{
    io,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::patience::Patience;

/// What the error of a write says that was given up.
const TOO_SLOW: &str = "the client takes its answer too slowly, or not at all";

/// Fails a write for which the peer has kept us waiting longer than it may.
#[derive(Debug)]
pub(super) struct Socket<S> {
    inner: S,
    patience: Patience,
    /// Runs only while a write waits: a healthy connection never starts it.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Socket<S> {
    /// A socket whose peer must take `rate_bytes` a second, less a grace.
    pub(super) fn new(inner: S, grace: Duration, rate_bytes: u64) -> Self {
        Self { inner, patience: Patience::new(grace, rate_bytes), waiting: None }
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
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

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_fails_after_the_grace() {
        let ((near, _far), begun) = (tokio::io::duplex(8), Instant::now());
        let mut socket = Socket::new(near, Duration::from_secs(20), 1_000);
        let error = socket.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_in_drops_is_given_up_and_one_at_the_rate_is_not() {
        for (drop_bytes, whole) in [(1, false), (1_000, true)] {
            let (near, mut far) = tokio::io::duplex(1_000);
            let mut socket = Socket::new(near, Duration::from_secs(20), 1_000);
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
