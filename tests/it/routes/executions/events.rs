//! `/v1/executions/{id}/events`: the progress of one execution, up to its end.

use anyhow::{Context, ensure};
use reqwest::Method;
use wasmwiz_tests::{
    guests,
    sse::{Event, Stream},
};

use super::{
    super::{Setting, asks_for},
    asynchronous::{accepted, prefer},
};

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).collect()
}

#[tokio::test]
async fn an_execution_is_followed_to_its_end() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    let sleeper = guests::ENDLESS_SLEEP;
    client.put_module(sleeper.name, sleeper.wasm()?).await?.is(201)?;
    let path = accepted(client, sleeper.name, "").await?;
    let events = format!("{path}/events");
    let mut stream = Stream::open(client, &events, None).await?;
    let first = stream.next().await?.context("no first event")?;
    let second = stream.next().await?.context("no second event")?;
    let (accepted, started) = (first.json()?, second.json()?);
    ensure!(first.event == "accepted" && accepted["status"] == "queued", "{first:?}");
    ensure!(second.event == "started" && started["status"] == "running" && started["attempt"] == 1, "{second:?}");
    ensure!(path.ends_with(started["id"].as_str().context("no id")?) && started["outcome"].is_null(), "{started}");
    client.delete(&path).await?.is(200)?;
    let last = stream.next().await?.context("no last event")?;
    ensure!(last.event == "finished" && last.json()?["outcome"] == "cancelled", "{last:?}");
    ensure!(stream.next().await?.is_none(), "something comes after the end");

    // Read again from the log: the same, from any place on, and nothing after the last.
    let again = Stream::open(client, &events, None).await?.rest().await?;
    ensure!(again == [first.clone(), second.clone(), last.clone()], "{again:?}");
    let rest = Stream::open(client, &events, Some(&first.id)).await?.rest().await?;
    ensure!(rest == [second, last.clone()], "{rest:?}");
    ensure!(Stream::refused(client, &events, Some(&last.id)).await?.status == 204, "it would come back for ever");

    // One that somebody waited for runs from its acceptance on.
    let ran = prefer(client, "echo", "", "", "wait=1").await?.is(200)?;
    let other = format!("/v1/executions/{}/events", ran["id"].as_str().context("no id")?);
    // A stream is opened without the position of the last write: it is waited for here.
    client.get(&format!("/v1/executions/{}", ran["id"].as_str().context("no id")?)).await?.is(200)?;
    let followed = Stream::open(client, &other, None).await?.rest().await?;
    ensure!(names(&followed) == ["accepted", "finished"], "{followed:?}");
    ensure!(
        followed[0].json()?["status"] == "running" && followed[1].json()?["outcome"] == "succeeded",
        "{followed:?}"
    );

    stranger.client.get(&events).await?.refuses(404, "execution-not-found")?;
    client.get("/v1/executions/nonsense/events").await?.refuses(404, "execution-not-found")?;
    client.get(&format!("{events}?x=1")).await?.refuses(400, "invalid-query")?;
    Stream::refused(client, &events, Some("x")).await?.refuses(400, "malformed-position")?;
    asks_for(client, "executions:read", Method::GET, &events).await
}
