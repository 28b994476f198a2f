//! `--cluster-only`: what several nodes do, what it costs to ask one that does not own a tenant, how soon tenants are served elsewhere when
//! their node is killed, and what idle ones take.
//!
//! All nodes, the three servers of their log and the load share one machine: three nodes are not expected to do three times as much
//! here. What is compared is compared in one run.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::Context as _;
use wasmwiz_events::{id::TenantId, shard::Shard};
use wasmwiz_tests::{
    client::Client,
    fleet::{Fleet, Size},
    wait,
};

use crate::{
    Args,
    load::{self, Loaded},
    logs::{address, below, echo_of},
    probe,
};

mod idle;
mod many;
mod takeover;

use idle::Idle;
use takeover::Takeover;

/// Numbers of nodes that are compared.
const NODES: [u8; 2] = [1, 3];

/// Numbers of tenants that ask, over as many connections as the larger of them.
const TENANTS: [usize; 2] = [1, 64];

/// Numbers of connections at which a node that owns a tenant and one that does not are compared.
const COMPARED_AT: [usize; 2] = [1, 16];

/// How often both are asked, in turns.
const ROUNDS: usize = 3;

/// Commands of one execution: its admission and its end.
const COMMANDS: f64 = 2.0;

/// How long shards may take to be where they are to be.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Executions of so many tenants on so many nodes.
struct Executions {
    nodes: u8,
    tenants: usize,
    loaded: Loaded,
}

/// The same executions of one tenant, at its owner and elsewhere.
struct Routed {
    connections: usize,
    /// Answers and latencies: at the owner, elsewhere.
    sides: [Loaded; 2],
    /// Microseconds of all nodes' processor time for one execution.
    cpu_us: [f64; 2],
}

/// Everything that was measured.
pub(crate) struct Cluster {
    machine: String,
    executions: Vec<Executions>,
    routed: Vec<Routed>,
    takeover: Takeover,
    idle: Idle,
}

impl Cluster {
    /// Runs everything, one after the other. Servers and nodes keep their files below `args.data`.
    pub(crate) fn measure(args: &Args) -> anyhow::Result<Self> {
        let machine = probe::machine(&below(&args.data)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (mut executions, mut routed) = (Vec::new(), Vec::new());
        for nodes in NODES {
            let tenants = TENANTS.into_iter().max().unwrap_or(1);
            let fleet = runtime.block_on(Fleet::started(Size { nodes, servers: 3, tenants }))?;
            let owners = runtime.block_on(settled(&fleet))?;
            for tenants in TENANTS {
                eprintln!("{nodes} nodes, {tenants} tenants, {} s", args.seconds);
                let loaded = load::run_each(spread(&fleet, tenants)?, args.seconds)?;
                executions.push(Executions { nodes, tenants, loaded });
            }
            if nodes > 1 {
                for connections in COMPARED_AT {
                    routed.push(Routed::measure(&fleet, &owners, connections, args.seconds)?);
                }
            }
        }
        let takeover = Takeover::measure(&runtime, args.tenants_taken)?;
        let idle = Idle::measure(&runtime, args.tenants_idle)?;
        Ok(Self { machine, executions, routed, takeover, idle })
    }

    /// Prints the tables.
    pub(crate) fn print(&self) {
        println!("\n{}; nodes, three servers of the log and the load share the cores\n", self.machine);
        println!("1 KiB echo, JetStream with 3 copies, {} connections", TENANTS.into_iter().max().unwrap_or(1));
        println!("  nodes  tenants |  executions/s   p50 ms   p99 ms");
        for Executions { nodes, tenants, loaded } in &self.executions {
            let (per_second, p50, p99) = (loaded.per_second(), loaded.ms(50.0), loaded.ms(99.0));
            println!("{nodes:>7} {tenants:>8} | {per_second:>13.0} {p50:>8.2} {p99:>8.2}");
        }
        println!("\none tenant of three nodes, asked at its owner and at another node");
        println!(
            "  conns |  local p50 ms   p99 ms  cpu us |  routed p50 ms   p99 ms  cpu us | a command more, p50 us  cpu us"
        );
        for Routed { connections, sides: [local, routed], cpu_us: [local_us, routed_us] } in &self.routed {
            println!(
                "{connections:>7} | {:>13.2} {:>8.2} {local_us:>7.1} | {:>14.2} {:>8.2} {routed_us:>7.1} | {:>22.0} {:>7.1}",
                local.ms(50.0),
                local.ms(99.0),
                routed.ms(50.0),
                routed.ms(99.0),
                (routed.ms(50.0) - local.ms(50.0)) * 1e3 / COMMANDS,
                (routed_us - local_us) / COMMANDS,
            );
        }
        self.takeover.print();
        self.idle.print();
    }
}

impl Routed {
    fn measure(fleet: &Fleet, owners: &BTreeMap<u8, String>, connections: usize, seconds: u64) -> anyhow::Result<Self> {
        let tenant = fleet.tenants.first().context("a fleet has a tenant")?;
        let owner = owners.get(&Shard::of(&TenantId::new(&tenant.id)?).get()).context("the tenant has no owner")?;
        let own = (0..fleet.nodes.len()).find(|number| name(*number) == *owner).context("the owner is no node")?;
        let at = |node: usize| address(&fleet.nodes[node % fleet.nodes.len()].ready().url);
        let (addresses, request) = ([at(own)?, at(own + 1)?], echo_of(&tenant.key.secret));
        let mut sides: [Option<Loaded>; 2] = [None, None];
        let (mut cpu, mut answered) = ([0.0_f64; 2], [0.0_f64; 2]);
        for round in 0..ROUNDS {
            eprintln!("a tenant's owner and another node: {connections} connections, round {} of {ROUNDS}", round + 1);
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for which in order {
                let before = cpu_seconds(fleet)?;
                let loaded = load::run(addresses[which], &request, connections, seconds)?;
                cpu[which] += cpu_seconds(fleet)? - before;
                answered[which] += loaded.with_warm_up();
                sides[which] = Some(match sides[which].take() {
                    None => loaded,
                    Some(earlier) => earlier.and(&loaded)?,
                });
            }
        }
        let [Some(local), Some(other)] = sides else { anyhow::bail!("nobody was asked") };
        let cpu_us = [0, 1].map(|which| cpu[which] * 1e6 / f64::max(answered[which], 1.0));
        Ok(Self { connections, sides: [local, other], cpu_us })
    }
}

/// Processor time of all nodes.
fn cpu_seconds(fleet: &Fleet) -> anyhow::Result<f64> {
    fleet.nodes.iter().map(|node| probe::cpu_seconds(node.ready().pid)).sum()
}

/// The name of a node, by its index.
fn name(index: usize) -> String {
    format!("node-{}", index + 1)
}

/// Connections of so many tenants, spread over the tenants and the nodes.
fn spread(fleet: &Fleet, tenants: usize) -> anyhow::Result<Vec<(SocketAddr, Vec<u8>)>> {
    let connections = 0..TENANTS.into_iter().max().unwrap_or(1);
    let one = |number: usize| -> anyhow::Result<_> {
        let (tenant, node) = (&fleet.tenants[number % tenants], &fleet.nodes[number % fleet.nodes.len()]);
        Ok((address(&node.ready().url)?, echo_of(&tenant.key.secret)))
    };
    connections.map(one).collect()
}

/// Who owns each shard, as a node shows it. None unless each has an owner.
async fn owners(operator: &Client) -> anyhow::Result<Option<BTreeMap<u8, String>>> {
    let shown = operator.get_json("/v1/cluster").await?;
    let shards = shown["shards"].as_array().context("no shards are shown")?;
    let owner = |shard: &serde_json::Value| {
        let number = u8::try_from(shard["shard"].as_u64()?).ok()?;
        (shard["state"] == "owned").then_some((number, shard["node"].as_str()?.to_owned()))
    };
    let owners: Option<BTreeMap<_, _>> = shards.iter().map(owner).collect();
    Ok(owners.filter(|owners| owners.len() == Shard::all().count()))
}

/// Waits until every node owns shards, and all of them say the same.
async fn settled(fleet: &Fleet) -> anyhow::Result<BTreeMap<u8, String>> {
    let nodes = fleet.nodes.len();
    let operators = (0..nodes).map(|node| fleet.operator(node)).collect::<anyhow::Result<Vec<_>>>()?;
    wait::until("every node to own shards", SETTLED_WITHIN, async || {
        let mut all = Vec::with_capacity(nodes);
        for operator in &operators {
            all.push(owners(operator).await?);
        }
        let Some(Some(first)) = all.first() else { return Ok(None) };
        let named: BTreeSet<_> = first.values().collect();
        let agreed = all.iter().all(|other| other.as_ref() == Some(first));
        Ok((named.len() == nodes && agreed).then(|| first.clone()))
    })
    .await
}
