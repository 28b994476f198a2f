//! `wasmwiz doctor`: looks at a node and its cluster, and says what to do.

use std::process::ExitCode;

use clap::Args;
use wasmwiz_events::time::{Clock as _, SystemClock};

use super::{
    Connect, Format, block_on, checks,
    failure::EXIT_CODES,
    finding::{self, Finding, Grade, worst},
    http::Api,
    render,
    topology::Topology,
};

/// Look at a node and at the cluster as it sees it: its parts, its clock, leases, shards and versions; and say what to do where
/// something is not as it should be. Ask each node of a cluster: they may see different things. Exit code 1 when something has to
/// be done now. Needs an operator's key.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz doctor --url http://127.0.0.1:8080\n  wasmwiz doctor --output json"))]
pub struct Doctor {
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
        let api = self.connect.api()?;
        let findings = block_on(examined(&api))?;
        render::show(self.output, &finding::document(&findings), finding::table)?;
        Ok(if worst(&findings) == Grade::Bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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
