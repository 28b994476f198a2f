//! Clients that mean harm, or do not know better: each is refused or cut off, and costs the node and its other clients
//! next to nothing.

use std::time::Duration;

use anyhow::{Context, ensure};
use wasmwiz_tests::{
    client::Client,
    harness::NodeProcess,
    memory::resident_bytes,
    metrics::{metric, until_counted},
    raw::Connection,
    wait::{self, SOON},
};

mod announced;
mod cors;
mod errors;
mod http2;
mod oversize;
mod packed;
mod shares;
mod slow;
mod smuggling;
mod tls;

/// By how much a node may grow while it refuses, in bytes.
const GROWTH_MAX_BYTES: u64 = 16 << 20;

/// What a client got on a bare connection.
#[derive(Debug)]
struct Got {
    /// The statuses of all answers, in order.
    statuses: Vec<u16>,
    /// Everything, as text.
    text: String,
}

/// Sends bytes as far as they are taken, and reads until the node closes.
async fn told(node: &NodeProcess, pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> anyhow::Result<Got> {
    let mut connection = Connection::open(&node.ready().url).await?;
    for piece in pieces {
        // A node that has closed says why, if it does, in what can be read.
        if connection.send(piece).await.is_err() {
            break;
        }
    }
    let text = String::from_utf8_lossy(&connection.read_to_end(SOON).await?).into_owned();
    let answers = text.match_indices("HTTP/1.1 ").filter_map(|(at, begun)| text.get(at + begun.len()..));
    let statuses = answers.filter_map(|rest| rest.get(..3)?.parse().ok()).collect();
    Ok(Got { statuses, text })
}

/// How much more memory the node takes than before.
struct Growth {
    client: Client,
    pid: u32,
    before: u64,
}

impl Growth {
    fn begin(node: &NodeProcess) -> anyhow::Result<Self> {
        let pid = node.ready().pid;
        Ok(Self { client: node.admin()?, pid, before: resident_bytes(pid)? })
    }

    /// The allocator gives memory back to the system a moment later than the node gives it back to the allocator, and
    /// while it works.
    async fn is_small(&self, what: &str) -> anyhow::Result<()> {
        let grown = || anyhow::Ok(resident_bytes(self.pid)?.saturating_sub(self.before));
        eprintln!("{what}: the node has grown by {} KiB at first", grown()? >> 10);
        let small = wait::until("it to be small", SOON, async || {
            self.client.get("/livez").await?.is(200)?;
            Ok(Some(grown()?).filter(|grown| *grown < GROWTH_MAX_BYTES))
        });
        let small = small.await.with_context(|| format!("{what}: the node has grown by {:?} bytes", grown()))?;
        eprintln!("{what}: and by {} KiB in the end", small >> 10);
        Ok(())
    }
}
