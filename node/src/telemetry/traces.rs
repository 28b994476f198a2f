//! Traces of requests on their way to a collector, by OTLP.
//!
//! A thread of its own sends them, out of a queue that is bounded and drops what finds no room: a collector that is slow or
//! gone costs a request nothing.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use tracing::Subscriber;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};
use wasmwiz_events::id::NodeId;

use crate::{config::TracesConfig, here::is_here};

/// Spans that wait. An execution makes some ten of them.
const QUEUE_MAX: usize = 8_192;

/// The most spans that are sent at once.
const BATCH_MAX: usize = 512;

/// How long spans gather.
const SENT_EVERY: Duration = Duration::from_secs(1);

/// How long the end of a process waits for the collector.
const LAST_SPANS_WITHIN: Duration = Duration::from_millis(500);

/// Sends spans. Dropped, it sends what waits, if the collector takes it.
#[derive(Debug)]
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    /// Begins to send spans of `node`.
    pub(super) fn begin(config: &TracesConfig, node: &NodeId) -> anyhow::Result<Self> {
        let exporter = exporter(config).context("telemetry.traces: spans cannot be sent")?;
        let gathering = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(SENT_EVERY)
            .build();
        let about = [
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", node.to_string()),
        ];
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(gathering).build())
            .with_sampler(Sampler::TraceIdRatioBased(config.ratio))
            .with_resource(Resource::builder_empty().with_service_name("wasmwiz").with_attributes(about).build())
            .build();
        Ok(Self(provider))
    }

    /// What makes traces of the spans that are for them, and of no others.
    pub(super) fn layer<S: Subscriber + for<'span> LookupSpan<'span>>(&self) -> impl Layer<S> + use<S> {
        let ours = Targets::new().with_target(wasmwiz_actors::trace::TARGET, tracing::Level::DEBUG);
        let layer = tracing_opentelemetry::layer().with_tracer(self.0.tracer("wasmwiz"));
        // Which thread and which line of the source it was says nothing about a request.
        layer
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(ours)
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_SPANS_WITHIN) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

fn exporter(config: &TracesConfig) -> anyhow::Result<SpanExporter> {
    let url: reqwest::Url = config.endpoint.parse()?;
    let within = Duration::from_millis(config.timeout_ms);
    let mut http = reqwest::blocking::Client::builder().timeout(within).redirect(reqwest::redirect::Policy::none());
    if is_here(&url) {
        // A collector beside the node is asked without a detour, whatever the environment says of proxies.
        http = http.no_proxy();
    }
    if url.scheme() == "http" {
        http = http.tls_certs_only([]);
    }
    let exporter = SpanExporter::builder().with_http().with_http_client(http.build()?);
    Ok(exporter.with_endpoint(url.as_str()).with_timeout(within).build()?)
}
