//! `wasmwiz compat`: can this version read that log? Asked of the version that is to run, before anything is changed.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::time::Instant;
use wasmwiz_actors::snapshots;
use wasmwiz_events::{
    compat::{Fault, Kind, Listed, Survey},
    log::{
        EventLog as _, ReadLimit,
        jetstream::JetstreamLog,
        sqlite::{Found, SqliteAudit},
    },
    revision::Position,
};

use super::{
    output::{self, Output},
    place::{Opened, Place},
};

/// How often a long walk says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The largest list of types that is read, in bytes: some thousand types.
const LIST_BYTES_MAX: u64 = 1 << 20;

/// Standard input, as a file's name.
const STDIN: &str = "-";

/// What this version can read.
#[derive(Debug, Subcommand)]
pub enum Compat {
    /// Read a whole log, and say what of it this version does not know.
    Check(Check),
}

impl Compat {
    /// Runs it.
    ///
    /// # Errors
    /// When the log cannot be opened or read.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(check) => check.run(),
        }
    }
}

/// Read a whole log, and say what of it this version does not know: types of events, versions of types, and fields. Nothing is
/// written, and a node may run meanwhile. Ask the program of the version that you want to go to, above all of an older one, before
/// you change anything. Exit code 0: it can read all of it; 1: it cannot, and what it does not know is named with the first place of
/// it, or the log could not be read.
///
/// Snapshots of another version are no obstacle: they are counted, and would be folded anew from the log.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wasmwiz compat check --data .wasmwiz\n  wasmwiz compat check --config wasmwiz.toml --output \
                  json\n  wasmwiz-new compat check --config wasmwiz.toml --output json > recorded.json\n  wasmwiz-old compat \
                  check --recorded recorded.json"
)]
pub struct Check {
    #[command(flatten)]
    place: Place,
    /// No log, but what another version's `compat check --output json` has printed of one; `-` reads it from standard input. Only
    /// types can be compared so, not fields.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "config"])]
    recorded: Option<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Judgement {
    /// The version that judges.
    version: &'static str,
    compatible: bool,
    #[serde(flatten)]
    survey: Survey,
    /// Snapshots below the data folder, by their version.
    snapshots: Vec<SnapshotsOf>,
}

/// Snapshots of one version.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct SnapshotsOf {
    /// Absent where a file is no snapshot.
    version: Option<u8>,
    files: u64,
    /// Would this version read them? If not, it folds those tenants anew.
    read: bool,
}

impl Check {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (survey, snapshots) = match &self.recorded {
            Some(file) => (Survey::of_list(&listed(file)?), vec![]),
            None => walk(&self.place)?,
        };
        let judgement =
            Judgement { version: env!("CARGO_PKG_VERSION"), compatible: survey.is_compatible(), survey, snapshots };
        match self.output {
            Output::Table => judgement.print(),
            Output::Json => output::line(serde_json::to_string_pretty(&judgement)?),
        }
        Ok(if judgement.compatible { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// A list that another version has printed.
fn listed(file: &Path) -> anyhow::Result<Listed> {
    let mut text = String::new();
    let read = if file == Path::new(STDIN) {
        std::io::stdin().take(LIST_BYTES_MAX).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|opened| opened.take(LIST_BYTES_MAX).read_to_string(&mut text))
    };
    read.with_context(|| format!("{} cannot be read", file.display()))?;
    let listed: Listed = serde_json::from_str(&text).with_context(|| {
        format!("{} is no list of types; make one with: wasmwiz compat check --output json", file.display())
    })?;
    ensure!(!listed.kinds.is_empty(), "{} lists no type: it says nothing of a log", file.display());
    Ok(listed)
}

fn walk(place: &Place) -> anyhow::Result<(Survey, Vec<SnapshotsOf>)> {
    let (data, opened) = place.open()?;
    let mut said = Instant::now();
    let progress = |survey: &Survey| {
        if said.elapsed() >= PROGRESS_EVERY {
            output::progress(format_args!("{} commits, {} events so far", survey.commits, survey.events));
            said = Instant::now();
        }
    };
    let survey = match opened {
        Opened::Sqlite(rows) => of_rows(&rows, progress)?,
        Opened::Jetstream(log, runtime) => runtime.block_on(Box::pin(of_log(&log, progress)))?,
    };
    Ok((survey, snapshots_in(&snapshots::folder(&data))?))
}

fn of_rows(rows: &SqliteAudit, mut progress: impl FnMut(&Survey)) -> anyhow::Result<Survey> {
    let mut survey = Survey::default();
    for found in rows.rows() {
        let position = match found {
            Found::Row(row) => match row.body {
                Some(body) => {
                    survey.look(&body);
                    progress(&survey);
                    continue;
                }
                None => row.position,
            },
            Found::Damage { position, .. } => position,
        };
        bail!("the log is damaged at position {position}: `wasmwiz audit verify` says how; restore it, and ask again");
    }
    Ok(survey)
}

async fn of_log(log: &JetstreamLog, mut progress: impl FnMut(&Survey)) -> anyhow::Result<Survey> {
    let (mut survey, end, mut after) = (Survey::default(), log.tail().await?, Position::START);
    while after < end {
        let page = log.read_all(after, ReadLimit::default()).await?;
        let last = page.last().context("the log ends before its end: try again")?;
        after = last.position;
        for recorded in &page {
            survey.look(recorded.commit.body());
            progress(&survey);
        }
    }
    Ok(survey)
}

/// Snapshots below a folder, by their version. Only the beginning of each is read.
fn snapshots_in(folder: &Path) -> anyhow::Result<Vec<SnapshotsOf>> {
    let mut counted: BTreeMap<Option<u8>, u64> = BTreeMap::new();
    for file in files_below(folder)? {
        let mut head = Vec::new();
        let opened = fs::File::open(&file).and_then(|opened| opened.take(8).read_to_end(&mut head));
        match opened {
            Ok(_) => *counted.entry(snapshots::version_of(&head)).or_default() += 1,
            // A node that runs meanwhile replaces them.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", file.display())),
        }
    }
    let of = |(version, files)| SnapshotsOf { version, files, read: version == Some(snapshots::VERSION) };
    Ok(counted.into_iter().map(of).collect())
}

/// The snapshots of all tenants.
fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let list = |folder: &Path| match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        listed => listed
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .with_context(|| format!("{} cannot be read", folder.display())),
    };
    for tenant in list(folder)?.into_iter().filter(|path| path.is_dir()) {
        files.extend(list(&tenant)?.into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "snap")));
    }
    Ok(files)
}

impl Judgement {
    fn print(&self) {
        let Self { survey, snapshots, compatible, version } = self;
        for (name, Kind { events, known, unread, faults }) in &survey.kinds {
            let word = match (known, unread) {
                (false, _) => "UNKNOWN".to_owned(),
                (true, 0) => "read".to_owned(),
                (true, unread) => format!("{unread} NOT READ IN WHOLE"),
            };
            output::line(format_args!("{events:>10}  {name:<44} {word}"));
            for Fault { what, tenant, revision } in faults {
                let place = match (tenant, revision) {
                    (Some(tenant), Some(revision)) => {
                        format!(", first of tenant {tenant} at revision {}", revision.get())
                    }
                    _ => String::new(),
                };
                output::line(format_args!("            {what}{place}"));
            }
        }
        if survey.unreadable_commits > 0 {
            output::line(format_args!("{} commits are no lists of events to this version", survey.unreadable_commits));
        }
        for SnapshotsOf { version, files, read } in snapshots {
            let what = version.map_or("no snapshots".to_owned(), |version| format!("snapshots of version {version}"));
            let then = if *read { "read" } else { "ignored, and folded anew" };
            output::line(format_args!("{files:>10}  {what:<44} {then}"));
        }
        let verdict =
            if *compatible { "can read all of it" } else { "CANNOT READ ALL OF IT: do not go to this version" };
        output::line(format_args!("{} events: wasmwiz {version} {verdict}", survey.events));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_counted_by_their_version_and_no_other_file_is() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(snapshots_in(&folder.path().join("none")).unwrap(), []);
        let acme = folder.path().join("acme");
        fs::create_dir(&acme).unwrap();
        for (name, bytes) in [
            ("1.snap", [b"wwzs".as_slice(), &[snapshots::VERSION]].concat()),
            ("2.snap", [b"wwzs".as_slice(), &[snapshots::VERSION + 1]].concat()),
            ("3.snap", b"what".to_vec()),
            ("4.unfinished", b"wwzs".to_vec()),
        ] {
            fs::write(acme.join(name), bytes).unwrap();
        }
        let of = |version, read| SnapshotsOf { version, files: 1, read };
        let expected = [of(None, false), of(Some(snapshots::VERSION), true), of(Some(snapshots::VERSION + 1), false)];
        assert_eq!(snapshots_in(folder.path()).unwrap(), expected);
    }

    #[test]
    fn a_list_that_lists_nothing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("recorded.json");
        for (text, said) in [("{}", "is no list of types"), (r#"{"kinds": []}"#, "lists no type")] {
            fs::write(&file, text).unwrap();
            let error = format!("{:#}", listed(&file).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }
}
