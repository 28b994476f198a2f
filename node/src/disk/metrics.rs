//! Names of the metrics of the disk, in one place.

/// Gauge: bytes that are free on the disk of the data folder, for a user who is not root.
pub const FREE_BYTES: &str = "wasmwiz_disk_free_bytes";
/// Gauge: bytes that are held back on it, to be given up when it is full.
pub const RESERVE_BYTES: &str = "wasmwiz_disk_reserve_bytes";
/// Gauge: bytes of a log on this machine that count for its bound, if it has one.
pub const LOG_USED_BYTES: &str = "wasmwiz_log_used_bytes";
/// Gauge: its bound, in bytes.
pub const LOG_MAX_BYTES: &str = "wasmwiz_log_max_bytes";
/// Gauge: 0 with room for everything, 1 when no modules and executions are taken, 2 when only what ends something is.
pub const LEVEL: &str = "wasmwiz_disk_level";

/// Describes the metrics to the recorder.
pub fn describe() {
    metrics::describe_gauge!(FREE_BYTES, metrics::Unit::Bytes, "Free on the disk of the data folder");
    metrics::describe_gauge!(RESERVE_BYTES, metrics::Unit::Bytes, "Held back on it, to be given up when it is full");
    metrics::describe_gauge!(LOG_USED_BYTES, metrics::Unit::Bytes, "Of a log on this machine that has a bound");
    metrics::describe_gauge!(LOG_MAX_BYTES, metrics::Unit::Bytes, "The bound of a log on this machine");
    metrics::describe_gauge!(LEVEL, "0: room for all, 1: no modules and executions, 2: only what ends something");
}
