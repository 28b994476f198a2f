//! The bounds of the serve loop.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a client of HTTP/2 must be able to send before its first request, in frames: settings, windows, and what
/// libraries add.
const IDLE_FRAMES_MIN: u32 = 100;

/// What the listener takes from its clients. Every bound is a number with a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Connections in all. More are answered 503 and closed: file descriptors are finite.
    pub connections_max: usize,
    /// Connections of one address; of IPv6, of one /64 network. One client must not take all; a proxy in front needs many.
    pub connections_per_address_max: usize,
    /// From the accept, or from the end of the answer before, to the end of a request's head, in milliseconds.
    pub header_read_timeout_ms: u64,
    /// Header fields of one request.
    pub headers_max: usize,
    /// Read buffer of an HTTP/1 connection, in bytes: also the largest head of a request.
    pub http1_buffer_bytes: usize,
    /// Largest decoded header list of an HTTP/2 request, in bytes.
    pub http2_header_list_bytes: u32,
    /// Requests under way on one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// Flow-control window of one HTTP/2 stream, in bytes.
    pub http2_stream_window_bytes: u32,
    /// Flow-control window of one HTTP/2 connection, in bytes.
    pub http2_connection_window_bytes: u32,
    /// Streams that a client reset before they were served, until the connection is closed (rapid reset).
    pub http2_resets_max: usize,
    /// Frames of HTTP/2 that are of no request (pings, settings, windows, priorities, resets) that a client may send at
    /// once. Each request brings it 8 more, and each KiB of an answer one, but at least 4 for a piece of it.
    pub http2_idle_frames_max: u32,
    /// How many of these it may send in a second, on average, and not 0. More than what keeps a connection alive; a
    /// client that sends more is cut off.
    pub http2_idle_frames_per_second: u32,
    /// Between two pings of an HTTP/2 connection, in milliseconds.
    pub http2_ping_every_ms: u64,
    /// For the answer to a ping, in milliseconds.
    pub http2_ping_timeout_ms: u64,
    /// A connection without a request under way for this long is closed, in milliseconds.
    pub idle_ms: u64,
    /// What the path of a request may have with its query, in bytes. More is answered 414.
    pub uri_bytes_max: usize,
    /// What all header fields of a request may have together, names and values, in bytes. More is answered 431.
    pub headers_bytes_max: usize,
    /// A client that takes no byte of its answer for this long is cut off, in milliseconds.
    pub write_stall_ms: u64,
    /// The least rate at which a client must take its answer, in bytes a second. Who is slower is cut off once the
    /// difference has added up to `write_stall_ms`.
    pub write_rate_bytes: u64,
    /// What is read away of a body that was refused, in bytes, so that a client which writes before it reads gets the answer:
    /// at least the largest upload of the widest tier, and more than that, as it was too large.
    pub linger_bytes_max: u64,
    /// The least rate at which it must come, in bytes a second.
    pub linger_rate_bytes: u64,
    /// Bodies that are read away at the same time. Of others the first MiB is.
    pub linger_max: usize,
    /// For a client to begin TLS, in milliseconds.
    pub tls_handshake_timeout_ms: u64,
    /// TLS handshakes under way. More are closed: each costs as much as many requests.
    pub tls_handshakes_max: usize,
    /// Of them, those of one address.
    pub tls_handshakes_per_address_max: usize,
    /// The first pause after the system could not accept (out of file descriptors); doubled up to a second.
    pub accept_backoff_ms: u64,
    /// How long connections may go on after the shutdown began, in milliseconds.
    pub drain_ms: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections_max: 8_192,
            connections_per_address_max: 1_024,
            header_read_timeout_ms: 10_000,
            headers_max: 64,
            http1_buffer_bytes: 64 << 10,
            http2_header_list_bytes: 32 << 10,
            http2_streams_max: 128,
            http2_stream_window_bytes: 256 << 10,
            http2_connection_window_bytes: 1 << 20,
            http2_resets_max: 20,
            http2_idle_frames_max: 1_000,
            http2_idle_frames_per_second: 20,
            http2_ping_every_ms: 20_000,
            http2_ping_timeout_ms: 10_000,
            idle_ms: 75_000,
            uri_bytes_max: 8 << 10,
            headers_bytes_max: 32 << 10,
            write_stall_ms: 30_000,
            write_rate_bytes: 4 << 10,
            linger_bytes_max: 192 << 20,
            linger_rate_bytes: 1 << 20,
            linger_max: 256,
            tls_handshake_timeout_ms: 10_000,
            tls_handshakes_max: 2_048,
            tls_handshakes_per_address_max: 256,
            accept_backoff_ms: 10,
            drain_ms: 30_000,
        }
    }
}

impl ServerConfig {
    /// Is every value in its range?
    ///
    /// # Errors
    /// The first setting that is not, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.http2_idle_frames_max < IDLE_FRAMES_MIN {
            return Err(("http2_idle_frames_max", "is less than 100: clients begin with some of these"));
        }
        if self.http2_idle_frames_per_second == 0 {
            return Err(("http2_idle_frames_per_second", "must not be 0: pings keep an idle connection alive"));
        }
        Ok(())
    }

    pub(super) const fn header_read_timeout(&self) -> Duration {
        Duration::from_millis(self.header_read_timeout_ms)
    }

    pub(super) const fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    pub(super) const fn write_stall(&self) -> Duration {
        Duration::from_millis(self.write_stall_ms)
    }

    pub(super) const fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}
