//! What an operator is shown of a cluster: its nodes and their leases, who owns which shard, and what has moved.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use wasmwiz_tests::{
    cli::User,
    client::Client,
    fleet::{Fleet, Size},
    harness::NodeProcess,
    wait,
};

/// How many shards there are.
const SHARDS: usize = 256;

/// Owner and epoch of each shard, by its number.
type Owners = BTreeMap<u64, (String, u64)>;

/// Who owns what. None unless every shard has one owner.
fn owned(cluster: &Value) -> Option<Owners> {
    let shards = cluster["shards"].as_array()?;
    let owner = |shard: &Value| {
        let owner = (shard["node"].as_str()?.to_owned(), shard["epoch"].as_u64()?);
        (shard["state"] == "owned").then_some((shard["shard"].as_u64()?, owner))
    };
    let owned: Owners = shards.iter().map(owner).collect::<Option<_>>()?;
    (owned.len() == SHARDS && shards.len() == SHARDS).then_some(owned)
}

/// Waits until exactly these nodes own all shards, as each of the clients is shown, and all of them are shown the same. Gives who
/// owns what, and what the last of them was shown.
async fn until_owned_by(nodes: &[&str], clients: &[Client]) -> anyhow::Result<(Owners, Value)> {
    let wanted: BTreeSet<_> = nodes.iter().copied().collect();
    let mut last = Vec::new();
    let settled = wait::until("every shard to have one owner", wait::SOON * 2, async || {
        last.clear();
        for client in clients {
            last.push(client.get_json("/v1/cluster").await?);
        }
        let Some(all) = last.iter().map(owned).collect::<Option<Vec<_>>>() else { return Ok(None) };
        let first = all.first().cloned().unwrap_or_default();
        let owners: BTreeSet<_> = first.values().map(|(node, _)| node.as_str()).collect();
        Ok((owners == wanted && all.iter().all(|other| *other == first)).then_some(first))
    });
    let owners = settled.await.with_context(|| format!("the last that was shown: {last:?}"))?;
    Ok((owners, last.pop().context("nobody was asked")?))
}

/// A node as it is shown.
fn node<'c>(cluster: &'c Value, name: &str) -> anyhow::Result<&'c Value> {
    let nodes = cluster["nodes"].as_array().context("no nodes")?;
    nodes.iter().find(|node| node["name"] == name).with_context(|| format!("{name} is not shown: {cluster}"))
}

/// Every shard of a node that has gone has moved from it, to who has it now, and in a larger epoch.
fn moved(from: &str, before: &Owners, after: &Owners, cluster: &Value) -> anyhow::Result<()> {
    let movements = cluster["movements"].as_array().context("no movements")?;
    for (shard, (owner, epoch)) in before {
        let (now, later) = after.get(shard).context("a shard is missing")?;
        ensure!(later >= epoch, "shard {shard} went from epoch {epoch} to {later}");
        if owner != from {
            continue;
        }
        ensure!(later > epoch, "shard {shard} moved within epoch {epoch}");
        // It may have moved on since.
        let mut its = movements.iter().filter(|moved| moved["shard"] == *shard);
        let left = its.clone().any(|moved| moved["from"] == from && moved["epoch"].as_u64() > Some(*epoch));
        let came = its.any(|moved| moved["to"] == now.as_str() && moved["epoch"] == *later);
        ensure!(left && came, "the movement of shard {shard} from {from} to {now} is not shown: {movements:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_who_owns_what_and_what_moves_when_a_node_stops_or_is_killed() -> anyhow::Result<()> {
    // Given three nodes, then every shard has one owner, in an epoch, and each node shows the same.
    let mut fleet = Fleet::started(Size { nodes: 3, servers: 3, tenants: 1 }).await?;
    let clients = [fleet.operator(0)?, fleet.operator(1)?, fleet.operator(2)?];
    let (three, shown) = until_owned_by(&["node-1", "node-2", "node-3"], &clients).await?;
    ensure!(three.values().all(|(_, epoch)| *epoch >= 1), "{three:?}");
    ensure!(shown["name"] == "fleet" && shown["node"] == "node-3" && shown["trouble"].is_null(), "{shown}");
    ensure!(shown["lease_ms"].as_u64().is_some_and(|ms| ms > 0), "it decides nothing: {shown}");
    for name in ["node-1", "node-2", "node-3"] {
        let node = node(&shown, name)?;
        let (lease, shards) = (&node["lease"], three.values().filter(|(owner, _)| owner == name).count());
        ensure!(node["state"] == "live" && node["shards"] == shards, "{node}");
        ensure!(lease["renewed_ms_ago"].as_u64() < lease["ttl_ms"].as_u64() && !lease["ttl_ms"].is_null(), "{node}");
    }

    // When a tenant asks, then it is not told.
    let tenant = fleet.tenants.first().context("no tenant")?;
    tenant.client.get("/v1/cluster").await?.refuses(403, "missing-scope")?;
    tenant.client.anonymous().get("/v1/cluster").await?.refuses(401, "unauthenticated")?;

    // When a node stops, then its shards have moved, each to a larger epoch, and it has left.
    let ended = fleet.node(2)?.terminate().await?;
    ensure!(ended.success(), "{ended:?}");
    let (two, shown) = until_owned_by(&["node-1", "node-2"], &clients[..2]).await?;
    moved("node-3", &three, &two, &shown)?;
    wait::until("the node to have left", wait::SOON, async || {
        let shown = clients[0].get_json("/v1/cluster").await?;
        let node = node(&shown, "node-3")?;
        Ok((node["state"] == "left" && node["lease"].is_null() && node["shards"] == 0).then_some(()))
    })
    .await?;

    // When another is killed, then the same, after its lease; and it was lost.
    fleet.node(1)?.kill9().await?;
    let (one, shown) = until_owned_by(&["node-1"], &clients[..1]).await?;
    moved("node-2", &two, &one, &shown)?;
    ensure!(node(&shown, "node-2")?["state"] == "lost", "{shown}");
    by_the_command_line(fleet.nodes.first().context("no node")?, &fleet).await
}

/// The same as tables, with the exit code for what has to be done: nothing, as every shard has an owner.
async fn by_the_command_line(node: &NodeProcess, fleet: &Fleet) -> anyhow::Result<()> {
    let operator = fleet.operator_token();
    let user = User::new()?.variable("WASMWIZ_URL", &node.ready().url).variable("WASMWIZ_API_KEY", operator);
    let status = user.run(&["cluster", "status"]).await?;
    let rows = ["fleet  ", "node-1  live", "node-2  lost", "node-3  left"];
    ensure!(status.code == Some(0) && rows.iter().all(|row| status.stdout.contains(row)), "{status:?}");
    let json = user.run(&["cluster", "status", "--output", "json"]).await?;
    let json: Value = serde_json::from_str(&json.stdout).with_context(|| format!("{json:?}"))?;
    ensure!(owned(&json).is_some(), "{json}");
    // The feed goes on at this node: its first look may find it on the way.
    let mut found = String::new();
    let examined = wait::until("nothing but what is worth knowing", wait::SOON, async || {
        let doctor = user.run(&["doctor", "--output", "json"]).await?;
        found = format!("{doctor:?}");
        let grade = serde_json::from_str::<Value>(&doctor.stdout).unwrap_or_default()["grade"].clone();
        Ok((doctor.code == Some(0) && grade == "warning").then_some(()))
    });
    examined.await.with_context(|| found)?;
    let said = user.run(&["doctor"]).await?;
    ensure!(said.stdout.contains("node-2 was lost") && said.stdout.contains("the cluster has one node"), "{said:?}");
    let tenant = fleet.tenants.first().context("no tenant")?;
    let stranger =
        User::new()?.variable("WASMWIZ_URL", &node.ready().url).variable("WASMWIZ_API_KEY", &tenant.key.secret);
    for command in [&["cluster", "status"][..], &["doctor"]] {
        ensure!(stranger.run(command).await?.code == Some(3), "a tenant is told: {command:?}");
    }
    Ok(())
}
