//! Real nats-servers that form a cluster.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use async_nats::jetstream;
use rustix::process::Signal;

use super::{NatsServer, Received};
use crate::{hosts::Hosts, wait};

/// Where the servers of hosts meet.
const ROUTES: u16 = 6222;

/// How often other ports are tried.
const TRIES: usize = 3;

/// Servers that form a cluster, each syncing what it stores before it says so.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts `count` servers and waits until JetStream has a leader.
    ///
    /// # Errors
    /// When they do not start or do not agree in time.
    pub async fn started(count: usize) -> anyhow::Result<Self> {
        let mut tries = TRIES;
        loop {
            // All are held until each is known, so no two are the same.
            let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
            let routes = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
            drop(held);
            tries -= 1;
            let place = |_: usize, text: &str| -> anyhow::Result<NatsServer> {
                let mut server = NatsServer::configured(text)?;
                server.monitored()?;
                Ok(server)
            };
            match Self::up(&routes, place).await {
                // Somebody's connection has got one of them meanwhile.
                Err(error) if tries > 0 && format!("{error:#}").contains("address already in use") => {}
                started => return started,
            }
        }
    }

    /// Starts a server on every host, and waits as [`Self::started`] does.
    ///
    /// # Errors
    /// As [`Self::started`].
    pub async fn on_hosts(hosts: &Hosts) -> anyhow::Result<Self> {
        let routes: Vec<_> = hosts.addresses().into_iter().map(|host| (host, ROUTES).into()).collect();
        Self::up(&routes, |number, text| NatsServer::on_host(hosts, u8::try_from(number + 1)?, text)).await
    }

    async fn up(
        routes: &[SocketAddr],
        place: impl Fn(usize, &str) -> anyhow::Result<NatsServer>,
    ) -> anyhow::Result<Self> {
        let mut servers = Vec::new();
        for (number, own) in routes.iter().enumerate() {
            let others: Vec<_> =
                routes.iter().filter(|it| *it != own).map(|it| format!("\"nats-route://{it}\"")).collect();
            let text = format!(
                "server_name: {}\nmax_payload: 2MB\njetstream {{ store_dir: \"store\", sync_interval: always }}\n\
                 cluster {{ name: tests, listen: \"{own}\", routes: [{}] }}\n",
                name(number),
                others.join(", ")
            );
            let mut server = place(number, &text)?;
            server.start().await?;
            servers.push(server);
        }
        let cluster = Self { servers };
        wait::until("a leader of JetStream", wait::SOON, async || {
            let Ok(client) = async_nats::connect(cluster.urls()).await else { return Ok(None) };
            Ok(jetstream::new(client).query_account().await.ok().map(drop))
        })
        .await?;
        Ok(cluster)
    }

    /// All servers, for a client to choose from.
    pub fn url(&self) -> String {
        self.servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// One of the servers, for a client that stays with it.
    ///
    /// # Errors
    /// When there is no such server.
    pub fn url_of(&self, number: usize) -> anyhow::Result<String> {
        self.servers.get(number).map(NatsServer::url).context("there is no such server")
    }

    /// Where the servers are monitored; nothing for those of hosts.
    pub fn monitor_urls(&self) -> Vec<String> {
        self.servers.iter().filter_map(|server| server.monitor).map(|address| format!("http://{address}")).collect()
    }

    /// Which server leads a stream now; `None` while none does.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn leader(&self, stream: &str) -> anyhow::Result<Option<usize>> {
        let client = async_nats::connect(self.urls()).await.context("no server can be reached")?;
        let Ok(found) = jetstream::new(client).get_stream(stream).await else { return Ok(None) };
        let leader = found.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
        Ok(leader.and_then(|leader| (0..self.servers.len()).find(|number| name(*number) == leader)))
    }

    /// Kills a server (SIGKILL).
    pub fn kill9(&mut self, number: usize) {
        if let Some(server) = self.servers.get_mut(number) {
            server.kill9();
        }
    }

    /// Starts it again on its folder.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&mut self, number: usize) -> anyhow::Result<()> {
        self.servers.get_mut(number).context("there is no such server")?.start().await
    }

    /// Stops a server where it is, or lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        self.servers.get(number).context("there is no such server")?.signal(signal)
    }

    /// All messages of the feed, in their order.
    ///
    /// # Errors
    /// When they cannot be read in time.
    pub async fn messages(&self) -> anyhow::Result<Vec<Received>> {
        super::messages(&super::feed(self.urls()).await?).await
    }

    fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }
}

fn name(number: usize) -> String {
    format!("nats-{number}")
}
