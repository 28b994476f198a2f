//! The servers that are loaded: a node, and the bare server of the benchmark.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use wasmwiz_tests::{harness::NodeProcess, wire};

use crate::open_loop::{self, Rate, Served};

/// What a server is sent before each measurement, which is thrown away.
const WARM_UP: Duration = Duration::from_millis(500);

/// The payload of one execution, in bytes.
const BODY_BYTES: usize = 1_024;

/// The same module on the same engine settings, and nothing recorded.
#[derive(Debug)]
pub(crate) struct Bare {
    child: Child,
    address: SocketAddr,
}

impl Bare {
    /// Starts the benchmark, from beside this program, as a server.
    ///
    /// # Errors
    /// When it is not there, or does not say where it serves.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("bench");
        ensure!(program.exists(), "{} is missing: `cargo xtask load` builds it", program.display());
        let child = Command::new(program).arg("--serve-bare").stdout(Stdio::piped()).spawn()?;
        let mut bare = Self { child, address: ([0; 4], 0).into() };
        let mut line = String::new();
        BufReader::new(bare.child.stdout.take().context("the bare server has no output")?).read_line(&mut line)?;
        bare.address = line.trim().parse().context("the bare server does not say where it serves")?;
        Ok(bare)
    }

    /// Where it is, and what is sent to it.
    pub(crate) fn target(&self) -> Target {
        Target { address: self.address, request: wire::echo_request("/", None, &body()) }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server, and what is sent to it.
#[derive(Debug)]
pub(crate) struct Target {
    address: SocketAddr,
    request: Vec<u8>,
}

impl Target {
    /// This node.
    ///
    /// # Errors
    /// When it does not say where it is.
    pub(crate) fn of(node: &NodeProcess) -> anyhow::Result<Self> {
        let ready = node.ready();
        let address = ready.url.trim_start_matches("http://").parse().context("the node's address is none")?;
        let key = ready.api_key.as_deref().context("the node gave no key")?;
        Ok(Self { address, request: wire::echo_request("/v1/modules/echo/executions", Some(key), &body()) })
    }

    /// Sends it requests at this rate.
    ///
    /// # Errors
    /// When it takes no connections.
    pub(crate) async fn loaded(&self, rate: Rate) -> anyhow::Result<Served> {
        open_loop::run(self.address, self.request.clone(), Rate { lasts: WARM_UP, ..rate }).await?;
        open_loop::run(self.address, self.request.clone(), rate).await
    }
}

/// An empty folder for the data of nodes, in place of what was there.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn empty_folder(data: &Path) -> anyhow::Result<PathBuf> {
    // It fails where nothing was.
    let _ = fs::remove_dir_all(data);
    fs::create_dir_all(data).context("no folder for the data of nodes")?;
    Ok(data.canonicalize()?)
}

fn body() -> Vec<u8> {
    (b'a'..=b'z').cycle().take(BODY_BYTES).collect()
}
