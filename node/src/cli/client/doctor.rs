//! `wasmwiz doctor`: looks at a node and its cluster, and at the servers that a configuration names, and says what to do.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use wasmwiz_events::time::{Clock as _, SystemClock};

use super::{
    Connect, Format, block_on, checks, deployment,
    failure::EXIT_CODES,
    finding::{self, Finding, Grade, worst},
    http::Api,
    render,
    topology::Topology,
};
use crate::config::Config;

/// Look at a node and at the cluster as it sees it: its parts, its clock, leases, shards and versions; and say what to do where
/// something is not as it should be. Ask each node of a cluster: they may see different things. Exit code 1 when something has to
/// be done now. Needs an operator's key.
///
/// With --config, look also at what that file of a node names: the servers of NATS and their versions, the streams of the log, the feed
/// and the cluster with their settings and copies, whether the servers sync what they acknowledge, their clocks and storage, and
/// the disk of this machine. That needs no node; one that does not answer is a finding then.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz doctor --url http://127.0.0.1:8080\n  \
                                wasmwiz doctor --config wasmwiz.toml\n  wasmwiz doctor --output json"))]
pub struct Doctor {
    /// The configuration file of a node, whose servers are to be looked at too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

impl Doctor {
    /// Runs it.
    ///
    /// # Errors
    /// When the node refuses, or does not answer.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let loaded = self.config.as_deref().map(|file| Config::load(Some(file))).transpose()?;
        let mut findings = self.of_node()?;
        if let Some(loaded) = loaded {
            findings.extend(block_on(async { Ok(deployment::examined(&loaded.config).await) })?);
        }
        render::show(self.output, &finding::document(&findings), finding::table)?;
        Ok(if worst(&findings) == Grade::Bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// What is found of the node. Without one there is nothing to say, unless a configuration is there to be looked at.
    fn of_node(&self) -> anyhow::Result<Vec<Finding>> {
        let is_all = self.config.is_none();
        let api = match self.connect.api() {
            Ok(api) => api,
            Err(error) if is_all => return Err(error),
            Err(error) => {
                let remedy = "name a node with --url, and an operator's key with WASMWIZ_API_KEY or a profile";
                return Ok(vec![Finding::warning("node", format!("none was asked: {error:#}"), remedy)]);
            }
        };
        match block_on(examined(&api)) {
            Err(error) if !is_all => {
                let remedy = "see whether it runs, and whether the key is an operator's";
                Ok(vec![Finding::bad("node", format!("{error:#}"), remedy)])
            }
            examined => examined,
        }
    }
}

async fn examined(api: &Api) -> anyhow::Result<Vec<Finding>> {
    let mut findings = checks::health(&api.health().await?);
    let asked = SystemClock.now();
    let answer = api.get(&["v1", "cluster"], &[]).await?;
    let answered = SystemClock.now();
    let cluster = Topology::read(&answer)?;
    findings.push(checks::clock(cluster.at, asked, answered));
    findings.extend(checks::cluster(&cluster));
    Ok(findings)
}
