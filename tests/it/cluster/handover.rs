//! What becomes of commands for a shard that is being given up.

use std::{path::Path, sync::Arc};

use futures_util::{StreamExt as _, future::join_all};
use wasmwiz_actors::{
    bus::{BusConfig, CommandBus, Letter, Server, Transport as _, Unanswered},
    disk_space::DiskSpace,
    dispatch::{Dispatch, DispatchDeps},
    executor::{ExecutorConfig, Executors},
    ids::Ids,
    limits::Policy,
    ownership::Alone,
    region::{Region, RegionConfig, RegionDeps},
};
use wasmwiz_events::{
    blobs::fs::FsBlobs,
    id::NodeId,
    log::{EventLog, memory::MemoryLog},
    nats::NatsConfig,
    time::SystemClock,
};
use wasmwiz_node::cluster::transport::NatsTransport;
use wasmwiz_tests::nats::{NatsCluster, NatsServer};

use super::*;

/// How often a shard is given up.
const TIMES: u64 = 40;

/// Commands that are on their way then.
const ASKED: usize = 64;

/// A transport of its own, at one of the servers.
async fn transport(url: String, name: &str) -> anyhow::Result<NatsTransport> {
    let transport = NatsTransport::start(NatsConfig { url, ..Default::default() }, NodeId::new(name)?);
    tokio::time::timeout(wait::SOON, transport.connected()).await.context("no connection")?;
    Ok(transport)
}

/// Somebody who answers; what is asked here cannot be read, and that is the answer.
async fn server(data: &Path) -> anyhow::Result<Server> {
    let (node, boot, log) = (NodeId::new("owner")?, Ids.boot(), Arc::new(MemoryLog::new()) as Arc<dyn EventLog>);
    let deps = RegionDeps {
        log: Arc::clone(&log),
        clock: Arc::new(SystemClock),
        policy: Policy::default(),
        ownership: Arc::new(Alone { node: node.clone(), boot }),
        snapshots: None,
    };
    let region = Region::start(RegionConfig::default(), deps).await?;
    let executors = Executors::start(ExecutorConfig { threads: 1, ..ExecutorConfig::default() })?;
    let (bus, blobs) = (CommandBus::alone(region.clone()), Arc::new(FsBlobs::open(data)?));
    let dispatch = Dispatch::new(DispatchDeps { bus, executors, blobs, log, node, boot, space: DiskSpace::default() });
    Ok(Server::new(region, dispatch, BusConfig::default()))
}

/// How often a shard is taken up again in the epoch in which it was given up.
const AGAIN: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_for_a_shard_that_is_taken_up_again_is_answered_once() -> anyhow::Result<()> {
    let nats = NatsServer::started().await?;
    let owner = transport(nats.url(), "owner").await?;
    let data = tempfile::tempdir()?;
    owner.serve(server(data.path()).await?);
    let (shard, epoch) = (Shard::new(7), Epoch::new(1));
    let subject = format!("wasmwiz.cmd.{}.{}", shard.get(), epoch.get());
    let asking = async_nats::connect(nats.url()).await?;
    owner.listen(shard, epoch);
    wait::until("the owner to be heard of", wait::SOON, async || {
        Ok(asking.request(subject.clone(), "nothing".into()).await.is_ok().then_some(()))
    })
    .await?;
    for turn in 0..AGAIN {
        owner.fall_silent(shard, epoch);
        // Long enough that it takes notice, and shorter than it goes on to listen.
        tokio::time::sleep(Duration::from_millis(20)).await;
        owner.listen(shard, epoch);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let inbox = asking.new_inbox();
        let mut answers = asking.subscribe(inbox.clone()).await?;
        asking.publish_with_reply(subject.clone(), inbox, "nothing that can be read".into()).await?;
        let answer = tokio::time::timeout(wait::SOON, answers.next()).await?.context("no answer")?;
        ensure!(answer.status.is_none(), "nobody listens: {answer:?}");
        let second = tokio::time::timeout(Duration::from_millis(100), answers.next()).await;
        ensure!(second.is_err(), "answered twice after it was taken up {} times", turn + 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_a_shard_while_it_is_given_up_is_told_and_not_left_waiting() -> anyhow::Result<()> {
    let servers = NatsCluster::started(3).await?;
    let owner = transport(servers.url_of(0)?, "owner").await?;
    let asking = Arc::new(transport(servers.url_of(1)?, "asking").await?);
    let data = tempfile::tempdir()?;
    owner.serve(server(data.path()).await?);
    let (shard, mut answered, mut nobody) = (Shard::new(7), 0, 0);
    for epoch in (1..=TIMES).map(Epoch::new) {
        let letter = Letter {
            shard,
            epoch,
            node: NodeId::new("owner")?,
            traceparent: None,
            frame: "nothing that can be read".into(),
            within: wait::SOON,
        };
        owner.listen(shard, epoch);
        wait::until("the owner to be heard of", wait::SOON, async || {
            Ok(asking.request(letter.clone()).await.is_ok().then_some(()))
        })
        .await?;
        let asked = (0..ASKED).map(|number| {
            let (asking, letter) = (Arc::clone(&asking), letter.clone());
            async move {
                tokio::time::sleep(Duration::from_micros(50) * u32::try_from(number).unwrap_or_default()).await;
                asking.request(letter).await
            }
        });
        let giving_up = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            owner.fall_silent(shard, epoch);
        };
        let (answers, ()) = tokio::join!(join_all(asked), giving_up);
        for answer in answers {
            match answer {
                Ok(_) => answered += 1,
                Err(Unanswered::NoResponders) => nobody += 1,
                Err(error) => anyhow::bail!("in epoch {epoch}, after {answered} and {nobody} answers: {error}"),
            }
        }
    }
    eprintln!("{answered} answered by the owner, {nobody} by a server");
    let begun = tokio::time::Instant::now();
    owner.finish(wait::SOON).await;
    ensure!(begun.elapsed() < wait::SOON, "it did not finish");
    Ok(())
}
