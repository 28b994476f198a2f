//! A node as a process: the real binary, its own folder, a free port, and ways for it to die.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{PipeReader, PipeWriter},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{cli::Ended, client::Client, wait};

mod strace;

/// How long a node may take until it serves. Generous: it compiles its examples first, on a machine that runs tests.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long a node may take to end after it was told to.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// How much of a node's standard error is shown when it fails, in bytes.
const SHOWN_BYTES: usize = 8 * 1024;

/// The variable that keeps the folders of nodes, with what they logged, for a look at why a test failed.
const KEEP: &str = "WASMWIZ_TESTS_KEEP";

/// What a node tells in its ready file.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    /// Where the API is, for instance `http://127.0.0.1:40123`.
    pub url: String,
    /// Where the admin listener is.
    pub admin_url: Option<String>,
    /// The tenant that `dev` registers.
    pub tenant: Option<String>,
    /// An API key of that tenant.
    pub api_key: Option<String>,
    /// What an operator authenticates with.
    pub operator_token: Option<String>,
    /// The node's process.
    pub pid: u32,
}

/// How to start a node. Starting the same launch again is a restart: same folder, same arguments.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: TempDir,
    data: PathBuf,
    /// A pipe that nobody reads, as its standard error.
    unread: Option<(PipeReader, PipeWriter)>,
}

impl Launch {
    /// `wasmwiz dev`, on a free port and an empty folder.
    ///
    /// # Errors
    /// When the binary was not built, or no folder can be made.
    pub fn dev() -> anyhow::Result<Self> {
        Ok(Self::of(binary()?)?.serving_dev())
    }

    /// The same with its data in this folder, which stays when the node goes.
    ///
    /// # Errors
    /// As [`Self::dev`].
    pub fn dev_on(data: &Path) -> anyhow::Result<Self> {
        let mut launch = Self::of(binary()?)?;
        launch.data = data.to_owned();
        Ok(launch.serving_dev())
    }

    fn serving_dev(self) -> Self {
        let data = self.data();
        self.argument("dev").argument("--listen").argument("127.0.0.1:0").argument("--data").argument(data)
    }

    /// `wasmwiz node` with this configuration file, in which `{data}` stands for the node's own empty folder.
    ///
    /// # Errors
    /// As [`Self::dev`].
    pub fn node(config: &str) -> anyhow::Result<Self> {
        let mut launch = Self::of(binary()?)?;
        if !config.contains("announce_ms") {
            // Nothing that has to look elsewhere first, and many nodes that are stopped.
            launch = launch.variable("WASMWIZ_SHUTDOWN__ANNOUNCE_MS", "0");
        }
        let file = launch.folder.path().join("node.toml");
        fs::write(&file, config.replace("{data}", &launch.data().to_string_lossy()))
            .context("cannot write node.toml")?;
        Ok(launch.argument("node").argument("--config").argument(file))
    }

    /// `wasmwiz` with arguments of one's own, beside the `--ready-file` that every launch has.
    ///
    /// # Errors
    /// As [`Self::dev`].
    pub fn bare() -> anyhow::Result<Self> {
        Self::of(binary()?)
    }

    fn of(program: PathBuf) -> anyhow::Result<Self> {
        let keep = std::env::var_os(KEEP).is_some();
        let made = tempfile::Builder::new().prefix("wasmwiz-").disable_cleanup(keep).tempdir();
        let folder = made.context("cannot make a folder for a node")?;
        let data = folder.path().join("data");
        Ok(Self { program, arguments: Vec::new(), environment: Vec::new(), folder, data, unread: None })
    }

    /// With one more argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With this variable in its environment.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// On a host, by [`crate::hosts::Hosts::runs_on`]. The node stays this process's own child, so that signals reach it.
    #[must_use]
    pub fn on_host(mut self, runs_on: [OsString; 4]) -> Self {
        let [ip, rest @ ..] = runs_on;
        let program = std::mem::replace(&mut self.program, PathBuf::from(ip));
        let own = std::mem::take(&mut self.arguments);
        self.arguments.extend(rest);
        self.arguments.push(program.into());
        self.arguments.extend(own);
        self
    }

    /// With another program: a copy of the node's, for instance.
    #[must_use]
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// With a pipe that nobody reads as its standard error: it is full after 64 KiB.
    ///
    /// # Errors
    /// When no pipe can be made.
    pub fn with_unread_stderr(mut self) -> anyhow::Result<Self> {
        self.unread = Some(std::io::pipe().context("cannot make a pipe")?);
        Ok(self)
    }

    /// The configuration file of [`Self::node`].
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("node.toml")
    }

    /// Where the node keeps its data.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Starts it, and waits until it serves.
    ///
    /// # Errors
    /// When it ends before it serves, or does not serve in time; with the end of what it wrote to standard error.
    pub async fn start(self) -> anyhow::Result<NodeProcess> {
        let child = self.spawn()?;
        let ready =
            Ready { url: String::new(), admin_url: None, tenant: None, api_key: None, operator_token: None, pid: 0 };
        let mut node = NodeProcess { launch: self, child, ready };
        node.wait_until_ready().await?;
        Ok(node)
    }

    /// Starts it, waits until it has ended by itself, and gives how. For nodes that must not start.
    ///
    /// # Errors
    /// When it serves instead, or does not end in time.
    pub async fn start_in_vain(self) -> anyhow::Result<Ended> {
        let mut child = self.spawn()?;
        let file = self.ready_file();
        let ended = wait::until("the end of a node that must not start", START_DEADLINE, async || {
            ensure!(!file.exists(), "the node serves, and must not");
            child.try_wait().map_err(Into::into)
        });
        let ended = ended.await;
        // Both fail only when it is gone already.
        let _ = child.kill();
        let _ = child.wait();
        let text = |file: &Path| fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let stdout = text(&self.stdout_file()).unwrap_or_default();
        let stderr = text(&self.stderr_file()).unwrap_or_default();
        Ok(Ended { code: ended?.code(), stdout, stderr })
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let ready_file = self.ready_file();
        if ready_file.exists() {
            fs::remove_file(&ready_file).context("cannot remove the old ready file")?;
        }
        let stderr = File::options().create(true).append(true).open(self.stderr_file());
        let stderr: Stdio = match &self.unread {
            Some((_, full)) => full.try_clone().context("cannot share the pipe")?.into(),
            None => stderr.context("cannot write stderr.log")?.into(),
        };
        let stdout = File::options().create(true).append(true).open(self.stdout_file());
        let mut command = Command::new(&self.program);
        for name in settings_of_tests() {
            command.env_remove(name);
        }
        command
            .args(&self.arguments)
            .arg("--ready-file")
            .arg(&ready_file)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(stdout.context("cannot write stdout.log")?)
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.path().join("ready.json")
    }

    /// What it has written to standard output, over all its lives.
    fn stdout_file(&self) -> PathBuf {
        self.folder.path().join("stdout.log")
    }

    fn stderr_file(&self) -> PathBuf {
        self.folder.path().join("stderr.log")
    }
}

/// A node that was started. It is killed when this is dropped, and its folder goes with it.
#[derive(Debug)]
pub struct NodeProcess {
    launch: Launch,
    child: Child,
    ready: Ready,
}

impl NodeProcess {
    /// Starts `wasmwiz dev` with nothing special.
    ///
    /// # Errors
    /// As [`Launch::dev`] and [`Launch::start`].
    pub async fn dev() -> anyhow::Result<Self> {
        Launch::dev()?.start().await
    }

    /// What it told when it became ready.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Where it keeps its data.
    pub fn data(&self) -> PathBuf {
        self.launch.data()
    }

    /// A client of its API that holds the API key of the `dev` tenant, when there is one.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.ready.url, self.ready.api_key.as_deref())
    }

    /// A client of its API that holds the operator's token.
    ///
    /// # Errors
    /// When the node gave none.
    pub fn operator(&self) -> anyhow::Result<Client> {
        let token = self.ready.operator_token.as_deref().context("the node gave no operator token")?;
        Client::new(&self.ready.url, Some(token))
    }

    /// A client of its admin listener.
    ///
    /// # Errors
    /// When the node gave none.
    pub fn admin(&self) -> anyhow::Result<Client> {
        let url = self.ready.admin_url.as_deref().context("the node gave no admin address")?;
        Client::new(url, None)
    }

    /// Kills it (SIGKILL): it notices nothing. What it has written to files stays with the system, synced or not; it is
    /// no power cut.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.ended().await.map(drop)
    }

    /// Tells it to end (SIGTERM), and gives how it did.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended().await
    }

    /// Sends it a signal, if it still runs.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.exit_status()?.is_some() {
            return Ok(());
        }
        kill_process(Pid::from_child(&self.child), signal).context("cannot send a signal to the node")
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it does not end in time; with the end of what it wrote to standard error.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let ended =
            wait::until("the node's end", END_DEADLINE, async || self.child.try_wait().map_err(Into::into)).await;
        ended.with_context(|| self.last_words())
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn exit_status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot ask for the node's end")
    }

    /// Starts it again on the same folder, and waits until it serves. A node that still runs is told to end first. Its
    /// port is another one.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.begin_again().await?;
        self.wait_until_ready().await
    }

    /// Starts it again on the same folder, and does not wait until it serves.
    ///
    /// # Errors
    /// When the one that still runs does not end, or no other can be started.
    pub async fn begin_again(&mut self) -> anyhow::Result<()> {
        self.terminate().await?;
        self.child = self.launch.spawn()?;
        Ok(())
    }

    /// From its next start on it is this program: another version of the node, on the same folder.
    pub fn set_program(&mut self, program: PathBuf) {
        self.launch.program = program;
    }

    /// All that it has written to standard error, over all its lives.
    pub fn stderr(&self) -> String {
        fs::read(self.launch.stderr_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// All that it has written to standard output, over all its lives.
    pub fn stdout(&self) -> String {
        fs::read(self.launch.stdout_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// How many bytes it has written to a standard error that nobody reads.
    ///
    /// # Errors
    /// When somebody reads it.
    pub fn unread_bytes(&self) -> anyhow::Result<u64> {
        let (reader, _) = self.launch.unread.as_ref().context("its standard error is a file")?;
        rustix::io::ioctl_fionread(reader).context("a pipe does not say what it holds")
    }

    /// The text of its ready file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn ready_text(&self) -> anyhow::Result<String> {
        fs::read_to_string(self.launch.ready_file()).context("cannot read the ready file")
    }

    /// Waits until it serves, after [`Self::begin_again`].
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        self.ready_within(START_DEADLINE).await
    }

    /// The same for a start that has more to do than most.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub async fn ready_within(&mut self, within: Duration) -> anyhow::Result<()> {
        let file = self.launch.ready_file();
        let ready = wait::until("the node's ready file", within, async || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the node ended with {status} before it served");
            }
            read_ready(&file)
        });
        let ready = ready.await;
        self.ready = ready.with_context(|| self.last_words())?;
        Ok(())
    }

    fn last_words(&self) -> String {
        let stderr = self.stderr();
        let start =
            (stderr.len().saturating_sub(SHOWN_BYTES)..=stderr.len()).find(|start| stderr.is_char_boundary(*start));
        let end = start.and_then(|start| stderr.get(start..)).unwrap_or_default();
        format!("the node's standard error ends with:\n{end}\n(end of the node's standard error)")
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        // Both fail only when the node is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ready file, once it is there. It appears complete, so what cannot be read is an error and not a reason to wait.
fn read_ready(file: &Path) -> anyhow::Result<Option<Ready>> {
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).context("the ready file is not of its shape").map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot read the ready file"),
    }
}

/// Variables that are meant for the tests, and are nothing to a node.
pub(crate) fn settings_of_tests() -> impl Iterator<Item = OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| name.to_string_lossy().starts_with("WASMWIZ_TESTS_"))
}

/// Names a node's binary for all tests, in place of the one that was built with them.
const NODE: &str = "WASMWIZ_TESTS_NODE";

/// The node's binary, built with the same settings as this test: `target/<profile>/wasmwiz`, beside `deps/`.
///
/// # Errors
/// When it is not there.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(other) = std::env::var_os(NODE) {
        return Ok(other.into());
    }
    let test = std::env::current_exe().context("cannot find this test's own binary")?;
    let found = test.ancestors().skip(1).take(2).map(|folder| folder.join("wasmwiz")).find(|program| program.is_file());
    found.context("the node is not built: run `cargo build --workspace --all-features --bins`, or `cargo xtask test`")
}

#[cfg(test)]
mod tests;
