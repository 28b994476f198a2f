//! Faults in the shell, to see that they are found.

use wasmwiz_node::cluster::placement::table::{Place, Table};

/// What is wrong with the shell, or with the servers below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Nothing.
    Nothing,
    /// Leases are measured by the wall clock, which people and programs set.
    WallClockLease,
    /// The table of owners is written without comparing what it replaces.
    AssignmentWithoutCompare,
    /// A shard is given away in the epoch in which it was owned before.
    EpochForgotten,
    /// The log takes a publication whatever the end of its stream is.
    AppendWithoutCompare,
}

/// The table that was planned, with the epoch of before for every shard that is given to another.
pub(super) fn with_epochs_forgotten(before: &Table, planned: &Table) -> Option<Table> {
    let mut forgotten = serde_json::to_value(planned).ok()?;
    let shards = forgotten.get_mut("shards")?.as_array_mut()?;
    for ((shard, place), written) in planned.places().zip(shards) {
        if let Place::Owned { owner, .. } = place
            && before.place(shard).owner() != Some(owner)
        {
            written.as_object_mut()?.insert("epoch".to_owned(), before.place(shard).epoch().get().into());
        }
    }
    serde_json::from_value(forgotten).ok()
}
