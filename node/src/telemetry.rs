//! The process's own log lines, its metrics, and the traces of its requests.

use std::{io::IsTerminal as _, sync::OnceLock, time::Duration};

use anyhow::Context as _;
use lines::Lines;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use traces::Traces;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};
use wasmwiz_events::id::NodeId;

use crate::config::{Format, TelemetryConfig};

mod lines;
mod traces;

/// How long the end of a process waits for who reads its last lines.
const LAST_LINES_WITHIN: Duration = Duration::from_millis(500);

/// How often the histograms are drained.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The lines of this process.
static LINES: OnceLock<Lines> = OnceLock::new();

/// The engine's WASI opens a span for each call of a guest: unless somebody asks for them, nobody pays for them.
/// Spans of traces are not for lines.
const QUIET: &str = "wasmtime_wasi=error,wiggle=error,wasmwiz::trace=off";

/// Bounds of time histograms, in seconds: from a fast hop to the longest execution.
const SECONDS: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

/// Bounds of histograms that count things in a batch.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// Dropped, the spans and lines that wait are sent and written, if somebody takes them.
#[derive(Debug)]
#[must_use = "dropped at once, the last lines are not waited for"]
pub struct Telemetry(Option<Traces>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        drop(self.0.take());
        flush();
    }
}

/// Writes the lines that wait, if somebody reads them.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES_WITHIN);
    }
}

/// Begins to write log lines to standard error: standard output belongs to what a command prints. Nobody who logs waits
/// for who reads, nor does who panics. Where a collector is configured, spans of `node` are sent to it.
///
/// # Errors
/// When the filter does not parse, the collector's client cannot be made, or a subscriber is set already.
pub fn init(config: &TelemetryConfig, node: &NodeId) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.filter))
        .map_err(|error| anyhow::anyhow!("telemetry.filter does not parse: {error}; try \"info\""))?;
    let json = match config.format {
        Format::Json => true,
        Format::Pretty => false,
        Format::Auto => !std::io::stderr().is_terminal(),
    };
    let lines = Lines::to(std::io::stderr()).context("no thread can be started that writes log lines")?;
    let lines = LINES.get_or_init(|| lines).clone();
    let traces = if config.traces.endpoint.is_empty() { None } else { Some(Traces::begin(&config.traces, node)?) };
    let lines = tracing_subscriber::fmt::layer().with_writer(lines);
    let lines = if json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    let set = match &traces {
        // One filter for all is cheaper than one a layer, and is told beforehand what nobody wants.
        None => tracing_subscriber::registry().with(lines).with(filter).try_init(),
        Some(traces) => tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces.layer()).try_init(),
    };
    set.map_err(|error| anyhow::anyhow!("log lines cannot be written: {error}"))?;
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a thread panicked")));
    Ok(Telemetry(traces))
}

/// Begins to collect metrics; the handle renders them as Prometheus text.
///
/// # Errors
/// When a recorder is set already.
pub fn init_metrics() -> anyhow::Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_appends".into()), COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_commands".into()), COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_events".into()), COUNTS)?;
    let handle = builder.install_recorder()?;
    metrics::describe_counter!(lines::DROPPED_TOTAL, "Log lines that were dropped, as nobody read standard error.");
    wasmwiz_events::metrics::describe();
    wasmwiz_actors::metrics::describe();
    wasmwiz_actors::executor::metrics::describe();
    wasmwiz_projections::metrics::describe();
    wasmwiz_gateway::metrics::describe();
    crate::disk::metrics::describe();
    Ok(handle)
}

/// Drains the histograms for as long as the process lives: without it they grow while nobody scrapes them.
pub fn keep_up(metrics: PrometheusHandle) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            metrics.run_upkeep();
        }
    });
}
