//! A closed loop of connections: each sends its next request when it has the answer to the last.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::ensure;
use hdrhistogram::Histogram;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use wasmwiz_tests::wire::read_answer;

/// What a load gave.
pub(crate) struct Loaded {
    /// Answers with status 200.
    pub(crate) answered: u64,
    /// How long it took.
    pub(crate) took: Duration,
    /// Microseconds from the first byte sent to the last byte received.
    pub(crate) latency: Histogram<u64>,
}

impl Loaded {
    /// What both gave, one after the other.
    pub(crate) fn and(mut self, other: &Self) -> anyhow::Result<Self> {
        self.latency.add(&other.latency)?;
        Ok(Self { answered: self.answered + other.answered, took: self.took + other.took, latency: self.latency })
    }

    /// Answers a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64()
    }

    /// Answers including those of the warm-up, about: what CPU time is divided by.
    pub(crate) fn with_warm_up(&self) -> f64 {
        self.answered as f64 * 1.1
    }

    /// A percentile of the latency, in milliseconds.
    pub(crate) fn ms(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1_000.0
    }
}

/// Keeps `connections` connections busy for `seconds`, after a warm-up of a tenth of that.
pub(crate) fn run(address: SocketAddr, request: &[u8], connections: usize, seconds: u64) -> anyhow::Result<Loaded> {
    run_each(vec![(address, request.to_vec()); connections], seconds)
}

/// The same with a connection for each of these, which sends its own request to its own address.
pub(crate) fn run_each(connections: Vec<(SocketAddr, Vec<u8>)>, seconds: u64) -> anyhow::Result<Loaded> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let begin = Instant::now();
        let warm = begin + Duration::from_millis(seconds * 100);
        let end = warm + Duration::from_secs(seconds);
        let begun = connections.into_iter().map(|(address, request)| connection(address, request, warm, end));
        let tasks: Vec<_> = begun.map(tokio::spawn).collect();
        let mut latency = Histogram::new(3)?;
        for task in tasks {
            latency.add(task.await??)?;
        }
        Ok(Loaded { answered: latency.len(), took: Duration::from_secs(seconds), latency })
    })
}

async fn connection(
    address: SocketAddr,
    request: Vec<u8>,
    warm: Instant,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut latency = Histogram::new(3)?;
    let mut buffer = Vec::with_capacity(16 * 1_024);
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(latency);
        }
        stream.write_all(&request).await?;
        let status = read_answer(&mut stream, &mut buffer).await?;
        ensure!(status == 200, "not a 200: {}", String::from_utf8_lossy(&buffer));
        if sent >= warm {
            latency.record(sent.elapsed().as_micros() as u64)?;
        }
    }
}
