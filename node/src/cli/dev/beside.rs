//! `wasmwiz dev --nats`: a platform to try out, with a nats-server beside it that it feeds its events to.
//!
//! ```text
//! this process ─┬─ nats-server   JetStream, fsynced
//!               └─ node          a `wasmwiz dev` with its feed on that server
//! ```
//! Both end with this process, and this process with the node. A server that ends is said, and the node goes on: that is what
//! there is to try out.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
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
use crate::{folder, image, ready::Ready, shutdown::Signals};

/// The variable that says to the node where its bus is.
const FEED_URL: &str = "WASMWIZ_FEED__NATS__URL";

/// The variable of the most bytes of the feed's stream.
const FEED_BYTES: &str = "WASMWIZ_FEED__MAX_BYTES";

/// The most bytes of the stream where nobody says another number: JetStream reserves them.
const STREAM_BYTES: u64 = 256 << 20;

/// What to start.
pub(super) struct Plan {
    /// The configuration file of the node.
    pub(super) config: Option<PathBuf>,
    /// Where its API listens.
    pub(super) listen: SocketAddr,
    /// Where its metrics and probes listen.
    pub(super) admin: SocketAddr,
    /// Everything is kept below it, what the server keeps too.
    pub(super) data: PathBuf,
    /// Written once the node serves.
    pub(super) ready_file: Option<PathBuf>,
    /// The program, if it is not to be looked for.
    pub(super) nats_server: Option<PathBuf>,
    /// Do settings say how large the feed's stream is?
    pub(super) is_sized: bool,
    /// How long a process may take to stop before it is killed: longer than a node may.
    pub(super) stop_within: Duration,
}

/// What a script needs to know of both.
#[derive(Serialize)]
struct ReadyBeside<'a> {
    #[serde(flatten)]
    node: &'a Ready,
    nats: [Place; 1],
}

/// Runs both until this process is told to stop, or the node has ended. Gives the node's exit code.
///
/// # Errors
/// When one of them cannot be started.
pub(super) async fn run(plan: &Plan) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::install().context("signals cannot be heard")?;
    let mut both = Both { node: None, server: None };
    let lived = tokio::select! {
        biased;
        signal = signals.requested() => {
            tracing::info!(signal = signal.name(), "the platform stops");
            Ok(())
        }
        ended = both.live(plan) => ended,
    };
    tokio::select! {
        () = both.stop(plan.stop_within) => {}
        // Dropped, they are killed.
        signal = signals.again() => tracing::warn!(signal = signal.name(), "the platform is told again to stop, and is killed"),
    }
    lived?;
    Ok(match both.node.as_mut() {
        // One that was killed has none.
        Some(node) => node.code().map_or(ExitCode::FAILURE, ExitCode::from),
        None => ExitCode::SUCCESS,
    })
}

struct Both {
    node: Option<Process>,
    server: Option<Process>,
}

impl Both {
    /// Starts both and watches them, until the node has ended.
    async fn live(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let program = servers::find(plan.nats_server.as_deref())?;
        let data = &plan.data;
        folder::make(data).with_context(|| format!("the data folder {} cannot be made", data.display()))?;
        let data = &fs::canonicalize(data)?;
        let listen = servers::free_ports(1)?.pop().context("the system has no free port")?;
        let (name, home) = ("nats-server".to_owned(), data.join("nats"));
        let wanted = Server { name, home, listen, monitor: None, route: None };
        let server = self.server.insert(wanted.start(&program)?);
        servers::listens(server, listen).await?;
        let (url, file) = (format!("nats://{listen}"), data.join("ready.json"));
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let node = self.node.insert(start_node(plan, data, &file, &url)?);
        let serves = node.until("serves", None, || match fs::read(&file) {
            Ok(bytes) => Ok(Some(serde_json::from_slice::<Ready>(&bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        });
        let ready = serves.await?;
        servers::show_subscribers(ready.tenant.as_deref(), &url);
        if let Some(path) = &plan.ready_file {
            let place = Place { name: server.name.clone(), url, admin_url: None, pid: server.id() };
            let told = crate::ready::write(&ReadyBeside { node: &ready, nats: [place] }, path);
            told.with_context(|| format!("{} cannot be written", path.display()))?;
        }
        while node.has_ended().is_none() {
            if let Some(how) = server.has_ended() {
                let log = server.more();
                output::line(format_args!("nats-server has ended ({how}); the node goes on. Its log: {log}"));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// The node first: it sends its last events.
    async fn stop(&mut self, within: Duration) {
        process::stop(self.node.as_mut_slice(), within).await;
        process::stop(self.server.as_mut_slice(), within).await;
    }
}

fn start_node(plan: &Plan, data: &Path, ready: &Path, url: &str) -> anyhow::Result<Process> {
    let mut command = Command::new(image::path()?);
    command.arg0("wasmwiz").arg("dev").arg("--data").arg(data).arg("--ready-file").arg(ready);
    command.arg("--listen").arg(plan.listen.to_string()).arg("--admin-listen").arg(plan.admin.to_string());
    if let Some(config) = &plan.config {
        command.arg("--config").arg(config);
    }
    for name in crate::config::variables_of(&["feed.nats"]) {
        command.env_remove(name);
    }
    if !plan.is_sized {
        command.env(FEED_BYTES, STREAM_BYTES.to_string());
    }
    command.env(FEED_URL, url).stdin(Stdio::null());
    Process::start("the node".to_owned(), command, Lines::Shared)
}
