//! What a member makes of the table while it is connected, as `node/src/cluster/{session,agreement}.rs` has it: frees what it has
//! drained, ends who is silent, and plans if it leads.

use std::sync::Arc;

use wasmwiz_node::cluster::{
    placement::table::Table,
    planner::{Ground, Leader, Turn},
};

use super::{
    Planted, RENEW_EVERY, TTL, keys,
    node::{CLUSTER, Ended, Node, State},
    planted::with_epochs_forgotten,
};

/// How often a change of the table is tried against others' changes.
const TRIES_MAX: usize = 8;

/// What there is to do whenever something has changed, and every now and then in case a watch has missed it.
pub(super) async fn work(node: &Node) -> Ended {
    let (mut seen, mut looked) = (node.changes(), node.steady());
    loop {
        node.changed_within(&mut seen, TTL / 10).await;
        let now = node.steady();
        let mut done = Ok(());
        if now.since(looked) >= RENEW_EVERY {
            looked = now;
            done = read_table(node).await;
        }
        if done.is_ok() {
            done = all_of_it(node).await;
        }
        match done {
            // Somebody else was faster: the next look shows what is left to do.
            Ok(()) | Err(Ended::Conflict) => {}
            Err(ended) => return ended,
        }
    }
}

async fn all_of_it(node: &Node) -> Result<(), Ended> {
    free(node).await?;
    end_the_silent(node).await?;
    if leads(node).await? { place(node).await } else { Ok(()) }
}

/// Frees what has been drained here, and what the log knows to have a larger epoch.
async fn free(node: &Node) -> Result<(), Ended> {
    let (me, outdated) = {
        let state = node.state();
        (state.belief.me().clone(), state.outdated.clone())
    };
    for (shard, found) in outdated {
        change_table(node, |table| table.outdated(&me, shard, found)).await?;
        node.state().outdated.retain(|noted, epoch| *noted != shard || *epoch > found);
    }
    let has_drained = {
        let state = node.state();
        state.belief.table().is_some_and(|(table, _)| !state.belief.keeper.drained(table, &me).is_empty())
    };
    if has_drained {
        let freed = |table: &Table| {
            let drained = node.state().belief.keeper.drained(table, &me);
            table.freed(&me, &drained)
        };
        change_table(node, freed).await?;
    }
    Ok(())
}

/// Deletes the records of who has been silent for a whole lease: from then on they cannot be renewed.
async fn end_the_silent(node: &Node) -> Result<(), Ended> {
    let silent = {
        let state = node.state();
        let silent = if state.is_synced { state.roster.silent(node.now()) } else { Vec::new() };
        silent.into_iter().filter(|(life, _)| life.node != node.settings.name).collect::<Vec<_>>()
    };
    for (life, revision) in silent {
        match node.write(keys::Ask::DeleteMember(life.node.clone(), revision)).await {
            Ok(_) => {
                node.world.note(|| format!("{} finds {life} silent", node.life()));
                let mut state = node.state();
                // Unless its news was faster: another lease may have begun under its name since.
                if state.roster.is_last(&life, revision) {
                    state.roster.removed(&life.node, true);
                }
            }
            Err(Ended::Conflict) => {
                let (record, there_at) = node.member(&life.node).await?;
                let mut state = node.state();
                match record {
                    _ if !state.roster.is_last(&life, revision) => {}
                    Some(record) => state.roster.heard((*record).clone(), there_at, node.now()),
                    None => state.roster.removed(&life.node, false),
                }
            }
            Err(ended) => return Err(ended),
        }
        node.tell();
    }
    Ok(())
}

/// Is it for this member to plan? It stands up if nobody does.
async fn leads(node: &Node) -> Result<bool, Ended> {
    let (turn, me, known) = {
        let (state, now) = (node.state(), node.now());
        let turn = Turn::of(&state.belief, &state.roster, state.leader.as_ref(), state.is_synced, now);
        (turn, state.belief.me().clone(), state.leader.clone())
    };
    match turn {
        Turn::Mine => return Ok(true),
        Turn::Others => return Ok(false),
        Turn::Vacant => {}
    }
    let keys::Said::Leader(there, there_at) = node.keys(keys::Ask::Leader).await? else {
        return Err(Ended::TimedOut);
    };
    if let Some(other) = there.as_ref().filter(|there| Some(*there) != known.as_ref()) {
        node.learn_leader(other.clone());
        return Ok(false);
    }
    let leader = Leader { life: me, term: there.map_or(0, |there| there.term).saturating_add(1) };
    node.write(keys::Ask::PutLeader(leader.clone(), there_at)).await?;
    node.world.note(|| format!("{} plans from here on", leader.life));
    node.state().leader = Some(leader);
    Ok(true)
}

/// Plans, and founds a table where there is none.
async fn place(node: &Node) -> Result<(), Ended> {
    if node.state().belief.table().is_none() {
        return found(node).await;
    }
    change_table(node, |table| planned(node, table)).await
}

fn planned(node: &Node, table: &Table) -> Option<Table> {
    let ground = {
        let (mut state, now) = (node.state(), node.now());
        let State { roster, founding, .. } = &mut *state;
        Ground::of(table, roster, founding.as_ref(), now, TTL)?
    };
    let next = ground.plan(table, node.wall(), &node.settings.rules)?;
    match node.settings.planted {
        Planted::EpochForgotten => with_epochs_forgotten(table, &next),
        _ => Some(next),
    }
}

/// Founds the table, where there is none.
async fn found(node: &Node) -> Result<(), Ended> {
    let (there, there_at) = table(node).await?;
    if let Some(there) = there {
        node.read_table(there, there_at);
        return Ok(());
    }
    let founded = {
        let state = node.state();
        Table::founded(CLUSTER, state.belief.me().clone(), node.wall(), state.belief.seen())
    };
    let founded = Arc::new(founded.of_first(node.settings.shards));
    let revision = node.write(keys::Ask::PutTable(Arc::clone(&founded), there_at)).await?;
    node.world.note(|| format!("{} founds the table, at epoch {}", node.life(), founded.last_epoch()));
    node.read_table(founded, revision);
    Ok(())
}

/// Reads the table.
pub(super) async fn read_table(node: &Node) -> Result<(), Ended> {
    // Before the question: a watch may bring a newer table than the answer, which is no sign of anything.
    let known = node.revision();
    let (there, there_at) = table(node).await?;
    match there {
        Some(there) if there_at < known => {
            node.lost_table(0);
            node.read_table(there, there_at);
            return Err(Ended::Lost);
        }
        Some(there) => node.read_table(there, there_at),
        // As above: one that was founded meanwhile is there.
        None if node.revision() == known => node.lost_table(there_at),
        None => {}
    }
    Ok(())
}

async fn table(node: &Node) -> Result<(Option<Arc<Table>>, u64), Ended> {
    match node.keys(keys::Ask::Table).await? {
        keys::Said::Table(table, revision) => Ok((table, revision)),
        _ => Err(Ended::TimedOut),
    }
}

/// Changes the table by what `change` makes of it, against whatever others make of it meanwhile.
pub(super) async fn change_table(node: &Node, change: impl Fn(&Table) -> Option<Table>) -> Result<(), Ended> {
    for _ in 0..TRIES_MAX {
        let known = node.state().belief.table().map(|(table, revision)| (Arc::clone(table), revision));
        let Some((table, revision)) = known else { return Ok(()) };
        let Some(next) = change(&table) else { return Ok(()) };
        let next = Arc::new(next);
        match node.write(keys::Ask::PutTable(Arc::clone(&next), revision)).await {
            Ok(revision) => {
                node.read_table(next, revision);
                return Ok(());
            }
            Err(Ended::Conflict) => read_table(node).await?,
            Err(ended) => return Err(ended),
        }
    }
    Err(Ended::Conflict)
}
