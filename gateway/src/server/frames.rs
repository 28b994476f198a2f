//! Frames of HTTP/2 that cost nothing to send: SETTINGS, PING, WINDOW_UPDATE, PRIORITY, RST_STREAM, empty DATA and
//! those that nobody knows. Each has to be read, and some be answered, and the library sets no bound to them. Here they
//! have one: a token bucket for each connection, which fills by the second, by each of its requests and by the bytes of
//! answers that it is sent. A client whose bucket is empty is cut off.
//!
//! What stands between the socket and the library sees the bytes of both and changes none. Requests and their bodies
//! are not counted here, but for pieces of a body that are next to empty: the library counts what is out of measure in
//! them, and their tenants pay for them. A connection that does not begin with the preface of HTTP/2 is left alone.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::ServerConfig;

/// What a connection of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length, type, flags and stream of a frame, in bytes (RFC 9113, section 4.1).
const HEAD_BYTES: usize = 9;

/// Types of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// Tokens for a request: windows that are opened for it, its priority, and that it is given up.
const OF_REQUEST: u32 = 8;

/// Tokens for a piece of an answer, at least: most clients open both windows again with each, and some ping to measure.
const OF_PIECE: u32 = 4;

/// Bytes of an answer for one token: some clients open both windows again with each 4 KiB that they read, whatever the
/// size of the pieces.
const BYTES_A_TOKEN: u32 = 1 << 10;

/// The smallest piece that counts, in bytes: a client that opens a window by a byte at a time is sent bytes, and gets
/// no token for them. A smaller piece of a body takes one: it may go to a stream that has ended, where nobody else
/// counts it.
const PIECE_BYTES: u32 = 64;

/// The tokens for a piece of an answer.
fn tokens_of_piece(payload_bytes: u32) -> u32 {
    if payload_bytes < PIECE_BYTES { 0 } else { OF_PIECE.max(payload_bytes / BYTES_A_TOKEN) }
}

/// What ends the connection.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the client sends more frames that are of no request than it may")]
pub(super) struct Flood;

impl From<Flood> for io::Error {
    fn from(flood: Flood) -> Self {
        // A kind that no socket has: by it the end of the connection is told apart.
        Self::new(io::ErrorKind::QuotaExceeded, flood)
    }
}

/// A token for each of these frames that a client may still send.
#[derive(Debug)]
struct Bucket {
    most: u32,
    per_second: u32,
    left: u32,
    /// Up to when the tokens of each second are in it.
    filled: Instant,
}

impl Bucket {
    fn put(&mut self, tokens: u32) {
        self.left = self.left.saturating_add(tokens).min(self.most);
    }

    fn take(&mut self) -> Result<(), Flood> {
        if self.left == 0 {
            // A healthy client costs no look at the clock.
            let now = Instant::now();
            let since = now.duration_since(self.filled).as_millis().saturating_mul(u128::from(self.per_second)) / 1_000;
            self.filled = now;
            self.put(u32::try_from(since).unwrap_or(u32::MAX));
        }
        self.left = self.left.checked_sub(1).ok_or(Flood)?;
        Ok(())
    }
}

/// Finds the heads of frames in bytes that come in any pieces.
#[derive(Debug, Default)]
struct Heads {
    head: [u8; HEAD_BYTES],
    /// How much of the head is there.
    filled: usize,
    /// How much of the payload is still to come.
    payload_bytes: usize,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    kind: u8,
    payload_bytes: u32,
}

impl Heads {
    /// The next head that ends in `bytes`, of which the read ones are taken off.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        loop {
            let skipped = self.payload_bytes.min(bytes.len());
            self.payload_bytes -= skipped;
            *bytes = bytes.get(skipped..).unwrap_or_default();
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            if let Some(place) = self.head.get_mut(self.filled) {
                *place = *byte;
            }
            self.filled += 1;
            if self.filled == HEAD_BYTES {
                self.filled = 0;
                let [high, middle, low, kind, ..] = self.head;
                let payload_bytes = u32::from_be_bytes([0, high, middle, low]);
                self.payload_bytes = payload_bytes as usize;
                return Some(Head { kind, payload_bytes });
            }
        }
    }
}

/// What is known of the protocol.
#[derive(Debug)]
enum Stage {
    /// So many bytes of the preface have come.
    Preface(usize),
    Http2,
    /// Nothing is counted.
    Other,
}

/// A connection whose frames are counted.
#[derive(Debug)]
pub(super) struct Counted<S> {
    inner: S,
    stage: Stage,
    received: Heads,
    sent: Heads,
    bucket: Bucket,
}

impl<S> Counted<S> {
    pub(super) fn new(inner: S, config: &ServerConfig) -> Self {
        let most = config.http2_idle_frames_max;
        let per_second = config.http2_idle_frames_per_second;
        let bucket = Bucket { most, per_second, left: most, filled: Instant::now() };
        Self { inner, stage: Stage::Preface(0), received: Heads::default(), sent: Heads::default(), bucket }
    }

    /// Counts what has come.
    fn received(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        if let Stage::Preface(seen) = &mut self.stage {
            let rest = PREFACE.get(*seen..).unwrap_or_default();
            let length = rest.len().min(bytes.len());
            let (begun, after) = bytes.split_at(length);
            if rest.get(..length) != Some(begun) {
                self.stage = Stage::Other;
            } else {
                *seen += length;
                if *seen == PREFACE.len() {
                    self.stage = Stage::Http2;
                }
            }
            bytes = after;
        }
        if !matches!(self.stage, Stage::Http2) {
            return Ok(());
        }
        while let Some(head) = self.received.next(&mut bytes) {
            match head.kind {
                HEADERS => self.bucket.put(OF_REQUEST),
                CONTINUATION => {}
                DATA if head.payload_bytes >= PIECE_BYTES => {}
                _ => self.bucket.take()?,
            }
        }
        Ok(())
    }

    /// Counts what was sent.
    fn sent(&mut self, mut bytes: &[u8]) {
        if !matches!(self.stage, Stage::Http2) {
            return;
        }
        while let Some(head) = self.sent.next(&mut bytes) {
            if head.kind == DATA {
                self.bucket.put(tokens_of_piece(head.payload_bytes));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let counted = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut counted.inner).poll_read(context, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        Poll::Ready(counted.received(fresh).map_err(io::Error::from))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let counted = self.get_mut();
        let written = ready!(Pin::new(&mut counted.inner).poll_write(context, buf))?;
        counted.sent(buf.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let counted = self.get_mut();
        let written = ready!(Pin::new(&mut counted.inner).poll_write_vectored(context, bufs))?;
        let mut left = written;
        for buf in bufs {
            let taken = left.min(buf.len());
            counted.sent(buf.get(..taken).unwrap_or_default());
            left -= taken;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    /// A connection that has begun, with a bucket of ten tokens and two a second.
    fn counted() -> Counted<()> {
        let config =
            ServerConfig { http2_idle_frames_max: 10, http2_idle_frames_per_second: 2, ..ServerConfig::default() };
        let mut counted = Counted::new((), &config);
        counted.received(PREFACE).unwrap();
        counted
    }

    fn ping() -> Vec<u8> {
        frame(PING, &[0; 8])
    }

    #[test]
    fn heads_are_found_whatever_pieces_they_come_in() {
        let bytes =
            [frame(HEADERS, b"a request"), ping(), frame(DATA, &[7; 300]), frame(WINDOW_UPDATE, &[0; 4])].concat();
        for size in 1..bytes.len() {
            let (mut heads, mut found) = (Heads::default(), Vec::new());
            for mut piece in bytes.chunks(size) {
                while let Some(head) = heads.next(&mut piece) {
                    found.push((head.kind, head.payload_bytes));
                }
            }
            assert_eq!(found, [(HEADERS, 9), (PING, 8), (DATA, 300), (WINDOW_UPDATE, 4)], "in pieces of {size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_more_than_it_has_is_cut_off_and_who_keeps_a_connection_alive_is_not() {
        let mut flood = counted();
        for _ in 0..10 {
            flood.received(&ping()).unwrap();
        }
        assert!(flood.received(&ping()).is_err());
        let mut alive = counted();
        for _ in 0..1_000 {
            tokio::time::advance(Duration::from_secs(1)).await;
            alive.received(&[ping(), ping()].concat()).unwrap();
        }
        // What was not taken is not kept beyond what the bucket holds.
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert!(alive.received(&ping().repeat(21)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_what_is_sent_for_them_bring_the_tokens_for_the_frames_that_go_with_them() {
        let mut client = counted();
        let both_windows = [frame(WINDOW_UPDATE, &[0; 4]), frame(WINDOW_UPDATE, &[0; 4])].concat();
        for _ in 0..1_000 {
            client.received(&frame(HEADERS, b"a request")).unwrap();
            client.received(&frame(2, &[0; 5])).unwrap();
            for _ in 0..100 {
                client.sent(&frame(DATA, &[7; 4_096]));
                client.received(&both_windows).unwrap();
            }
        }
        // One that lets an answer out in drops opens a window for each.
        let mut drops = counted();
        let dribbled = (0..1_000).all(|_| {
            drops.sent(&frame(DATA, &[7]));
            drops.received(&both_windows).is_ok()
        });
        assert!(!dribbled);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_opens_both_windows_for_each_4_kib_is_sent_a_large_answer_whole() {
        // Given the default bounds, and an answer of 5 MiB in pieces of 16 KiB.
        let mut client = Counted::new((), &ServerConfig::default());
        client.received(PREFACE).unwrap();
        client.received(&frame(HEADERS, b"a request")).unwrap();
        let both_windows = [frame(WINDOW_UPDATE, &[0; 4]), frame(WINDOW_UPDATE, &[0; 4])].concat();
        for round in 0..300 {
            client.sent(&frame(DATA, &[7; 16_384]));
            let went_on = client.received(&both_windows.repeat(4));
            assert!(went_on.is_ok(), "cut off after {round} pieces");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_http_2_is_left_alone() {
        let mut other = Counted::new((), &ServerConfig { http2_idle_frames_max: 0, ..ServerConfig::default() });
        other.received(b"PRI * HTTP/1.1\r\n").unwrap();
        other.received(&ping().repeat(1_000)).unwrap();
        let mut begun = Counted::new((), &ServerConfig { http2_idle_frames_max: 0, ..ServerConfig::default() });
        for byte in PREFACE {
            begun.received(std::slice::from_ref(byte)).unwrap();
        }
        assert!(begun.received(&ping()).is_err());
    }
}
