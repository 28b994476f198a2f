//! A node that is killed between the acceptance of an execution and its launch: the next life begins it, once.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::Value;
use wasmwiz_events::execution::Outcome;
use wasmwiz_tests::{
    chance::setting,
    cli,
    client::Client,
    guests,
    harness::Launch,
    history::{End, History},
    tenants::register,
    wait,
};

/// How often the node is killed, if the variable does not say otherwise.
const CYCLES: (&str, u64) = ("WASMWIZ_TESTS_ACCEPTED_KILLS", 3);

/// One execution of a tenant runs at a time, so that the second one is accepted and waits.
const NODE: &str = "
    node.data_dir = \"{data}\"
    listen.api = \"127.0.0.1:0\"
    listen.admin = \"127.0.0.1:0\"
    tiers.enterprise.executions_concurrent = 1
";

/// How long an execution may take to end after its node began anew.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// Has an execution accepted that nobody waits for; gives its path.
async fn accepted(client: &Client, module: &str) -> anyhow::Result<String> {
    let request = client.request(Method::POST, &format!("/v1/modules/{module}/executions"));
    let answer = client.send(request.header("prefer", "respond-async").body("later")).await?;
    answer.is(202)?;
    Ok(answer.header("location").context("no Location")?.to_owned())
}

async fn until(client: &Client, path: &str, status: &str) -> anyhow::Result<Value> {
    let what = format!("{path} to be {status}");
    wait::until(&what, ENDED_WITHIN, async || {
        let answer = client.get(path).await?;
        // The tenant may be being read back.
        if answer.status != 200 {
            return Ok(None);
        }
        let shown: Value = answer.json()?;
        Ok((shown["status"] == status).then_some(shown))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_and_not_launched_runs_once_in_the_next_life() -> anyhow::Result<()> {
    let cycles = setting(CYCLES.0, CYCLES.1)?;
    let mut node = Launch::node(NODE)?.start().await?;
    let tenant = register(&node.operator()?, "Patient", "enterprise").await?;
    for guest in [guests::ENDLESS_SLEEP, guests::ECHO] {
        tenant.client.put_module(guest.name, guest.wasm()?).await?.is(201)?;
    }
    let mut waited = Vec::new();
    for cycle in 1..=cycles {
        let client = tenant.client.at(&node.ready().url);
        let before = accepted(&client, "endless-sleep").await?;
        until(&client, &before, "running").await?;
        let path = accepted(&client, "echo").await?;
        node.kill9().await?;
        node.restart().await?;
        // What ran begins its second attempt. Once that has ended, the other has its turn.
        let client = tenant.client.at(&node.ready().url);
        until(&client, &before, "running").await?;
        client.delete(&before).await?.is(200).with_context(|| format!("cycle {cycle}"))?;
        let ended = until(&client, &path, "finished").await?;
        ensure!(ended["outcome"] == "succeeded" && ended["stdout"] == "later", "cycle {cycle}: {ended}");
        waited.push(path.rsplit('/').next().context("a path has parts")?.to_owned());
    }
    let history = History::read(&node.data())?;
    history.each_ended_once()?;
    for (id, recorded) in history.executions.iter().filter(|(id, _)| waited.contains(&id.to_string())) {
        let [accepted] = &recorded.accepted[..] else { anyhow::bail!("{id} was accepted {recorded:?}") };
        let [started] = &recorded.started[..] else { anyhow::bail!("{id} began {} times", recorded.started.len()) };
        ensure!(
            started.attempt == 1 && started.boot != accepted.boot,
            "{id} was launched before the kill: {recorded:?}"
        );
        let [End::Finished(finished)] = &recorded.ends[..] else { anyhow::bail!("{id} ended as {recorded:?}") };
        ensure!(finished.outcome == Outcome::Succeeded, "{id}: {finished:?}");
    }
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let verified = cli::verify(&node.data()).await?;
    ensure!(verified.code == Some(0), "the history is not intact: {verified:?}");
    eprintln!("{cycles} kills between acceptance and launch: {} ran once, in the next life", waited.len());
    Ok(())
}
