//! The node's commands that end by themselves.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

use anyhow::Context;
use tokio::process::Command;

use crate::harness;

/// How long a command may take. Generous: it is only spent when a test fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// How a command ended, and what it said.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit code; absent when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// Runs `wasmwiz` with these arguments to its end.
///
/// # Errors
/// When it cannot be started, or does not end in time.
pub async fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> anyhow::Result<Ended> {
    let mut command = Command::new(harness::binary()?);
    for name in harness::settings_of_tests() {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = output.with_context(|| format!("the command did not end in {DEADLINE:?}"))?;
    let output = output.context("cannot run wasmwiz")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

/// `wasmwiz audit verify` of a node's data folder.
///
/// # Errors
/// As [`run`].
pub async fn verify(data: &Path) -> anyhow::Result<Ended> {
    run([OsStr::new("audit"), OsStr::new("verify"), OsStr::new("--data"), data.as_os_str()]).await
}
