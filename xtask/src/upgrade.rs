//! `cargo xtask upgrade`: this version and the one before it on one log, both ways.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

use crate::{
    process::{built, command, run as run_command},
    workspace,
};

/// Try this version and the one before it on one log, both ways
///
/// The commit in tests/upgrade/previous is the version before. Its program is built below target/upgrade (as long as a first build
/// takes, once for each commit), makes a history of every kind, and is killed. This version has to prove that log against the heads
/// that were printed of it, to answer the same, to run its records again or to name the engine that made them, and to go on with
/// it. Then the version before is asked whether it can read what has become of it: if it says so it has to, if not nothing may be
/// lost. What this version writes with forms that both know, the version before has to read.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The program of the version before, already built of the commit in tests/upgrade/previous
    #[arg(long, value_name = "FILE")]
    previous_program: Option<PathBuf>,
    /// The program of this version, such as that of a release; otherwise it is built as the tests are
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Write the log that the version before has left, its heads and what it answered: `tests/upgrade/log` is what the tests read
    #[arg(long, value_name = "FOLDER")]
    record: Option<PathBuf>,
}

/// Where it stands which commit is the version before, below the workspace's root.
const PREVIOUS: &str = "tests/upgrade/previous";

/// By which variable the tests are told of another program of the node.
const NODE: &str = "WASMWIZ_TESTS_NODE";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let commit = previous()?;
    eprintln!("upgrade: the version before is commit {commit}");
    let previous = match &arguments.previous_program {
        Some(program) => std::path::absolute(program)?,
        None => build(&commit)?,
    };
    // As the tests are built, so that one build serves both.
    run_command(command("cargo").args(["build", "--workspace", "--all-features", "--bins"]))?;
    let mut trial = built("debug", "upgrade")?;
    trial.arg("--previous").arg(previous).arg("--commit").arg(&commit);
    if let Some(folder) = &arguments.record {
        trial.arg("--record").arg(std::path::absolute(folder)?);
    }
    if let Some(program) = &arguments.program {
        trial.env(NODE, std::path::absolute(program)?);
    }
    run_command(&mut trial)
}

/// The commit that is pinned.
fn previous() -> anyhow::Result<String> {
    let text = fs::read_to_string(workspace::root().join(PREVIOUS));
    commit(&text.with_context(|| format!("cannot read {PREVIOUS}"))?)
}

/// The whole name of a commit: a short one may come to mean another.
fn commit(text: &str) -> anyhow::Result<String> {
    let commit = text.trim();
    let is_whole = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    ensure!(
        is_whole,
        "{PREVIOUS} has {commit:?} and no whole name of a commit: write what `git rev-parse v0.1.0^{{commit}}` prints"
    );
    Ok(commit.to_owned())
}

/// Builds the program of a commit, in a tree and a target folder of its own.
///
/// Not in the target folder of this tree: Cargo names what it makes of a workspace's crates by their places in that workspace, and tells
/// by files' times whether it is up to date. Two trees in one folder would take each other's programs for their own.
fn build(commit: &str) -> anyhow::Result<PathBuf> {
    let folder = workspace::root().join("target/upgrade");
    let (tree, target) = (folder.join("tree"), folder.join("build"));
    check_out(commit, &tree).with_context(|| {
        format!("cannot check commit {commit} out: fetch the whole history, or delete {}", tree.display())
    })?;
    let mut building = command("cargo");
    // By that commit's own toolchain, where it names another: what runs this chore has chosen one by a variable.
    building.current_dir(&tree).env_remove("RUSTUP_TOOLCHAIN");
    building.args(["build", "--locked", "--workspace", "--all-features", "--bin", "wasmwiz", "--target-dir"]);
    run_command(building.arg(&target))?;
    Ok(target.join("debug/wasmwiz"))
}

/// Files that are the same in both keep their time, for Cargo's sake; others get the present one, however old the commit is.
fn check_out(commit: &str, tree: &Path) -> anyhow::Result<()> {
    if !tree.join(".git").exists() {
        let mut clone = command("git");
        clone.args(["clone", "--quiet", "--shared", "--no-checkout"]);
        run_command(clone.arg(workspace::root()).arg(tree))?;
    }
    run_command(command("git").arg("-C").arg(tree).args(["checkout", "--quiet", "--force", "--detach", commit]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_before_is_pinned_by_the_whole_name_of_a_commit() {
        previous().unwrap();
        let whole = "0a".repeat(20);
        assert_eq!(commit(&format!("{whole}\n")).unwrap(), whole);
        for other in ["", "HEAD", "v0.1.0", "0a0a0a0a", &"0g".repeat(20)] {
            let error = commit(other).unwrap_err().to_string();
            assert!(error.contains(PREVIOUS) && error.contains("git rev-parse"), "{error}");
        }
    }

    #[test]
    fn the_variable_is_the_one_that_the_tests_read() {
        let harness = fs::read_to_string(workspace::root().join("tests/src/harness.rs")).unwrap();
        assert!(harness.contains(&format!("\"{NODE}\"")));
    }
}
