//! The example subscribers as processes, and what they have handled.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rusqlite::{Connection, OpenFlags};
use tokio::process::{Child, Command};

use crate::{harness, python, wait};

/// How long a subscriber may take to handle everything, and for each event beside that: it syncs each by itself, on a machine that runs
/// tests.
const CAUGHT_UP: Duration = Duration::from_secs(120);
const PER_EVENT: Duration = Duration::from_millis(10);

/// How much of what it said is shown when it fails.
const SHOWN_LINES: usize = 30;

/// One of the examples.
#[derive(Debug, Clone, Copy)]
pub enum Language {
    /// `examples/subscriber/subscriber.py`.
    Python,
    /// `examples/subscriber`.
    Rust,
}

/// A subscriber of all events. It is killed when this is dropped.
#[derive(Debug)]
pub struct Subscriber {
    language: Language,
    url: String,
    folder: PathBuf,
    child: Child,
}

impl Language {
    fn command(self) -> anyhow::Result<Command> {
        match self {
            Self::Python => {
                let mut command = python::command()?;
                command.arg(python::root().join("examples/subscriber/subscriber.py"));
                Ok(command)
            }
            Self::Rust => {
                let programs = harness::binary()?;
                let program = programs.with_file_name("wasmwiz-subscriber");
                ensure!(program.is_file(), "the subscriber is not built: run `cargo build --workspace --bins`");
                Ok(Command::new(program))
            }
        }
    }
}

impl Subscriber {
    /// Starts it, with its files in a folder.
    ///
    /// # Errors
    /// When it is not built or installed.
    pub fn start(language: Language, url: &str, folder: &Path) -> anyhow::Result<Self> {
        let name = format!("{language:?}").to_lowercase();
        let output = || File::options().create(true).append(true).open(folder.join(format!("{name}.log")));
        let mut command = language.command()?;
        command.args(["--url", url, "--subject", "wasmwiz.v1.>", "--name", &name, "--ack-wait", "2"]);
        command.args(["--state", &format!("{name}.sqlite")]).current_dir(folder);
        command.stdin(Stdio::null()).stdout(output()?).stderr(output()?).kill_on_drop(true);
        let child = command.spawn().context("cannot start a subscriber")?;
        Ok(Self { language, url: url.to_owned(), folder: folder.to_owned(), child })
    }

    /// Kills it (SIGKILL) and starts it again, where it was.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        *self = Self::start(self.language, &self.url, &self.folder)?;
        Ok(())
    }

    /// The ids that it handled, by tenant, in its order.
    fn handled(&self) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
        let database = Connection::open_with_flags(self.file(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let mut statement = database.prepare("SELECT tenant, id FROM handled ORDER BY n")?;
        let mut ids = BTreeMap::<String, Vec<String>>::new();
        for row in statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))? {
            let (tenant, id) = row?;
            ids.entry(tenant).or_default().push(id);
        }
        Ok(ids)
    }

    /// How many that are.
    fn handled_count(&self) -> anyhow::Result<usize> {
        let database = Connection::open_with_flags(self.file(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let count: i64 = database.query_row("SELECT count(*) FROM handled", [], |row| row.get(0))?;
        Ok(usize::try_from(count)?)
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("{:?}.sqlite", self.language).to_lowercase())
    }

    /// Waits until it has handled every event of the log once, each tenant's in order, and nothing else.
    ///
    /// # Errors
    /// When it does not in time, or handles something else; with the end of what it said.
    pub async fn until_equal(&self, recorded: &BTreeMap<String, Vec<String>>) -> anyhow::Result<()> {
        let wanted = recorded.values().map(Vec::len).sum::<usize>();
        let within = CAUGHT_UP + PER_EVENT * u32::try_from(wanted)?;
        // Only counted meanwhile: reading all of it again and again would take the processors that it is handled with.
        let seen = wait::until("every event at the subscriber", within, async || {
            Ok((self.handled_count().unwrap_or_default() >= wanted).then_some(()))
        });
        seen.await.with_context(|| {
            let handled = self.handled_count().unwrap_or_default();
            format!("{:?} handled {handled} of {wanted}; it said:\n{}", self.language, self.said())
        })?;
        ensure!(self.handled()? == *recorded, "{:?} handled something else, or in another order", self.language);
        Ok(())
    }

    /// The end of what it said.
    fn said(&self) -> String {
        let said = fs::read_to_string(self.folder.join(format!("{:?}.log", self.language).to_lowercase()));
        let said = said.unwrap_or_default();
        let lines: Vec<_> = said.lines().rev().take(SHOWN_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
