//! The process's own log lines, and its metrics.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Format, TelemetryConfig};

/// The engine's WASI opens a span for each call of a guest: unless somebody asks for them, nobody pays for them.
const QUIET: &str = "wasmtime_wasi=error,wiggle=error";

/// Bounds of time histograms, in seconds: from a fast hop to the longest execution.
const SECONDS: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

/// Bounds of histograms that count things in a batch.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// Begins to write log lines to standard error: standard output belongs to what a command prints.
///
/// # Errors
/// When the filter does not parse, or a subscriber is set already.
pub fn init_logs(config: &TelemetryConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.filter))
        .map_err(|error| anyhow::anyhow!("telemetry.filter does not parse: {error}; try \"info\""))?;
    let json = match config.format {
        Format::Json => true,
        Format::Pretty => false,
        Format::Auto => !std::io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = if json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
    set.map_err(|error| anyhow::anyhow!("log lines cannot be written: {error}"))
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
    wasmwiz_events::metrics::describe();
    wasmwiz_actors::metrics::describe();
    wasmwiz_actors::executor::metrics::describe();
    wasmwiz_projections::metrics::describe();
    wasmwiz_gateway::metrics::describe();
    Ok(handle)
}
