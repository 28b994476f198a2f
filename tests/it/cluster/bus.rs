//! What the bus does to a cluster: it goes away, loses a bucket, loses one server of three.

use std::net::TcpListener;

use super::*;
use async_nats::jetstream;
use wasmwiz_node::cluster::buckets::{CLUSTER, MEMBERS};

#[tokio::test]
async fn without_the_bus_all_fence_themselves_and_recover_without_a_restart() -> anyhow::Result<()> {
    let (mut server, witness) = (NatsServer::started().await?, Witness::start());
    let config = settings(server.url());
    let [a, b, c] = three(&config, &witness).await?;
    server.kill9();
    let killed = clock::now();
    let all = [&a, &b, &c];
    wait::until("all to be fenced", wait::SOON, async || Ok(all.iter().all(|member| member.owns() == 0).then_some(())))
        .await?;
    // Whatever had been sent last was sent before the server was gone.
    let last = witness.testimony().into_values().flat_map(BTreeMap::into_values).map(|believed| believed.last).max();
    let went_on = last.context("nobody believed anything")?.since(killed);
    assert!(went_on <= config.ttl() - config.margin() + Duration::from_millis(100), "{went_on:?}");
    let trouble = a.beliefs().topology().trouble.context("no trouble is shown")?;
    assert!(trouble.contains("NATS"), "{trouble}");
    // It says how old its table is, give or take an answer that was under way.
    let gone = clock::now().since(killed);
    let table = a.beliefs().topology().table.context("no table is shown")?;
    assert!(Duration::from_millis(table.read_ms_ago + 100) >= gone, "{table:?}, gone for {gone:?}");
    server.start().await?;
    until_settled(&all).await?;
    assert_eq!(a.beliefs().topology().trouble, None);
    witness.nobody_overlapped().map(drop)
}

async fn delete(server: &NatsServer, bucket: &str) -> anyhow::Result<()> {
    let context = jetstream::new(async_nats::connect(server.url()).await?);
    context.delete_key_value(bucket).await?;
    Ok(())
}

#[tokio::test]
async fn a_lost_table_is_said_and_founded_again_above_all_its_epochs() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    let config = settings(server.url());
    let [a, b, c] = three(&config, &witness).await?;
    let before = owners(&a.beliefs().topology());
    delete(&server, CLUSTER).await?;
    wait::until("the loss to be said", wait::SOON, async || {
        let trouble = a.beliefs().topology().trouble.unwrap_or_default();
        Ok(trouble.contains("the table of owners is gone").then_some(()))
    })
    .await?;
    until_settled(&[&a, &b, &c]).await?;
    assert_eq!(a.beliefs().topology().trouble, None);
    for (shard, (_, epoch)) in owners(&a.beliefs().topology()) {
        assert!(epoch > before[&shard].1, "shard {shard}");
    }
    witness.nobody_overlapped().map(drop)
}

#[tokio::test]
async fn a_lost_bucket_of_members_is_made_again_and_filled() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    let config = settings(server.url());
    let [a, b, c] = three(&config, &witness).await?;
    delete(&server, MEMBERS).await?;
    wait::until("a fence", wait::SOON, async || Ok((a.owns() == 0).then_some(()))).await?;
    until_settled(&[&a, &b, &c]).await?;
    witness.nobody_overlapped().map(drop)
}

/// Three servers that keep one store.
fn servers() -> anyhow::Result<Vec<NatsServer>> {
    let listener = |_| TcpListener::bind("127.0.0.1:0");
    let listeners = (0..3).map(listener).collect::<Result<Vec<_>, _>>()?;
    let routes = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    let all: Vec<String> = routes.iter().map(|route| format!("\"nats://{route}\"")).collect();
    let prepared = routes.iter().enumerate().map(|(number, route)| {
        let cluster = format!("cluster {{ name: n, listen: \"{route}\", routes: [{}] }}", all.join(", "));
        NatsServer::prepared(&format!("server_name: n{number}\n{cluster}\n"))
    });
    prepared.collect()
}

#[tokio::test]
async fn three_servers_may_lose_one() -> anyhow::Result<()> {
    let (mut servers, witness) = (servers()?, Witness::start());
    for server in &mut servers {
        server.start().await?;
    }
    let url = servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",");
    let config = ClusterConfig { replicas: 3, ..settings(url) };
    let [a, b, c] = three(&config, &witness).await?;
    for (number, server) in servers.iter_mut().enumerate() {
        server.kill9();
        // Whatever an election costs, and whoever was connected to it.
        let all = [&a, &b, &c];
        until_settled(&all).await.with_context(|| format!("without server {number}"))?;
        server.start().await?;
    }
    drop(c);
    until_settled(&[&a, &b]).await?;
    witness.nobody_overlapped().map(drop)
}
