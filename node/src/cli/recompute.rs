//! `wasmwiz usage recompute`: the figures of usage derived from the log alone, and compared with the view's.

use std::{path::Path, process::ExitCode};

use anyhow::{anyhow, bail, ensure};
use clap::Args;
use fold::{Difference, Fold};
use wasmwiz_events::{
    commit::Commit,
    id::TenantId,
    ledger::ChainHash,
    log::{
        EventLog as _, ReadLimit,
        jetstream::JetstreamLog,
        sqlite::{Found, SqliteAudit},
    },
    revision::Position,
};
use wasmwiz_projections::usage;

use super::{
    output::{self, Output},
    place::{Opened, Place},
};

mod fold;

/// The most differences that are listed; more are counted.
const MAX_LISTED: usize = 1_000;

/// Derive every figure of usage from the log in the data folder, without the view's code, and print it; or compare it with
/// what the view has, which is what invoices are made of. A node may run meanwhile.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0: printed, or every figure is the log's; 1: a figure differs, or something cannot be read.\n\n\
                  Examples:\n  wasmwiz usage recompute --data .wasmwiz --check\n  wasmwiz usage recompute --tenant dev"
)]
pub struct Recompute {
    #[command(flatten)]
    place: Place,
    /// Compare with the view of usage, as far as it has folded the log, and name each figure that differs.
    #[arg(long)]
    check: bool,
    /// Only this tenant.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// A line a row of figures or a difference, or JSON.
    #[arg(long = "output", value_enum, default_value_t)]
    output: Output,
}

/// What a check found.
#[derive(Debug, serde::Serialize)]
struct Report {
    position: Position,
    tail: Position,
    commits: u64,
    rows: usize,
    figures: u64,
    differences: Vec<Difference>,
    more_differences: usize,
    faults: Vec<String>,
}

impl Recompute {
    /// Runs it.
    ///
    /// # Errors
    /// When the log or the view cannot be read; the text says what to do.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (data, log) = self.place.open()?;
        if !self.check {
            return self.print(&walk(&log, None)?.fold);
        }
        let mut stored = usage::stored(&data.join("views"))?;
        let Walked { mut fold, commits, tail, .. } = walk(&log, Some((stored.position, stored.last_hash)))?;
        if let Some(tenant) = &self.tenant {
            stored.rows.retain(|row| row.tenant == tenant.as_str());
            stored.storage.retain(|of, _| of == tenant.as_str());
            fold.keep_only(tenant);
        }
        let rows = fold.rows();
        let (figures, mut differences) = fold.compare(&stored.rows, &stored.storage);
        let more_differences = differences.len().saturating_sub(MAX_LISTED);
        differences.truncate(MAX_LISTED);
        let faults = fold.faults;
        let report =
            Report { position: stored.position, tail, commits, rows, figures, differences, more_differences, faults };
        let clean = report.differences.is_empty() && report.faults.is_empty();
        match self.output {
            Output::Table => report.print(matches!(&log, Opened::Sqlite(log) if log.is_held())),
            Output::Json => output::line(serde_json::to_string_pretty(&report)?),
        }
        Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn print(&self, fold: &Fold) -> anyhow::Result<ExitCode> {
        for row in fold.rows_of(self.tenant.as_ref()) {
            match self.output {
                Output::Table => output::line(row),
                Output::Json => output::line(serde_json::to_string(&row)?),
            }
        }
        for fault in &fold.faults {
            output::progress(fault);
        }
        Ok(if fold.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Report {
    fn print(&self, held: bool) {
        for fault in &self.faults {
            output::line(fault);
        }
        if !self.differences.is_empty() {
            output::line(format_args!("{:>20}  {:>20}  figure", "log", "view"));
        }
        for difference in &self.differences {
            output::line(difference);
        }
        if self.position < self.tail {
            let hope = if held { "the node goes on with it; check again later" } else { "a node goes on with it" };
            output::line(format_args!(
                "the view has folded the log up to position {} of {}, and that was compared: {hope}",
                self.position, self.tail
            ));
        }
        let differences = self.differences.len() + self.more_differences;
        let verdict = if differences == 0 && self.faults.is_empty() {
            "every figure is the log's".to_owned()
        } else {
            format!(
                "{differences} FIGURES DIFFER, {} faults; verify the log with `wasmwiz audit verify`, then stop the node, \
                 delete the folder views, and start it: it folds the log again",
                self.faults.len()
            )
        };
        let (commits, rows, figures) = (self.commits, self.rows, self.figures);
        output::line(format_args!("{commits} commits, {rows} rows, {figures} figures: {verdict}"));
    }
}

/// A walk over the log, and how far it is there.
struct Walked {
    fold: Fold,
    commits: u64,
    tail: Position,
    /// Up to where, and the hash that is there.
    until: Option<(Position, ChainHash)>,
    /// Was that found?
    reached: bool,
}

/// Folds the log up to `until`, which must have the hash that is given with it, or all of it.
fn walk(log: &Opened, until: Option<(Position, ChainHash)>) -> anyhow::Result<Walked> {
    let mut walked = Walked {
        fold: Fold::default(),
        commits: 0,
        tail: Position::START,
        until,
        reached: until.is_none_or(|(position, _)| position == Position::START),
    };
    match log {
        Opened::Sqlite(rows) => walk_rows(rows, &mut walked)?,
        Opened::Jetstream(log, runtime) => runtime.block_on(Box::pin(walk_log(log, &mut walked)))?,
    }
    ensure!(walked.reached, foreign());
    Ok(walked)
}

fn walk_rows(log: &SqliteAudit, walked: &mut Walked) -> anyhow::Result<()> {
    for found in log.rows() {
        let row = match found {
            Found::Row(row) => row,
            Found::Damage { position, what, .. } => {
                bail!("the log is damaged at position {position}: {what}; run `wasmwiz audit verify`")
            }
        };
        walked.tail = Position::new(u64::try_from(row.position).unwrap_or_default());
        if walked.is_over(walked.tail) {
            continue;
        }
        let what = |what| anyhow!("the commit at position {}: {what}; run `wasmwiz audit verify`", row.position);
        walked.step(walked.tail, &row.commit.map_err(what)?)?;
    }
    Ok(())
}

async fn walk_log(log: &JetstreamLog, walked: &mut Walked) -> anyhow::Result<()> {
    walked.tail = log.tail().await?;
    let mut after = Position::START;
    while after < walked.tail && !walked.is_over(after.next()) {
        let page = log.read_all(after, ReadLimit::default()).await?;
        let end = walked.tail;
        for recorded in page.iter().take_while(|recorded| recorded.position <= end) {
            if !walked.is_over(recorded.position) {
                walked.step(recorded.position, &recorded.commit)?;
            }
        }
        let Some(last) = page.last() else { break };
        after = last.position;
    }
    Ok(())
}

impl Walked {
    /// Is this beyond what is to be folded?
    fn is_over(&self, position: Position) -> bool {
        self.until.is_some_and(|(until, _)| position > until)
    }

    fn step(&mut self, position: Position, commit: &Commit) -> anyhow::Result<()> {
        if let Some((_, hash)) = self.until.filter(|(until, _)| *until == position) {
            ensure!(commit.hash() == hash, foreign());
            self.reached = true;
        }
        self.fold.add(commit.tenant(), commit.events()?);
        self.commits += 1;
        Ok(())
    }
}

fn foreign() -> String {
    let views = Path::new("views").display();
    format!(
        "the view was folded from another log than this one; stop the node, delete the folder {views}, and start it: it \
         folds this log"
    )
}
