//! `cargo xtask ci`: what a change must pass besides the tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;

use crate::{
    checks::{self, Outcome},
    pipeline::Kept,
    process::{command, run as run_command},
    setup, workspace,
};

/// Check format, lints, documentation, dependencies, and the files of the delivery
///
/// Runs rustfmt, clippy, rustdoc and cargo-deny over the whole workspace, each with warnings as errors; then looks at the
/// workflows, the Dockerfile, the manifests, scripts, alerts, words and for secrets, with tools of its own. Needs no network
/// once the tools are there. Stops at the first that complains, with the command that fixes or shows it. The tests are
/// `cargo xtask test`; `.ci/run` does both.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these; all of them when none is named
    #[arg(value_name = "CHECK", value_parser = PossibleValuesParser::new(names()))]
    only: Vec<String>,
    /// Fail where a tool is not there, instead of passing the check over
    #[arg(long)]
    no_skips: bool,
    /// A file to which the time and the outcome of each check are added, for `cargo xtask pipeline`
    #[arg(long, value_name = "FILE")]
    times: Option<PathBuf>,
}

struct Step {
    name: &'static str,
    work: Work,
    /// What to do when it fails.
    remedy: &'static str,
}

enum Work {
    Run(Command),
    Look(fn(&Path) -> anyhow::Result<Outcome>),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let chosen = |step: &Step| arguments.only.is_empty() || arguments.only.iter().any(|name| name == step.name);
    for mut step in steps().filter(chosen) {
        eprintln!("ci: {}", step.name);
        let started = now();
        let outcome = step.run().with_context(|| format!("{} failed: {}", step.name, step.remedy));
        if let Some(file) = &arguments.times {
            keep(file, &step, started.elapsed(), outcome.as_ref().ok())?;
        }
        match outcome? {
            Outcome::Passed => eprintln!("ci: {} passed in {}", step.name, seconds(started.elapsed())),
            Outcome::Skipped(why) if arguments.no_skips => bail!("{} was not done: {why}", step.name),
            Outcome::Skipped(why) => eprintln!("ci: {} skipped: {why}", step.name),
        }
    }
    Ok(())
}

/// Adds how a check went to a file, as a line.
fn keep(file: &Path, step: &Step, took: Duration, outcome: Option<&Outcome>) -> anyhow::Result<()> {
    use std::io::Write as _;
    let outcome = match outcome {
        Some(Outcome::Passed) => "passed",
        Some(Outcome::Skipped(_)) => "skipped",
        None => "failed",
    };
    let kept = Kept { name: step.name.to_owned(), seconds: took.as_secs_f64(), outcome: outcome.to_owned() };
    let line = serde_json::to_string(&kept).context("a time cannot be written")? + "\n";
    let opened = fs::OpenOptions::new().create(true).append(true).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(line.as_bytes()));
    written.with_context(|| format!("cannot write {}", file.display()))
}

impl Step {
    fn run(&mut self) -> anyhow::Result<Outcome> {
        match &mut self.work {
            Work::Run(command) => {
                if self.name == DEPENDENCIES {
                    setup::for_dependencies()?;
                }
                run_command(command)?;
                Ok(Outcome::Passed)
            }
            Work::Look(look) => {
                checks::tools::install()?;
                look(workspace::root())
            }
        }
    }
}

const DEPENDENCIES: &str = "dependencies";

/// What each step is called.
fn names() -> Vec<&'static str> {
    steps().map(|step| step.name).collect()
}

fn steps() -> impl Iterator<Item = Step> {
    let looks = checks::ALL.into_iter();
    let looks = looks.map(|check| Step { name: check.name, work: Work::Look(check.look), remedy: check.remedy });
    of_cargo().into_iter().chain(looks)
}

fn of_cargo() -> [Step; 4] {
    let mut format = command("cargo");
    format.args(["fmt", "--all", "--check"]);
    let mut lints = command("cargo");
    lints.args(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]);
    let mut documentation = command("cargo");
    documentation.args(["doc", "--workspace", "--all-features", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    let mut dependencies = command("cargo");
    dependencies.args(["deny", "--workspace", "--all-features", "check", "bans", "licenses", "sources"]);
    [
        Step { name: "format", work: Work::Run(format), remedy: "run `cargo fmt --all`" },
        Step {
            name: "lints",
            work: Work::Run(lints),
            remedy: "fix what it names; `cargo clippy --workspace --all-targets --all-features` shows it again",
        },
        Step {
            name: "documentation",
            work: Work::Run(documentation),
            remedy: "fix the named comments; `cargo doc --workspace --no-deps --open` shows the pages",
        },
        Step {
            name: DEPENDENCIES,
            work: Work::Run(dependencies),
            remedy: "drop the dependency, or add an exception with its reason to deny.toml",
        },
    ]
}

#[expect(clippy::disallowed_methods, reason = "a chore tells people how long it took; nothing is decided by it")]
fn now() -> Instant {
    Instant::now()
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::{Work, names, of_cargo, steps};
    use crate::process::describe;

    #[test]
    fn every_step_has_a_name_of_its_own_and_a_remedy() {
        let names = names();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name} is there twice");
        }
        for step in steps() {
            assert!(!step.remedy.is_empty(), "{} says nothing on failure", step.name);
        }
    }

    #[test]
    fn what_cargo_does_is_done_by_cargo() {
        for step in of_cargo() {
            let Work::Run(command) = step.work else { panic!("{} is no command", step.name) };
            assert!(describe(&command).starts_with("cargo "));
        }
    }
}
