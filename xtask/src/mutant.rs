//! `cargo xtask mutant`: can the checker of histories fail?
//!
//! A copy of the tree in which nothing keeps a stale owner from appending is built, and its node goes through the partitions
//! that every change goes through. The checker must name a broken history; if it finds none, it would find none in a node
//! that is wrong by accident either.

use std::{fs, path::Path};

use anyhow::{Context, bail, ensure};

use crate::{
    process::{command, read, run as run_command},
    setup, workspace,
};

/// Build a node without its fences, and see the checker of histories catch it
///
/// Copies the tracked files to `target/mutant`, takes the fences out, builds the node there (ten minutes the first time) and
/// runs the scenarios of partitions with it. Succeeds when they fail because a history is broken.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many disturbances there are at most
    #[arg(long, default_value_t = 20, value_name = "RUNS")]
    runs: u16,
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

/// What the checker says of a history that it does not take.
const FOUND: &str = "is broken at revision";

/// Does it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    setup::for_tests()?;
    let (tree, build) = (workspace::root().join("target/mutant/tree"), workspace::root().join("target/mutant/build"));
    eprintln!("mutant: a node without fences");
    copy_to(&tree)?;
    FENCES.iter().try_for_each(|fence| fence.apply(&tree))?;
    let mut building = command("cargo");
    building
        .args(["build", "--package", "wasmwiz", "--bin", "wasmwiz", "--manifest-path"])
        .arg(tree.join("Cargo.toml"));
    run_command(building.arg("--target-dir").arg(&build))?;
    run_command(command("cargo").args(["build", "--workspace", "--all-features", "--bins"]))?;
    eprintln!("mutant: the scenarios of partitions, with that node");
    let mut testing = command("cargo");
    testing.args(["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]);
    testing.args(["-E", "binary(it) & test(/^fleet::partitions::/)"]);
    testing.env("WASMWIZ_TESTS_NODE", build.join("debug/wasmwiz"));
    testing.env("WASMWIZ_TESTS_PARTITION_RUNS", arguments.runs.to_string());
    let output = testing.output().context("cannot start cargo-nextest")?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let named = said.lines().find(|line| line.contains(FOUND));
    match (output.status.success(), named) {
        (false, Some(line)) => {
            eprintln!("mutant: caught: {}", line.trim());
            Ok(())
        }
        (true, _) => bail!("a node without fences passed {} disturbances: the checker sees nothing", arguments.runs),
        (false, None) => bail!("the scenarios failed, and no broken history was named:\n{said}"),
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
            "{} has another fence than this chore takes out: bring `FENCES` up to date with it",
            self.file
        );
        Ok(text.replace(self.is, self.becomes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fence_is_where_this_chore_takes_it_out() {
        for fence in &FENCES {
            let text = fs::read_to_string(workspace::root().join(fence.file)).unwrap();
            let without = fence.of(&text).unwrap();
            fence.of(&without).unwrap_err();
        }
    }
}
