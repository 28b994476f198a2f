//! Who owns which shard, by members that meet on a real nats-server: they agree, and no two ever believe the same.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use wasmwiz_actors::{
    ownership::{Owner, Ownership as _},
    topology::{Owned, Topology},
};
use wasmwiz_events::{
    revision::Epoch,
    shard::{SHARDS, Shard},
};
use wasmwiz_node::cluster::{
    clock::{self, Mono},
    config::ClusterConfig,
    member::Refusal,
};
use wasmwiz_tests::{
    cluster::{Member, Witness, settings},
    nats::NatsServer,
    wait,
};

mod bus;
mod dev;
mod entry;
mod handover;

/// What may be added to a lease before a lost member's shards are elsewhere: two looks of the leader and a write, on a
/// machine that is busy with other tests.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(3);

/// Who owns what, by the table that a member has.
fn owners(topology: &Topology) -> BTreeMap<u8, (String, Epoch)> {
    let owned = topology.shards.iter().filter(|place| place.state == Owned::Owned);
    let owner = owned.filter_map(|place| Some((place.shard.get(), (place.node.as_ref()?.to_string(), place.epoch))));
    owner.collect()
}

/// A member that has joined.
async fn joined(name: &str, config: &ClusterConfig, witness: &Witness) -> anyhow::Result<Member> {
    let member = Member::start(name, config.clone()).await??;
    witness.watch(name, &member);
    Ok(member)
}

/// Waits until these members own all shards in equal parts, and all of them know.
async fn until_settled(members: &[&Member]) -> anyhow::Result<()> {
    let fair = SHARDS / members.len();
    let mut last = Vec::new();
    let seen = wait::until("fair parts", wait::SOON * 2, async || {
        last = members.iter().map(|member| (member.name().to_string(), member.owns())).collect::<Vec<_>>();
        let all: usize = last.iter().map(|(_, owns)| owns).sum();
        // Within a tenth, and one more for what does not divide.
        let is_fair = |owns: usize| owns.abs_diff(fair) * 10 <= fair + 10;
        let version = |member: &&Member| member.beliefs().topology().table.map(|table| table.version);
        let versions: Vec<_> = members.iter().map(version).collect();
        let agree = versions.iter().all(|version| Some(version) == versions.first());
        Ok((all == SHARDS && agree && last.iter().all(|(_, owns)| is_fair(*owns))).then_some(()))
    })
    .await;
    let troubles = || members.iter().map(|member| member.beliefs().topology().trouble).collect::<Vec<_>>();
    seen.with_context(|| format!("the last were {last:?}, with {:?}", troubles()))
}

async fn three(config: &ClusterConfig, witness: &Witness) -> anyhow::Result<[Member; 3]> {
    let members =
        [joined("a", config, witness).await?, joined("b", config, witness).await?, joined("c", config, witness).await?];
    until_settled(&members.each_ref()).await?;
    Ok(members)
}

/// Since when each of these shards has been believed in, by anybody, in an epoch after that one.
fn taken_over(witness: &Witness, lost: &BTreeMap<Shard, Epoch>) -> Option<BTreeMap<Shard, (Epoch, Mono)>> {
    let testimony = witness.testimony();
    let next = |(shard, epoch): (&Shard, &Epoch)| {
        let later = Epoch::new(epoch.get() + 1);
        let mut after = testimony.range((*shard, later)..=(*shard, Epoch::new(u64::MAX)));
        let ((_, epoch), believers) = after.next()?;
        Some((*shard, (*epoch, believers.values().next()?.first)))
    };
    lost.iter().map(next).collect()
}

/// The shards of a node, with their epochs.
fn shards_of(topology: &Topology, node: &str) -> BTreeMap<Shard, Epoch> {
    let theirs = owners(topology).into_iter().filter(|(_, (owner, _))| owner == node);
    theirs.map(|(shard, (_, epoch))| (Shard::new(shard), epoch)).collect()
}

#[tokio::test]
async fn three_members_share_the_shards_and_agree() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    let config = settings(server.url());
    let [a, b, c] = three(&config, &witness).await?;
    let tables = [&a, &b, &c].map(|member| owners(&member.beliefs().topology()));
    assert_eq!(tables[0].len(), SHARDS);
    assert_eq!((&tables[0], &tables[0]), (&tables[1], &tables[2]));
    let topology = a.beliefs().topology();
    assert_eq!((topology.cluster.as_deref(), topology.nodes.len(), topology.trouble), (Some("test"), 3, None));
    assert!(topology.lease_ms > Some(0) && topology.leader.is_some());
    assert!(topology.nodes.iter().all(|node| node.lease.is_some() && node.shards > 0));
    witness.nobody_overlapped().map(drop)
}

#[tokio::test]
async fn what_a_lost_member_owned_is_elsewhere_soon_after_its_lease_and_nothing_else_moves() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    let config = settings(server.url());
    let [a, b, c] = three(&config, &witness).await?;
    let before = a.beliefs().topology();
    let lost = shards_of(&before, "c");
    let dropped = clock::now();
    drop(c);
    let taken = wait::until("the shards of the lost", wait::SOON, async || Ok(taken_over(&witness, &lost))).await?;
    for (shard, (epoch, since)) in &taken {
        assert_eq!(epoch.get(), lost[shard].get() + 1, "shard {shard}");
        let took = since.since(dropped);
        assert!(took <= config.ttl() + TAKEN_OVER_WITHIN, "shard {shard} took {took:?}");
    }
    until_settled(&[&a, &b]).await?;
    let after = owners(&a.beliefs().topology());
    for (shard, owner) in owners(&before).into_iter().filter(|(_, (owner, _))| owner != "c") {
        assert_eq!(after[&shard], owner);
    }
    witness.nobody_overlapped().map(drop)
}

#[tokio::test]
async fn who_leaves_has_handed_over_everything_before_it_ends() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    let config = settings(server.url());
    let [a, b, c] = three(&config, &witness).await?;
    let (beliefs, began) = (c.beliefs().clone(), clock::now());
    c.leave().await?;
    let took = clock::now().since(began);
    assert_eq!(shards_of(&beliefs.topology(), "c"), BTreeMap::new());
    assert!(took < Duration::from_millis(config.leave_ms), "it was cut off: {took:?}");
    until_settled(&[&a, &b]).await?;
    // The others know that it has gone, without waiting for a lease.
    let gone = wait::until("its record to be gone", config.ttl(), async || {
        let nodes = a.beliefs().topology().nodes;
        Ok((nodes.iter().filter(|node| node.lease.is_some()).count() == 2).then_some(()))
    });
    gone.await?;
    witness.nobody_overlapped().map(drop)
}

#[tokio::test]
async fn a_member_that_stands_still_has_stopped_believing_before_others_begin_and_comes_back() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    let config = settings(server.url());
    let [a, b, c] = three(&config, &witness).await?;
    for member in [&a, &b, &c] {
        let name = member.name().to_string();
        let lost = shards_of(&member.beliefs().topology(), &name);
        let held = member.hold().await?;
        wait::until("its shards to be taken over", wait::SOON, async || Ok(taken_over(&witness, &lost))).await?;
        assert_eq!(member.owns(), 0);
        drop(held);
        until_settled(&[&a, &b, &c]).await.with_context(|| format!("after {name} was held"))?;
    }
    witness.nobody_overlapped().map(drop)
}

#[tokio::test]
async fn a_member_that_stands_still_for_less_than_its_lease_loses_nothing() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    // Longer than what the machine may stand still by itself.
    let config = ClusterConfig { lease_ttl_ms: 10_000, lease_margin_ms: 1_000, ..settings(server.url()) };
    let [a, _b, c] = three(&config, &witness).await?;
    let before = owners(&a.beliefs().topology());
    let held = c.hold().await?;
    let heard = || {
        let nodes = a.beliefs().topology().nodes;
        let lease = nodes.iter().find(|node| node.node == *c.name()).and_then(|node| node.lease);
        lease.map_or(u64::MAX, |lease| lease.renewed_ms_ago)
    };
    wait::until("it to be late", wait::SOON, async || Ok((heard() > 5_000).then_some(()))).await?;
    drop(held);
    wait::until("it to be heard", wait::SOON, async || Ok((heard() < 1_000).then_some(()))).await?;
    assert_eq!(owners(&a.beliefs().topology()), before);
    ensure!(c.owns() > 0, "it is fenced");
    witness.nobody_overlapped().map(drop)
}

#[tokio::test]
async fn a_shard_whose_epoch_the_log_knows_to_be_larger_is_given_anew_above_that() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    let alone = joined("a", &settings(server.url()), &witness).await?;
    until_settled(&[&alone]).await?;
    let shard = Shard::new(7);
    alone.beliefs().is_outdated(shard, Epoch::new(1_000));
    let owned = || match alone.beliefs().owner(shard) {
        Owner::Here(epoch) => Some(epoch),
        Owner::There { .. } | Owner::Nobody => None,
    };
    wait::until("the shard to be owned above that epoch", wait::SOON, async || {
        Ok(owned().filter(|epoch| *epoch > Epoch::new(1_000)))
    })
    .await?;
    witness.nobody_overlapped().map(drop)
}
