//! `wasmwiz audit`: prove or read the recorded history from the data folder, without a node, or ask a node for it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::value::RawValue;
use tokio::time::Instant;
use wasmwiz_events::{
    audit::{self, Checks, FileCheck, Heads, Report, Skip},
    blobs::Blobs,
    commit::Commit,
    envelope::Envelope,
    id::TenantId,
    log::{
        EventLog as _, ReadLimit,
        jetstream::JetstreamLog,
        sqlite::{Found, SqliteAudit},
    },
    revision::Revision,
};

use super::{
    client::{self, failure::EXIT_CODES},
    output::{self, Output},
    place::{Opened, Place},
    rerun::Rerun,
};

/// How often a long verification says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Prove or read the recorded history.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Walk every tenant's hash chain, and check what it names.
    Verify(Verify),
    /// Run every recorded execution again, and compare.
    #[command(name = "re-run")]
    Rerun(Rerun),
    /// Print the events of a tenant from a data folder.
    Show(Show),
    /// List the events of your tenant, as a node tells them.
    List(client::audit::List),
    /// Print the end of your tenant's chain, as a node tells it, or those of all tenants, from a data folder.
    Head(Head),
}

impl Audit {
    /// Runs it.
    ///
    /// # Errors
    /// When the log cannot be opened, or the node refuses.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Verify(verify) => verify.run(),
            Self::Rerun(rerun) => rerun.run(),
            Self::Show(show) => show.run(),
            Self::List(list) => list.run(),
            Self::Head(head) => head.run(),
        }
    }
}

/// Walk every tenant's hash chain: places, hashes, epochs, event envelopes, payloads, the blobs that the events name, and that
/// every execution has one end at most. Exit code 0: nothing is wrong; 1: something is, and it is named with its tenant and
/// revision. Contents that are gone are counted in a warning: the chain does not need them. A node may run meanwhile.
///
/// Chains alone do not show that the newest commits or whole tenants are gone, or that all of it was hashed anew. Keep what
/// `wasmwiz audit head --all` prints where nobody can change it, and give it with --expect.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wasmwiz audit verify --data .wasmwiz\n  wasmwiz audit verify --data .wasmwiz --no-blobs\n  \
                  wasmwiz audit verify --config wasmwiz.toml --expect heads.json"
)]
pub struct Verify {
    #[command(flatten)]
    place: Place,
    /// Do not read the blobs: faster, and nothing is known of modules and large payloads.
    #[arg(long)]
    no_blobs: bool,
    /// Check the log's file, its pages and its index, also while a node holds it. The node's write-ahead log grows meanwhile.
    #[arg(long)]
    file: bool,
    /// Heads that were kept: a file of what `wasmwiz audit head --all` printed. Everything that they cover must still be there.
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Walks a log, and says now and then how far it is.
fn walk(place: &Place, blobs: bool, file: bool, expected: Option<&Heads>) -> anyhow::Result<Report> {
    let (data, opened) = place.open()?;
    let mut said = Instant::now();
    let progress = |report: &Report| {
        if said.elapsed() >= PROGRESS_EVERY {
            output::progress(format_args!("{} commits, {} blobs so far", report.commits, report.blobs.unwrap_or(0)));
            said = Instant::now();
        }
    };
    Ok(match opened {
        Opened::Sqlite(rows) => {
            let folder = data.join("blobs");
            let checks = Checks { blobs: blobs.then_some(&*folder), held_file: file, expected };
            audit::verify(&rows, checks, progress)
        }
        Opened::Jetstream(log, runtime) => {
            let store = log.blobs();
            let store = blobs.then_some(&store as &dyn Blobs);
            runtime.block_on(Box::pin(audit::verify_log(&log, store, expected, progress)))?
        }
    })
}

impl Verify {
    fn run(self) -> anyhow::Result<ExitCode> {
        let expected = self.expect.as_deref().map(kept_heads).transpose()?;
        let report = walk(&self.place, !self.no_blobs, self.file, expected.as_ref())?;
        match self.output {
            Output::Table => print_report(&report),
            Output::Json => output::line(serde_json::to_string_pretty(&report)?),
        }
        Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Heads in a file.
fn kept_heads(file: &Path) -> anyhow::Result<Heads> {
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!("{} holds no heads; make such a file with: wasmwiz audit head --all > heads.json", file.display())
    })
}

/// Print the end of a chain: revision, hash and position. Keep it elsewhere: with it, nobody can cut off the newest history
/// unnoticed. With --all, the ends of all tenants' chains and the order of all commits, from a data folder, as one JSON object;
/// the history is walked first, and heads of a broken one are not printed.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz audit head --output json >> heads.jsonl\n  \
                                wasmwiz audit head --all --data .wasmwiz > heads-2026-11-29.json"))]
pub struct Head {
    /// Of all tenants, from a data folder and not from a node; as JSON.
    #[arg(long, conflicts_with = "output")]
    all: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    of_node: client::audit::OwnHead,
}

impl Head {
    fn run(self) -> anyhow::Result<ExitCode> {
        if !self.all {
            ensure!(!self.place.is_given(), "without --all a node is asked; add it, or leave --data and --config out");
            return self.of_node.run();
        }
        let report = walk(&self.place, false, false, None)?;
        if let Some(heads) = report.heads.as_ref().filter(|_| report.is_clean()) {
            output::line(serde_json::to_string_pretty(heads)?);
            return Ok(ExitCode::SUCCESS);
        }
        output::progress("the history is broken, and its heads are not to be kept: wasmwiz audit verify says where");
        Ok(ExitCode::FAILURE)
    }
}

fn print_report(report: &Report) {
    for finding in &report.findings {
        output::line(format_args!("{finding}"));
    }
    for skip in report.skipped.iter().filter(|skip| skip.intact) {
        let Skip { tenant, position, .. } = skip;
        output::line(format_args!("tenant {tenant}, position {position}: nothing is wrong with it; {skip}"));
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
    match report.expected {
        Some(met) => output::line(format_args!("{met} heads that were kept were met again")),
        None => output::line(
            "not shown by chains alone: that the newest commits or whole tenants are gone, or all was hashed anew; \
             keep what `wasmwiz audit head --all` prints elsewhere, and give it with --expect",
        ),
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
    #[command(flatten)]
    place: Place,
    /// Whose history.
    #[arg(long)]
    tenant: TenantId,
    /// The first revision.
    #[arg(long, value_name = "REVISION", default_value_t = 1)]
    from: u64,
    /// The most events.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// A line an event, or one JSON object (the CloudEvent, in the bytes that are stored and hashed) a line.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self.place.open()?.1 {
            Opened::Sqlite(rows) => self.of_rows(&rows)?,
            Opened::Jetstream(log, runtime) => runtime.block_on(Box::pin(self.of_log(&log)))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn of_rows(&self, rows: &SqliteAudit) -> anyhow::Result<()> {
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
            if !self.of_commit(&commit, &mut shown)? {
                break;
            }
        }
        Ok(())
    }

    async fn of_log(&self, log: &JetstreamLog) -> anyhow::Result<()> {
        let (mut from, mut shown) = (Revision::new(self.from.max(1)), 0);
        loop {
            let page = log.read_stream(&self.tenant, from, ReadLimit::default()).await?;
            let Some(last) = page.last() else { return Ok(()) };
            from = last.commit.last_revision().next();
            for recorded in &page {
                if !self.of_commit(&recorded.commit, &mut shown)? {
                    return Ok(());
                }
            }
        }
    }

    /// Prints what is asked for of a commit. May there be more?
    fn of_commit(&self, commit: &Commit, shown: &mut usize) -> anyhow::Result<bool> {
        let from = Revision::new(self.from);
        // The events as they are sealed: whatever this version does not know of them is in these bytes all the same.
        let stored: Vec<&RawValue> = serde_json::from_slice(commit.body())?;
        for (envelope, stored) in commit.events()?.iter().zip(stored).filter(|(event, _)| event.revision >= from) {
            if *shown == self.limit {
                return Ok(false);
            }
            *shown += 1;
            self.print(envelope, stored);
        }
        Ok(*shown < self.limit)
    }

    fn print(&self, envelope: &Envelope, stored: &RawValue) {
        match self.output {
            Output::Table => output::line(format_args!(
                "{:>8}  {}  {:<42} {:<50} by {}",
                envelope.revision.get(),
                envelope.time,
                envelope.event.type_name(),
                envelope.subject(),
                envelope.cause.actor
            )),
            Output::Json => output::line(stored.get()),
        }
    }
}
