//! Names of the metrics of this crate, in one place. Labels are never tenants and never raw paths.

/// Counter, labels `route` and `status`: requests answered.
pub const REQUESTS_TOTAL: &str = "wasmwiz_http_requests_total";
/// Histogram, label `route`: seconds from a request's head to its answer's head.
pub const REQUEST_SECONDS: &str = "wasmwiz_http_request_seconds";
/// Gauge: requests under way.
pub const REQUESTS_IN_FLIGHT: &str = "wasmwiz_http_requests_in_flight";
/// Gauge: open connections.
pub const CONNECTIONS: &str = "wasmwiz_http_connections";
/// Counter, label `bound`: connections turned away.
pub const CONNECTIONS_REFUSED_TOTAL: &str = "wasmwiz_http_connections_refused_total";
/// Counter: handlers that panicked.
pub const PANICS_TOTAL: &str = "wasmwiz_http_panics_total";
/// Gauge: bytes of request bodies and answers that are held in memory.
pub const BODY_BYTES: &str = "wasmwiz_http_body_bytes";
/// Counter, label `reason`: credentials refused.
pub const CREDENTIALS_REFUSED_TOTAL: &str = "wasmwiz_http_credentials_refused_total";

/// The `route` of requests that no route matches.
pub const UNMATCHED: &str = "unmatched";

/// Describes the metrics to the recorder.
pub fn describe() {
    metrics::describe_counter!(REQUESTS_TOTAL, "Requests answered, by route and status");
    metrics::describe_histogram!(REQUEST_SECONDS, metrics::Unit::Seconds, "Time to answer a request, by route");
    metrics::describe_gauge!(REQUESTS_IN_FLIGHT, "Requests under way");
    metrics::describe_gauge!(CONNECTIONS, "Open connections");
    metrics::describe_counter!(CONNECTIONS_REFUSED_TOTAL, "Connections turned away, by bound");
    metrics::describe_counter!(PANICS_TOTAL, "Handlers that panicked");
    metrics::describe_gauge!(BODY_BYTES, metrics::Unit::Bytes, "Bytes of bodies held in memory");
    metrics::describe_counter!(CREDENTIALS_REFUSED_TOTAL, "Credentials refused, by reason");
}
