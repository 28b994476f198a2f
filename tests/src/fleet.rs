//! A cluster as it is deployed: nodes as processes over a cluster of real nats-servers, with tenants that have a module.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Context;
use tempfile::TempDir;
use wasmwiz_events::{
    log::jetstream::{JetstreamLog, JetstreamLogConfig},
    nats::NatsConfig,
};

use crate::{
    client::Client,
    guests,
    harness::{Launch, NodeProcess},
    history::History,
    hosts::Hosts,
    nats::NatsCluster,
    tenants::{self, Tenant},
    wait,
};

mod callers;

pub use callers::{Call, Callers, Said, outage, said_what_is_recorded};

/// Names the program of another version, for scenarios that mix two.
pub const OTHER_NODE: &str = "WASMWIZ_TESTS_OTHER_NODE";

/// How long all that was accepted may take to end, with the time to read a log of a campaign to see it.
const SETTLED: Duration = Duration::from_secs(240);

/// How it is made.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Nodes.
    pub nodes: u8,
    /// Servers of NATS: 1 or 3.
    pub servers: u8,
    /// Tenants, each with a module `echo`.
    pub tenants: usize,
}

/// Nodes, servers and tenants. All processes are killed when this is dropped.
pub struct Fleet {
    /// The nodes. The first one has started first; each may be killed and restarted.
    pub nodes: Vec<NodeProcess>,
    /// The servers.
    pub nats: NatsCluster,
    /// What they run on, when each node shares a host with one server.
    pub hosts: Option<Hosts>,
    /// The tenants, with clients of the first node.
    pub tenants: Vec<Tenant>,
    operator_token: String,
    replicas: usize,
    /// Keys that sign tokens, the same at all nodes.
    _token_keys: TempDir,
}

impl Fleet {
    /// Starts everything on this machine, and waits until it serves.
    ///
    /// # Errors
    /// When a part of it does not start.
    pub async fn started(size: Size) -> anyhow::Result<Self> {
        Self::up(NatsCluster::started(size.servers.into()).await?, None, size).await
    }

    /// The same on as many hosts as there are nodes: each has a node and a server.
    ///
    /// # Errors
    /// As [`Self::started`].
    pub async fn on_hosts(nodes: u8, tenants: usize) -> anyhow::Result<Self> {
        let hosts = Hosts::new(nodes)?;
        Self::up(NatsCluster::on_hosts(&hosts).await?, Some(hosts), Size { nodes, servers: nodes, tenants }).await
    }

    async fn up(nats: NatsCluster, hosts: Option<Hosts>, size: Size) -> anyhow::Result<Self> {
        let (keys, replicas) = (TempDir::new()?, if size.servers < 3 { 1 } else { 3 });
        wasmwiz_node::token_keys::draw(&keys.path().join("001.pem"))?;
        let mut nodes = Vec::new();
        for number in 1..=size.nodes {
            let ip = hosts.as_ref().map_or(Ipv4Addr::LOCALHOST, |hosts| hosts.address(number));
            let launch = Launch::node(&config(number, ip, &nats.url(), replicas, &keys))?;
            let launch = match &hosts {
                Some(hosts) => launch.on_host(hosts.runs_on(number)),
                None => launch,
            };
            nodes.push(launch.start().await.with_context(|| format!("node {number}"))?);
        }
        let first = nodes.first().context("a fleet has a node")?;
        let operator_token = first.ready().operator_token.clone().context("the first node has the operator's key")?;
        let operator = first.operator()?;
        let mut all = Vec::new();
        for number in 0..size.tenants {
            let tenant = tenants::register(&operator, &format!("Tenant {number}"), "enterprise").await?;
            tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
            all.push(tenant);
        }
        for node in &nodes {
            let last = all.last().context("a fleet has a tenant")?.client.at(&node.ready().url);
            // Views fold in order: who knows the last tenant's key knows all. Callers do not say what they have seen elsewhere.
            let known = wait::until("every node to know every key", wait::SOON, async || {
                Ok((last.get("/v1/modules/echo").await?.status == 200).then_some(()))
            });
            known.await?;
        }
        Ok(Self { nodes, nats, hosts, tenants: all, operator_token, replicas, _token_keys: keys })
    }

    /// A node, by its index.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&mut self, node: usize) -> anyhow::Result<&mut NodeProcess> {
        self.nodes.get_mut(node).context("there is no such node")
    }

    /// An operator's client of a node, by its index.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn operator(&self, node: usize) -> anyhow::Result<Client> {
        let node = self.nodes.get(node).context("there is no such node")?;
        Client::new(&node.ready().url, Some(&self.operator_token))
    }

    /// The operator's key.
    pub fn operator_token(&self) -> &str {
        &self.operator_token
    }

    /// Everything that is recorded; its chains hold, and their epochs never decrease.
    ///
    /// # Errors
    /// When a chain is broken, or the servers do not answer.
    pub async fn history(&self) -> anyhow::Result<History> {
        let log = self.log().await?;
        let history = History::of(&log).await;
        log.close();
        history
    }

    /// Waits until every execution that was accepted has ended, and gives the history then.
    ///
    /// # Errors
    /// When one does not end in time, or has not one end.
    pub async fn settled(&self) -> anyhow::Result<History> {
        let log = self.log().await?;
        let history = wait::until("every execution to have ended", SETTLED, async || {
            let history = History::of(&log).await?;
            Ok((history.open() == 0).then_some(history))
        });
        let history = history.await?;
        log.close();
        history.each_ended_once()?;
        Ok(history)
    }

    async fn log(&self) -> anyhow::Result<JetstreamLog> {
        let nats = NatsConfig { url: self.nats.url(), ..Default::default() };
        let config = JetstreamLogConfig { nats, replicas: self.replicas, ..Default::default() };
        Ok(JetstreamLog::open(config).await?)
    }
}

fn config(number: u8, ip: Ipv4Addr, nats: &str, replicas: usize, keys: &TempDir) -> String {
    let keys = keys.path();
    // A program of before does not know the setting: its nodes are of one mind with the others without it.
    let acknowledged = match std::env::var_os(OTHER_NODE) {
        Some(_) => "",
        None => "acknowledged = \"unverified\"\n",
    };
    format!(
        "[node]\nname = \"node-{number}\"\ndata_dir = \"{{data}}\"\n\n[listen]\napi = \"{ip}:0\"\nadmin = \"{ip}:0\"\n\n\
         [auth]\ntoken_keys_dir = {keys:?}\n\n[log]\nkind = \"jetstream\"\n\n[log.jetstream]\nreplicas = {replicas}\n{acknowledged}\n\
         [log.jetstream.nats]\nurl = \"{nats}\"\n\n[feed]\nreplicas = {replicas}\nmax_bytes = 536870912\n\n[feed.nats]\nurl = \"{nats}\"\n\n\
         [cluster]\nname = \"fleet\"\nreplicas = {replicas}\nmoves_max = 256\ntenure_ms = 0\nflap_backoff_ms = 0\n\n[cluster.nats]\n\
         url = \"{nats}\"\n"
    )
}
