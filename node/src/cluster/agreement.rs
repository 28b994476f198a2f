//! The table of owners in its bucket: read, founded, and changed by compare-and-set, whatever others do meanwhile.

use std::sync::Arc;

use super::{
    buckets::{Buckets, TABLE, Trouble},
    membership::{Shared, json},
    placement::table::Table,
    session::Ended,
};

/// How often a change of the table is tried against others' changes.
const TRIES_MAX: usize = 8;

/// Founds the table, where there is none.
pub(super) async fn found(shared: &Shared, buckets: &Buckets) -> Result<(), Ended> {
    let key = buckets.agreed(TABLE).await?;
    if let Some(value) = &key.value {
        shared.read_table(Table::read(value, &shared.config.name)?, key.revision);
        return Ok(());
    }
    let table = {
        let state = shared.state();
        Table::founded(&shared.config.name, state.belief.me().clone(), shared.clock.now(), state.belief.seen())
    };
    let revision = buckets.agree(TABLE, json(&table)?, key.revision).await?;
    tracing::info!(epoch = %table.last_epoch(), "the table of owners is founded; it is open after one lease");
    shared.read_table(table, revision);
    Ok(())
}

/// Reads the table at the leader of its stream.
pub(super) async fn read_table(shared: &Shared, buckets: &Buckets) -> Result<(), Ended> {
    // Before the question: a watch may bring a newer table than the answer, which is no sign of anything.
    let known = shared.state().belief.revision();
    let key = buckets.agreed(TABLE).await?;
    match &key.value {
        Some(value) => {
            let table = Table::read(value, &shared.config.name)?;
            if key.revision < known {
                // The bucket was made anew, and the watches follow one that is no more.
                shared.lost_table(0);
                shared.read_table(table, key.revision);
                return Err(Trouble::Lost.into());
            }
            shared.read_table(table, key.revision);
        }
        // As above: one that was founded meanwhile is there.
        None if shared.state().belief.revision() == known => shared.lost_table(key.revision),
        None => {}
    }
    Ok(())
}

/// Changes the table by what `change` makes of it, against whatever others make of it meanwhile.
pub(super) async fn change_table(
    shared: &Shared,
    buckets: &Buckets,
    change: impl Fn(&Table) -> Option<Table>,
) -> Result<(), Ended> {
    for _ in 0..TRIES_MAX {
        let known = shared.state().belief.table().map(|(table, revision)| (Arc::clone(table), revision));
        let Some((table, revision)) = known else { return Ok(()) };
        let Some(next) = change(&table) else { return Ok(()) };
        match buckets.agree(TABLE, json(&next)?, revision).await {
            Ok(revision) => {
                shared.read_table(next, revision);
                return Ok(());
            }
            Err(Trouble::Conflict) => read_table(shared, buckets).await?,
            Err(trouble) => return Err(trouble.into()),
        }
    }
    Err(Trouble::Conflict.into())
}
