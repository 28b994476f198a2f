//! A node whose program is replaced or removed while it runs.

use std::fs;

use anyhow::ensure;
use wasmwiz_tests::{
    guests,
    harness::{self, Launch},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_compiles_with_the_program_that_it_runs_whatever_is_in_its_place() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (program, other) = (folder.path().join("wasmwiz"), folder.path().join("other"));
    fs::copy(harness::binary()?, &program)?;
    let node = Launch::dev()?.program(program.clone()).start().await?;
    let client = node.client()?;

    // As an upgrade does it: another program under the same name.
    fs::copy("/bin/false", &other)?;
    fs::rename(&other, &program)?;
    client.put_module("exit7", guests::EXIT7.wasm()?).await?.is(201)?;
    let ran = client.execute("exit7", "").await?;
    ensure!(ran.exit_code == Some(7), "{ran:?}");

    fs::remove_file(&program)?;
    client.put_module("clock", guests::CLOCK.wasm()?).await?.is(201)?;
    let ran = client.execute("clock", "").await?;
    ensure!(ran.outcome.as_deref() == Some("succeeded"), "{ran:?}");
    Ok(())
}
