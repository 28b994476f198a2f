//! A real nats-server with JetStream as a process, and what a subscriber of the feed reads from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, anyhow, ensure};
use async_nats::jetstream::{self, consumer::pull::OrderedConfig, stream::Stream};
use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{hosts::Hosts, python, wait};

mod cluster;

pub use cluster::NatsCluster;

/// Where a server listens that has a host of its own.
const PORT: u16 = 4222;

/// The stream of the feed.
pub const STREAM: &str = "WASMWIZ_FEED";

/// A server. It is killed when this is dropped, and its folder goes with it.
#[derive(Debug)]
pub struct NatsServer {
    folder: TempDir,
    address: SocketAddr,
    /// Where it is monitored, if it is.
    monitor: Option<SocketAddr>,
    environment: Vec<(String, String)>,
    /// What starts it on a host, unless that is this machine.
    runs_on: Vec<OsString>,
    child: Option<Child>,
}

/// A message as a subscriber gets it.
#[derive(Debug)]
pub struct Received {
    /// Its subject.
    pub subject: String,
    /// `Nats-Msg-Id`.
    pub id: String,
    /// `Content-Type`.
    pub content_type: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// `Nats-Expected-Last-Sequence`: the place that it was to be right behind, if it was sent so.
    pub behind: Option<u64>,
    /// The CloudEvent.
    pub event: Value,
}

impl NatsServer {
    /// One that has a port and a folder, and does not run yet. `more` goes into its configuration.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn prepared(more: &str) -> anyhow::Result<Self> {
        Self::configured(&format!("jetstream {{ store_dir: \"store\" }}\n{more}\n"))
    }

    /// One with this configuration as it stands, but for the address: paths in it are relative to its folder.
    ///
    /// # Errors
    /// As [`Self::prepared`].
    pub fn configured(text: &str) -> anyhow::Result<Self> {
        // Free now, and kept over restarts: whoever feeds it finds it again.
        Self::at(TcpListener::bind("127.0.0.1:0")?.local_addr()?, Vec::new(), text)
    }

    /// The same, on a host.
    ///
    /// # Errors
    /// As [`Self::prepared`].
    pub fn on_host(hosts: &Hosts, host: u8, text: &str) -> anyhow::Result<Self> {
        Self::at((hosts.address(host), PORT).into(), hosts.runs_on(host).into(), text)
    }

    fn at(address: SocketAddr, runs_on: Vec<OsString>, text: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("nats-").tempdir().context("cannot make a folder")?;
        let server = Self { folder, address, monitor: None, environment: Vec::new(), runs_on, child: None };
        server.configure(text)?;
        Ok(server)
    }

    /// Gives it another configuration, which it has from its next start.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, text: &str) -> anyhow::Result<()> {
        fs::write(self.folder().join("nats.conf"), text).context("cannot write nats.conf")
    }

    /// Sets variables that its configuration names.
    pub fn set_variables(&mut self, variables: Vec<(String, String)>) {
        self.environment = variables;
    }

    /// Has it be monitored from its next start on, and says where.
    ///
    /// # Errors
    /// When no port is free.
    pub fn monitored(&mut self) -> anyhow::Result<String> {
        let address = TcpListener::bind((self.address.ip(), 0))?.local_addr()?;
        self.monitor = Some(address);
        Ok(format!("http://{address}"))
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One that runs.
    ///
    /// # Errors
    /// As [`Self::prepared`] and [`Self::start`].
    pub async fn started() -> anyhow::Result<Self> {
        let mut server = Self::prepared("")?;
        server.start().await?;
        Ok(server)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The same, for TLS.
    pub fn tls_url(&self) -> String {
        format!("tls://{}", self.address)
    }

    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// When it is not installed, or does not listen in time.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let program = python::root().join(".tools/bin/nats-server");
        ensure!(program.exists(), "nats-server is not installed: run `cargo xtask setup`");
        let log = File::options().create(true).append(true).open(self.folder().join("server.log"))?;
        let (ip, port) = (self.address.ip(), self.address.port());
        let monitor = self.monitor.map(|address| ["--http_port".to_owned(), address.port().to_string()]);
        let mut words = self.runs_on.iter().cloned().chain([program.into_os_string()]);
        let child = Command::new(words.next().context("there is no program")?)
            .args(words)
            .args(["--config", "nats.conf", "--addr", &ip.to_string(), "--port", &port.to_string()])
            .args(monitor.into_iter().flatten())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start nats-server")?;
        let child = self.child.insert(child);
        let address = self.address;
        let up = wait::until("the port of nats-server", wait::SOON, async || {
            ensure!(child.try_wait()?.is_none(), "nats-server has ended");
            Ok(TcpStream::connect(address).ok().map(drop))
        });
        up.await.with_context(|| fs::read_to_string(self.folder().join("server.log")).unwrap_or_default())
    }

    /// Kills it (SIGKILL), if it runs.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The id of its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.child.as_ref().context("the server does not run")?.id())
    }

    /// Stops it where it is, or lets it go on: its connections stay, and nothing comes over them.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_child(self.child.as_ref().context("the server does not run")?);
        kill_process(pid, signal).context("cannot send a signal to the server")
    }

    /// The feed's stream, as somebody without credentials gets it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn stream(&self) -> anyhow::Result<Stream> {
        feed(vec![self.url()]).await
    }

    /// All messages of the feed, in their order.
    ///
    /// # Errors
    /// When they cannot be read in time.
    pub async fn messages(&self) -> anyhow::Result<Vec<Received>> {
        messages(&self.stream().await?).await
    }
}

async fn feed(urls: Vec<String>) -> anyhow::Result<Stream> {
    let client = async_nats::connect(urls).await.context("cannot connect to nats-server")?;
    jetstream::new(client).get_stream(STREAM).await.context("there is no stream")
}

async fn messages(stream: &Stream) -> anyhow::Result<Vec<Received>> {
    let count = stream.get_info().await?.state.messages;
    let consumer = stream.create_consumer(OrderedConfig::default()).await.context("no consumer")?;
    let messages = consumer.messages().await?.take(usize::try_from(count)?);
    let all = tokio::time::timeout(wait::SOON, messages.collect::<Vec<_>>()).await.context("messages are missing")?;
    all.into_iter().map(|message| received(&message?)).collect()
}

/// By tenant, the ids of what a subscriber got, after it removed duplicates by their id.
pub fn delivered(messages: &[Received]) -> BTreeMap<String, Vec<String>> {
    let (mut seen, mut ids) = (BTreeSet::new(), BTreeMap::<String, Vec<String>>::new());
    for message in messages {
        let tenant =
            message.event.get("source").and_then(Value::as_str).unwrap_or_default().trim_start_matches("/tenants/");
        if seen.insert(&message.id) {
            ids.entry(tenant.to_owned()).or_default().push(message.id.clone());
        }
    }
    ids
}

fn received(message: &jetstream::Message) -> anyhow::Result<Received> {
    let headers = message.headers.as_ref().context("a message has no headers")?;
    let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    Ok(Received {
        subject: message.subject.to_string(),
        id: header("Nats-Msg-Id").context("a message has no id")?,
        content_type: header("Content-Type").context("a message has no content type")?,
        sequence: message.info().map_err(|error| anyhow!(error))?.stream_sequence,
        behind: header("Nats-Expected-Last-Sequence").map(|sequence| sequence.parse()).transpose()?,
        event: serde_json::from_slice(&message.payload).context("a message is no JSON")?,
    })
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill9();
    }
}
