//! `DELETE /v1/executions/{id}`: stops what waits or runs; one end whatever races.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use tokio::time::Instant;
use wasmwiz_events::execution::Outcome;
use wasmwiz_tests::{guests, history::History, tenants::only, wait};

use super::{
    super::{Setting, asks_for},
    asynchronous::{accepted, node, prefer, until},
};

/// How often an execution is cancelled while it may be ending.
const RACES: usize = 200;

/// How long a guest may take to be stopped here, with its commit and its view, on a machine that does other things too.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_guest_is_stopped_and_whoever_waits_for_it_is_told() -> anyhow::Result<()> {
    let Setting { node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    for guest in [guests::ENDLESS_SLEEP, guests::ENDLESS_LOOP] {
        client.put_module(guest.name, guest.wasm()?).await?.is(201)?;
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.post_bytes(&format!("/v1/modules/{}/executions", guest.name), "").await }
        });
        let id = wait::until("the execution", wait::SOON, async || {
            let shown = client.get(&format!("/v1/executions?module={}", guest.name)).await?.is(200)?;
            Ok(shown["items"][0]["id"].as_str().map(str::to_owned))
        })
        .await?;
        let path = format!("/v1/executions/{id}");
        ensure!(client.get(&path).await?.is(200)?["status"] == "running", "it does not run");
        stranger.client.delete(&path).await?.refuses(404, "execution-not-found")?;
        asks_for(client, "executions:run", Method::DELETE, &path).await?;
        let begun = Instant::now();
        let answer = only(client, "executions:run").await?.delete(&path).await?;
        let cancelled = answer.is(200)?;
        eprintln!("{} was stopped and recorded in {:?}", guest.name, begun.elapsed());
        ensure!(begun.elapsed() < STOPPED_WITHIN, "it took {:?}", begun.elapsed());
        ensure!(cancelled["outcome"] == "cancelled" && cancelled["status"] == "finished", "{cancelled}");
        ensure!(answer.header("wasmwiz-position").is_some(), "a write without a position: {answer:?}");
        let told = waiting.await??.is(200)?;
        ensure!(told["id"] == id.as_str() && told["outcome"] == "cancelled", "{told}");
        // Asked again it is the same.
        ensure!(client.delete(&path).await?.is(200)? == cancelled, "it is another answer the second time");
    }
    let ended = format!("/v1/executions/{}", client.execute("echo", "").await?.id);
    let refused = client.delete(&ended).await?.refuses(409, "execution-ended")?;
    ensure!(refused["reason"] == "succeeded", "{refused}");
    for absent in ["00000000-0000-7000-8000-000000000000", "nonsense"] {
        client.delete(&format!("/v1/executions/{absent}")).await?.refuses(404, "execution-not-found")?;
    }
    client.delete(&format!("{ended}?now=1")).await?.refuses(400, "invalid-query")?;
    History::read(&node.data())?.each_ended_once()
}

#[tokio::test]
async fn what_waits_is_cancelled_without_a_run() -> anyhow::Result<()> {
    let (node, tenant) = node("[tiers.enterprise]\nexecutions_concurrent = 1\n").await?;
    let client = &tenant.client;
    let running = accepted(client, "endless-sleep", "").await?;
    until(client, &running, "status", "running").await?;
    let waiting = accepted(client, "echo", "").await?;
    let cancelled = client.delete(&waiting).await?.is(200)?;
    ensure!(cancelled["outcome"] == "cancelled" && cancelled["usage"]["wall_ms"] == 0.0, "{cancelled}");
    let stopped = client.delete(&running).await?.is(200)?;
    ensure!(stopped["outcome"] == "cancelled" && stopped["usage"]["wall_ms"] != 0.0, "{stopped}");
    // The line goes on behind them.
    ensure!(prefer(client, "echo", "", "on", "respond-async, wait=20").await?.is(200)?["stdout"] == "on", "it stands");
    History::read(&node.data())?.each_ended_once()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_that_races_the_end_tells_which_came_first() -> anyhow::Result<()> {
    let (node, tenant) = node("").await?;
    let client = &tenant.client;
    let races = (0..RACES).map(async |race| {
        let answer = prefer(client, "spin", "", &(race % 8).to_string(), "respond-async").await?;
        answer.is(202)?;
        let path = answer.header("location").context("no Location")?.to_owned();
        // Two at once: they must agree.
        let (first, second) = tokio::join!(client.delete(&path), client.delete(&path));
        let (first, second) = (first?, second?);
        ensure!(first.status == second.status, "{} and {}", first.text(), second.text());
        let ended = until(client, &path, "status", "finished").await?;
        match first.status.as_u16() {
            200 => ensure!(ended["outcome"] == "cancelled", "answered as cancelled, and is {ended}"),
            _ => {
                let refused = first.refuses(409, "execution-ended")?;
                ensure!(refused["reason"] == ended["outcome"], "{refused} and {ended}");
            }
        }
        anyhow::Ok(first.status)
    });
    let mut cancelled = 0;
    for race in futures_util::future::join_all(races).await {
        cancelled += usize::from(race? == 200);
    }
    let history = History::read(&node.data())?;
    history.each_ended_once()?;
    let ended = history.ended(Outcome::Cancelled);
    eprintln!("{cancelled} of {RACES} were cancelled");
    ensure!(cancelled == ended, "{cancelled} were answered as cancelled, {ended} are recorded");
    Ok(())
}
