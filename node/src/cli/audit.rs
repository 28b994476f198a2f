//! `wasmwiz audit`: prove or read the recorded history from the data folder, without a node.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use tokio::time::Instant;
use wasmwiz_events::{
    audit::{self, Checks, FileCheck, Report},
    envelope::Envelope,
    id::TenantId,
    log::sqlite::{Found, SqliteAudit},
    revision::Revision,
};

use super::output::{self, Output};

/// How often a long verification says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Prove or read the recorded history.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Walk every tenant's hash chain, and check what it names.
    Verify(Verify),
    /// Print the events of a tenant.
    Show(Show),
}

impl Audit {
    /// Runs it.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Verify(verify) => verify.run(),
            Self::Show(show) => show.run(),
        }
    }
}

/// Walk every tenant's hash chain: places, hashes, epochs, event envelopes, payloads, and the blobs that the events name.
/// Exit code 0: nothing is wrong; 1: something is, and it is named with its tenant and revision. Contents that are gone are
/// counted in a warning: the chain does not need them. A node may run meanwhile.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wasmwiz audit verify --data .wasmwiz\n  wasmwiz audit verify --data .wasmwiz --no-blobs"
)]
pub struct Verify {
    /// The node's data folder.
    #[arg(long, value_name = "DIR", default_value = ".wasmwiz")]
    data: PathBuf,
    /// Do not read the blobs: faster, and nothing is known of modules and large payloads.
    #[arg(long)]
    no_blobs: bool,
    /// Check the log's file, its pages and its index, also while a node holds it. The node's write-ahead log grows meanwhile.
    #[arg(long)]
    file: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Verify {
    fn run(self) -> anyhow::Result<ExitCode> {
        let rows = open(&self.data)?;
        let blobs = self.data.join("blobs");
        let checks = Checks { blobs: (!self.no_blobs).then_some(&*blobs), held_file: self.file };
        let mut said = Instant::now();
        let report = audit::verify(&rows, checks, |report| {
            if said.elapsed() >= PROGRESS_EVERY {
                output::progress(format_args!(
                    "{} commits, {} blobs so far",
                    report.commits,
                    report.blobs.unwrap_or(0)
                ));
                said = Instant::now();
            }
        });
        match self.output {
            Output::Table => print_report(&report),
            Output::Json => output::line(serde_json::to_string_pretty(&report)?),
        }
        Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn print_report(report: &Report) {
    for finding in &report.findings {
        output::line(format_args!("{finding}"));
    }
    if let Some(first) = report.missing.first() {
        let count = report.missing();
        output::line(format_args!(
            "warning: {count} contents that events name are gone, removed or lost; the first: {first}"
        ));
    }
    match report.blobs {
        Some(intact) => output::line(format_args!("{intact} blobs are intact")),
        None => output::line("the blobs were not checked: --no-blobs"),
    }
    if report.file == FileCheck::Skipped {
        output::line("the log's file was not checked beside its rows: a node holds it; --file checks it all the same");
    }
    let verdict = if report.is_clean() { "the history is intact" } else { "THE HISTORY IS BROKEN" };
    output::line(format_args!(
        "{} tenants, {} commits, {} events: {verdict}, {} findings",
        report.tenants,
        report.commits,
        report.events,
        report.findings.len() as u64 + report.more_findings
    ));
}

/// Print the events of a tenant, oldest first, as they are stored.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wasmwiz audit show --tenant dev\n  wasmwiz audit show --tenant dev --from 100 \
                        --limit 10 --output json")]
pub struct Show {
    /// The node's data folder.
    #[arg(long, value_name = "DIR", default_value = ".wasmwiz")]
    data: PathBuf,
    /// Whose history.
    #[arg(long)]
    tenant: TenantId,
    /// The first revision.
    #[arg(long, value_name = "REVISION", default_value_t = 1)]
    from: u64,
    /// The most events.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// A line an event, or one JSON object (the stored CloudEvent) a line.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (rows, from) = (open(&self.data)?, Revision::new(self.from));
        let mut shown = 0;
        for found in rows.rows() {
            let row = match found {
                Found::Row(row) => row,
                Found::Damage { position, what, .. } => bail!("the log is damaged at position {position}: {what}"),
            };
            if row.tenant.as_ref() != Some(&self.tenant) {
                continue;
            }
            let commit = row.commit.map_err(|what| anyhow!("the commit at position {}: {what}", row.position))?;
            for envelope in commit.events()?.iter().filter(|envelope| envelope.revision >= from) {
                if shown == self.limit {
                    return Ok(ExitCode::SUCCESS);
                }
                shown += 1;
                self.print(envelope)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, envelope: &Envelope) -> anyhow::Result<()> {
        match self.output {
            Output::Table => output::line(format_args!(
                "{:>8}  {}  {:<42} {:<50} by {}",
                envelope.revision.get(),
                envelope.time,
                envelope.event.type_name(),
                envelope.subject(),
                envelope.cause.actor
            )),
            Output::Json => output::line(serde_json::to_string(envelope)?),
        }
        Ok(())
    }
}

fn open(data: &Path) -> anyhow::Result<SqliteAudit> {
    let dir = data.join("log");
    SqliteAudit::open(&dir)
        .with_context(|| format!("there is no log in {}; give the node's data folder with --data", dir.display()))
}
