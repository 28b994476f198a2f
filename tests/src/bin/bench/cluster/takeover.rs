//! How soon the tenants of a node that is killed are served by others.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::runtime::Runtime;
use wasmwiz_events::{id::TenantId, shard::Shard};
use wasmwiz_tests::{
    client::Client,
    fleet::{Fleet, Size},
    times::Times,
    wait,
};

use super::{many, name, owners, settled};

/// Three nodes over three servers. The one tenant is the fleet's own.
const SIZE: Size = Size { nodes: 3, servers: 3, tenants: 1 };

/// Copies of the log.
const REPLICAS: usize = 3;

/// Which node is killed, by its index: not the first, whose views were there first.
const VICTIM: usize = 1;

/// How long shards may be without an owner.
const ASSIGNED_WITHIN: Duration = Duration::from_secs(120);

/// What was measured.
pub(super) struct Takeover {
    /// From the kill until every shard has an owner that lives.
    assigned: Duration,
    /// From the kill until each of its tenants has answered.
    awake: Times,
}

impl Takeover {
    /// Has a node die that owns about so many tenants, all of them awake.
    pub(super) fn measure(runtime: &Runtime, tenants: usize) -> anyhow::Result<Self> {
        runtime.block_on(async {
            let mut fleet = Fleet::started(SIZE).await?;
            let owned = settled(&fleet).await?;
            let operators =
                (0..fleet.nodes.len()).map(|node| fleet.operator(node)).collect::<anyhow::Result<Vec<_>>>()?;
            let all = tenants * fleet.nodes.len();
            eprintln!("writing {all} tenants");
            let all = many::register(fleet.nats.url(), REPLICAS, all, &operators).await?;
            let is_its = |tenant: &TenantId| owned.get(&Shard::of(tenant).get()) == Some(&name(VICTIM));
            let its: Vec<_> = all.into_iter().filter(is_its).collect();
            ensure!(!its.is_empty(), "the node that is to be killed owns no tenant");
            eprintln!("waking the {} of the node that is to be killed", its.len());
            many::wake(&operators, &its, Instant::now()).await?;

            let mut left = operators;
            left.remove(VICTIM);
            let first = left.first().context("a node is left")?.clone();
            eprintln!("killing it");
            let killed = Instant::now();
            fleet.node(VICTIM)?.kill9().await?;
            let (assigned, awake) = tokio::try_join!(until_assigned(&first, killed), many::wake(&left, &its, killed))?;
            Ok(Self { assigned, awake })
        })
    }

    pub(super) fn print(&self) {
        let awake = |percent| self.awake.percentile(percent).as_secs_f64();
        println!("\na node with {} tenants is killed, one of three", self.awake.count());
        println!("  every shard has an owner again after  {:>8.2} s", self.assigned.as_secs_f64());
        println!(
            "  its tenants answer elsewhere after    {:>8.2} s the first half, {:.2} s 99 %, {:.2} s all",
            awake(50),
            awake(99),
            awake(100)
        );
    }
}

/// Waits until every shard is owned by somebody else.
async fn until_assigned(operator: &Client, killed: Instant) -> anyhow::Result<Duration> {
    wait::until("every shard to have another owner", ASSIGNED_WITHIN, async || {
        let owners = owners(operator).await?;
        let all_live = owners.is_some_and(|owners| owners.values().all(|owner| *owner != name(VICTIM)));
        Ok(all_live.then(|| killed.elapsed()))
    })
    .await
}
