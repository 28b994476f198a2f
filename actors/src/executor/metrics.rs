//! Names of the executors' metrics, in one place. Labels are never tenants.

/// Gauge: guests running now.
pub const EXECUTIONS_RUNNING: &str = "wasmwiz_executions_running";
/// Histogram: seconds a request waited for a place to run.
pub const EXECUTOR_WAIT_SECONDS: &str = "wasmwiz_executor_wait_seconds";
/// Counter: requests refused because the node was full.
pub const EXECUTOR_BUSY_TOTAL: &str = "wasmwiz_executor_busy_total";
/// Counter, label `outcome`: guests that ended.
pub const EXECUTIONS_TOTAL: &str = "wasmwiz_executions_total";
/// Histogram: wall-clock seconds of one guest.
pub const EXECUTION_SECONDS: &str = "wasmwiz_execution_seconds";
/// Histogram: seconds of processor time of one guest.
pub const GUEST_CPU_SECONDS: &str = "wasmwiz_guest_cpu_seconds";
/// Gauge: bytes that all guests hold, of linear memory and kept outputs.
pub const GUEST_MEMORY_BYTES: &str = "wasmwiz_guest_memory_bytes";
/// Gauge: the most that they may hold together.
pub const GUEST_MEMORY_MAX_BYTES: &str = "wasmwiz_guest_memory_max_bytes";
/// Counter, label `result`: guests that wanted memory which others held, and were run `again` or given up as `failed`.
pub const GUESTS_SET_BACK_TOTAL: &str = "wasmwiz_guests_set_back_total";
/// Histogram: seconds one compilation took.
pub const COMPILE_SECONDS: &str = "wasmwiz_compile_seconds";
/// Histogram: seconds of processor time one compilation took, whether or not it succeeded.
pub const COMPILE_CPU_SECONDS: &str = "wasmwiz_compile_cpu_seconds";
/// Counter, label `result`: modules prepared by `compiled`, `artefact` (loaded from disk), `rejected`, `busy`, `over_share`,
/// `over_allowance`, `host_short`, `failed`.
pub const COMPILE_RESULTS_TOTAL: &str = "wasmwiz_compile_results_total";
/// Counter: cached artefacts that were refused and deleted, because they are not what this node wrote.
pub const ARTEFACTS_REFUSED_TOTAL: &str = "wasmwiz_artefacts_refused_total";
/// Counter: executors that died and were started again.
pub const EXECUTOR_RESTARTS_TOTAL: &str = "wasmwiz_executor_restarts_total";

/// Describes the metrics to the recorder.
pub fn describe() {
    metrics::describe_gauge!(EXECUTIONS_RUNNING, "Guests running now");
    metrics::describe_histogram!(EXECUTOR_WAIT_SECONDS, metrics::Unit::Seconds, "Time waited for a place to run");
    metrics::describe_counter!(EXECUTOR_BUSY_TOTAL, "Requests refused because the node was full");
    metrics::describe_counter!(EXECUTIONS_TOTAL, "Guests that ended, by outcome");
    metrics::describe_histogram!(EXECUTION_SECONDS, metrics::Unit::Seconds, "Wall-clock time of one guest");
    metrics::describe_histogram!(GUEST_CPU_SECONDS, metrics::Unit::Seconds, "Processor time of one guest");
    metrics::describe_gauge!(GUEST_MEMORY_BYTES, metrics::Unit::Bytes, "What all guests hold, with kept outputs");
    metrics::describe_gauge!(GUEST_MEMORY_MAX_BYTES, metrics::Unit::Bytes, "The most that they may hold together");
    metrics::describe_counter!(
        GUESTS_SET_BACK_TOTAL,
        "Guests that wanted memory which others held, by what came of it"
    );
    metrics::describe_histogram!(COMPILE_SECONDS, metrics::Unit::Seconds, "Time one compilation took");
    metrics::describe_histogram!(
        COMPILE_CPU_SECONDS,
        metrics::Unit::Seconds,
        "Processor time one compilation took, whether or not it succeeded"
    );
    metrics::describe_counter!(COMPILE_RESULTS_TOTAL, "Modules prepared, by result");
    metrics::describe_counter!(ARTEFACTS_REFUSED_TOTAL, "Cached artefacts refused and deleted");
    metrics::describe_counter!(EXECUTOR_RESTARTS_TOTAL, "Executors that died and were started again");
}
