//! Names of the metrics of this crate, in one place. The label `view` is one of five names; labels are never tenants.

/// Gauge, label `view`: positions between the end of the log and the view.
pub const PROJECTION_LAG_COMMITS: &str = "wasmwiz_projection_lag_commits";
/// Histogram, label `view`: events that shared one transaction.
pub const PROJECTION_BATCH_EVENTS: &str = "wasmwiz_projection_batch_events";
/// Histogram, label `view`: seconds that one transaction took.
pub const PROJECTION_FLUSH_SECONDS: &str = "wasmwiz_projection_flush_seconds";
/// Counter, label `view`: times that the view stopped on something it could not fold or write.
pub const PROJECTION_STOPPED_TOTAL: &str = "wasmwiz_projection_stopped_total";
/// Gauge, label `view`: streams that the view has set aside, as they cannot be folded.
pub const PROJECTION_SET_ASIDE_STREAMS: &str = "wasmwiz_projection_set_aside_streams";
/// Counter, label `view`: files that were found damaged or foreign, and rebuilt.
pub const PROJECTION_REBUILT_TOTAL: &str = "wasmwiz_projection_rebuilt_total";

/// Describes the metrics to the recorder.
pub fn describe() {
    metrics::describe_gauge!(PROJECTION_LAG_COMMITS, "Positions between the end of the log and the view");
    metrics::describe_histogram!(PROJECTION_BATCH_EVENTS, "Events that shared one transaction");
    metrics::describe_histogram!(PROJECTION_FLUSH_SECONDS, metrics::Unit::Seconds, "Time of one transaction");
    metrics::describe_counter!(PROJECTION_STOPPED_TOTAL, "Times that the view stopped on what it could not fold");
    metrics::describe_gauge!(PROJECTION_SET_ASIDE_STREAMS, "Streams that cannot be folded and are set aside");
    metrics::describe_counter!(PROJECTION_REBUILT_TOTAL, "View files found damaged or foreign, and rebuilt");
}
