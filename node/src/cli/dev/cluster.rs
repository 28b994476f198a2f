//! `wasmwiz dev --nodes N`: a cluster to try out, of N nodes and N nats-servers, each a process of its own.
//!
//! ```text
//! this process ─┬─ nats-server 1..N   JetStream, fsynced, one cluster
//!               ├─ node-1             a `wasmwiz dev` on that cluster: it registers, publishes and shows
//!               └─ node-2..N          `wasmwiz node`
//! ```
//! A process that ends is said, and the others go on: that is what there is to try out. Stopping this one stops all, the
//! nodes first, as they need their log to stop in order.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    super::output,
    process::{self, LOOK_EVERY, Lines, Place, Process},
    servers::{self, Server},
};
use crate::{folder, image, ready::Ready, shutdown::Signals, token_keys};

/// Settings of which every node of the cluster has its own, or which make it one: a variable of them would be the same for
/// all. The other variables are every node's.
const OF_THE_CLUSTER: [&str; 16] = [
    "node.name",
    "node.data_dir",
    "listen.api",
    "listen.admin",
    "listen.tls",
    "auth.token_keys_dir",
    "log.kind",
    "log.jetstream.replicas",
    "log.jetstream.nats",
    "log.jetstream.monitor_urls",
    "log.jetstream.acknowledged",
    "feed.replicas",
    "feed.nats",
    "cluster.name",
    "cluster.replicas",
    "cluster.nats",
];

/// What to start.
pub(super) struct Plan {
    /// How many nodes; odd, so that a majority of the servers decides.
    pub(super) nodes: u16,
    /// Where the first node listens; the others take the ports after it, or any free ones when it is 0.
    pub(super) listen: SocketAddr,
    /// Everything is kept below it.
    pub(super) data: PathBuf,
    /// Written once all nodes serve.
    pub(super) ready_file: Option<PathBuf>,
    /// The program, if it is not to be looked for.
    pub(super) nats_server: Option<PathBuf>,
    /// How long a process may take to stop before it is killed: longer than a node may.
    pub(super) stop_within: Duration,
}

/// What a script needs to know of a cluster.
#[derive(Serialize)]
struct ReadyCluster<'a> {
    #[serde(flatten)]
    first: &'a Ready,
    nodes: Vec<Place>,
    nats: Vec<Place>,
}

/// Runs the cluster until it is told to stop.
///
/// # Errors
/// When a part of it cannot be started.
pub(super) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let mut signals = Signals::install().context("signals cannot be heard")?;
    let mut cluster = Cluster { nodes: Vec::new(), servers: Vec::new() };
    let lived = tokio::select! {
        biased;
        signal = signals.requested() => {
            tracing::info!(signal = signal.name(), "the cluster stops");
            Ok(())
        }
        failed = cluster.live(plan) => failed,
    };
    tokio::select! {
        () = cluster.stop(plan.stop_within) => {}
        // Dropped, they are killed.
        signal = signals.again() => tracing::warn!(signal = signal.name(), "the cluster is told again to stop, and is killed"),
    }
    lived
}

struct Cluster {
    nodes: Vec<Process>,
    servers: Vec<Process>,
}

impl Cluster {
    /// Starts everything and watches it. Returns when it cannot.
    async fn live(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let data = &plan.data;
        folder::make(data).with_context(|| format!("the data folder {} cannot be made", data.display()))?;
        let data = &fs::canonicalize(data)?;
        let program = servers::find(plan.nats_server.as_deref())?;
        let mut free = servers::free_ports(plan.nodes.saturating_mul(3))?.into_iter();
        let mut next = || free.by_ref().take(usize::from(plan.nodes)).collect();
        let ports = Ports { clients: next(), routes: next(), monitors: next() };
        self.start_servers(&program, data, &ports).await?;
        let keys = data.join("token-keys");
        folder::make(&keys)?;
        if fs::read_dir(&keys)?.next().is_none() {
            token_keys::draw(&keys.join("001.pem"))?;
        }
        let mut ready = Vec::new();
        for number in 1..=plan.nodes {
            let port = if plan.listen.port() == 0 { 0 } else { plan.listen.port().saturating_add(number - 1) };
            let listen = SocketAddr::new(plan.listen.ip(), port);
            let settings = settings(number, listen, data, &ports);
            ready.push(self.start_node(number, listen, data, &settings).await?);
        }
        self.show(&ready);
        servers::show_subscribers(ready.first().and_then(|first| first.tenant.as_deref()), &ports.urls());
        if let Some(path) = &plan.ready_file {
            self.write_ready(&ready, &ports.clients, path)?;
        }
        loop {
            self.look();
            sleep(LOOK_EVERY).await;
        }
    }

    async fn start_servers(&mut self, program: &Path, data: &Path, ports: &Ports) -> anyhow::Result<()> {
        let all = ports.clients.iter().zip(&ports.routes).zip(&ports.monitors);
        for (number, ((listen, route), monitor)) in (1..).zip(all) {
            let name = format!("nats-{number}");
            let (home, route) = (data.join(&name), Some((*route, ports.routes.as_slice())));
            let server = Server { name, home, listen: *listen, monitor: Some(*monitor), route };
            self.servers.push(server.start(program)?);
        }
        for (server, listen) in self.servers.iter_mut().zip(&ports.clients) {
            servers::listens(server, *listen).await?;
        }
        Ok(())
    }

    async fn start_node(
        &mut self,
        number: u16,
        listen: SocketAddr,
        data: &Path,
        settings: &str,
    ) -> anyhow::Result<Ready> {
        let (name, home) = (format!("node-{number}"), data.join(format!("node-{number}")));
        folder::make(&home)?;
        let (file, ready) = (home.join("node.toml"), home.join("ready.json"));
        fs::write(&file, settings)?;
        match fs::remove_file(&ready) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut command = Command::new(image::path()?);
        command.arg0("wasmwiz");
        for name in crate::config::variables_of(&OF_THE_CLUSTER) {
            command.env_remove(name);
        }
        let shown = number == 1;
        if shown {
            // It has the settings of its file, and these flags over them.
            let listen = listen.to_string();
            command.args(["dev", "--listen", listen.as_str()]).arg("--data").arg(&home);
        } else {
            command.arg("node");
        }
        command.arg("--config").arg(&file).arg("--ready-file").arg(&ready);
        command.stdin(Stdio::null());
        let log = home.join("node.log");
        let mut node = Process::start(name, command, if shown { Lines::Printed(log) } else { Lines::Kept(log) })?;
        let serves = node.until("serves", None, || match fs::read(&ready) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        });
        let serves = serves.await;
        self.nodes.push(node);
        serves
    }

    fn show(&self, ready: &[Ready]) {
        output::line("\nThe nodes of this cluster; each answers every request:");
        for (node, ready) in self.nodes.iter().zip(ready) {
            output::line(format_args!("  {}  {}  process {}", node.name, ready.url, ready.pid));
        }
        let key = ready.first().and_then(|first| first.api_key.as_deref()).unwrap_or_default();
        let (Some(last), Some(process)) = (ready.last(), self.nodes.last()) else { return };
        output::line("\nTry another node, and then what happens without it:");
        output::line(format_args!(
            "  curl -sS {}/v1/modules/greeter/executions -H 'Authorization: Bearer {key}' -d 'Grace'",
            last.url
        ));
        output::line(format_args!("  kill -9 {}", process.id()));
    }

    fn write_ready(&self, ready: &[Ready], servers: &[SocketAddr], path: &Path) -> anyhow::Result<()> {
        let nodes = self.nodes.iter().zip(ready).map(|(node, ready)| Place {
            name: node.name.clone(),
            url: ready.url.clone(),
            admin_url: Some(ready.admin_url.clone()),
            pid: ready.pid,
        });
        let nats = self.servers.iter().zip(servers).map(|(server, address)| Place {
            name: server.name.clone(),
            url: format!("nats://{address}"),
            admin_url: None,
            pid: server.id(),
        });
        let first = ready.first().context("a cluster has a node")?;
        let whole = ReadyCluster { first, nodes: nodes.collect(), nats: nats.collect() };
        crate::ready::write(&whole, path).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Says once of each process that it has ended.
    fn look(&mut self) {
        for process in self.nodes.iter_mut().chain(&mut self.servers) {
            if let Some(how) = process.has_ended() {
                let (name, log) = (&process.name, process.more());
                output::line(format_args!("{name} has ended ({how}); the others go on. Its log: {log}"));
            }
        }
    }

    /// Nodes first: they record what is under way.
    async fn stop(&mut self, within: Duration) {
        for processes in [&mut self.nodes, &mut self.servers] {
            process::stop(processes, within).await;
        }
    }
}

/// Where the servers are, one after the other.
struct Ports {
    /// For clients.
    clients: Vec<SocketAddr>,
    /// For each other.
    routes: Vec<SocketAddr>,
    /// For who looks whether they sync what they acknowledge.
    monitors: Vec<SocketAddr>,
}

impl Ports {
    /// All servers, for a client to choose from.
    fn urls(&self) -> String {
        self.clients.iter().map(|server| format!("nats://{server}")).collect::<Vec<_>>().join(",")
    }
}

fn settings(number: u16, listen: SocketAddr, data: &Path, ports: &Ports) -> String {
    let (url, home, keys) = (ports.urls(), data.join(format!("node-{number}")), data.join("token-keys"));
    let monitors: Vec<String> = ports.monitors.iter().map(|monitor| format!("http://{monitor}")).collect();
    let replicas = if ports.clients.len() < 3 { 1 } else { 3 };
    format!(
        "[node]\nname = \"node-{number}\"\ndata_dir = {home:?}\n\n[listen]\napi = \"{listen}\"\nadmin = \"127.0.0.1:0\"\n\n\
         [auth]\ntoken_keys_dir = {keys:?}\n\n[telemetry]\nfilter = \"warn\"\n\n[shutdown]\nannounce_ms = 0\n\n[log]\nkind = \"jetstream\"\n\n[log.jetstream]\n\
         replicas = {replicas}\nmonitor_urls = {monitors:?}\n\n[log.jetstream.nats]\nurl = \"{url}\"\n\n[feed]\nreplicas = {replicas}\n\n[feed.nats]\nurl = \"{url}\"\n\n[cluster]\n\
         name = \"dev\"\nreplicas = {replicas}\n\n[cluster.nats]\nurl = \"{url}\"\n"
    )
}
