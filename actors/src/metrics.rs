//! Names of the metrics of entities and the region, in one place. Labels are never tenants.

/// Gauge: entities in memory.
pub const ENTITIES: &str = "wasmwiz_entities";
/// Gauge: commands that wait for their entity, or for the commit that they are in.
pub const COMMANDS_WAITING: &str = "wasmwiz_commands_waiting";
/// Gauge: the most of them that wait for one entity.
pub const COMMANDS_WAITING_LONGEST: &str = "wasmwiz_commands_waiting_longest";
/// Counter: entities folded back from their streams.
pub const REHYDRATIONS_TOTAL: &str = "wasmwiz_rehydrations_total";
/// Counter: states of tenants that were kept.
pub const SNAPSHOTS_WRITTEN_TOTAL: &str = "wasmwiz_snapshots_written_total";
/// Counter, label `reason`: snapshots that were passed over when a tenant woke.
pub const SNAPSHOTS_IGNORED_TOTAL: &str = "wasmwiz_snapshots_ignored_total";
/// Histogram: commands decided into one commit.
pub const BATCH_COMMANDS: &str = "wasmwiz_entity_batch_commands";
/// Counter, label `command`: commands refused by the domain.
pub const REFUSALS_TOTAL: &str = "wasmwiz_refusals_total";
/// Counter, label `bound`: asks turned away because a queue was full.
pub const SHED_TOTAL: &str = "wasmwiz_shed_total";
/// Counter: commits of an owner of before that were stored after the next one had read the stream.
pub const OVERTAKEN_TOTAL: &str = "wasmwiz_entity_overtaken_total";
/// Counter, label `reason`: entities that stopped because their append was not accepted.
pub const ENTITY_STOPS_TOTAL: &str = "wasmwiz_entity_stops_total";
/// Counter: executions declared lost.
pub const LOST_TOTAL: &str = "wasmwiz_executions_lost_total";

/// Gauge: asynchronous executions that wait or run on this node.
pub const QUEUED: &str = "wasmwiz_executions_queued";

/// Describes the metrics to the recorder.
pub fn describe() {
    metrics::describe_gauge!(ENTITIES, "Entities in memory");
    metrics::describe_gauge!(COMMANDS_WAITING, "Commands that wait for their entity, or for their commit");
    metrics::describe_gauge!(COMMANDS_WAITING_LONGEST, "The most of them that wait for one entity");
    metrics::describe_counter!(REHYDRATIONS_TOTAL, "Entities folded back from their streams");
    metrics::describe_counter!(SNAPSHOTS_WRITTEN_TOTAL, "States of tenants that were kept");
    metrics::describe_counter!(
        SNAPSHOTS_IGNORED_TOTAL,
        "Snapshots that were passed over when a tenant woke, by reason"
    );
    metrics::describe_histogram!(BATCH_COMMANDS, "Commands decided into one commit");
    metrics::describe_counter!(REFUSALS_TOTAL, "Commands refused by the domain, by command");
    metrics::describe_counter!(SHED_TOTAL, "Asks turned away because a queue was full");
    metrics::describe_counter!(OVERTAKEN_TOTAL, "Commits of an owner of before that came after the next had read");
    metrics::describe_counter!(ENTITY_STOPS_TOTAL, "Entities that stopped because an append was not accepted");
    metrics::describe_gauge!(QUEUED, "Asynchronous executions that wait or run");
    metrics::describe_counter!(LOST_TOTAL, "Executions declared lost");
}
