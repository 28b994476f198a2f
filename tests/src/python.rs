//! Python programs of the tests, with the packages that `cargo xtask setup` installs below `.tools`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::cli::Ended;

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The interpreter that finds the packages.
///
/// # Errors
/// When they are not installed.
pub fn command() -> anyhow::Result<Command> {
    let tools = root().join(".tools");
    let (own, packages) = (tools.join("python/bin/python"), tools.join("python-packages"));
    let mut command = if own.is_file() {
        Command::new(own)
    } else if packages.is_dir() {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", packages);
        command
    } else {
        bail!("the python packages of the tests are not installed: run `cargo xtask setup`");
    };
    // What is compiled beside the sources would be in the tree.
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUTF8", "1").stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// Runs it to its end.
///
/// # Errors
/// When it cannot be started, or does not end in time.
pub async fn run(command: &mut Command, deadline: Duration) -> anyhow::Result<Ended> {
    let output = tokio::time::timeout(deadline, command.output()).await;
    let output = output.with_context(|| format!("the program did not end in {deadline:?}"))?;
    let output = output.context("cannot run python: run `cargo xtask setup`")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
}
