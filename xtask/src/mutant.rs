//! `cargo xtask mutant`: can the checkers of histories fail?
//!
//! A copy of the tree is broken on purpose and built, and its node goes through what every change, or every night, goes through.
//! The checker must name what is broken; if it finds nothing, it would find nothing in a node that is wrong by accident either.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, bail, ensure};

use clap::ValueEnum;

use crate::{
    process::{built, command, describe, read, run as run_command},
    setup, workspace,
};

/// Build a node that is broken on purpose, and see a checker of histories catch it
///
/// Copies the tracked files to `target/mutant`, breaks them, builds the node there (ten minutes the first time) and runs what
/// has to notice. Succeeds when that fails because a history is broken.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What is broken
    #[arg(value_enum, default_value_t = Mutant::Fences, value_name = "MUTANT")]
    mutant: Mutant,
    /// How many disturbances there are at most; for `fences`
    #[arg(long, default_value_t = 20, value_name = "RUNS")]
    runs: u16,
}

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mutant {
    /// Nothing keeps a stale owner from appending; the scenarios of partitions have to notice
    Fences,
    /// What a dead node was running is never ended; `cargo xtask chaos` has to notice
    Ends,
}

/// A text of a file, which is there once, and what takes its place.
struct Mutation {
    file: &'static str,
    is: &'static str,
    becomes: &'static str,
}

/// What keeps a stale owner from appending: its own clock, the comparison with the end of the subject, and the server's.
const FENCES: [Mutation; 3] = [
    Mutation {
        file: "node/src/cluster/lease.rs",
        is: "matches!(self.standing, Standing::Until(until) if now < until)",
        becomes: "matches!(self.standing, Standing::Until(until) if now != until || now == until)",
    },
    Mutation {
        file: "events/src/log/jetstream/append.rs",
        is: "match admit(&tail.head, commit) {",
        becomes: "let _ = admit;\n        match Admission::Next {",
    },
    Mutation {
        file: "events/src/log/jetstream/session.rs",
        is: "headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());",
        becomes: "let _ = (NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected);",
    },
];

/// What ends an execution whose node is gone.
const ENDS: [Mutation; 1] = [Mutation {
    file: "actors/src/tenant/executions.rs",
    is: "is_over(open)).take(LOST_AT_ONCE);",
    becomes: "is_over(open)).take(LOST_AT_ONCE.min(0));",
}];

impl Mutant {
    const fn mutations(self) -> &'static [Mutation] {
        match self {
            Self::Fences => &FENCES,
            Self::Ends => &ENDS,
        }
    }

    /// What the checker says of a history that it does not take.
    const fn found(self) -> &'static str {
        match self {
            Self::Fences => "is broken at revision",
            Self::Ends => "was accepted 1 times and ended 0 times",
        }
    }

    /// What has to notice.
    fn trial(self, runs: u16) -> anyhow::Result<Command> {
        match self {
            Self::Fences => {
                let mut testing = command("cargo");
                testing.args(["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]);
                testing.args(["-E", "binary(it) & test(/^fleet::partitions::/)"]);
                testing.env("WASMWIZ_TESTS_PARTITION_RUNS", runs.to_string());
                Ok(testing)
            }
            Self::Ends => {
                let mut chaos = built("debug", "chaos")?;
                chaos.args(["--only", "kill"]);
                Ok(chaos)
            }
        }
    }
}

/// Does it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mutant = arguments.mutant;
    if mutant == Mutant::Fences {
        setup::for_tests()?;
    }
    let (tree, build) = (workspace::root().join("target/mutant/tree"), workspace::root().join("target/mutant/build"));
    eprintln!("mutant: a node without {mutant:?}");
    copy_to(&tree)?;
    mutant.mutations().iter().try_for_each(|mutation| mutation.apply(&tree))?;
    let mut building = command("cargo");
    building.args(["build", "--workspace", "--all-features", "--bin", "wasmwiz", "--manifest-path"]);
    run_command(building.arg(tree.join("Cargo.toml")).arg("--target-dir").arg(&build))?;
    run_command(command("cargo").args(["build", "--workspace", "--all-features", "--bins"]))?;
    eprintln!("mutant: what has to notice, with that node");
    let mut trial = mutant.trial(arguments.runs)?;
    let output = trial.env("WASMWIZ_TESTS_NODE", build.join("debug/wasmwiz")).output();
    let output = output.with_context(|| format!("cannot start `{}`", describe(&trial)))?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let named = said.lines().find(|line| line.contains(mutant.found()));
    match (output.status.success(), named) {
        (false, Some(line)) => {
            eprintln!("mutant: caught: {}", line.trim());
            Ok(())
        }
        (true, _) => bail!("a node without {mutant:?} passed: the checker sees nothing"),
        (false, None) => bail!("it failed, and no broken history was named:\n{said}"),
    }
}

/// Copies what git tracks, as it is in the work tree. Files that are the same keep their time, for Cargo's sake.
fn copy_to(tree: &Path) -> anyhow::Result<()> {
    for name in read(command("git").args(["ls-files"]))?.lines() {
        let bytes = match fs::read(workspace::root().join(name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {name}")),
        };
        write(&tree.join(name), &bytes)?;
    }
    Ok(())
}

fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if fs::read(file).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
    fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

impl Mutation {
    fn apply(&self, tree: &Path) -> anyhow::Result<()> {
        let file = tree.join(self.file);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", self.file))?;
        write(&file, self.of(&text)?.as_bytes())
    }

    /// The file's text with it.
    fn of(&self, text: &str) -> anyhow::Result<String> {
        ensure!(
            text.matches(self.is).count() == 1,
            "{} does not have once what this chore breaks: bring its mutations up to date with it",
            self.file
        );
        Ok(text.replace(self.is, self.becomes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_chore_breaks_is_where_it_looks_for_it() {
        for mutation in Mutant::value_variants().iter().flat_map(|mutant| mutant.mutations()) {
            let text = fs::read_to_string(workspace::root().join(mutation.file)).unwrap();
            let broken = mutation.of(&text).unwrap();
            mutation.of(&broken).unwrap_err();
        }
    }
}
