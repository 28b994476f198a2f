//! The node's commands that end by themselves.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::harness;

/// How long a command may take if nothing else is said. Generous: it is only spent when a test fails.
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
    run_of(&harness::binary()?, arguments).await
}

/// As [`run`], for a command that has much to do: it may take as long as `within`.
///
/// # Errors
/// As [`run`].
pub async fn run_within<A: AsRef<OsStr>>(
    within: Duration,
    arguments: impl IntoIterator<Item = A>,
) -> anyhow::Result<Ended> {
    end(without_settings(&harness::binary()?, arguments), "", within).await
}

/// Runs another program in the place of `wasmwiz`, such as one of an earlier version, to its end.
///
/// # Errors
/// As [`run`].
pub async fn run_of<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<Ended> {
    end(without_settings(program, arguments), "", DEADLINE).await
}

/// A command of which the settings of this run of the tests are none.
fn without_settings<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    for name in harness::settings_of_tests() {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

/// Runs a command with this input to its end.
async fn end(mut command: Command, stdin: &str, within: Duration) -> anyhow::Result<Ended> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let work = async {
        let mut child = command.spawn().context("cannot run the command")?;
        let mut pipe = child.stdin.take().context("the command has no input")?;
        // A command that does not read its input has ended without it.
        let _ = pipe.write_all(stdin.as_bytes()).await;
        drop(pipe);
        child.wait_with_output().await.context("the command has no end")
    };
    let output = tokio::time::timeout(within, work).await;
    let output = output.with_context(|| format!("the command did not end in {within:?}"))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

/// Somebody with a home folder of their own, for their profiles and files, and no settings but those given.
#[derive(Debug)]
pub struct User {
    home: TempDir,
    variables: Vec<(String, String)>,
}

impl User {
    /// Somebody new.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn new() -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("wasmwiz-user-").tempdir().context("cannot make a home folder")?;
        Ok(Self { home, variables: Vec::new() })
    }

    /// With this variable in their environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A path in their home folder, where their commands run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Puts a file into their home folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        std::fs::write(self.path(name), bytes).with_context(|| format!("{name} cannot be written"))
    }

    /// Runs `wasmwiz` with these arguments and no input.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<Ended> {
        self.run_with(arguments, "").await
    }

    /// Runs `wasmwiz` with these arguments and this input.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn run_with(&self, arguments: &[&str], stdin: &str) -> anyhow::Result<Ended> {
        let mut command = self.command(harness::binary()?.as_os_str())?;
        command.args(arguments);
        end(command, stdin, DEADLINE).await
    }

    /// As [`User::run`], for a command that has much to do: it may take as long as `within`.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn run_within(&self, within: Duration, arguments: &[&str]) -> anyhow::Result<Ended> {
        let mut command = self.command(harness::binary()?.as_os_str())?;
        command.args(arguments);
        end(command, "", within).await
    }

    /// Runs a script of the shell, which finds `wasmwiz` by its name and ends at the first command that fails.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn script(&self, text: &str) -> anyhow::Result<Ended> {
        let mut command = self.command("/bin/sh".as_ref())?;
        command.args(["-eu", "-c", text]);
        end(command, "", DEADLINE).await
    }

    /// A command in their home folder and environment.
    pub(crate) fn command(&self, program: &OsStr) -> anyhow::Result<Command> {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.home.path()).env("HOME", self.home.path());
        let binary = harness::binary()?;
        let folders = binary.parent().map(Path::to_owned).into_iter();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(folders.chain(std::env::split_paths(&path)))?;
        command.env("PATH", path).env("LC_ALL", "C.UTF-8").envs(self.variables.iter().cloned());
        Ok(command)
    }
}

/// `wasmwiz audit verify` of a node's data folder.
///
/// # Errors
/// As [`run`].
pub async fn verify(data: &Path) -> anyhow::Result<Ended> {
    run([OsStr::new("audit"), OsStr::new("verify"), OsStr::new("--data"), data.as_os_str()]).await
}
