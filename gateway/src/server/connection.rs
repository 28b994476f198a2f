//! One connection, from its first byte to its last.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use http::uri::Scheme;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use poem::{
    Addr, Endpoint,
    web::{LocalAddr, RemoteAddr},
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{ServerConfig, linger::linger, socket::Socket};

/// How a connection's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, or because it was idle.
    Closed,
    /// Cut off in the middle of an answer.
    Aborted,
}

/// When a connection is to stop: gently, and at once.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    pub(super) draining: CancellationToken,
    pub(super) abort: CancellationToken,
}

/// Requests of one connection: how many ever, how many now.
#[derive(Debug, Default)]
struct Pulse {
    begun: AtomicU64,
    under_way: AtomicUsize,
}

/// One request under way, also when it is dropped half-way.
struct Beat(Arc<Pulse>);

impl Beat {
    fn begin(pulse: &Arc<Pulse>) -> Self {
        pulse.begun.fetch_add(1, Ordering::Relaxed);
        pulse.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(pulse))
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The protocol's builder, with every bound set.
pub(super) fn protocol(config: &ServerConfig) -> auto::Builder<TokioExecutor> {
    let ms = std::time::Duration::from_millis;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_read_timeout())
        .max_headers(config.headers_max)
        // hyper's floor; a smaller buffer panics.
        .max_buf_size(config.http1_buffer_bytes.max(8_192))
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.http2_streams_max)
        .initial_stream_window_size(config.http2_stream_window_bytes)
        .initial_connection_window_size(config.http2_connection_window_bytes)
        .max_pending_accept_reset_streams(config.http2_resets_max)
        .max_local_error_reset_streams(config.http2_resets_max)
        .max_header_list_size(config.http2_header_list_bytes)
        .keep_alive_interval(ms(config.http2_ping_every_ms))
        .keep_alive_timeout(ms(config.http2_ping_timeout_ms));
    builder
}

/// Answers are small and written in one piece: waiting to fill a segment only delays them.
fn prepare(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)
}

/// Serves one connection until it closes, idles, or is stopped.
pub(super) async fn serve<E: Endpoint + 'static>(
    tcp: TcpStream,
    remote: SocketAddr,
    endpoint: Arc<E>,
    protocol: Arc<auto::Builder<TokioExecutor>>,
    config: Arc<ServerConfig>,
    stop: Stop,
) -> Ended {
    if let Err(error) = prepare(&tcp) {
        tracing::debug!(%error, "a connection was closed before it was served");
        return Ended::Closed;
    }
    let local = tcp.local_addr().map_or_else(|_| LocalAddr::default(), |addr| LocalAddr(Addr::SocketAddr(addr)));
    let remote = RemoteAddr(Addr::SocketAddr(remote));
    let pulse = Arc::new(Pulse::default());
    let service = service_fn({
        let pulse = Arc::clone(&pulse);
        move |request: http::Request<Incoming>| {
            let beat = Beat::begin(&pulse);
            let endpoint = Arc::clone(&endpoint);
            let from = (local.clone(), remote.clone());
            async move {
                let mut request = poem::Request::from((request, from.0, from.1, Scheme::HTTP));
                linger(&mut request);
                let response = endpoint.get_response(request).await;
                drop(beat);
                Ok::<_, Infallible>(http::Response::from(response))
            }
        }
    });
    let socket = Socket::new(tcp, std::time::Duration::from_millis(config.write_stall_ms));
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(socket), service));
    let (mut draining, mut aborted) = (pin!(stop.draining.cancelled()), pin!(stop.abort.cancelled()));
    // hyper's own deadline begins once it knows the protocol; a client that says nothing at all is caught here.
    let mut check = pin!(tokio::time::sleep(config.header_read_timeout()));
    let (mut stopping, mut seen) = (false, 0);
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended with an error");
                }
                return Ended::Closed;
            }
            () = draining.as_mut(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = aborted.as_mut() => return Ended::Aborted,
            () = check.as_mut() => {
                let (begun, under_way) = (pulse.begun.load(Ordering::Relaxed), pulse.under_way.load(Ordering::Relaxed));
                if begun == 0 {
                    return Ended::Closed;
                }
                if under_way == 0 && begun == seen && !stopping {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                seen = begun;
                check.as_mut().reset(tokio::time::Instant::now() + config.idle());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_answers_are_sent_without_delay() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, _client) = tokio::join!(listener.accept(), client);
        let (tcp, _) = accepted.unwrap();
        prepare(&tcp).unwrap();
        assert!(tcp.nodelay().unwrap());
    }
}
