//! What the version before has left: a data folder as a node leaves it that is killed, and what that node had answered.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use wasmwiz_events::execution::Outcome;
use wasmwiz_tests::{
    folder::copy_all,
    history::History,
    upgrade::{Counted, Shown},
};

use crate::{
    history::{self, Made},
    programs::{Programs, Version, told_anew},
    said,
};

/// A data folder that the version before has written.
#[derive(Debug)]
pub(crate) struct Left {
    folder: TempDir,
    /// Who and what is in it.
    pub(crate) made: Made,
    /// What the version before answered.
    pub(crate) shown: Shown,
    /// What it has counted.
    pub(crate) counted: Counted,
    /// The heads that it has printed.
    pub(crate) heads: PathBuf,
}

impl Left {
    /// Has the version before write one. It is killed in the midst of it, and once more at the end.
    pub(crate) async fn by(programs: &Programs) -> anyhow::Result<Self> {
        let mut node = programs.start(Version::Previous, None).await?;
        let made = history::make(&mut node).await?;
        let shown = told_anew(&mut node, &made.key).await?;
        node.kill9().await?;
        let folder = tempfile::Builder::new().prefix("wasmwiz-left-").tempdir().context("cannot make a folder")?;
        let data = folder.path().join("data");
        copy_all(&node.data(), &data)?;
        drop(node);
        let heads = programs.heads(Version::Previous, &data).await?;
        let counted = programs.proves(Version::Previous, &data, &heads).await?;
        let left = Self { folder, made, shown, counted, heads };
        left.is_of_every_kind(programs).await?;
        let (reproduced, others) = programs.rerun(Version::Previous, &data).await?;
        ensure!(reproduced > 0 && others == 0, "it ran {reproduced} of its records again, and not {others}");
        said(format_args!("it ran {reproduced} of its records again, and each was the same"));
        Ok(left)
    }

    /// The data folder. Whoever writes to it takes a copy.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A history that lacks something would show nothing of it.
    async fn is_of_every_kind(&self, programs: &Programs) -> anyhow::Result<()> {
        let kinds = programs.judge(Version::Previous, &self.data()).await?.kinds;
        let known = programs.known_kinds(Version::Previous, self.folder.path()).await?;
        ensure!(!known.is_empty(), "the version before knows no type of events");
        let absent: Vec<_> = known.difference(&kinds).collect();
        ensure!(absent.is_empty(), "the history has no event of types that it could have: {absent:?}");
        let history = History::read(&self.data())?;
        history.each_ended_once()?;
        // Nobody can make the host fail on purpose.
        let possible = Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Failed);
        let absent: Vec<_> = possible.filter(|outcome| history.ended(*outcome) == 0).map(Outcome::as_str).collect();
        ensure!(absent.is_empty(), "no execution ended so: {absent:?}");
        let Counted { tenants, commits, events } = self.counted;
        said(format_args!(
            "the version before has written {commits} commits of {tenants} tenants: {events} events of {} types, {} executions",
            kinds.len(),
            history.executions.len()
        ));
        Ok(())
    }
}
