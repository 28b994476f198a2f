//! Settings of traces.

use serde::{Deserialize, Serialize};

/// Traces of requests, which a collector is sent by OTLP (protobuf over HTTP).
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesConfig {
    /// Where spans are sent: a URL with its path, such as `http://127.0.0.1:4318/v1/traces`. Empty: nowhere. What a collector
    /// wants in headers, `OTEL_EXPORTER_OTLP_HEADERS` says.
    pub endpoint: String,
    /// Which share of all traces is sent, from 0 to 1. A trace is sent or not by its id, so every node decides alike.
    pub ratio: f64,
    /// Milliseconds that a collector may take to answer. Spans wait meanwhile, in a queue that drops what finds no room.
    pub timeout_ms: u64,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self { endpoint: String::new(), ratio: 1.0, timeout_ms: 3_000 }
    }
}

impl TracesConfig {
    /// Is every value in its range? Otherwise a field and what is wrong with it.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let is_url = |text: &str| {
            text.parse::<reqwest::Url>().is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        if !self.endpoint.is_empty() && !is_url(&self.endpoint) {
            return Err(("endpoint", "is no URL of a collector; give one such as http://127.0.0.1:4318/v1/traces"));
        }
        if self.endpoint.contains('@') {
            return Err((
                "endpoint",
                "holds a user or password; give what the collector wants in OTEL_EXPORTER_OTLP_HEADERS",
            ));
        }
        if !(0.0..=1.0).contains(&self.ratio) {
            return Err(("ratio", "is a share from 0 to 1"));
        }
        if !(10..=60_000).contains(&self.timeout_ms) {
            return Err(("timeout_ms", "is 10 to 60000"));
        }
        Ok(())
    }
}
