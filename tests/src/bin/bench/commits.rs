//! What the log on JetStream costs over what it is made of: commits of many tenants against bare conditional publishes of the client
//! library, on the same servers, in streams of the same settings, with messages of the same length.
//!
//! Each tenant is one closed loop: its next commit is offered when the last one is acknowledged, as its entity does it. Both sides take
//! turns, and who begins changes. Each client is connected to the server that leads its stream, so that none has the longer way.

use std::{
    error::Error as _,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream::{self, ErrorCode, context::PublishError, message::PublishMessage};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinHandle;
use wasmwiz_events::{
    log::{
        Append, EventLog as _,
        conformance::Stream,
        jetstream::{JetstreamLog, JetstreamLogConfig},
    },
    nats::NatsConfig,
};
use wasmwiz_tests::{nats::NatsCluster, wait};

/// How many tenants write at the same time.
const TENANTS: [usize; 4] = [1, 16, 64, 256];

/// How often both sides are measured for each number of tenants.
const ROUNDS: usize = 2;

/// Copies of each stream.
const REPLICAS: usize = 3;

/// How long a bare publish waits that came too early, before it is offered again.
const PAUSE: Duration = Duration::from_millis(1);

/// The stream of the bare publishes.
const BARE: &str = "BARE";

/// So many commits a second, of those of bare publishes, the log has to reach.
const AT_LEAST: f64 = 0.8;

/// One closed loop: how long each of its steps took, in microseconds.
type Loop = JoinHandle<anyhow::Result<Histogram<u64>>>;

/// What one side did.
struct Side {
    took: Duration,
    /// Microseconds from the offer to the acknowledgement.
    latency: Histogram<u64>,
}

/// Both sides with so many tenants.
struct Row {
    tenants: usize,
    bare: Side,
    log: Side,
}

/// Everything that was measured.
pub(crate) struct Commits {
    message_bytes: usize,
    rows: Vec<Row>,
}

/// From when on and until when is counted.
#[derive(Clone, Copy)]
struct Span {
    warm: Instant,
    end: Instant,
}

impl Span {
    fn beginning(seconds: u64) -> Self {
        let warm = Instant::now() + Duration::from_millis(seconds * 100);
        Self { warm, end: warm + Duration::from_secs(seconds) }
    }

    fn goes_on(self) -> bool {
        Instant::now() < self.end
    }

    fn note(self, latency: &mut Histogram<u64>, sent: Instant) -> anyhow::Result<()> {
        if sent >= self.warm {
            latency.record(sent.elapsed().as_micros() as u64)?;
        }
        Ok(())
    }
}

impl Side {
    fn none() -> anyhow::Result<Self> {
        Ok(Self { took: Duration::ZERO, latency: Histogram::new(3)? })
    }

    /// Adds a round of loops.
    async fn add(&mut self, loops: Vec<Loop>, seconds: u64) -> anyhow::Result<()> {
        for one in loops {
            self.latency.add(one.await??)?;
        }
        self.took += Duration::from_secs(seconds);
        Ok(())
    }

    fn per_second(&self) -> f64 {
        self.latency.len() as f64 / self.took.as_secs_f64()
    }

    fn ms(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1_000.0
    }
}

impl Row {
    fn ratio(&self) -> f64 {
        self.log.per_second() / self.bare.per_second()
    }
}

impl Commits {
    /// Measures on these servers, each side for so many seconds a round.
    pub(crate) async fn measure(nats: &NatsCluster, seconds: u64) -> anyhow::Result<Self> {
        let log = log_at_its_leader(nats).await?;
        let one = Append { commit: Stream::fresh().seal(1), payloads: Vec::new() };
        let position = log.append(one).await?.position;
        let context = jetstream::new(async_nats::connect(nats.url_of(0)?).await?);
        let of_the_log = context.get_stream(JetstreamLogConfig::default().stream).await?;
        let message = Bytes::from(vec![b'x'; of_the_log.get_raw_message(position.get()).await?.payload.len()]);
        let mut config = of_the_log.cached_info().config.clone();
        (config.name, config.subjects) = (BARE.to_owned(), vec!["bare.*.*".to_owned()]);
        config.metadata.clear();
        context.create_stream(config).await?;
        let bare = jetstream::new(async_nats::connect(nats.url_of(leader(nats, BARE).await?)?).await?);

        let mut rows = Vec::with_capacity(TENANTS.len());
        for tenants in TENANTS {
            let mut row = Row { tenants, bare: Side::none()?, log: Side::none()? };
            for round in 0..ROUNDS {
                eprintln!("{tenants} tenants, round {} of {ROUNDS}, {seconds} s on each side", round + 1);
                for is_log in [round % 2 == 1, round % 2 == 0] {
                    if is_log {
                        row.log.add(appends(&log, tenants, seconds), seconds).await?;
                    } else {
                        let prefix = format!("bare.{tenants}x{round}");
                        row.bare.add(publishes(&bare, &prefix, &message, tenants, seconds), seconds).await?;
                    }
                }
            }
            rows.push(row);
        }
        log.close();
        Ok(Self { message_bytes: message.len(), rows })
    }

    /// Prints them.
    pub(crate) fn print(&self) {
        println!(
            "\nJetStream, {REPLICAS} copies, sync_interval: always; messages of {} bytes, one at a time for each tenant",
            self.message_bytes
        );
        println!("tenants |  publishes/s   p50 ms   p99 ms |   commits/s   p50 ms   p99 ms |  ratio");
        for row in &self.rows {
            let Row { tenants, bare, log } = row;
            println!(
                "{tenants:>7} | {:>12.0} {:>8.2} {:>8.2} | {:>11.0} {:>8.2} {:>8.2} | {:>6.2}",
                bare.per_second(),
                bare.ms(50.0),
                bare.ms(99.0),
                log.per_second(),
                log.ms(50.0),
                log.ms(99.0),
                row.ratio(),
            );
        }
    }

    /// Each target, whether it is met, and what was found.
    pub(crate) fn targets(&self) -> Vec<(String, bool, String)> {
        let target = |row: &Row| {
            let (tenants, ratio) = (row.tenants, row.ratio());
            (
                format!("commits >= {AT_LEAST}x of bare publishes, {tenants} tenants"),
                ratio >= AT_LEAST,
                format!("{ratio:.2}x"),
            )
        };
        self.rows.iter().map(target).collect()
    }
}

/// The log, by a connection to the server that leads its stream.
async fn log_at_its_leader(nats: &NatsCluster) -> anyhow::Result<JetstreamLog> {
    let config = |url: String| {
        let nats = NatsConfig { url, ..Default::default() };
        JetstreamLogConfig { nats, replicas: REPLICAS, ..Default::default() }
    };
    let all = config(nats.url());
    let stream = all.stream.clone();
    JetstreamLog::open(all).await?.close();
    Ok(JetstreamLog::open(config(nats.url_of(leader(nats, &stream).await?)?)).await?)
}

async fn leader(nats: &NatsCluster, stream: &str) -> anyhow::Result<usize> {
    let found = wait::until("a leader of the stream", wait::SOON, async || nats.leader(stream).await);
    found.await.with_context(|| stream.to_owned())
}

/// A loop of commits for each tenant.
fn appends(log: &JetstreamLog, tenants: usize, seconds: u64) -> Vec<Loop> {
    let span = Span::beginning(seconds);
    (0..tenants).map(|_| tokio::spawn(append(log.clone(), span))).collect()
}

async fn append(log: JetstreamLog, span: Span) -> anyhow::Result<Histogram<u64>> {
    let (mut stream, mut latency) = (Stream::fresh(), Histogram::new(3)?);
    while span.goes_on() {
        let append = Append { commit: stream.seal(1), payloads: Vec::new() };
        let (head, sent) = (append.commit.head(), Instant::now());
        log.append(append).await?;
        span.note(&mut latency, sent)?;
        stream.head = head;
    }
    Ok(latency)
}

/// A loop of conditional publishes for each tenant, each on a subject of its own.
fn publishes(bare: &jetstream::Context, prefix: &str, message: &Bytes, tenants: usize, seconds: u64) -> Vec<Loop> {
    let span = Span::beginning(seconds);
    let subjects = (0..tenants).map(|tenant| format!("{prefix}.{tenant}"));
    subjects.map(|subject| tokio::spawn(publish(bare.clone(), subject, message.clone(), span))).collect()
}

async fn publish(
    bare: jetstream::Context,
    subject: String,
    message: Bytes,
    span: Span,
) -> anyhow::Result<Histogram<u64>> {
    let (mut last, mut latency) = (0, Histogram::new(3)?);
    while span.goes_on() {
        let sent = Instant::now();
        last = loop {
            let publish = PublishMessage::build().payload(message.clone()).expected_last_subject_sequence(last);
            match bare.send_publish(subject.clone(), publish).await?.await {
                Ok(stored) => break stored.sequence,
                // Nothing was stored: it is offered again, as the log does it.
                Err(error) if is_under_way(&error) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        };
        span.note(&mut latency, sent)?;
    }
    Ok(latency)
}

/// Does the server still have the message before on its list of those under way? It has acknowledged it already.
fn is_under_way(error: &PublishError) -> bool {
    let refusal = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    refusal.is_some_and(|refusal| refusal.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}
