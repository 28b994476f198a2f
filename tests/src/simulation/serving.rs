//! What a node does with the shards it owns: takes them up, releases them, and appends to their streams, as the region and its
//! entities do.

use std::{collections::BTreeMap, time::Duration};

use wasmwiz_actors::ownership::Owner;
use wasmwiz_events::{revision::Epoch, shard::Shard};
use wasmwiz_node::cluster::{clock::Mono, keeper::Act};

use super::{
    TTL,
    node::Node,
    streams::{Ask, Commit, End, Said},
};

/// How long what is under way in a shard takes when it is released, in milliseconds.
const RELEASE_MS: std::ops::Range<u64> = 0..60;

/// How long a node has nothing to append, in milliseconds.
const IDLE_MS: std::ops::Range<u64> = 100..700;

/// How long lies between that somebody looks who owns a shard and that the commit is sent, in milliseconds.
const DECIDING_MS: std::ops::Range<u64> = 0..40;

/// Takes up and releases shards as beliefs change: also when the lease ends and nothing else happens.
pub(super) async fn keep(node: &Node) {
    let mut seen = node.changes();
    let mut releasing: Vec<(Shard, Mono)> = Vec::new();
    loop {
        let (acts, left) = {
            let (mut state, now) = (node.state(), node.now());
            let wanted = state.belief.wanted(now);
            let left = state.belief.lease.until().map(|until| until.since(now)).filter(|left| !left.is_zero());
            (state.belief.keeper.acts(&wanted), left)
        };
        for act in &acts {
            match *act {
                Act::TakeUp(shard, epoch) => node.state().belief.keeper.taken_up(shard, epoch),
                Act::Release(shard, _) => {
                    let under_way = Duration::from_millis(node.world.draw(RELEASE_MS));
                    releasing.push((shard, node.after(under_way)));
                }
            }
        }
        if !acts.is_empty() {
            node.tell();
        }
        let now = node.steady();
        let released = releasing.iter().map(|(_, until)| until.since(now));
        let wait = released.chain(left).min().unwrap_or(TTL);
        node.changed_within(&mut seen, wait).await;
        let now = node.steady();
        let before = releasing.len();
        releasing.retain(|(shard, until)| {
            if *until <= now {
                node.state().belief.keeper.released(*shard);
            }
            *until > now
        });
        if releasing.len() < before {
            node.tell();
        }
    }
}

/// Appends to the stream of one shard after the other of those that it believes to own.
pub(super) async fn serve(node: &Node) {
    let mut ends: BTreeMap<Shard, End> = BTreeMap::new();
    loop {
        node.sleep(Duration::from_millis(node.world.draw(IDLE_MS))).await;
        let Some((shard, epoch)) = some_shard(node) else { continue };
        let by = node.life();
        // As it was read in this epoch: who owned the shard in an earlier one may have appended since.
        let end = match ends.get(&shard).copied() {
            Some(end) if end.epoch == epoch => end,
            _ => match node.log(Ask::End(shard)).await {
                Ok(Said::End(end)) => end,
                _ => continue,
            },
        };
        if end.epoch > epoch {
            // Fenced: the log knows of a later owner.
            ends.remove(&shard);
            let mut state = node.state();
            let outdated = state.outdated.entry(shard).or_default();
            *outdated = end.epoch.max(*outdated);
            drop(state);
            node.tell();
            continue;
        }
        node.sleep(Duration::from_millis(node.world.draw(DECIDING_MS))).await;
        match node.log(Ask::Publish(Commit { shard, after: end.last, epoch, by })).await {
            Ok(Said::Stored(end)) => {
                ends.insert(shard, end);
            }
            // It is not known, or the stream ends elsewhere: it is read again.
            _ => {
                ends.remove(&shard);
            }
        }
    }
}

/// One of the shards that it believes to own, and the epoch.
fn some_shard(node: &Node) -> Option<(Shard, Epoch)> {
    let shards = node.settings.shards;
    let from = usize::try_from(node.world.draw(0..shards as u64)).unwrap_or_default();
    (from..shards).chain(0..from).find_map(|number| {
        let shard = Shard::new(u8::try_from(number).ok()?);
        match node.owner(shard) {
            Owner::Here(epoch) => Some((shard, epoch)),
            Owner::There { .. } | Owner::Nobody => None,
        }
    })
}
