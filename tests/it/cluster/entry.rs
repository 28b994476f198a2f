//! Who may be a member, and who plans.

use super::*;
use async_nats::jetstream;
use bytes::Bytes;
use wasmwiz_events::nats::NatsConfig;
use wasmwiz_node::cluster::buckets::{Buckets, CLUSTER, LEADER, TABLE, Trouble};

async fn refused(name: &str, config: ClusterConfig) -> anyhow::Result<Refusal> {
    Member::start(name, config).await?.err().context("it was let in")
}

#[tokio::test]
async fn a_second_node_of_a_name_is_refused_while_the_first_is_alive_and_not_after() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    let config = settings(server.url());
    let first = joined("a", &config, &witness).await?;
    until_settled(&[&first]).await?;
    let refusal = refused("a", config.clone()).await?;
    assert_eq!(refusal, Refusal::NameTaken { name: first.name().clone() });
    assert_eq!(first.owns(), SHARDS, "the first has lost nothing by it");
    drop(first);
    let second = Member::start("a", config.clone()).await??;
    witness.watch("a again", &second);
    until_settled(&[&second]).await?;
    witness.nobody_overlapped().map(drop)
}

#[tokio::test]
async fn another_cluster_and_another_length_of_leases_are_refused_with_words() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    let config = settings(server.url());
    let first = joined("a", &config, &witness).await?;
    until_settled(&[&first]).await?;
    let other = refused("b", ClusterConfig { name: "other".into(), ..config.clone() }).await?;
    assert_eq!(other, Refusal::OtherCluster { here: "other".into(), there: "test".into() });
    let ttl = refused("b", ClusterConfig { lease_ttl_ms: 3_000, lease_margin_ms: 600, ..config.clone() }).await?;
    assert_eq!(ttl, Refusal::LeaseTtl { here: 3_000, there: 2_000 });
    assert_eq!(first.owns(), SHARDS);
    Ok(())
}

#[tokio::test]
async fn of_two_leaders_that_change_one_table_one_succeeds() -> anyhow::Result<()> {
    let server = NatsServer::started().await?;
    let config = ClusterConfig {
        name: "test".into(),
        nats: NatsConfig { url: server.url(), ..Default::default() },
        ..Default::default()
    };
    let (one, two) = (Buckets::open(&config).await?, Buckets::open(&config).await?);
    for _ in 0..20 {
        let seen = one.agreed(TABLE).await?.revision;
        let change = |by: &'static str| Bytes::from_static(by.as_bytes());
        let (first, second) =
            tokio::join!(one.agree(TABLE, change("one"), seen), two.agree(TABLE, change("two"), seen));
        let (winner, lost) = if first.is_ok() { ("one", second) } else { ("two", first) };
        assert!(matches!(lost, Err(Trouble::Conflict)), "{lost:?}");
        assert_eq!(two.agreed(TABLE).await?.value, Some(change(winner)));
    }
    Ok(())
}

/// Names one member after the other as the leader, whoever it is.
async fn usurp(url: String, leaders: Vec<serde_json::Value>) -> anyhow::Result<()> {
    let store = jetstream::new(async_nats::connect(url).await?).get_key_value(CLUSTER).await?;
    for leader in leaders.iter().cycle() {
        store.put(LEADER, serde_json::to_vec(leader)?.into()).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn leaders_that_change_all_the_time_do_no_harm() -> anyhow::Result<()> {
    let (server, witness) = (NatsServer::started().await?, Witness::start());
    let config = settings(server.url());
    let [a, b, c] = three(&config, &witness).await?;
    let leaders = [&a, &b, &c].map(|member| {
        let topology = member.beliefs().topology();
        let boot = topology.nodes.iter().find(|node| node.node == *member.name()).map(|node| node.boot);
        serde_json::json!({"node": member.name(), "boot": boot, "lease": 1, "term": 100})
    });
    let usurping = tokio::spawn(usurp(server.url(), leaders.to_vec()));
    let d = joined("d", &config, &witness).await?;
    until_settled(&[&a, &b, &c, &d]).await?;
    drop(b);
    until_settled(&[&a, &c, &d]).await?;
    d.leave().await?;
    until_settled(&[&a, &c]).await?;
    ensure!(!usurping.is_finished(), "{:?}", usurping.await);
    usurping.abort();
    witness.nobody_overlapped().map(drop)
}
