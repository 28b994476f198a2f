//! The golden log: what the version before has written is proven, answered and run again by this one. `cargo xtask upgrade` tries
//! the same with that version's program, and records the log.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use wasmwiz_tests::{
    cli,
    client::Client,
    folder::copy_all,
    harness::Launch,
    upgrade::{self, Counted, Golden},
};

/// A node's launch on a copy of the golden log: a log that is opened is written to.
fn launch(golden: &Golden) -> anyhow::Result<Launch> {
    let launch = Launch::node(&upgrade::settings())?;
    copy_all(&golden.data(), &launch.data())?;
    Ok(launch)
}

/// `wasmwiz` with these arguments on a data folder: its exit code, and what it printed.
async fn told(arguments: &[&str], launched: &Launch) -> anyhow::Result<(Option<i32>, Value)> {
    let data = launched.data();
    let data = data.to_string_lossy();
    let ended = cli::run(arguments.iter().copied().chain(["--output", "json", "--data", &*data])).await?;
    let told = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    Ok((ended.code, told))
}

#[test]
fn the_golden_log_is_of_the_version_that_is_pinned() -> anyhow::Result<()> {
    let (golden, pinned) = (Golden::of_the_tree()?, Golden::pinned()?);
    let recorded = &golden.expected().commit;
    ensure!(*recorded == pinned, "it is of {recorded}, and {pinned} is pinned: record it anew");
    Ok(())
}

#[tokio::test]
async fn a_log_of_the_version_before_is_proven_against_its_heads() -> anyhow::Result<()> {
    // Given what that version has left, and the heads that it has printed.
    let golden = Golden::of_the_tree()?;
    let (launch, heads) = (launch(&golden)?, golden.heads());
    let against = heads.to_string_lossy();

    // When it is verified, without a node. Then nothing is wrong, and nothing is gone.
    let (code, report) = told(&["audit", "verify", "--expect", &*against], &launch).await?;
    ensure!(code == Some(0) && report["findings"] == json!([]) && report["missing"] == json!([]), "{report}");
    let met = serde_json::from_value::<Counted>(report.clone())?;
    ensure!(met == golden.expected().counted, "{met:?}, and not {:?}", golden.expected().counted);
    ensure!(report["expected"] == met.tenants, "not every head was met: {report}");
    let (code, judged) = told(&["compat", "check"], &launch).await?;
    ensure!(code == Some(0) && judged["compatible"] == true, "{judged}");
    Ok(())
}

#[tokio::test]
async fn records_of_the_version_before_are_run_again_or_name_another_engine() -> anyhow::Result<()> {
    let golden = Golden::of_the_tree()?;
    let launch = launch(&golden)?;
    let (code, report) = told(&["audit", "re-run"], &launch).await?;
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    let (reproduced, others) = (count(&report["reproduced"]), count(&report["left"]["other-engine"]));
    ensure!(report["wrong"] == 0 && reproduced + others > 0, "{report}");
    // On another kind of processor there is another engine, and none can be run.
    ensure!(code == Some(if reproduced > 0 { 0 } else { 3 }), "it ended with {code:?}: {report}");
    eprintln!("{reproduced} records were the same, another engine made {others}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_answers_of_a_log_of_the_version_before_what_that_did_and_goes_on_with_it() -> anyhow::Result<()> {
    // Given a node on it.
    let golden = Golden::of_the_tree()?;
    let expected = golden.expected();
    let mut node = launch(&golden)?.start().await?;

    // When everything is read with the key of before. Then it is what it was.
    let shown = upgrade::shown(&node.ready().url, &expected.key).await?;
    let missing = upgrade::missing(&expected.shown, &shown);
    ensure!(missing.is_empty(), "it answers otherwise: {}", missing.join("; "));
    let executions = upgrade::executions(&expected.shown);
    ensure!(executions.len() > 10, "few executions are expected: {executions:?}");

    // One of its records is run again by the node, which says so, or says which engine made it.
    let client = Client::new(&node.ready().url, Some(&expected.key))?;
    let is_verifiable = |path: &String| shown.get(path).is_some_and(|one| one["deterministic"] == true);
    let path = executions.iter().map(|id| format!("/v1/executions/{id}")).find(is_verifiable);
    let path = path.context("no record says that it can be run again")?;
    let answer = client.post_bytes(&format!("{path}/verify"), "").await?;
    if answer.status == 409 {
        ensure!(answer.refuses(409, "not-verifiable")?["reason"] == "other-engine", "{}", answer.text());
    } else {
        ensure!(answer.is(200)?["reproduced"] == true, "{}", answer.text());
    }

    // It goes on, and the heads of before are still met.
    ensure!(client.execute("echo", "today").await?.stdout == "today", "it does not go on");
    ensure!(node.terminate().await?.success(), "the node did not end well: {}", node.stderr());
    let data = node.data().to_string_lossy().into_owned();
    let heads = golden.heads().to_string_lossy().into_owned();
    let verified = cli::run(["audit", "verify", "--data", &data, "--expect", &heads]).await?;
    ensure!(verified.code == Some(0) && verified.stdout.contains("were met again"), "{verified:?}");
    let figures = cli::run(["usage", "recompute", "--check", "--data", &data]).await?;
    ensure!(figures.code == Some(0), "{figures:?}");
    Ok(())
}
