//! Names of the metrics of this crate, in one place. Labels are never tenants.

/// Histogram: seconds from the first append of a batch being taken to its fsync.
pub const LOG_COMMIT_SECONDS: &str = "wasmwiz_log_commit_seconds";
/// Histogram: appends that shared one fsync.
pub const LOG_BATCH_APPENDS: &str = "wasmwiz_log_batch_appends";
/// Counter: commits made durable.
pub const LOG_COMMITS_TOTAL: &str = "wasmwiz_log_commits_total";
/// Counter: events made durable.
pub const LOG_EVENTS_TOTAL: &str = "wasmwiz_log_events_total";
/// Counter, label `reason`: appends refused.
pub const LOG_REFUSED_TOTAL: &str = "wasmwiz_log_refused_total";

/// Describes the metrics to the recorder.
pub fn describe() {
    metrics::describe_histogram!(LOG_COMMIT_SECONDS, metrics::Unit::Seconds, "Time to make one batch durable");
    metrics::describe_histogram!(LOG_BATCH_APPENDS, "Appends that shared one fsync");
    metrics::describe_counter!(LOG_COMMITS_TOTAL, "Commits made durable");
    metrics::describe_counter!(LOG_EVENTS_TOTAL, "Events made durable");
    metrics::describe_counter!(LOG_REFUSED_TOTAL, "Appends refused, by reason");
}
