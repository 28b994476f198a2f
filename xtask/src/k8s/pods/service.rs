//! A service with an address of its own: each connection goes to one of the pods that are ready when it comes.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context;

use super::kubelet::Board;

/// The most connections at a time: more than the callers of any trial have.
const CONNECTIONS_MAX: usize = 256;

/// How long a pod may take to accept one.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A service, on an address of this machine alone.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) address: SocketAddr,
    stops: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub(super) fn open(board: Board, set: String, port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
        let address = listener.local_addr().context("the listener has no address")?;
        let stops = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stops);
        let thread = thread::spawn(move || {
            let (mut turn, open) = (0, Arc::new(AtomicUsize::new(0)));
            for client in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let endpoints = board.endpoints(&set);
                turn += 1;
                let endpoint = endpoints.get(turn % endpoints.len().max(1));
                // Without an endpoint, or a place, the connection ends here, as one that is refused.
                let (Ok(client), Some(endpoint)) = (client, endpoint) else { continue };
                if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                    open.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let (open, endpoint) = (Arc::clone(&open), SocketAddr::new(*endpoint, port));
                thread::spawn(move || {
                    // Whoever is connected sees that it ends; there is nobody else to tell.
                    let _ = carry(&client, endpoint);
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(Self { address, stops, thread: Some(thread) })
    }
}

/// Carries bytes both ways until both sides have ended.
fn carry(client: &TcpStream, endpoint: SocketAddr) -> io::Result<()> {
    let pod = TcpStream::connect_timeout(&endpoint, CONNECT_WITHIN)?;
    for stream in [client, &pod] {
        stream.set_nodelay(true)?;
    }
    let (mut from_client, mut to_pod) = (client.try_clone()?, pod.try_clone()?);
    let up = thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_pod);
        let _ = to_pod.shutdown(Shutdown::Write);
    });
    let (mut from_pod, mut to_client) = (&pod, client);
    let _ = io::copy(&mut from_pod, &mut to_client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = up.join();
    Ok(())
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        // It looks when somebody connects.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
