//! One connection, from its first byte to its last.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use http::{Version, uri::Scheme};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use poem::{
    Addr, Endpoint,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    ServerConfig,
    answer::Answers,
    ended::Ended,
    frames::Counted,
    linger::Linger,
    socket::{Endless, Socket},
    tls::Handshakes,
};
use crate::{
    lease::{Asking, Lease},
    shares::ConnectionId,
    stream,
};

/// How often the answers of an HTTP/2 connection are looked at, in milliseconds: so much later than it could be is one
/// cut off that is not taken.
const LOOK_EVERY_MS: u64 = 5_000;

/// The same while there are any.
const LOOK_CLOSELY: Duration = Duration::from_secs(1);

/// What the next connection is called. Ids are compared, and mean nothing.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

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
    /// Who asks, by the number of the request: as many as are under way.
    asking: Mutex<HashMap<u64, Asking>>,
}

impl Pulse {
    fn asking(&self) -> MutexGuard<'_, HashMap<u64, Asking>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is a request under way of which it is known that its answer may go out? Those of a tenant that is suspended, and
    /// those that nobody has signed for, do not keep the connection for its answers.
    fn is_shared(&self) -> bool {
        let asking: Vec<_> = self.asking().values().cloned().collect();
        // Asked outside of the lock: what they ask has locks of its own.
        asking.iter().any(Asking::holds)
    }
}

/// One request under way, also when it is dropped half-way.
struct Beat {
    pulse: Arc<Pulse>,
    number: u64,
}

impl Beat {
    fn begin(pulse: &Arc<Pulse>, asking: Asking) -> Self {
        let number = pulse.begun.fetch_add(1, Ordering::Relaxed);
        pulse.under_way.fetch_add(1, Ordering::Relaxed);
        pulse.asking().insert(number, asking);
        Self { pulse: Arc::clone(pulse), number }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulse.asking().remove(&self.number);
        self.pulse.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The protocol's builder, with every bound set.
pub(super) fn protocol(config: &ServerConfig) -> auto::Builder<TokioExecutor> {
    let ms = Duration::from_millis;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_read_timeout())
        .max_headers(config.headers_max)
        // hyper's floor; a smaller buffer panics.
        .max_buf_size(config.http1_buffer_bytes.max(8_192))
        // A client may end its side once it has sent its request. Streams end with it all the same: see `Endless`.
        .half_close(true);
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

/// What all connections of a listener share.
pub(super) struct Listening<E> {
    pub(super) endpoint: E,
    pub(super) protocol: auto::Builder<TokioExecutor>,
    pub(super) config: ServerConfig,
    pub(super) linger: Linger,
    /// `None`: clients speak to it in the clear.
    pub(super) handshakes: Option<Handshakes>,
    pub(super) stop: Stop,
}

/// Serves one connection until it closes, idles, or is stopped.
pub(super) async fn serve<E: Endpoint + 'static>(
    tcp: TcpStream,
    remote: SocketAddr,
    listening: Arc<Listening<E>>,
) -> Ended {
    if let Err(error) = prepare(&tcp) {
        tracing::debug!(%error, "a connection was closed before it was served");
        return Ended::Closed;
    }
    let local = tcp.local_addr().map_or_else(|_| LocalAddr::default(), |addr| LocalAddr(Addr::SocketAddr(addr)));
    let between = (local, RemoteAddr(Addr::SocketAddr(remote)));
    let config = &listening.config;
    let endless = Endless::default();
    let socket = Socket::new(tcp, config.write_stall(), config.write_rate_bytes, endless.clone());
    let Some(handshakes) = &listening.handshakes else {
        return speak(socket, between, Scheme::HTTP, endless, listening).await;
    };
    let begun = tokio::select! {
        () = listening.stop.draining.cancelled() => return Ended::Closed,
        begun = handshakes.begin(socket, remote.ip()) => begun,
    };
    match begun {
        Some(stream) => Box::pin(speak(stream, between, Scheme::HTTPS, endless, listening)).await,
        None => Ended::NoTls,
    }
}

/// Speaks HTTP on a connection that is ready for it.
async fn speak<E: Endpoint + 'static>(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    between: (LocalAddr, RemoteAddr),
    scheme: Scheme,
    endless: Endless,
    listening: Arc<Listening<E>>,
) -> Ended {
    let socket = Counted::new(socket, &listening.config);
    let Listening { protocol, config, stop, .. } = &*listening;
    let pulse = Arc::new(Pulse::default());
    let answers = Answers::new(config.write_stall(), config.write_rate_bytes);
    let id = ConnectionId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
    let service = service_fn({
        let (pulse, answers, listening) = (Arc::clone(&pulse), answers.clone(), Arc::clone(&listening));
        move |request: http::Request<Incoming>| {
            let asking = Asking::default();
            let beat = Beat::begin(&pulse, asking.clone());
            let (listening, answers, scheme) = (Arc::clone(&listening), answers.clone(), scheme.clone());
            let endless = endless.clone();
            let (local, remote) = between.clone();
            async move {
                let is_http2 = request.version() == Version::HTTP_2;
                let mut request = poem::Request::from((request, local, remote, scheme));
                request.set_data(id);
                request.set_data(asking);
                listening.linger.over(&mut request);
                endless.set(false);
                let response = listening.endpoint.get_response(request).await;
                endless.set(!is_http2 && response.content_type() == Some(stream::MEDIA_TYPE));
                drop(beat);
                let lease = response.data::<Lease>().cloned();
                Ok::<_, Infallible>(http::Response::from(response).map(|body| answers.watch(body, is_http2, lease)))
            }
        }
    });
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(socket), service));
    let (mut draining, mut aborted) = (pin!(stop.draining.cancelled()), pin!(stop.abort.cancelled()));
    // hyper's own deadline begins once it knows the protocol; a client that says nothing at all is caught here.
    let mut check = pin!(tokio::time::sleep(config.header_read_timeout()));
    let look_every = Duration::from_millis(LOOK_EVERY_MS.min(config.write_stall_ms).max(1));
    let mut look = pin!(tokio::time::sleep(look_every));
    let (mut stopping, mut seen) = (false, 0);
    loop {
        tokio::select! {
            result = connection.as_mut() => return result.map_or_else(|error| Ended::of(&*error), |()| Ended::Closed),
            () = draining.as_mut(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = aborted.as_mut() => return Ended::Aborted,
            () = look.as_mut() => {
                if let Some(ended) = answers.verdict(pulse.is_shared()) {
                    return ended;
                }
                let again = if answers.is_empty() { look_every } else { look_every.min(LOOK_CLOSELY) };
                look.as_mut().reset(Instant::now() + again);
            }
            () = check.as_mut() => {
                let (begun, under_way) = (pulse.begun.load(Ordering::Relaxed), pulse.under_way.load(Ordering::Relaxed));
                if begun == 0 {
                    return Ended::NoHead;
                }
                if under_way == 0 && begun == seen && !stopping {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                seen = begun;
                check.as_mut().reset(Instant::now() + config.idle());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn requests_of_a_suspended_tenant_or_of_nobody_do_not_share_a_connection() {
        let pulse = Arc::new(Pulse::default());
        let (own, other) = (Asking::default(), Asking::default());
        let _unknown = Beat::begin(&pulse, Asking::default());
        let _own = Beat::begin(&pulse, own.clone());
        assert!(!pulse.is_shared(), "nobody is known to ask");
        let is_active = Arc::new(AtomicBool::new(true));
        own.rests_on({
            let is_active = Arc::clone(&is_active);
            Lease::new(move || is_active.load(Ordering::Relaxed))
        });
        assert!(pulse.is_shared());
        is_active.store(false, Ordering::Relaxed);
        assert!(!pulse.is_shared(), "its tenant is suspended");
        let beat = Beat::begin(&pulse, other.clone());
        other.rests_on(Lease::new(|| true));
        assert!(pulse.is_shared());
        drop(beat);
        assert!(!pulse.is_shared());
        assert_eq!((pulse.asking().len(), pulse.under_way.load(Ordering::Relaxed)), (2, 2));
    }

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
