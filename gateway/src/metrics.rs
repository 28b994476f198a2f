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
/// Counter, label `reason`: connections cut off.
pub const CONNECTIONS_CUT_OFF_TOTAL: &str = "wasmwiz_http_connections_cut_off_total";
/// Counter, label `reason`: connections on which TLS did not begin.
pub const TLS_HANDSHAKES_REFUSED_TOTAL: &str = "wasmwiz_tls_handshakes_refused_total";
/// Counter, label `result`: certificates that were read again, because they have changed or could not be served.
pub const TLS_RELOADS_TOTAL: &str = "wasmwiz_tls_reloads_total";
/// Counter: handlers that panicked.
pub const PANICS_TOTAL: &str = "wasmwiz_http_panics_total";
/// Gauge: bytes of request bodies and answers that are held in memory.
pub const BODY_BYTES: &str = "wasmwiz_http_body_bytes";
/// Counter, label `reason`: credentials refused.
pub const CREDENTIALS_REFUSED_TOTAL: &str = "wasmwiz_http_credentials_refused_total";
/// Counter: denied requests that are in no history, because too many tenants had some.
pub const DENIALS_UNCOUNTED_TOTAL: &str = "wasmwiz_http_denials_uncounted_total";

/// The `route` of requests that no route matches.
pub const UNMATCHED: &str = "unmatched";

/// Gauge: open streams of events.
pub const STREAMS: &str = "wasmwiz_http_streams";
/// Counter, label `reason`: streams that ended.
pub const STREAMS_ENDED_TOTAL: &str = "wasmwiz_http_streams_ended_total";

/// Describes the metrics to the recorder.
pub fn describe() {
    metrics::describe_counter!(REQUESTS_TOTAL, "Requests answered, by route and status");
    metrics::describe_histogram!(REQUEST_SECONDS, metrics::Unit::Seconds, "Time to answer a request, by route");
    metrics::describe_gauge!(REQUESTS_IN_FLIGHT, "Requests under way");
    metrics::describe_gauge!(CONNECTIONS, "Open connections");
    metrics::describe_counter!(CONNECTIONS_REFUSED_TOTAL, "Connections turned away, by bound");
    metrics::describe_counter!(CONNECTIONS_CUT_OFF_TOTAL, "Connections cut off, by reason");
    metrics::describe_counter!(TLS_HANDSHAKES_REFUSED_TOTAL, "Connections on which TLS did not begin, by reason");
    metrics::describe_counter!(TLS_RELOADS_TOTAL, "Certificates read again, by result");
    metrics::describe_counter!(PANICS_TOTAL, "Handlers that panicked");
    metrics::describe_gauge!(BODY_BYTES, metrics::Unit::Bytes, "Bytes of bodies held in memory");
    metrics::describe_counter!(DENIALS_UNCOUNTED_TOTAL, "Denied requests that are in no history");
    metrics::describe_gauge!(STREAMS, "Open streams of events");
    metrics::describe_counter!(STREAMS_ENDED_TOTAL, "Streams of events that ended, by reason");
    metrics::describe_counter!(CREDENTIALS_REFUSED_TOTAL, "Credentials refused, by reason");
}
