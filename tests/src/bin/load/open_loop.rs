//! An open loop: requests are due at a fixed rate, and are sent then, whatever became of those before.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::{Mutex as Turns, mpsc},
    time::{Instant, timeout_at},
};
use wasmwiz_tests::wire::read_answer;

/// Connections that take requests as they become due. More are under way only when the server is far behind; then requests
/// wait for a connection, and that counts.
const CONNECTIONS: usize = 128;

/// How long after the last request was due an answer still counts as served.
const GRACE: Duration = Duration::from_secs(1);

/// Significant digits of a latency that are kept.
const DIGITS: u8 = 3;

/// A rate, and how long it is kept up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    pub(crate) lasts: Duration,
}

impl Rate {
    fn requests(self) -> usize {
        (f64::from(self.per_second) * self.lasts.as_secs_f64()) as usize
    }

    /// When a request is due, from the beginning.
    fn due(self, request: usize) -> Duration {
        Duration::from_secs_f64(request as f64 / f64::from(self.per_second))
    }
}

/// What became of the requests.
#[derive(Debug)]
pub(crate) struct Served {
    /// The part that was answered with a 200 in time: 1 is all.
    pub(crate) share: f64,
    /// Microseconds from when a request was due to the last byte of its answer. One that was not served counts as if it had
    /// been when the time was over.
    latency: Histogram<u64>,
}

impl Served {
    /// A percentile of the latency, in milliseconds.
    pub(crate) fn ms(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1_000.0
    }
}

/// What the connections share.
struct Shared {
    address: SocketAddr,
    request: Vec<u8>,
    begun: Instant,
    rate: Rate,
    /// Requests that are due.
    due: Turns<mpsc::Receiver<usize>>,
    /// By request, how long it took, once it was served.
    took: Mutex<Vec<Option<Duration>>>,
}

/// Sends `request` at this rate.
///
/// # Errors
/// When there is no connection to the server at all.
pub(crate) async fn run(address: SocketAddr, request: Vec<u8>, rate: Rate) -> anyhow::Result<Served> {
    TcpStream::connect(address).await.context("the server takes no connection")?;
    let (sender, due) = mpsc::channel(rate.requests().max(1));
    let shared = Arc::new(Shared {
        address,
        request,
        begun: Instant::now(),
        rate,
        due: Turns::new(due),
        took: Mutex::new(vec![None; rate.requests()]),
    });
    let begun = shared.begun;
    // On a thread, because a sleep of the runtime is as coarse as a millisecond.
    let clock = thread::spawn(move || announce(begun, rate, &sender));
    let end = begun + rate.lasts + GRACE;
    let connections: Vec<_> =
        (0..CONNECTIONS).map(|_| tokio::spawn(timeout_at(end, connection(Arc::clone(&shared))))).collect();
    for connection in connections {
        // What is still under way when the time is over was not served.
        let _ = connection.await.context("a connection panicked")?;
    }
    clock.join().ok().context("the clock of the load panicked")?;
    let took = shared.took.lock().unwrap_or_else(PoisonError::into_inner);
    let mut latency = Histogram::new(DIGITS)?;
    for (request, took) in took.iter().enumerate() {
        let took = took.unwrap_or_else(|| rate.lasts + GRACE - rate.due(request));
        latency.record(u64::try_from(took.as_micros())?)?;
    }
    let served = took.iter().flatten().count();
    Ok(Served { share: served as f64 / took.len().max(1) as f64, latency })
}

/// Says of each request when it is due. The queue holds all of them, so nothing here ever waits for the server.
fn announce(begun: Instant, rate: Rate, due: &mpsc::Sender<usize>) {
    for request in 0..rate.requests() {
        thread::sleep((begun + rate.due(request)).saturating_duration_since(Instant::now()));
        if due.try_send(request).is_err() {
            return;
        }
    }
}

/// Takes requests that are due, one after the other.
async fn connection(shared: Arc<Shared>) {
    let (mut open, mut buffer) = (None, Vec::with_capacity(16 << 10));
    loop {
        let Some(request) = shared.due.lock().await.recv().await else { return };
        match exchange(&shared, open.take(), &mut buffer).await {
            Ok((stream, status)) => {
                open = Some(stream);
                if status == 200 {
                    let took = shared.begun.elapsed().saturating_sub(shared.rate.due(request));
                    let mut all = shared.took.lock().unwrap_or_else(PoisonError::into_inner);
                    all.iter_mut().skip(request).take(1).for_each(|one| *one = Some(took));
                }
            }
            // It was not served, and the next one gets a new connection.
            Err(_) => buffer.clear(),
        }
    }
}

async fn exchange(shared: &Shared, open: Option<TcpStream>, buffer: &mut Vec<u8>) -> anyhow::Result<(TcpStream, u16)> {
    let mut stream = match open {
        Some(stream) => stream,
        None => TcpStream::connect(shared.address).await?,
    };
    stream.set_nodelay(true)?;
    stream.write_all(&shared.request).await?;
    let status = read_answer(&mut stream, buffer).await?;
    Ok((stream, status))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::sleep,
    };

    use super::*;

    /// A server that answers, on every connection, and stands still once, for so long from so long after its start.
    async fn standing_still(after: Duration, still: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let begun = Instant::now();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut request = [0; 1_024];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let since = begun.elapsed();
                        if since > after && since < after + still {
                            sleep(after + still - since).await;
                        }
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_server_that_stands_still_is_charged_for_all_that_was_due_meanwhile() {
        let still = Duration::from_millis(500);
        let address = standing_still(Duration::from_millis(200), still).await;
        let rate = Rate { per_second: 500, lasts: Duration::from_secs(1) };
        let served = run(address, b"POST / HTTP/1.1\r\n\r\n".to_vec(), rate).await.unwrap();
        assert!((served.share - 1.0).abs() < f64::EPSILON, "{}", served.share);
        // Half of all requests were due while it stood still: of all, a quarter waited 250 ms or more.
        assert!(served.ms(80.0) > 200.0, "{}", served.ms(80.0));
        assert!(served.ms(99.0) > 400.0, "{}", served.ms(99.0));
    }

    #[tokio::test]
    async fn what_is_not_answered_is_not_served_and_not_fast() {
        let address = standing_still(Duration::ZERO, Duration::from_secs(60)).await;
        let rate = Rate { per_second: 100, lasts: Duration::from_millis(200) };
        let served = run(address, b"POST / HTTP/1.1\r\n\r\n".to_vec(), rate).await.unwrap();
        assert!(served.share < f64::EPSILON, "{}", served.share);
        assert!(served.ms(1.0) >= 1_000.0, "{}", served.ms(1.0));
    }
}
