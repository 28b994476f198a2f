//! Every figure of usage follows from the log, and one that does not is named.

use anyhow::{Context, ensure};
use wasmwiz_tests::{cli, guests, harness::NodeProcess};

use super::ends;

#[tokio::test]
async fn a_figure_that_does_not_follow_from_the_log_is_named() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    let client = node.client()?;
    client.put_module("exit7", guests::EXIT7.wasm()?).await?.is(201)?;
    for input in ["", "1", "22", "333"] {
        client.execute("echo", input).await?;
        client.execute("exit7", "").await?;
    }
    client.get("/v1/usage").await?.is(200)?;
    let data = node.data();
    let data = data.to_str().context("the folder's name is no text")?;
    let check = ["usage", "recompute", "--data", data, "--check"];
    let beside = ends(cli::run(check).await?, 0)?;
    ensure!(beside.contains("every figure is the log's"), "beside a running node: {beside}");

    node.terminate().await?;
    let rested = ends(cli::run(check).await?, 0)?;
    ensure!(rested.contains("every figure is the log's"), "{rested}");
    let printed = ends(cli::run(["usage", "recompute", "--data", data, "--tenant", "dev"]).await?, 0)?;
    ensure!(printed.contains("module echo, succeeded:") && printed.contains("executions=4"), "{printed}");

    let view = node.data().join("views/usage.v6.db");
    let rows = rusqlite::Connection::open(&view)?;
    rows.execute("UPDATE usage SET stdin_bytes = stdin_bytes + 1 WHERE stdin_bytes > 0", [])?;
    rows.execute("UPDATE usage SET walls = x'0001' WHERE outcome <> 0", [])?;
    drop(rows);
    let wrong = cli::run(check).await?;
    ensure!(wrong.code == Some(1) && wrong.stdout.contains("FIGURES DIFFER"), "{wrong:?}");
    ensure!(wrong.stdout.contains("stdin_bytes of tenant dev") && wrong.stdout.contains("wall_us["), "{wrong:?}");
    let json = cli::run(check.into_iter().chain(["--output", "json"])).await?;
    let report: serde_json::Value = serde_json::from_str(&json.stdout)?;
    ensure!(json.code == Some(1) && report["differences"].as_array().is_some_and(|found| found.len() >= 2), "{report}");

    std::fs::remove_dir_all(node.data().join("views"))?;
    let missing = cli::run(check).await?;
    ensure!(missing.code == Some(1) && missing.stderr.contains("folds it from the log when it starts"), "{missing:?}");
    node.restart().await?;
    ends(cli::run(check).await?, 0)?;
    Ok(())
}
