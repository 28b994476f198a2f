//! Requests that are sent again: each is done once, and answered as at first, whatever came in between.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use reqwest::{Method, multipart};
use serde_json::{Value, json};
use wasmwiz_events::{execution::Outcome, id::ExecutionId};
use wasmwiz_tests::{
    chance::Chance,
    client::{Answer, Client},
    guests,
    harness::NodeProcess,
    history::History,
    tenants::{Tenant, issue, register},
    wait,
};

const KEY: &str = "idempotency-key";

/// Retries of one request at the same time.
const RETRIES: usize = 1_000;

/// How often a node is killed while a request is on its way.
const KILLS: u64 = 12;

async fn setting() -> anyhow::Result<(NodeProcess, Client, Tenant)> {
    let node = NodeProcess::dev().await?;
    let operator = node.operator()?;
    let tenant = register(&operator, "Acme", "enterprise").await?;
    for guest in [guests::ECHO, guests::SPIN, guests::EXIT7] {
        tenant.client.put_module(guest.name, guest.wasm()?).await?.is(201)?;
    }
    Ok((node, operator, tenant))
}

async fn run(client: &Client, module: &str, key: &str, stdin: impl Into<Bytes>) -> anyhow::Result<Answer> {
    let request = client.request(Method::POST, &format!("/v1/modules/{module}/executions"));
    client.send(request.header(KEY, key).body(stdin.into())).await
}

async fn post(client: &Client, path: &str, key: &str, body: &Value) -> anyhow::Result<Answer> {
    client.send(client.request(Method::POST, path).header(KEY, key).json(body)).await
}

fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == Some("true")
}

/// The executions that are recorded for this key of the tenant.
fn recorded(node: &NodeProcess, key: &str) -> anyhow::Result<Vec<(ExecutionId, Vec<Outcome>)>> {
    let history = History::read(&node.data())?;
    let of_key = history.executions.iter().filter(|(_, it)| it.accepted.iter().any(|it| it.key_id.as_str() == key));
    Ok(of_key.map(|(id, it)| (*id, it.ends.iter().map(wasmwiz_tests::history::End::outcome).collect())).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_retries_of_one_execution_run_it_once_and_all_get_the_one_answer() -> anyhow::Result<()> {
    let (node, _, tenant) = setting().await?;
    let client = &tenant.client;
    let retry = || async {
        let mut in_progress = 0;
        let answered = wait::until("the one answer", wait::SOON * 6, async || {
            // A node takes so many connections from one address, and so many in all where descriptors are few: who finds
            // none free sends it again, as for any answer that is lost.
            let Ok(answer) = run(client, "spin", "retried-1000-times", "300").await else { return Ok(None) };
            if answer.status == 503 && answer.problem().as_deref() == Some("too-many-connections") {
                return Ok(None);
            }
            if answer.status == 409 {
                answer.refuses(409, "request-in-progress")?;
                ensure!(answer.header("retry-after").is_some(), "no Retry-After: {answer:?}");
                in_progress += 1;
                return Ok(None);
            }
            answer.is(200)?;
            Ok(Some(answer))
        });
        answered.await.map(|answer| (answer, in_progress))
    };
    let answered = try_join_all((0..RETRIES).map(|_| retry())).await?;
    let (first, _) = answered.first().context("no answer")?;
    let position = |answer: &Answer| answer.header("wasmwiz-position").map(str::to_owned);
    for (answer, _) in &answered {
        ensure!(answer.body == first.body, "another answer: {}", answer.text());
        ensure!(answer.header("location") == first.header("location"), "another place: {answer:?}");
        ensure!(position(answer).is_some() && position(answer) == position(first), "another position: {answer:?}");
    }
    let originals = answered.iter().filter(|(answer, _)| !is_replayed(answer)).count();
    ensure!(originals == 1, "{originals} answers do not say that they are replayed");
    let executions = recorded(&node, &tenant.key.id)?;
    ensure!(matches!(&executions[..], [(_, ends)] if ends[..] == [Outcome::Succeeded]), "{executions:?}");
    eprintln!("409 before the answer: {}", answered.iter().map(|(_, in_progress)| in_progress).sum::<usize>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_under_way_never_runs_a_request_twice() -> anyhow::Result<()> {
    let (mut node, _, tenant) = setting().await?;
    let mut chance = Chance::printed()?;
    let (mut outcomes, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for kill in 0..KILLS {
        let key = format!("kill-{kill}");
        let client = Client::new(&node.ready().url, Some(&tenant.key.secret))?;
        let accepted_before = recorded(&node, &tenant.key.id)?.len();
        let ms = chance.within(1..120).to_string();
        let first = tokio::spawn({
            let (client, key, ms) = (client.clone(), key.clone(), ms.clone());
            async move { run(&client, "spin", &key, ms).await }
        });
        // Killed once it is accepted: while it runs, while its end is recorded, or when it has just been answered.
        wait::until("an accepted execution", wait::SOON, async || {
            Ok((recorded(&node, &tenant.key.id)?.len() > accepted_before).then_some(()))
        })
        .await?;
        tokio::time::sleep(std::time::Duration::from_millis(chance.within(0..120))).await;
        node.kill9().await?;
        let first = first.await?.ok().filter(|answer| answer.status == 200);
        node.restart().await?;
        let client = Client::new(&node.ready().url, Some(&tenant.key.secret))?;
        let again = wait::until("the answer after the restart", wait::SOON, async || {
            let answer = run(&client, "spin", &key, ms.clone()).await?;
            ensure!([200, 409, 503].contains(&answer.status.as_u16()), "{}: {}", answer.status, answer.text());
            Ok((answer.status == 200).then_some(answer))
        });
        let again = again.await?;
        ensure!(is_replayed(&again), "kill {kill}: it ran a second time: {}", again.text());
        if let Some(first) = first {
            ensure!(first.body == again.body, "kill {kill}: {} and then {}", first.text(), again.text());
        }
        let answer = again.is(200)?;
        outcomes.insert(answer["outcome"].as_str().unwrap_or_default().to_owned());
        ensure!(ids.insert(answer["id"].to_string()), "another request's answer: {answer}");
        let executions = recorded(&node, &tenant.key.id)?;
        ensure!(executions.len() == accepted_before + 1, "kill {kill}: {executions:?}");
        // Longer than any that is drawn above: another request. It is refused, and nothing spins.
        let other = run(&client, "spin", &key, "1000").await?;
        ensure!(other.problem().as_deref() == Some("idempotency-key-reused"), "kill {kill}: {}", other.text());
    }
    History::read(&node.data())?.each_ended_once()?;
    ensure!(outcomes.contains("lost"), "no kill found an execution under way: {outcomes:?}");
    eprintln!("{KILLS} kills: {outcomes:?}");
    Ok(())
}

#[tokio::test]
async fn an_answer_is_given_again_in_whatever_form_is_asked_for() -> anyhow::Result<()> {
    let (node, _, tenant) = setting().await?;
    let client = &tenant.client;
    let first = run(client, "echo", "a key", "hello").await?;
    let resource = first.is(200)?;
    ensure!(!is_replayed(&first), "the first answer says that it is replayed");
    let again = run(client, "echo", "a key", "hello").await?;
    ensure!(again.is(200)? == resource && is_replayed(&again), "{} and then {}", resource, again.text());
    let path = "/v1/modules/echo/executions";
    let raw = client.request(Method::POST, path).header(KEY, "a key").header("accept", "application/octet-stream");
    let raw = client.send(raw.body("hello")).await?;
    ensure!(raw.status == 200 && raw.body == "hello" && is_replayed(&raw), "{raw:?}");
    ensure!(raw.header("wasmwiz-execution-id") == resource["id"].as_str(), "{raw:?}");
    ensure!(raw.header("wasmwiz-outcome") == Some("succeeded") && raw.header("server-timing").is_some(), "{raw:?}");
    // A guest that fails is answered like any other, and a large output is read from where it is kept.
    let large = vec![b'x'; 300_000];
    for (module, input) in [("exit7", vec![]), ("echo", large)] {
        let first = run(client, module, module, input.clone()).await?.is(200)?;
        ensure!(run(client, module, module, input).await?.is(200)? == first, "{module} has another answer");
    }
    // What is published meanwhile does not change what came of the request.
    client.put_module("echo", guests::EXIT7.wasm()?).await?.is(201)?;
    ensure!(run(client, "echo", "a key", "hello").await?.is(200)? == resource, "another version was run");
    ensure!(recorded(&node, &tenant.key.id)?.len() == 3, "a replay ran something");
    Ok(())
}

#[tokio::test]
async fn an_upload_is_the_same_request_whatever_its_boundary() -> anyhow::Result<()> {
    let (node, _, tenant) = setting().await?;
    let client = &tenant.client;
    let echo = guests::ECHO.wasm()?;
    let upload = |input: &'static str| {
        let form = multipart::Form::new().part("wasm", multipart::Part::bytes(echo.clone())).text("input", input);
        client.send(client.request(Method::POST, "/v1/executions").header(KEY, "upload").multipart(form))
    };
    let first = upload("one").await?.is(200)?;
    let again = upload("one").await?;
    ensure!(again.is(200)? == first && is_replayed(&again), "{}", again.text());
    upload("two").await?.refuses(422, "idempotency-key-reused")?;
    ensure!(recorded(&node, &tenant.key.id)?.len() == 1, "an upload ran twice");
    Ok(())
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_credential() -> anyhow::Result<()> {
    let (_node, operator, tenant) = setting().await?;
    let client = &tenant.client;
    let first = run(client, "echo", "mine", "hello").await?.is(200)?;
    run(client, "echo", "mine", "goodbye").await?.refuses(422, "idempotency-key-reused")?;
    run(client, "exit7", "mine", "hello").await?.refuses(422, "idempotency-key-reused")?;
    for other in ["/v1/modules/echo/executions?arg=x", "/v1/keys"] {
        let answer = post(client, other, "mine", &json!({"name": "x", "scopes": ["executions:run"]})).await?;
        answer.refuses(422, "idempotency-key-reused").context(other)?;
    }
    // Another credential of the tenant, and another tenant, have keys of their own.
    let second = client.with_credential(&issue(client, "second", &["executions:run"]).await?.secret);
    let stranger = register(&operator, "Stranger", "free").await?.client;
    stranger.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    for other in [&second, &stranger] {
        let answer = run(other, "echo", "mine", "hello").await?;
        ensure!(answer.is(200)?["id"] != first["id"] && !is_replayed(&answer), "{}", answer.text());
    }
    // What is refused is not remembered: nothing happened.
    run(client, "nothing", "refused", "").await?.refuses(404, "module-not-found")?;
    run(client, "echo", "refused", "").await?.is(200)?;
    let reading = client.request(Method::GET, "/v1/keys").header(KEY, "mine");
    client.send(reading).await?.is(200)?;
    let long = "x".repeat(256);
    for bad in ["", &long, "tab\there", "umläut"] {
        let request = client.request(Method::POST, "/v1/modules/echo/executions").header(KEY, bad.as_bytes());
        let refused = client.send(request).await?.refuses(400, "invalid-header").context(bad.len())?;
        ensure!(refused["errors"][0]["at"] == "header:Idempotency-Key", "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_secret_is_shown_once_and_a_tenant_is_registered_once() -> anyhow::Result<()> {
    let (_node, operator, tenant) = setting().await?;
    let client = &tenant.client;
    let body = json!({"name": "nightly", "scopes": ["executions:run"]});
    let first = post(client, "/v1/keys", "issue", &body).await?;
    let mut issued = first.is(201)?;
    let again = post(client, "/v1/keys", "issue", &body).await?;
    ensure!(is_replayed(&again) && again.header("location") == first.header("location"), "{again:?}");
    issued["secret"] = Value::Null;
    ensure!(again.is(201)? == issued, "{issued} and then {}", again.text());
    let listed = client.get_json("/v1/keys").await?;
    ensure!(listed["items"].as_array().map(Vec::len) == Some(2), "the first key and one more: {listed}");

    let body = json!({"name": "Twice", "tier": "free"});
    let mut registered = post(&operator, "/v1/tenants", "register", &body).await?.is(201)?;
    let again = post(&operator, "/v1/tenants", "register", &body).await?;
    ensure!(is_replayed(&again), "{again:?}");
    let works = operator.with_credential(registered["initial_key"]["secret"].as_str().context("no secret")?);
    works.get("/v1/keys").await?.is(200)?;
    registered["initial_key"]["secret"] = Value::Null;
    ensure!(again.is(201)? == registered, "{registered} and then {}", again.text());
    let other = post(&operator, "/v1/tenants", "register", &json!({"name": "Other", "tier": "free"})).await?;
    other.refuses(422, "idempotency-key-reused")?;

    // A suspension that is sent again after the tenant was resumed does not suspend it a second time.
    let path = format!("/v1/tenants/{}", tenant.id);
    post(&operator, &format!("{path}/suspend"), "stop", &json!({"reason": "why"})).await?.is(200)?;
    let resume = operator.request(Method::POST, &format!("{path}/resume")).header(KEY, "go on");
    operator.send(resume).await?.is(200)?;
    let again = post(&operator, &format!("{path}/suspend"), "stop", &json!({"reason": "why"})).await?;
    ensure!(again.is(200)?["status"] == "active" && is_replayed(&again), "{}", again.text());
    client.get("/v1/keys").await?.is(200)?;
    Ok(())
}
