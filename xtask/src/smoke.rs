//! `cargo xtask smoke`: does a platform that was just deployed do what it is there for?

mod client;

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use self::client::{Answer, Client};
use crate::workspace;

/// Try a platform through its address, as its tenants would
///
/// Looks at its probes, its parts and the headers of its answers, and that nobody is let in without a key; registers a tenant,
/// publishes a module, runs it, reads the record, has it run again and compared, and reads the usage and the history of it. The
/// tenant is suspended at the end. Wants curl.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the platform is: `https://HOST`
    #[arg(long, value_name = "URL")]
    url: String,
    /// A file with an operator's key, and nothing else
    #[arg(long, value_name = "FILE")]
    operator_key_file: PathBuf,
    /// A file of authorities to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Headers that every answer has, and what is in each.
const HEADERS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("content-security-policy", "default-src 'none'"),
    ("cache-control", "no-store"),
];

/// What of `/health` has to be well: whether the log answers, whether views follow, whether a module runs.
const PARTS: [&str; 3] = ["event_log", "projections", "executor"];

/// The name under which the module is published, and what it is given.
const MODULE: &str = "smoke";
const INPUT: &str = "from the smoke test\n";

/// How long another node of the cluster may take to know a key that was just made.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);
const BETWEEN: Duration = Duration::from_millis(500);

/// A tenant, as it was registered.
struct Tenant {
    id: String,
    key: String,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let key = fs::read_to_string(&arguments.operator_key_file)
        .with_context(|| format!("cannot read {}", arguments.operator_key_file.display()))?;
    try_platform(&arguments.url, key.trim(), arguments.ca_file.as_deref())
}

/// Tries the platform at that address, with an operator's key.
///
/// # Errors
/// Says what it does not do.
pub(crate) fn try_platform(url: &str, operator: &str, ca_file: Option<&Path>) -> anyhow::Result<()> {
    let client = Client::new(url, ca_file)?;
    is_well(&client)?;
    is_careful(&client, url.starts_with("https://"))?;
    lets_nobody_in(&client)?;
    let tenant = register(&client, operator)?;
    let served = serves(&client, &tenant);
    // Whatever came of it: a tenant of a test runs nothing more.
    let suspended = suspend(&client, operator, &tenant);
    served.and(suspended)?;
    eprintln!("smoke: {url} does what it is there for");
    Ok(())
}

/// What was done.
fn done(what: &str) {
    eprintln!("smoke: {what}");
}

fn is_well(client: &Client) -> anyhow::Result<()> {
    for probe in ["/livez", "/readyz"] {
        client.get(probe, None)?.is(200)?;
    }
    let health = client.get("/health", None)?.is(200)?.json()?;
    for part in PARTS {
        let status = health.pointer(&format!("/checks/{part}/status"));
        ensure!(status.is_some_and(|status| status == "ok"), "{part} is not well: {health}");
    }
    done("it is alive and ready; its log answers, its views follow, and a module ran");
    Ok(())
}

fn is_careful(client: &Client, is_tls: bool) -> anyhow::Result<()> {
    for path in ["/livez", "/v1/modules", "/no-such-page"] {
        let answer = client.get(path, None)?;
        for (name, value) in HEADERS {
            let found = answer.header(name).unwrap_or_default();
            ensure!(found.contains(value), "{path} is answered with `{name}: {found}`, and not with {value}");
        }
        ensure!(answer.header("x-request-id").is_some(), "{path} is answered without x-request-id");
        ensure!(
            !is_tls || answer.header("strict-transport-security").is_some(),
            "{path} is answered without strict-transport-security: set gateway.tls"
        );
    }
    done("its answers have the headers that tell browsers to be careful");
    Ok(())
}

fn lets_nobody_in(client: &Client) -> anyhow::Result<()> {
    for (method, path) in [("GET", "/v1/modules"), ("POST", "/v1/tenants"), ("GET", "/v1/audit")] {
        let answer = client.send(method, path, None, &[])?.is(401)?;
        ensure!(answer.header("www-authenticate").is_some(), "{path} does not say how to come in");
    }
    // It is on the listener that only the cluster reaches.
    client.get("/metrics", None)?.is(404)?;
    done("nobody is let in without a key, and metrics are not to be had from outside");
    Ok(())
}

fn register(client: &Client, operator: &str) -> anyhow::Result<Tenant> {
    let body = json!({ "name": "Smoke test", "tier": "free" });
    // A platform that starts for the first time makes its operator's key once its nodes have found each other.
    let registered = until_known(|| client.post_json("/v1/tenants", operator, &body))?.is(201)?.json()?;
    let text = |pointer: &str| registered.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let id = text("/id").context("the tenant has no id")?;
    let key = text("/initial_key/secret").context("the tenant has no key")?;
    done(&format!("tenant {id} is registered"));
    Ok(Tenant { id, key })
}

fn suspend(client: &Client, operator: &str, tenant: &Tenant) -> anyhow::Result<()> {
    let path = format!("/v1/tenants/{}/suspend", tenant.id);
    client.post_json(&path, operator, &json!({ "reason": "the smoke test has ended" }))?.is(200)?;
    done(&format!("tenant {} is suspended", tenant.id));
    Ok(())
}

fn serves(client: &Client, tenant: &Tenant) -> anyhow::Result<()> {
    let key = tenant.key.as_str();
    let echo =
        wat::parse_file(workspace::root().join("examples/echo.wat")).context("examples/echo.wat is no module")?;
    let path = format!("/v1/modules/{MODULE}");
    let published = until_known(|| client.upload(&path, key, "application/wasm", &echo))?.is(201)?.json()?;
    let digest = published.get("digest").and_then(Value::as_str).context("the module has no digest")?;
    done(&format!("a module is published: {digest}"));

    let executed = until_known(|| client.post(&format!("{path}/executions"), key, "text/plain", INPUT.as_bytes()))?;
    let executed = executed.is(200)?;
    let position = executed.header("wasmwiz-position").context("the execution has no position")?.to_owned();
    let execution = executed.json()?;
    let id = execution.get("id").and_then(Value::as_str).context("the execution has no id")?;
    ensure!(is(&execution, "/outcome", "succeeded"), "it ended with {execution}");
    ensure!(is(&execution, "/stdout", INPUT), "the echo is not what was said: {execution}");
    done(&format!("execution {id} succeeded"));

    let read = |path: &str| until_known(|| client.get_after(path, key, &position))?.is(200)?.json();
    let recorded = read(&format!("/v1/executions/{id}"))?;
    ensure!(is(&recorded, "/outcome", "succeeded"), "it is recorded as {recorded}");
    let verified = until_known(|| client.send("POST", &format!("/v1/executions/{id}/verify"), Some(key), &[]))?;
    let verified = verified.is(200)?.json()?;
    ensure!(verified.get("reproduced") == Some(&Value::Bool(true)), "run again, it is another: {verified}");
    done("it is recorded, and run again it is the same");

    let usage = read("/v1/usage?by=module")?;
    let used: u64 =
        usage.pointer("/items").and_then(Value::as_array).into_iter().flatten().filter_map(executions).sum();
    ensure!(used >= 1, "no execution is in the usage: {usage}");
    let audit = read("/v1/audit?limit=50")?;
    for kind in ["tenant.registered", "module.published", "execution.accepted", "execution.finished"] {
        let named = format!("dev.wasmwiz.{kind}.v");
        ensure!(has_event(&audit, &named), "the history has no {kind}: {audit}");
    }
    let head = read("/v1/audit/head")?;
    ensure!(head.get("hash").is_some_and(Value::is_string), "the history has no head: {head}");
    done("usage and history have it");
    Ok(())
}

fn is(value: &Value, pointer: &str, text: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_str) == Some(text)
}

fn executions(sum: &Value) -> Option<u64> {
    sum.get("executions")?.as_u64()
}

fn has_event(audit: &Value, kind: &str) -> bool {
    let events = audit.pointer("/items").and_then(Value::as_array).into_iter().flatten();
    events
        .into_iter()
        .any(|event| event.get("type").and_then(Value::as_str).is_some_and(|found| found.starts_with(kind)))
}

/// Asks again while the node that answers does not know the key yet: each has its own view of keys, and follows the log.
fn until_known(ask: impl Fn() -> anyhow::Result<Answer>) -> anyhow::Result<Answer> {
    let begun = now();
    loop {
        let answer = ask()?;
        if answer.status != 401 {
            return Ok(answer);
        }
        if begun.elapsed() > KNOWN_WITHIN {
            bail!("a key that was issued is not known after {} s: {}", KNOWN_WITHIN.as_secs(), answer.text());
        }
        sleep(BETWEEN);
    }
}

#[expect(clippy::disallowed_methods, reason = "a chore waits for a bounded time; nothing is decided by it")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
