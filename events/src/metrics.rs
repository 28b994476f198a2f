//! Names of the metrics of this crate, in one place. Labels are never tenants.

/// Histogram: seconds from the first append of a batch being taken to its fsync.
pub const LOG_COMMIT_SECONDS: &str = "wasmwiz_log_commit_seconds";
/// Histogram: appends that shared one fsync.
pub const LOG_BATCH_APPENDS: &str = "wasmwiz_log_batch_appends";
/// Counter: commits made durable.
pub const LOG_COMMITS_TOTAL: &str = "wasmwiz_log_commits_total";
/// Counter: events made durable.
pub const LOG_EVENTS_TOTAL: &str = "wasmwiz_log_events_total";
/// Gauge: bytes of the files of a log that is on this machine.
pub const LOG_BYTES: &str = "wasmwiz_log_bytes";
/// Counter, label `reason`: appends refused.
pub const LOG_REFUSED_TOTAL: &str = "wasmwiz_log_refused_total";
/// Counter: events that the feed's stream has acknowledged, repetitions among them.
pub const FEED_PUBLISHED_TOTAL: &str = "wasmwiz_feed_published_total";
/// Counter, label `reason`: attempts of the feed that failed and are made again.
pub const FEED_RETRIES_TOTAL: &str = "wasmwiz_feed_retries_total";
/// Counter: times that the feed stopped at a commit that cannot be published.
pub const FEED_STOPPED_TOTAL: &str = "wasmwiz_feed_stopped_total";
/// Gauge: 1 while the feed is connected, else 0.
pub const FEED_CONNECTED: &str = "wasmwiz_feed_connected";
/// Gauge: commits of the log that the feed's stream has not acknowledged.
pub const FEED_LAG_COMMITS: &str = "wasmwiz_feed_lag_commits";
/// Gauge: seconds since the oldest of those was recorded.
pub const FEED_LAG_SECONDS: &str = "wasmwiz_feed_lag_seconds";

/// Describes the metrics to the recorder.
pub fn describe() {
    metrics::describe_histogram!(LOG_COMMIT_SECONDS, metrics::Unit::Seconds, "Time to make one batch durable");
    metrics::describe_histogram!(LOG_BATCH_APPENDS, "Appends that shared one fsync");
    metrics::describe_counter!(LOG_COMMITS_TOTAL, "Commits made durable");
    metrics::describe_counter!(LOG_EVENTS_TOTAL, "Events made durable");
    metrics::describe_gauge!(LOG_BYTES, metrics::Unit::Bytes, "Files of a log that is on this machine");
    metrics::describe_counter!(LOG_REFUSED_TOTAL, "Appends refused, by reason");
    metrics::describe_counter!(FEED_PUBLISHED_TOTAL, "Events that the feed's stream has acknowledged");
    metrics::describe_counter!(FEED_RETRIES_TOTAL, "Attempts of the feed that failed, by reason");
    metrics::describe_counter!(FEED_STOPPED_TOTAL, "Times that the feed stopped at a commit that cannot be published");
    metrics::describe_gauge!(FEED_CONNECTED, "1 while the feed is connected");
    metrics::describe_gauge!(FEED_LAG_COMMITS, "Commits that the feed's stream has not acknowledged");
    metrics::describe_gauge!(FEED_LAG_SECONDS, metrics::Unit::Seconds, "Age of the oldest of those");
}
