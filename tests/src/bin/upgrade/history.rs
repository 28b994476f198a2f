//! A little history of every kind: each type of event, and nearly each end of an execution. It says nothing that the version before
//! does not know.

use anyhow::{Context as _, ensure};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use wasmwiz_tests::{
    client::{Answer, Client},
    guests::{self, Guest},
    harness::NodeProcess,
    history::History,
    tenants::{OPERATOR_KEY, Tenant, issue, register},
    upgrade::until_ready,
    wait::{self, SOON},
};

/// What is published.
const GUESTS: [Guest; 10] = [
    guests::ECHO,
    guests::GREETER,
    guests::CLOCK,
    guests::CURIOUS,
    guests::ENDLESS_LOOP,
    guests::ENDLESS_SLEEP,
    guests::EXIT7,
    guests::RANDOM,
    guests::STDERR,
    guests::TRAP,
];

/// Requests that are answered with the end: module, query, input, and the end that it must be.
const RUNS: [(&str, &str, &str, &str); 9] = [
    ("greeter", "?version=1", "Ada", "succeeded"),
    ("greeter", "", "the second version is another program", "succeeded"),
    ("clock", "", "", "succeeded"),
    ("random", "", "", "succeeded"),
    ("stderr", "?arg=a&arg=b", "", "succeeded"),
    ("exit7", "", "", "exited"),
    ("trap", "", "", "trapped"),
    ("endless-loop", "?timeout_ms=50", "", "deadline_exceeded"),
    ("endless-loop", "?fuel=100000", "", "out_of_fuel"),
];

/// The size of an input that does not ride with its commit, in bytes: more than the 64 KiB that do.
const LARGE_BYTES: usize = 66_000;

/// A request that may be sent again, and what makes it the same.
const ONCE: &str = "sent-over-an-upgrade";

/// Who and what there is in the history.
#[derive(Debug)]
pub(crate) struct Made {
    /// The tenant that nearly all of it is about.
    pub(crate) tenant: String,
    /// Its first key.
    pub(crate) key: String,
    /// A tenant that is suspended.
    pub(crate) suspended: Tenant,
    /// What [`FIRST`] became.
    pub(crate) first: String,
    /// The execution that came of [`once`].
    pub(crate) once: String,
    /// A secret that a key was given in the place of another, which is still good.
    pub(crate) rotated: [String; 2],
    /// The secret of a key that was revoked.
    pub(crate) revoked: String,
}

/// What the first execution is given.
pub(crate) const FIRST: &str = "hello from before";

/// The JSON of an answer of this status. Nothing else is asked of it: what this version promises of all its answers, the one before
/// need not have promised.
pub(crate) fn told(answer: &Answer, status: u16) -> anyhow::Result<Value> {
    ensure!(answer.status == status, "expected {status}, got {}: {}", answer.status, answer.text());
    if answer.body.is_empty() { Ok(Value::Null) } else { answer.json() }
}

/// Runs a module, and waits for its end.
pub(crate) async fn ran(client: &Client, module: &str, query: &str, input: impl Into<String>) -> anyhow::Result<Value> {
    let (path, input): (_, String) = (format!("/v1/modules/{module}/executions{query}"), input.into());
    let answer = client.post_bytes(&path, input).await?;
    told(&answer, 200).with_context(|| path)
}

/// Sends the request that may be sent again. Gives the execution, and whether it was there before.
pub(crate) async fn once(client: &Client) -> anyhow::Result<(String, bool)> {
    let request = client.request(Method::POST, "/v1/modules/echo/executions").header("idempotency-key", ONCE);
    let answer = client.send(request.body("once")).await?;
    let is_replayed = answer.header("idempotency-replayed") == Some("true");
    Ok((id(&told(&answer, 200)?)?, is_replayed))
}

/// Makes it. The node is killed meanwhile, and goes on after it.
pub(crate) async fn make(node: &mut NodeProcess) -> anyhow::Result<Made> {
    let operator = Client::new(&node.ready().url, Some(OPERATOR_KEY))?;
    let tenant = register(&operator, "Golden", "enterprise").await?;
    publish(&tenant.client).await.context("modules")?;
    let first = ran(&tenant.client, "echo", "", FIRST).await?;
    ensure!(first["stdout"] == FIRST, "{first}");
    let cut_off = cut_off(node, &tenant.client).await.context("a node that is killed")?;

    let client = Client::new(&node.ready().url, Some(&tenant.key.secret))?;
    let operator = Client::new(&node.ready().url, Some(OPERATOR_KEY))?;
    goes_on(&client, &cut_off).await.context("a node that was killed")?;
    executions(&client).await.context("executions")?;
    let once = sent_again(&client).await.context("a request that is sent again")?;
    of_records(&client, &id(&first)?).await.context("records")?;
    let (rotated, revoked) = keys(&client).await.context("keys")?;
    let suspended = suspended(&operator).await.context("tenants")?;
    Ok(Made { tenant: tenant.id, key: tenant.key.secret, suspended, first: id(&first)?, once, rotated, revoked })
}

fn id(execution: &Value) -> anyhow::Result<String> {
    Ok(execution["id"].as_str().context("no id")?.to_owned())
}

/// Waits until a page shows something.
async fn until(client: &Client, path: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    wait::until(&format!("{what} of {path}"), SOON, async || {
        let shown = client.get_json(path).await?;
        Ok(is_so(&shown).then_some(shown))
    })
    .await
}

fn count(page: &Value) -> usize {
    page["items"].as_array().map_or(0, Vec::len)
}

async fn publish(client: &Client) -> anyhow::Result<()> {
    for guest in GUESTS {
        told(&client.put_module(guest.name, guest.wasm()?).await?, 201)?;
    }
    told(&client.put_module("greeter", guests::ECHO.wasm()?).await?, 201)?;
    told(&client.put_module("foreign", guests::FOREIGN_IMPORT.wasm()?).await?, 422)?;
    Ok(())
}

/// Begins an execution that nobody waits for. Gives its path.
async fn begun(client: &Client, module: &str, input: &'static str) -> anyhow::Result<String> {
    let request = client.request(Method::POST, &format!("/v1/modules/{module}/executions"));
    let answer = client.send(request.header("prefer", "respond-async").body(input)).await?;
    Ok(format!("/v1/executions/{}", id(&told(&answer, 202)?)?))
}

/// Kills the node while a caller waits for one guest and nobody for another, and starts it again. Gives the path of the second.
async fn cut_off(node: &mut NodeProcess, client: &Client) -> anyhow::Result<String> {
    let path = begun(client, "endless-sleep", "").await?;
    until(client, &path, "a run", |shown| shown["status"] == "running").await?;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.post_bytes("/v1/modules/endless-sleep/executions", "").await }
    });
    let data = node.data();
    wait::until("two open executions", SOON, async || Ok((History::read(&data)?.open() == 2).then_some(()))).await?;
    node.kill9().await?;
    ensure!(waiting.await?.is_err(), "an endless sleep was answered by a node that was killed");
    node.restart().await?;
    Ok(path)
}

/// The node's next life declares lost what a caller waited for, and begins once more what nobody did: that is cancelled then.
async fn goes_on(client: &Client, path: &str) -> anyhow::Result<()> {
    until_ready(client).await?;
    until(client, "/v1/executions?outcome=lost", "one", |shown| count(shown) == 1).await?;
    let started = "/v1/audit?type=dev.wasmwiz.execution.started.v1&limit=200";
    until(client, started, "a second attempt", |shown| count(shown) == 2).await?;
    let answer = client.delete(path).await?;
    ensure!(answer.status.is_success(), "{path} is not cancelled: {}", answer.text());
    until(client, path, "the end", |shown| shown["outcome"] == "cancelled").await?;
    Ok(())
}

async fn executions(client: &Client) -> anyhow::Result<()> {
    for (module, query, input, outcome) in RUNS {
        let ended = ran(client, module, query, input).await?;
        ensure!(ended["outcome"] == outcome, "{module}{query}: {ended}");
    }
    // As its random numbers have it: by an exit code, or a trap.
    ran(client, "curious", "?arg=one&arg=two", "who am I?").await?;
    let large = ran(client, "echo", "", "x".repeat(LARGE_BYTES)).await?;
    ensure!(large["usage"]["stdout_bytes"] == LARGE_BYTES, "{}", large["usage"]);
    let part = Part::bytes(guests::GREETER.wasm()?).file_name("greeter.wasm");
    let form = Form::new().part("wasm", part).text("input", "Grace");
    let uploaded = client.send(client.request(Method::POST, "/v1/executions").multipart(form)).await?;
    ensure!(told(&uploaded, 200)?["stdout"] == "Hello, Grace!\n", "{}", uploaded.text());
    let later = begun(client, "echo", "later").await?;
    let ended = until(client, &later, "the end", |shown| shown["finished_at"].is_string()).await?;
    ensure!(ended["stdout"] == "later", "{ended}");
    Ok(())
}

/// One request, twice, is one execution.
async fn sent_again(client: &Client) -> anyhow::Result<String> {
    let (first, is_replayed) = once(client).await?;
    let again = once(client).await?;
    ensure!(!is_replayed && again == (first.clone(), true), "{first} and {again:?}");
    Ok(first)
}

/// Records are run again, made into other executions, and stand for themselves when their module's name is gone.
async fn of_records(client: &Client, first: &str) -> anyhow::Result<()> {
    let verified = told(&client.post_bytes(&format!("/v1/executions/{first}/verify"), "").await?, 200)?;
    ensure!(verified["reproduced"] == true, "{verified}");
    let path = format!("/v1/executions/{first}/rerun");
    let again = told(&client.post_json(&path, &json!({"as_recorded": true})).await?, 200)?;
    ensure!(again["rerun_of"] == first && again["stdout"] == FIRST, "{again}");
    told(&client.delete("/v1/modules/clock").await?, 204)?;
    Ok(())
}

/// Keys that are issued, rotated and revoked, and a request that one may not make. Gives both secrets of the rotated one, and that
/// of the revoked one.
async fn keys(client: &Client) -> anyhow::Result<([String; 2], String)> {
    let deploy = issue(client, "deploy", &["executions:run", "executions:read"]).await?;
    let path = format!("/v1/keys/{}/rotate", deploy.id);
    let rotated = told(&client.post_json(&path, &json!({"grace_seconds": 86_400})).await?, 200)?;
    let rotated = rotated["secret"].as_str().context("no secret")?.to_owned();
    let revoked = issue(client, "revoked", &["executions:read"]).await?;
    told(&client.delete(&format!("/v1/keys/{}", revoked.id)).await?, 204)?;
    let narrow = issue(client, "narrow", &["usage:read"]).await?;
    told(&client.with_credential(&narrow.secret).get("/v1/keys").await?, 403)?;
    let denied = "/v1/audit?type=dev.wasmwiz.requests.denied.v1";
    until(client, denied, "the denial", |shown| count(shown) == 1).await?;
    Ok(([deploy.secret, rotated], revoked.secret))
}

/// A tenant that is renamed, given another tier, suspended, let act again, and suspended.
async fn suspended(operator: &Client) -> anyhow::Result<Tenant> {
    let other = register(operator, "Other", "free").await?;
    for guest in [guests::ECHO, guests::MEMORY_BOMB] {
        told(&other.client.put_module(guest.name, guest.wasm()?).await?, 201)?;
    }
    for (module, outcome) in [("echo", "succeeded"), ("memory-bomb", "out_of_memory")] {
        let ended = ran(&other.client, module, "", "").await?;
        ensure!(ended["outcome"] == outcome, "{module}: {ended}");
    }
    let path = format!("/v1/tenants/{}", other.id);
    told(&operator.patch_json(&path, &json!({"name": "Renamed", "tier": "pro"})).await?, 200)?;
    for (act, body) in
        [("suspend", json!({"reason": "unpaid"})), ("resume", json!({})), ("suspend", json!({"reason": "again"}))]
    {
        let answer = operator.post_json(&format!("{path}/{act}"), &body).await?;
        ensure!(answer.status.is_success(), "{act}: {}", answer.text());
    }
    Ok(other)
}
