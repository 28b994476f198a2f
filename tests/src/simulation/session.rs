//! Being a member, as `node/src/cluster/{session,membership}.rs` has it: claims its name, renews its lease, hears the others,
//! recovers, leaves.

use std::{rc::Rc, time::Duration};

use wasmwiz_node::cluster::{clock::Mono, member::Record, placement::table::Table};

use super::{
    RENEW_EVERY, TTL,
    keys::{self, News},
    node::{Ended, Node, Phase, State},
    serving::{keep, serve},
    tasks::{Task, first},
    work::{change_table, read_table, work},
};

/// How long to wait before the next connection, doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Renewals that fail in a row before the connection is given up.
const FAILURES_MAX: u32 = 3;

/// How long who leaves may take to hand over, to drain the rest, and to say good-bye.
const LEAVE: [Duration; 3] = [TTL, Duration::from_millis(500), Duration::from_millis(1_000)];

/// A whole life, from the start of the process until it ends by itself.
pub(super) async fn live(node: Rc<Node>) {
    let node = &*node;
    let parts: Vec<Task<'_, ()>> =
        vec![Box::pin(stay(node)), Box::pin(keep(node)), Box::pin(serve(node)), Box::pin(leave(node))];
    first(parts).await;
}

/// One connection after the other, until it has left.
async fn stay(node: &Node) {
    let mut pause = PAUSE.0;
    loop {
        let began = node.steady();
        let ended = session(node).await;
        if ended == Ended::Left || node.state().phase == Phase::Goodbye {
            return;
        }
        node.world.note(|| format!("{} is without a session: {ended:?}", node.life()));
        pause = if node.steady().since(began) > TTL { PAUSE.0 } else { pause };
        node.sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Everything, until one part of it ends.
async fn session(node: &Node) -> Ended {
    match begun(node).await {
        Err(ended) => ended,
        Ok(claimed) => {
            let parts: Vec<Task<'_, Ended>> = vec![
                Box::pin(node.connection_lost()),
                Box::pin(renew(node, claimed)),
                Box::pin(hear(node)),
                Box::pin(work(node)),
            ];
            first(parts).await
        }
    }
}

/// A record of this node that is in the bucket, and when it was sent.
struct Claimed {
    record: Record,
    revision: u64,
    sent: Mono,
}

async fn begun(node: &Node) -> Result<Claimed, Ended> {
    node.open().await?;
    {
        let mut state = node.state();
        state.belief.reconnected();
        state.is_synced = false;
    }
    read_table(node).await?;
    let claimed = claim(node).await?;
    let me = claimed.record.life.clone();
    change_table(node, |table| table.without_earlier(&me)).await?;
    Ok(claimed)
}

/// Has the name to itself, by the lease it had or by another.
async fn claim(node: &Node) -> Result<Claimed, Ended> {
    loop {
        let (there, there_at) = node.member(&node.settings.name).await?;
        let goes_on = {
            let state = node.state();
            let me = state.belief.me();
            match &there {
                Some(there) if there.life.boot != me.boot => None,
                Some(there) => Some(there.life == *me && state.belief.lease.until().is_some()),
                None => Some(false),
            }
        };
        let Some(goes_on) = goes_on else {
            if let Some(there) = there {
                contest(node, &there, there_at).await?;
            }
            continue;
        };
        if !goes_on {
            node.state().belief.next_lease();
        }
        let (record, sent) = (node.record(), node.now());
        match node.write(keys::Ask::PutMember(Rc::new(record.clone()), there_at)).await {
            Ok(revision) => {
                if goes_on {
                    node.state().belief.lease.renewed(sent);
                } else {
                    node.state().belief.lease.begin(sent);
                }
                node.world.note(|| format!("{} has a lease, by revision {revision}", record.life));
                node.tell();
                return Ok(Claimed { record, revision, sent });
            }
            Err(Ended::Conflict) => {}
            Err(ended) => return Err(ended),
        }
    }
}

/// Somebody has this node's name. Whoever renews it is alive; a silent record is deleted after its lease.
async fn contest(node: &Node, there: &Record, there_at: u64) -> Result<(), Ended> {
    let began = node.now();
    loop {
        node.sleep(TTL / 10).await;
        let (now, now_at) = node.member(&there.life.node).await?;
        if now_at != there_at {
            return match now {
                Some(now) if now.life.boot == there.life.boot => Err(Ended::Refused),
                _ => Ok(()),
            };
        }
        if node.now().since(began) >= TTL {
            return match node.write(keys::Ask::DeleteMember(there.life.node.clone(), there_at)).await {
                Ok(_) | Err(Ended::Conflict) => Ok(()),
                Err(ended) => Err(ended),
            };
        }
    }
}

/// Renews the lease: in time, and at once when what is to be said has changed.
async fn renew(node: &Node, claimed: Claimed) -> Ended {
    let (mut seen, mut failures) = (node.changes(), 0);
    // When the first of those was sent of which nobody knows whether they were written.
    let mut unanswered = None;
    let Claimed { mut record, mut revision, mut sent } = claimed;
    loop {
        if node.state().phase == Phase::Goodbye {
            let _ = node.write(keys::Ask::DeleteMember(record.life.node.clone(), revision)).await;
            return Ended::Left;
        }
        let (next, due) = (node.record(), RENEW_EVERY.saturating_sub(node.now().since(sent)));
        if next == record && !due.is_zero() {
            node.changed_within(&mut seen, due).await;
            continue;
        }
        let now = node.now();
        match node.write(keys::Ask::PutMember(Rc::new(next.clone()), revision)).await {
            Ok(written) => {
                node.state().belief.lease.renewed(now);
                (revision, record, sent, failures, unanswered) = (written, next, now, 0, None);
                node.tell();
                continue;
            }
            Err(Ended::Conflict) => match node.member(&record.life.node).await {
                // A renewal of its own whose answer was lost: the first of those, as far as is known.
                Ok((Some(there), there_at)) if there.life == record.life => {
                    revision = there_at;
                    if let Some(tried) = unanswered.take() {
                        node.state().belief.lease.renewed(tried);
                        (sent, failures) = (tried, 0);
                        node.tell();
                        continue;
                    }
                }
                Ok(_) => {
                    node.state().belief.lease.end_now();
                    node.tell();
                    return Ended::Lease;
                }
                Err(_) => {}
            },
            Err(_) => {
                unanswered.get_or_insert(now);
            }
        }
        failures += 1;
        if failures >= FAILURES_MAX {
            return Ended::TimedOut;
        }
        node.sleep(RENEW_EVERY / 8).await;
    }
}

/// Hears the members, and follows what all agree on.
async fn hear(node: &Node) -> Ended {
    loop {
        match node.next_news().await {
            News::Member { record: Some(record), revision, .. } => {
                let (mut state, now) = (node.state(), node.now());
                let is_mine = record.life == *state.belief.me();
                state.is_synced |= is_mine;
                state.roster.heard((*record).clone(), revision, now);
            }
            News::Member { name, record: None, was_deleted, revision } => {
                node.state().roster.news_of_removal(&name, revision, was_deleted);
            }
            News::Table(Some(table), revision) => node.read_table(table, revision),
            // It may be history by now.
            News::Table(None, revision) if revision > node.revision() => node.lost_table(revision),
            News::Table(None, _) => {}
            News::Leader(leader) => node.learn_leader(leader),
        }
        node.tell();
    }
}

/// Once it is told to stop: hands over what it owns, and ends. What could not be handed over in time is found by the others.
async fn leave(node: &Node) {
    let mut seen = node.changes();
    while node.state().phase == Phase::Staying {
        node.changed(&mut seen).await;
    }
    let [hand_over, drain, goodbye] = LEAVE;
    until(node, hand_over, |state| {
        let (me, is_held) = (state.belief.me(), state.belief.lease.holds(node.now()));
        let owned = |table: &Table| table.owners().any(|owner| owner.node == me.node && owner.boot == me.boot);
        state.belief.keeper.is_idle() && !(is_held && state.belief.table().is_some_and(|(table, _)| owned(table)))
    })
    .await;
    // In this order: whoever finds the record deleted takes it that this node decides nothing any more.
    node.state().belief.lease.end_now();
    node.tell();
    until(node, drain, |state| state.belief.keeper.is_idle()).await;
    node.enter(Phase::Goodbye);
    node.sleep(goodbye).await;
}

/// Waits until this holds, and for so long at the most.
async fn until(node: &Node, within: Duration, holds: impl Fn(&State) -> bool) {
    let (mut seen, end) = (node.changes(), node.after(within));
    while !holds(&node.state()) && node.steady() < end {
        node.changed_within(&mut seen, end.since(node.steady())).await;
    }
}
