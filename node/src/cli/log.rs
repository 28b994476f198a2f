//! `wasmwiz log`: bring the log from one place to another.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use tokio::time::Instant;
use wasmwiz_events::{
    copy::{self, Copied, Order},
    revision::Position,
};

use super::output::{self, Output};
use crate::{app, config::Config, folder, store::Store};

/// How often a long copy says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Bring the log from one place to another.
#[derive(Debug, Subcommand)]
pub enum Log {
    /// Copy a whole log, with modules and large payloads, into another one.
    Copy(Copy),
}

impl Log {
    /// Runs it.
    ///
    /// # Errors
    /// When a log cannot be opened, or the copy has stopped.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Copy(copy) => copy.run(),
        }
    }
}

/// Copy a whole log, with modules and large payloads, into another one, of either kind: the same commits in the same order, so the
/// same revisions, hashes and proofs. Views and feeds of the copy begin anew. Stop all nodes of both first.
///
/// A log on JetStream takes one commit after the other; --unordered appends those of different tenants beside each other.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wasmwiz log copy --from sqlite.toml --to jetstream.toml\n  \
                        wasmwiz log copy --from jetstream.toml --to sqlite.toml\n  wasmwiz audit verify --config jetstream.toml")]
pub struct Copy {
    /// The configuration file of a node with the log to copy.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The configuration file of a node with the log to copy into. It is made if it is missing.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Go on with a copy that broke off: the target may have commits, if they are the source's.
    #[arg(long)]
    resume: bool,
    /// Commits of different tenants may come in another order than in the source: faster into a log on JetStream. Heads that were kept
    /// with `audit head --all` do not fit such a copy, as they say the order.
    #[arg(long)]
    unordered: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Copy {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (from, mut to) = (Config::load(Some(&self.from))?.config, Config::load(Some(&self.to))?.config);
        // A batch that was given up with the next one stored would be a gap in the order.
        to.log.sqlite = to.log.sqlite.held();
        let copied = app::runtime()?.block_on(Box::pin(self.copy(&from, &to)))?;
        match self.output {
            Output::Table => output::line(format_args!("{}: the target ends as the source does", told(&copied))),
            Output::Json => output::line(serde_json::to_string_pretty(&copied)?),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn copy(&self, from: &Config, to: &Config) -> anyhow::Result<Copied> {
        let source = Store::open_existing(from).await.context("the source cannot be opened")?;
        let data = &to.node.data_dir;
        folder::make(data).with_context(|| format!("the data folder {} cannot be made", data.display()))?;
        let target = Store::open(to).await.context("the target cannot be opened")?;
        let tail = target.log.tail().await.context("the target cannot be read")?;
        ensure!(
            self.resume || tail == Position::START,
            "the target has commits already: copy into an empty log, or say --resume if they come from a copy that broke off"
        );
        let of = |store: &Store| copy::Store { log: store.log.clone(), blobs: store.blobs.clone() };
        let mut said = Instant::now();
        let order = if self.unordered { Order::Any } else { Order::Kept };
        let copied = copy::copy(&of(&source), &of(&target), order, |copied| {
            if said.elapsed() >= PROGRESS_EVERY {
                output::progress(format_args!("{} so far", told(copied)));
                said = Instant::now();
            }
        })
        .await;
        source.close().await;
        target.close().await;
        Ok(copied?)
    }
}

fn told(copied: &Copied) -> String {
    let Copied { commits, present, events, tenants, blobs, missing, .. } = copied;
    format!(
        "{tenants} tenants, {commits} commits ({present} were there), {events} events, {blobs} blobs, {missing} contents gone"
    )
}
