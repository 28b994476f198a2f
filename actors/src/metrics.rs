//! Names of the metrics of entities and the region, in one place. Labels are never tenants.

/// Gauge: entities in memory.
pub const ENTITIES: &str = "wasmwiz_entities";
/// Counter: entities folded back from their streams.
pub const REHYDRATIONS_TOTAL: &str = "wasmwiz_rehydrations_total";
/// Histogram: commands decided into one commit.
pub const BATCH_COMMANDS: &str = "wasmwiz_entity_batch_commands";
/// Counter, label `command`: commands refused by the domain.
pub const REFUSALS_TOTAL: &str = "wasmwiz_refusals_total";
/// Counter, label `bound`: asks turned away because a queue was full.
pub const SHED_TOTAL: &str = "wasmwiz_shed_total";
/// Counter, label `reason`: entities that stopped because their append was not accepted.
pub const ENTITY_STOPS_TOTAL: &str = "wasmwiz_entity_stops_total";
/// Counter: executions declared lost.
pub const LOST_TOTAL: &str = "wasmwiz_executions_lost_total";

/// Gauge: asynchronous executions that wait or run on this node.
pub const QUEUED: &str = "wasmwiz_executions_queued";

/// Describes the metrics to the recorder.
pub fn describe() {
    metrics::describe_gauge!(ENTITIES, "Entities in memory");
    metrics::describe_counter!(REHYDRATIONS_TOTAL, "Entities folded back from their streams");
    metrics::describe_histogram!(BATCH_COMMANDS, "Commands decided into one commit");
    metrics::describe_counter!(REFUSALS_TOTAL, "Commands refused by the domain, by command");
    metrics::describe_counter!(SHED_TOTAL, "Asks turned away because a queue was full");
    metrics::describe_counter!(ENTITY_STOPS_TOTAL, "Entities that stopped because an append was not accepted");
    metrics::describe_gauge!(QUEUED, "Asynchronous executions that wait or run");
    metrics::describe_counter!(LOST_TOTAL, "Executions declared lost");
}
