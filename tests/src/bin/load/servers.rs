//! The servers that are loaded: a node, and the bare server of the benchmark.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use wasmwiz_tests::{
    harness::{Launch, NodeProcess},
    wire,
};

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
    pub(crate) fn target(&self) -> (SocketAddr, Vec<u8>) {
        (self.address, wire::echo_request("/", None, &body()))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a node with its data there.
///
/// # Errors
/// When it does not start.
pub(crate) async fn node(data: &Path) -> anyhow::Result<NodeProcess> {
    Launch::dev_on(data)?.start().await
}

/// Where it is, and what is sent to it.
///
/// # Errors
/// When it does not say so.
pub(crate) fn target(node: &NodeProcess) -> anyhow::Result<(SocketAddr, Vec<u8>)> {
    let ready = node.ready();
    let address = ready.url.trim_start_matches("http://").parse().context("the node's address is none")?;
    let key = ready.api_key.as_deref().context("the node gave no key")?;
    Ok((address, wire::echo_request("/v1/modules/echo/executions", Some(key), &body())))
}

fn body() -> Vec<u8> {
    (b'a'..=b'z').cycle().take(BODY_BYTES).collect()
}
