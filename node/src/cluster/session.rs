//! What a member does while it is connected: hears the others, renews its lease, frees what it has drained, and plans if it
//! leads. All of it ends with the connection; what is known stays.

use async_nats::jetstream::kv::Watch;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};
use wasmwiz_events::{id::NodeId, nats::with_causes};

use super::{
    agreement::{change_table, found, read_table},
    buckets::{Buckets, Change, LEADER, TABLE, Trouble},
    clock::{self, Mono},
    member::{Record, Refusal, admit},
    membership::{Phase, Shared, State, json},
    placement::table::{Table, Unusable},
    planner::{Ground, Leader, Turn},
};

/// Renewals that fail in a row before the connection is given up.
const FAILURES_MAX: u32 = 3;

/// Why a session ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The member has left.
    Left,
    /// Its record is gone: another lease has to begin.
    Lease,
    /// The bus is in trouble.
    Trouble(Trouble),
    /// It may not be a member.
    Refused(Refusal),
}

impl From<Trouble> for Ended {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(refusal) => Self::Refused(refusal),
            trouble => Self::Trouble(trouble),
        }
    }
}

impl From<Unusable> for Ended {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Refused(refusal) => Self::Refused(refusal),
            damaged @ Unusable::Damaged(_) => Self::Trouble(Trouble::JetStream(damaged.to_string())),
        }
    }
}

/// Everything, until one part of it ends.
pub(super) async fn run(shared: &Shared, buckets: &Buckets) -> Ended {
    match begun(shared, buckets).await {
        Err(ended) => ended,
        Ok((members, agreed, claimed)) => {
            let node = shared.state().belief.me().node.clone();
            let ended = tokio::select! {
                biased;
                () = buckets.lost() => Ended::Trouble(Trouble::Lost),
                ended = renew(shared, buckets, &node, claimed) => ended,
                ended = hear(shared, members) => ended,
                ended = follow(shared, agreed) => ended,
                ended = work(shared, buckets) => ended,
            };
            if matches!(ended, Ended::Refused(_)) {
                withdraw(shared, buckets, &node).await;
            }
            ended
        }
    }
}

/// A record of this node that is in the bucket, and when it was sent.
struct Claimed {
    record: Record,
    revision: u64,
    sent: Mono,
}

async fn begun(shared: &Shared, buckets: &Buckets) -> Result<(Watch, Watch, Claimed), Ended> {
    // Before anything is written: what comes after is heard.
    let (members, agreed) = (buckets.watch_members().await?, buckets.watch_agreed().await?);
    {
        let mut state = shared.state();
        state.belief.reconnected();
        state.is_synced = false;
    }
    read_table(shared, buckets).await?;
    let claimed = claim(shared, buckets).await?;
    let me = claimed.record.life.clone();
    change_table(shared, buckets, |table| table.without_earlier(&me)).await?;
    Ok((members, agreed, claimed))
}

/// Has the name to itself, by the lease it had or by another.
async fn claim(shared: &Shared, buckets: &Buckets) -> Result<Claimed, Ended> {
    let node = shared.state().belief.me().node.clone();
    loop {
        let key = buckets.member(&node).await?;
        // What nobody can read is nobody's.
        let there = key.value.as_ref().and_then(|value| serde_json::from_slice::<Record>(value).ok());
        let goes_on = {
            let state = shared.state();
            let me = state.belief.me();
            match &there {
                Some(there) if there.life.boot != me.boot => None,
                Some(there) => Some(there.life == *me && state.belief.lease.until().is_some()),
                None => Some(false),
            }
        };
        let Some(goes_on) = goes_on else {
            if let Some(there) = there {
                admit(&shared.record(), &there).map_err(Ended::Refused)?;
                contest(shared, buckets, &there, key.revision).await?;
            }
            continue;
        };
        if !goes_on {
            shared.state().belief.next_lease();
        }
        let (record, sent) = (shared.record(), clock::now());
        match buckets.put_member(&node, json(&record)?, key.revision).await {
            Ok(revision) => {
                shared.admitted();
                let lease = &mut shared.state().belief.lease;
                if goes_on {
                    lease.renewed(sent)
                } else {
                    lease.begin(sent)
                }
                shared.tell();
                return Ok(Claimed { record, revision, sent });
            }
            Err(Trouble::Conflict) => {}
            Err(trouble) => return Err(trouble.into()),
        }
    }
}

/// Somebody has this node's name. Whoever renews it is alive; a silent record is deleted after its lease.
async fn contest(shared: &Shared, buckets: &Buckets, there: &Record, revision: u64) -> Result<(), Ended> {
    let began = clock::now();
    tracing::info!(life = %there.life, "this node's name has a record of another life; it is given time to renew it");
    loop {
        sleep(shared.config.ttl() / 10).await;
        let key = buckets.member(&there.life.node).await?;
        if key.revision != revision {
            let now = key.value.as_ref().and_then(|value| serde_json::from_slice::<Record>(value).ok());
            return match now {
                Some(now) if now.life.boot == there.life.boot => {
                    Err(Ended::Refused(Refusal::NameTaken { name: there.life.node.clone() }))
                }
                _ => Ok(()),
            };
        }
        if clock::now().since(began) >= shared.config.ttl() {
            return match buckets.delete_member(&there.life.node, revision).await {
                Ok(()) | Err(Trouble::Conflict) => Ok(()),
                Err(trouble) => Err(trouble.into()),
            };
        }
    }
}

/// Who may not be a member takes its record back, as far as that is possible.
async fn withdraw(shared: &Shared, buckets: &Buckets, node: &NodeId) {
    shared.state().belief.lease.end_now();
    let boot = shared.state().belief.me().boot;
    if let Ok(key) = buckets.member(node).await {
        let mine = key.value.and_then(|value| serde_json::from_slice::<Record>(&value).ok());
        if mine.is_some_and(|record| record.life.boot == boot) {
            let _ = buckets.delete_member(node, key.revision).await;
        }
    }
}

/// Renews the lease: in time, and at once when what is to be said has changed.
async fn renew(shared: &Shared, buckets: &Buckets, node: &NodeId, claimed: Claimed) -> Ended {
    let (mut changed, mut failures) = (shared.listen(), 0);
    // When the first of those was sent of which nobody knows whether they were written.
    let mut unanswered = None;
    let Claimed { mut record, mut revision, mut sent } = claimed;
    let (every, within) = (shared.config.renew_every(), shared.config.answer_within());
    loop {
        if shared.state().phase == Phase::Goodbye {
            // If it fails, the lease ends by itself.
            let _ = buckets.delete_member(node, revision).await;
            return Ended::Left;
        }
        let (next, due) = (shared.record(), every.saturating_sub(clock::now().since(sent)));
        if next == record && !due.is_zero() {
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep(due) => {}
            }
            continue;
        }
        let bytes = match json(&next) {
            Ok(bytes) => bytes,
            Err(trouble) => return trouble.into(),
        };
        let now = clock::now();
        match timeout(within, buckets.put_member(node, bytes, revision)).await.unwrap_or(Err(Trouble::TimedOut)) {
            Ok(written) => {
                shared.state().belief.lease.renewed(now);
                (revision, record, sent, failures, unanswered) = (written, next, now, 0, None);
                shared.tell();
                continue;
            }
            Err(Trouble::Conflict) => match buckets.member(node).await {
                // A renewal of its own whose answer was lost: the first of those, as far as is known.
                Ok(key) if is_of(key.value.as_ref(), &record) => {
                    revision = key.revision;
                    if let Some(tried) = unanswered.take() {
                        shared.state().belief.lease.renewed(tried);
                        (sent, failures) = (tried, 0);
                        shared.tell();
                        continue;
                    }
                }
                Ok(_) => {
                    shared.state().belief.lease.end_now();
                    shared.tell();
                    return Ended::Lease;
                }
                Err(trouble) => tracing::debug!(%trouble, "a renewal cannot be looked up"),
            },
            Err(trouble) => {
                unanswered.get_or_insert(now);
                tracing::debug!(%trouble, "a renewal failed");
            }
        }
        failures += 1;
        if failures >= FAILURES_MAX {
            return Trouble::TimedOut.into();
        }
        sleep(every / 8).await;
    }
}

fn is_of(value: Option<&Bytes>, record: &Record) -> bool {
    let there = value.and_then(|value| serde_json::from_slice::<Record>(value).ok());
    there.is_some_and(|there| there.life == record.life)
}

/// Hears the members.
async fn hear(shared: &Shared, mut watch: Watch) -> Ended {
    while let Some(entry) = watch.next().await {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Trouble::JetStream(with_causes(&error)).into(),
        };
        let Ok(node) = NodeId::new(entry.key.as_str()) else { continue };
        match Change::of(&entry) {
            Change::Put(value) => match serde_json::from_slice::<Record>(&value) {
                Ok(record) => {
                    let mine = shared.record();
                    if !shared.state().is_synced
                        && record.life.boot != mine.life.boot
                        && let Err(refusal) = admit(&mine, &record)
                    {
                        return Ended::Refused(refusal);
                    }
                    let mut state = shared.state();
                    state.is_synced |= record.life == mine.life;
                    state.roster.heard(record, entry.revision, clock::now());
                }
                Err(error) => tracing::warn!(%node, %error, "the record of a member cannot be read; it is left out"),
            },
            Change::Deleted => shared.state().roster.news_of_removal(&node, entry.revision, true),
            Change::Removed => shared.state().roster.news_of_removal(&node, entry.revision, false),
        }
        shared.tell();
    }
    Trouble::Lost.into()
}

/// Follows what all agree on.
async fn follow(shared: &Shared, mut watch: Watch) -> Ended {
    while let Some(entry) = watch.next().await {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Trouble::JetStream(with_causes(&error)).into(),
        };
        let change = Change::of(&entry);
        match (entry.key.as_str(), change) {
            (TABLE, Change::Put(value)) => match Table::read(&value, &shared.config.name) {
                Ok(table) => shared.read_table(table, entry.revision),
                Err(unusable) => return unusable.into(),
            },
            (TABLE, Change::Deleted | Change::Removed) => {
                // It may be history by now.
                let known = shared.state().belief.revision();
                if entry.revision > known {
                    shared.lost_table(entry.revision);
                }
            }
            (LEADER, Change::Put(value)) => learn_leader(shared, &value),
            _ => {}
        }
    }
    Trouble::Lost.into()
}

fn learn_leader(shared: &Shared, value: &Bytes) {
    if let Ok(leader) = serde_json::from_slice::<Leader>(value) {
        let mut state = shared.state();
        state.roster.named([&leader.life], clock::now());
        state.leader = Some(leader);
        drop(state);
        shared.tell();
    }
}

/// What there is to do whenever something has changed, and every now and then in case a watch has missed it.
async fn work(shared: &Shared, buckets: &Buckets) -> Ended {
    let (mut changed, mut looked) = (shared.listen(), clock::now());
    loop {
        tokio::select! {
            _ = changed.changed() => {}
            () = sleep(shared.config.ttl() / 10) => {}
        }
        let now = clock::now();
        let mut done = Ok(());
        if now.since(looked) >= shared.config.renew_every() {
            looked = now;
            done = read_table(shared, buckets).await;
        }
        if done.is_ok() {
            done = all_of_it(shared, buckets).await;
        }
        match done {
            // Somebody else was faster: the next look shows what is left to do.
            Ok(()) | Err(Ended::Trouble(Trouble::Conflict)) => {}
            Err(ended) => return ended,
        }
    }
}

async fn all_of_it(shared: &Shared, buckets: &Buckets) -> Result<(), Ended> {
    free(shared, buckets).await?;
    end_the_silent(shared, buckets).await?;
    if leads(shared, buckets).await? { place(shared, buckets).await } else { Ok(()) }
}

/// Frees what has been drained here, and what the log knows to have a larger epoch.
async fn free(shared: &Shared, buckets: &Buckets) -> Result<(), Ended> {
    let (me, outdated) = {
        let state = shared.state();
        (state.belief.me().clone(), state.outdated.clone())
    };
    for (shard, found) in outdated {
        change_table(shared, buckets, |table| table.outdated(&me, shard, found)).await?;
        // It stays noted until that has been written.
        shared.state().outdated.retain(|noted, epoch| *noted != shard || *epoch > found);
    }
    let has_drained = {
        let state = shared.state();
        state.belief.table().is_some_and(|(table, _)| !state.belief.keeper.drained(table, &me).is_empty())
    };
    if has_drained {
        let freed = |table: &Table| {
            let drained = shared.state().belief.keeper.drained(table, &me);
            table.freed(&me, &drained)
        };
        change_table(shared, buckets, freed).await?;
    }
    Ok(())
}

/// Deletes the records of who has been silent for a whole lease: from then on they cannot be renewed.
async fn end_the_silent(shared: &Shared, buckets: &Buckets) -> Result<(), Ended> {
    let silent = {
        let state = shared.state();
        let me = state.belief.me();
        let silent = if state.is_synced { state.roster.silent(clock::now()) } else { Vec::new() };
        silent.into_iter().filter(|(life, _)| life.node != me.node).collect::<Vec<_>>()
    };
    for (life, revision) in silent {
        match buckets.delete_member(&life.node, revision).await {
            Ok(()) => {
                tracing::warn!(%life, "a member was silent for a whole lease: its shards are given to others");
                let mut state = shared.state();
                // Unless its news was faster: another lease may have begun under its name since.
                if state.roster.is_last(&life, revision) {
                    state.roster.removed(&life.node, true);
                }
            }
            // It is alive, or somebody has done it already, or its age has.
            Err(Trouble::Conflict) => {
                let key = buckets.member(&life.node).await?;
                let record = key.value.as_ref().and_then(|value| serde_json::from_slice::<Record>(value).ok());
                let mut state = shared.state();
                match record {
                    _ if !state.roster.is_last(&life, revision) => {}
                    Some(record) => state.roster.heard(record, key.revision, clock::now()),
                    None => state.roster.removed(&life.node, false),
                }
            }
            Err(trouble) => return Err(trouble.into()),
        }
        shared.tell();
    }
    Ok(())
}

/// Is it for this member to plan? It stands up if nobody does.
async fn leads(shared: &Shared, buckets: &Buckets) -> Result<bool, Ended> {
    let (turn, me, known) = {
        let (state, now) = (shared.state(), clock::now());
        let turn = Turn::of(&state.belief, &state.roster, state.leader.as_ref(), state.is_synced, now);
        (turn, state.belief.me().clone(), state.leader.clone())
    };
    match turn {
        Turn::Mine => return Ok(true),
        Turn::Others => return Ok(false),
        Turn::Vacant => {}
    }
    let key = buckets.agreed(LEADER).await?;
    let there = key.value.as_ref().and_then(|value| serde_json::from_slice::<Leader>(value).ok());
    if let Some(value) = key.value.as_ref().filter(|_| there.is_some() && there != known) {
        learn_leader(shared, value);
        return Ok(false);
    }
    let leader = Leader { life: me, term: there.map_or(0, |there| there.term).saturating_add(1) };
    buckets.agree(LEADER, json(&leader)?, key.revision).await?;
    tracing::info!(term = leader.term, "this node plans from now on");
    shared.state().leader = Some(leader);
    Ok(true)
}

/// Plans, and founds a table where there is none.
async fn place(shared: &Shared, buckets: &Buckets) -> Result<(), Ended> {
    if shared.state().belief.table().is_none() {
        return found(shared, buckets).await;
    }
    let next = |table: &Table| {
        let ground = {
            let (mut state, now) = (shared.state(), clock::now());
            let State { roster, founding, .. } = &mut *state;
            Ground::of(table, roster, founding.as_ref(), now, shared.config.ttl())?
        };
        ground.plan(table, shared.clock.now(), &shared.config.rules())
    };
    change_table(shared, buckets, next).await
}
