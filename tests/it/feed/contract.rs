//! What a node publishes, held against the document that describes it: every type of event, by its schema and subject.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use wasmwiz_events::event;
use wasmwiz_tests::{
    damage::flip,
    guests,
    harness::NodeProcess,
    history::History,
    nats::{NatsServer, Received},
    python,
    tenants::{Tenant, issue, register},
    wait,
};

use super::{fed, until_equal};

/// How long the check may take.
const SHORT: Duration = Duration::from_secs(60);

/// Everything that happens to a tenant, but for an execution that is lost.
async fn live(node: &NodeProcess) -> anyhow::Result<Tenant> {
    let operator = node.operator()?;
    let tenant = register(&operator, "Feed", "pro").await?;
    let path = format!("/v1/tenants/{}", tenant.id);
    operator.patch_json(&path, &json!({"name": "Renamed"})).await?.is(200)?;
    operator.patch_json(&path, &json!({"tier": "enterprise"})).await?.is(200)?;
    operator.post_json(&format!("{path}/suspend"), &json!({"reason": "a test"})).await?.is(200)?;
    operator.post_json(&format!("{path}/resume"), &json!({})).await?.is(200)?;
    let key = issue(&tenant.client, "short", &["usage:read"]).await?;
    tenant.client.with_credential(&key.secret).get("/v1/keys").await?.refuses(403, "missing-scope")?;
    tenant.client.post_json(&format!("/v1/keys/{}/rotate", key.id), &json!({"grace_seconds": 60})).await?.is(200)?;
    tenant.client.delete(&format!("/v1/keys/{}", key.id)).await?.is(204)?;
    tenant.client.put_module("echo.v1", guests::ECHO.wasm()?).await?.is(201)?;
    tenant.client.put_module("none", "no module").await?;
    let ran = tenant.client.execute("echo.v1", "hello").await?;
    tenant.client.post_bytes(&format!("/v1/executions/{}/verify", ran.id), "").await?.is(200)?;
    tenant
        .client
        .post_json(&format!("/v1/executions/{}/rerun", ran.id), &json!({"as_recorded": true}))
        .await?
        .is(200)?;
    tenant.client.post_bytes("/v1/modules/echo.v1/executions?fuel=1000000", "counted").await?.is(200)?;
    // Versions that say how they run, and a guest that looks at the host's clock.
    for (module, guest, query) in
        [("echo.v1", guests::ECHO, "sleep=skip&metered=true"), ("clock.v1", guests::CLOCK, "clock=host")]
    {
        let put = tenant.client.request(Method::PUT, &format!("/v1/modules/{module}?{query}"));
        tenant.client.send(put.header("content-type", "application/wasm").body(guest.wasm()?)).await?.is(201)?;
        tenant.client.execute(module, "as it says").await?;
    }
    let later = tenant.client.request(Method::POST, "/v1/modules/echo.v1/executions").header("prefer", "respond-async");
    let id = tenant.client.send(later.body("hello")).await?.is(202)?["id"].as_str().context("no id")?.to_owned();
    wait::until("the end of the asynchronous execution", wait::SOON, async || {
        Ok((tenant.client.get_json(&format!("/v1/executions/{id}")).await?["outcome"] == "succeeded").then_some(()))
    })
    .await?;
    tenant.client.delete("/v1/modules/echo.v1").await?.is(204)?;
    Ok(tenant)
}

/// Damages a commit of a tenant that the feed is past, has an operator skip it, and puts it right again.
async fn skip_one(node: &mut NodeProcess, server: &NatsServer) -> anyhow::Result<()> {
    let tenant = register(&node.operator()?, "Damaged", "pro").await?;
    // The newest commit of a stream is not skipped, so there is one behind it.
    for (name, guest) in [("echo.v1", guests::ECHO), ("greeter", guests::GREETER)] {
        tenant.client.put_module(name, guest.wasm()?).await?.is(201)?;
    }
    until_equal(node, server).await?;
    // A node that runs has it in memory.
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let position = flip(&node.data(), &tenant.id)?;
    node.restart().await?;
    let skip = json!({"tenant": tenant.id, "position": position, "reason": "a test"});
    node.operator()?.post_json("/v1/views/skip", &skip).await?.is(200)?;
    ensure!(flip(&node.data(), &tenant.id)? == position, "another commit");
    Ok(())
}

/// Leaves an execution open, and kills the node: at its next start the execution is lost.
async fn lose_one(node: &mut NodeProcess, tenant: &Tenant) -> anyhow::Result<()> {
    let (sleeper, data) = (guests::ENDLESS_SLEEP, node.data());
    tenant.client.put_module(sleeper.name, sleeper.wasm()?).await?.is(201)?;
    let client = tenant.client.clone();
    let sleeping = tokio::spawn(async move { client.execute(sleeper.name, "").await });
    wait::until("an open execution", wait::SOON, async || Ok((History::read(&data)?.open() == 1).then_some(())))
        .await?;
    node.kill9().await?;
    ensure!(sleeping.await?.is_err(), "an endless sleep was answered");
    node.restart().await
}

/// Holds messages against the document; the types that it describes.
async fn check(messages: &[Received]) -> anyhow::Result<Vec<String>> {
    let root = python::root();
    let mut command = python::command()?;
    command.arg(root.join("tests/contract/feed.py")).arg(root.join("docs/asyncapi.yaml"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run python: run `cargo xtask setup`")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let mut lines = String::new();
    for Received { subject, id, content_type, behind, event, .. } in messages {
        let mut headers = json!({"Nats-Msg-Id": id, "Content-Type": content_type});
        if let Some(behind) = behind {
            headers["Nats-Expected-Last-Sequence"] = behind.to_string().into();
        }
        lines += &format!("{}\n", json!({"subject": subject, "headers": headers, "payload": event}));
    }
    let written = async move { stdin.write_all(lines.as_bytes()).await };
    let (written, output) = tokio::join!(written, tokio::time::timeout(SHORT, child.wait_with_output()));
    let output = output.context("the check did not end")??;
    let (told, findings) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{findings}");
    written.context("the messages were not read to their end")?;
    Ok(told.split_whitespace().map(str::to_owned).collect())
}

#[tokio::test]
async fn every_type_of_event_is_published_as_the_document_describes_it() -> anyhow::Result<()> {
    let server = NatsServer::started().await?;
    let settings = [
        ("WASMWIZ_GATEWAY__DENIALS_EVERY_MS", "100"),
        // A record without its outputs can be run again all the same.
        ("WASMWIZ_RETENTION__OUTPUTS_DAYS", "0"),
        ("WASMWIZ_RETENTION__EVERY_SECONDS", "1"),
    ];
    let launch = settings.into_iter().fold(fed(&server)?, |launch, (name, value)| launch.variable(name, value));
    let mut node = launch.start().await?;
    skip_one(&mut node, &server).await?;
    let tenant = live(&node).await?;
    wait::until("the denials", wait::SOON, async || {
        let listed = tenant.client.get_json("/v1/audit?type=dev.wasmwiz.requests.denied.v1").await?;
        Ok(listed["items"].as_array().is_some_and(|items| !items.is_empty()).then_some(()))
    })
    .await?;
    lose_one(&mut node, &tenant).await?;
    // Outputs are released once nothing from before them is open.
    let last = ["dev.wasmwiz.execution.lost.v1", "dev.wasmwiz.payloads.released.v1"];
    let messages = wait::until("every event in the stream", wait::SOON, async || {
        let messages = until_equal(&node, &server).await?;
        let has = |kind: &str| messages.iter().any(|message| message.event["type"] == kind);
        Ok(last.into_iter().all(has).then_some(messages))
    })
    .await?;

    let described: BTreeSet<String> = check(&messages).await?.into_iter().collect();
    let known: BTreeSet<String> = event::TYPE_NAMES.iter().map(|&name| name.to_owned()).collect();
    ensure!(described == known, "described are {described:?}, known are {known:?}");
    let type_of = |message: &Received| message.event["type"].as_str().map(str::to_owned);
    let published: BTreeSet<String> = messages.iter().filter_map(type_of).collect();
    ensure!(published == known, "published are {published:?}, known are {known:?}");
    Ok(())
}

#[tokio::test]
async fn what_the_document_does_not_describe_is_found() -> anyhow::Result<()> {
    let golden = python::root().join("events/golden/dev.wasmwiz.module.deleted.v1.json");
    let good: Value = serde_json::from_str(&std::fs::read_to_string(golden)?)?;
    let message = |subject: &str, event: &Value| Received {
        subject: subject.to_owned(),
        id: event["id"].as_str().unwrap_or_default().to_owned(),
        content_type: "application/cloudevents+json".to_owned(),
        sequence: 1,
        behind: Some(0),
        event: event.clone(),
    };
    let subject = "wasmwiz.v1.t-4k2mq7x9.modules.hello.deleted";
    check(&[message(subject, &good)]).await?;
    let (mut undescribed, mut wrong) = (good.clone(), good.clone());
    undescribed["data"]["more"] = json!(1);
    wrong["data"]["name"] = json!(1);
    for (subject, event) in
        [(subject, &undescribed), (subject, &wrong), ("wasmwiz.v1.other.modules.hello.deleted", &good)]
    {
        ensure!(check(&[message(subject, event)]).await.is_err(), "not found: {event} on {subject}");
    }
    Ok(())
}
