//! The serve loop: an accept loop around any poem endpoint, with every bound that a listener facing clients needs.
//!
//! poem routes; hyper speaks HTTP/1 and HTTP/2; between them stand the deadlines, caps and the graceful end that
//! neither brings by itself.
//!
//! **Invariants**
//! - A client that sends no request, is idle, or takes its answer more slowly than it may is cut off in time, whatever
//!   protocol it speaks and whatever else it does on the same connection.
//! - An error of `accept` never ends the loop and never spins it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use poem::Endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod admission;
mod answer;
mod config;
mod connection;
mod ended;
mod frames;
mod linger;
mod patience;
mod socket;
mod tls;

pub use config::ServerConfig;
pub use tls::{Reloaded, Tls, TlsConfig, TlsError};

use crate::metrics;
use admission::Admission;
use connection::{Listening, Stop};
use ended::Ended;
use linger::Linger;
use tls::Handshakes;

/// The longest pause after a failed accept, in milliseconds: a descriptor is free again sooner than that.
const ACCEPT_BACKOFF_MAX_MS: u64 = 1_000;

/// What is said to a connection over the caps. Written without waiting, then the connection is closed.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
content-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 212\r\n\r\n\
{\"type\":\"https://wasmwiz.dev/problems/too-many-connections\",\"title\":\"Too many connections\",\"status\":503,\
\"detail\":\"This node has as many connections as it takes. Reuse connections, and try again after the pause.\"}";

/// How a serve loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were open when the shutdown began.
    pub open: usize,
    /// Those of them that were cut off at the deadline.
    pub aborted: usize,
}

/// Serves `endpoint` on `listener` until `shutdown` is cancelled; then stops accepting, lets requests under way end for
/// at most [`ServerConfig::drain_ms`], and cuts off the rest.
pub async fn serve<E: Endpoint + 'static>(
    listener: TcpListener,
    endpoint: E,
    config: ServerConfig,
    shutdown: CancellationToken,
) -> Drained {
    serve_by(listener, endpoint, config, None, shutdown).await
}

/// As [`serve`], to clients that speak TLS when there is a `tls`, and in the clear when there is none.
pub async fn serve_by<E: Endpoint + 'static>(
    listener: TcpListener,
    endpoint: E,
    config: ServerConfig,
    tls: Option<Tls>,
    shutdown: CancellationToken,
) -> Drained {
    let admission = Admission::new(config.connections_max, config.connections_per_address_max);
    let protocol = connection::protocol(&config);
    let stop = Stop { draining: CancellationToken::new(), abort: CancellationToken::new() };
    let handshakes = tls.map(|tls| Handshakes::new(tls, &config));
    let listening = Arc::new(Listening { endpoint, protocol, linger: Linger::new(&config), config, handshakes, stop });
    let connections = TaskTracker::new();
    let (aborts, mut aborted) = tokio::sync::watch::channel(0_usize);
    let mut pause_ms = listening.config.accept_backoff_ms;
    while let Some(accepted) = accept(&listener, &mut pause_ms, &listening.config, &shutdown).await {
        let (tcp, remote) = accepted;
        let Some(seat) = admit(&admission, &tcp, remote, listening.handshakes.is_some()) else { continue };
        let (listening, aborts) = (Arc::clone(&listening), aborts.clone());
        connections.spawn(async move {
            let ended = connection::serve(tcp, remote, listening).await;
            if ended == Ended::Aborted {
                aborts.send_modify(|count| *count = count.saturating_add(1));
            }
            ended.count();
            drop(seat);
            ::metrics::gauge!(metrics::CONNECTIONS).decrement(1);
        });
    }
    drop(listener);
    let open = admission.open_connections();
    listening.stop.draining.cancel();
    connections.close();
    if tokio::time::timeout(listening.config.drain(), connections.wait()).await.is_err() {
        listening.stop.abort.cancel();
        connections.wait().await;
    }
    let aborted = *aborted.borrow_and_update();
    Drained { open, aborted }
}

/// The next connection; `None` once the shutdown has begun.
async fn accept(
    listener: &TcpListener,
    pause_ms: &mut u64,
    config: &ServerConfig,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                *pause_ms = config.accept_backoff_ms;
                return Some(accepted);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms, "a connection cannot be accepted");
                tokio::select! {
                    () = shutdown.cancelled() => return None,
                    () = tokio::time::sleep(Duration::from_millis(*pause_ms)) => {}
                }
                *pause_ms = pause_ms.saturating_mul(2).clamp(1, ACCEPT_BACKOFF_MAX_MS);
            }
        }
    }
}

fn admit(admission: &Admission, tcp: &TcpStream, remote: SocketAddr, tls: bool) -> Option<admission::Seat> {
    match admission.enter(remote.ip()) {
        Ok(seat) => {
            ::metrics::gauge!(metrics::CONNECTIONS).increment(1);
            Some(seat)
        }
        Err(bound) => {
            ::metrics::counter!(metrics::CONNECTIONS_REFUSED_TOTAL, "bound" => bound).increment(1);
            // As much as the socket's buffer takes at once; nobody waits for a client that is turned away, nor is a
            // handshake spent on it.
            if !tls {
                let _told = tcp.try_write(TURNED_AWAY);
            }
            None
        }
    }
}

/// Did only the one connection fail? Then the next can be accepted at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_over_the_caps_has_the_length_it_names() {
        let text = std::str::from_utf8(TURNED_AWAY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }

    #[test]
    fn running_out_of_descriptors_is_not_of_one_connection() {
        assert!(!is_of_one_connection(&io::Error::from_raw_os_error(24)));
        assert!(is_of_one_connection(&io::ErrorKind::ConnectionAborted.into()));
    }
}
