//! `cargo xtask ci`: what a change must pass besides the tests.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    process::{command, run as run_command},
    setup,
};

/// Check format, lints, documentation, dependencies and licences
///
/// Runs rustfmt, clippy, rustdoc and cargo-deny over the whole workspace, each with warnings as errors, and stops at the
/// first that complains, with the command that fixes or shows it. The tests are `cargo xtask test`; `.ci/run` does both.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

struct Step {
    name: &'static str,
    command: Command,
    /// What to do when it fails.
    remedy: &'static str,
}

pub(crate) fn run(_: &Arguments) -> anyhow::Result<()> {
    for mut step in steps() {
        eprintln!("ci: {}", step.name);
        let started = now();
        if step.name == DEPENDENCIES {
            setup::for_checks()?;
        }
        run_command(&mut step.command).with_context(|| format!("{} failed: {}", step.name, step.remedy))?;
        eprintln!("ci: {} passed in {}", step.name, seconds(started.elapsed()));
    }
    Ok(())
}

const DEPENDENCIES: &str = "dependencies";

fn steps() -> [Step; 4] {
    let mut format = command("cargo");
    format.args(["fmt", "--all", "--check"]);
    let mut lints = command("cargo");
    lints.args(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]);
    let mut documentation = command("cargo");
    documentation.args(["doc", "--workspace", "--all-features", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    let mut dependencies = command("cargo");
    dependencies.args(["deny", "--workspace", "--all-features", "check", "bans", "licenses", "sources"]);
    [
        Step { name: "format", command: format, remedy: "run `cargo fmt --all`" },
        Step {
            name: "lints",
            command: lints,
            remedy: "fix what it names; `cargo clippy --workspace --all-targets --all-features` shows it again",
        },
        Step {
            name: "documentation",
            command: documentation,
            remedy: "fix the named comments; `cargo doc --workspace --no-deps --open` shows the pages",
        },
        Step {
            name: DEPENDENCIES,
            command: dependencies,
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
    use super::steps;
    use crate::process::describe;

    #[test]
    fn every_check_has_warnings_as_errors_and_a_remedy() {
        for step in steps() {
            assert!(!step.remedy.is_empty(), "{} says nothing on failure", step.name);
            assert!(describe(&step.command).starts_with("cargo "));
        }
    }
}
