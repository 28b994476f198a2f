//! The example configuration of a bus: users by nkey over TLS, each tenant with its own events. And a bus that does not
//! let the node in: that is said, and the node goes on.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use async_nats::{
    Client, ConnectOptions, Event,
    jetstream::{self, consumer::pull},
};
use reqwest::StatusCode;
use serde_json::json;
use tokio::sync::mpsc;
use wasmwiz_tests::{
    harness::{Launch, NodeProcess},
    nats::{NatsServer, STREAM},
    python,
    tenants::{Tenant, register},
    tls::Certificate,
    wait,
};

use super::{fed, recorded, until_feed};

/// How long a program may take.
const SHORT: Duration = Duration::from_secs(60);

/// How long a request that the bus must refuse waits for an answer that must not come.
const UNANSWERED: Duration = Duration::from_millis(250);

/// The most that one connection is told at once.
const TOLD_MAX: usize = 64;

/// A node that is fed by TLS and an nkey, and a bus with the example's configuration for two of its tenants, which does
/// not run yet. The tenants stand for the example's `acme` and `globex`.
async fn prepared() -> anyhow::Result<(NatsServer, NodeProcess, [Tenant; 2])> {
    let examples = python::root().join("examples/nats");
    let mut server = NatsServer::configured("")?;
    Certificate::ONE.write(server.folder())?;
    std::fs::write(server.folder().join("ca.pem"), Certificate::ONE.text())?;
    let mut keys = python::command()?;
    keys.arg(examples.join("keys.py")).args(["feed", "acme", "globex"]).current_dir(server.folder());
    let made = python::run(&mut keys, SHORT).await?;
    ensure!(made.code == Some(0), "no keys: {}", made.stderr);
    let variable = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    server.set_variables(made.stdout.lines().filter_map(variable).collect());
    let node = secure(&server)?.start().await?;
    let operator = node.operator()?;
    let tenants = [register(&operator, "Acme", "pro").await?, register(&operator, "Globex", "pro").await?];
    let text = std::fs::read_to_string(examples.join("nats.conf"))?;
    server.configure(&text.replace("acme", &tenants[0].id).replace("globex", &tenants[1].id))?;
    Ok((server, node, tenants))
}

/// How to start a node for this bus.
fn secure(server: &NatsServer) -> anyhow::Result<Launch> {
    Ok(Launch::dev()?
        .variable("WASMWIZ_FEED__NATS__URL", server.tls_url())
        .variable("WASMWIZ_FEED__NATS__NKEY_FILE", server.folder().join("feed.seed"))
        .variable("WASMWIZ_FEED__NATS__TLS_CA_FILE", server.folder().join("ca.pem"))
        .variable("WASMWIZ_FEED__MAX_BYTES", "67108864")
        .variable("WASMWIZ_FEED__PAUSE_MAX_MS", "200"))
}

/// A connection as a tenant, and what the bus complains of to it.
async fn connected(
    server: &NatsServer,
    name: &str,
    tenant: &Tenant,
) -> anyhow::Result<(Client, mpsc::Receiver<String>)> {
    let (told, complaints) = mpsc::channel(TOLD_MAX);
    let told = Arc::new(told);
    let seed = std::fs::read_to_string(server.folder().join(format!("{name}.seed")))?;
    let options = ConnectOptions::new()
        .nkey(seed.trim().to_owned())
        .add_root_certificates(server.folder().join("cert.pem"))
        .custom_inbox_prefix(format!("_INBOX_{}", tenant.id))
        .event_callback(move |event| {
            let told = Arc::clone(&told);
            async move {
                if let Event::ServerError(error) = event {
                    // Nobody listens any more when it fails.
                    let _ = told.send(error.to_string().to_lowercase()).await;
                }
            }
        });
    Ok((options.connect(server.tls_url()).await.context("the bus does not let a tenant in")?, complaints))
}

/// Waits until the bus has complained of this.
async fn until_told(complaints: &mut mpsc::Receiver<String>, what: &str) -> anyhow::Result<()> {
    let mut all = Vec::new();
    let told = async {
        while let Some(complaint) = complaints.recv().await {
            if complaint.contains("permissions violation") && complaint.contains(&what.to_lowercase()) {
                return true;
            }
            all.push(complaint);
        }
        false
    };
    let told = tokio::time::timeout(wait::SOON, told).await.unwrap_or(false);
    ensure!(told, "the bus did not refuse {what}; it said {all:?}");
    Ok(())
}

#[tokio::test]
async fn a_tenant_reads_its_own_events_and_the_bus_refuses_it_those_of_another() -> anyhow::Result<()> {
    let (mut server, node, [acme, globex]) = prepared().await?;
    server.start().await?;
    until_feed(&node, "ok", "connected, 0 commits behind").await?;

    let own = recorded(&node.data())?.remove(&acme.id).context("acme has no events")?;
    let mut subscriber = python::command()?;
    subscriber.arg(python::root().join("examples/subscriber/subscriber.py"));
    subscriber.args(["--url", &server.tls_url(), "--ca", "ca.pem", "--nkey", "acme.seed", "--name", &acme.id]);
    subscriber.args(["--inbox", &format!("_INBOX_{}", acme.id), "--subject", &format!("wasmwiz.v1.{}.>", acme.id)]);
    subscriber.args(["--count", &own.len().to_string()]).current_dir(server.folder());
    let ran = python::run(&mut subscriber, SHORT).await?;
    ensure!(ran.code == Some(0) && ran.stdout.lines().count() == own.len(), "{ran:?}");
    ensure!(ran.stdout.lines().all(|line| line.starts_with(&acme.id)), "{}", ran.stdout);

    refused(&server, &acme, &globex).await
}

/// Everything by which one tenant could get at the other's events is refused.
async fn refused(server: &NatsServer, acme: &Tenant, globex: &Tenant) -> anyhow::Result<()> {
    let (theirs, mut complaints) = connected(server, "acme", acme).await?;
    for subject in [format!("wasmwiz.v1.{}.>", globex.id), format!("_INBOX_{}.>", globex.id), "_INBOX.>".to_owned()] {
        let _subscription = theirs.subscribe(subject.clone()).await?;
        until_told(&mut complaints, &subject).await?;
    }
    let api = "$JS.API.CONSUMER";
    let filter = format!("wasmwiz.v1.{}.>", globex.id);
    for subject in [
        format!("{api}.CREATE.{STREAM}.{}.{filter}", acme.id),
        format!("{api}.CREATE.{STREAM}.{}", acme.id),
        format!("{api}.DURABLE.CREATE.{STREAM}.{}", acme.id),
        format!("{api}.MSG.NEXT.{STREAM}.{}", globex.id),
        format!("$JS.API.DIRECT.GET.{STREAM}"),
        format!("$JS.API.STREAM.MSG.GET.{STREAM}"),
        format!("$JS.API.STREAM.DELETE.{STREAM}"),
        format!("wasmwiz.v1.{}.executions.x.finished", acme.id),
    ] {
        let answer = tokio::time::timeout(UNANSWERED, theirs.request(subject.clone(), "{}".into())).await;
        ensure!(!matches!(answer, Ok(Ok(_))), "{subject} was answered");
        until_told(&mut complaints, &subject).await?;
    }
    // The subject that is permitted, with another filter in the request itself.
    let permitted = format!("{api}.CREATE.{STREAM}.{}.wasmwiz.v1.{}.>", acme.id, acme.id);
    for config in [json!({"filter_subject": filter}), json!({}), json!({"filter_subjects": [filter]})] {
        let mut config = config;
        (config["name"], config["ack_policy"]) = (json!(acme.id), json!("none"));
        let request = json!({"stream_name": STREAM, "config": config}).to_string();
        let answer = theirs.request(permitted.clone(), request.into()).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
        ensure!(answer["error"]["code"] == 400, "a filter that its subject does not name was taken: {answer}");
    }
    // The same door is open for its own.
    let config = pull::Config { durable_name: Some(globex.id.clone()), filter_subject: filter, ..Default::default() };
    let (own, _complaints) = connected(server, "globex", globex).await?;
    jetstream::new(own).create_consumer_on_stream(config, STREAM).await.context("globex has no consumer")?;
    Ok(())
}

/// What is wrong with the bus, or with what the node knows of it, and what `/health` says then.
struct Wrong {
    served: Certificate,
    trusted: Certificate,
    seed: &'static str,
    says: &'static str,
}

#[tokio::test]
async fn whatever_is_wrong_is_said_without_secrets_and_the_node_goes_on_until_it_is_put_right() -> anyhow::Result<()> {
    let (mut server, node, _) = prepared().await?;
    let (right, trusted) = (server.folder().join("feed.seed"), server.folder().join("ca.pem"));
    let kept = std::fs::read_to_string(&right)?;
    let stranger = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU";
    let cases = [
        Wrong { served: Certificate::TWO, trusted: Certificate::ONE, seed: "", says: "invalid peer certificate" },
        Wrong { served: Certificate::EXPIRED, trusted: Certificate::EXPIRED, seed: "", says: "certificate expired" },
        Wrong { served: Certificate::ONE, trusted: Certificate::ONE, seed: stranger, says: "refuses the credentials" },
        Wrong { served: Certificate::ONE, trusted: Certificate::ONE, seed: "SUNONE", says: "refuses the credentials" },
    ];
    for Wrong { served, trusted: authority, seed, says } in cases {
        served.write(server.folder())?;
        server.start().await?;
        replace(&trusted, authority.text())?;
        replace(&right, if seed.is_empty() { &kept } else { seed })?;
        let failing = until_feed(&node, "failing", says).await?.to_string();
        let secrets = [kept.trim(), stranger, "BEGIN"];
        ensure!(!secrets.iter().any(|secret| failing.contains(secret)), "a secret is told: {failing}");
        ensure!(failing.contains("feed.nats"), "no remedy: {failing}");
        node.client()?.execute("echo", "hello").await?;
        node.client()?.get("/readyz").await?.expect(StatusCode::OK)?;
        server.kill9();
    }
    std::fs::remove_file(&trusted)?;
    server.start().await?;
    until_feed(&node, "failing", "ca.pem").await?;
    replace(&trusted, Certificate::ONE.text())?;
    replace(&right, &kept)?;
    until_feed(&node, "ok", "connected, 0 commits behind").await.map(drop)
}

/// Replaces a file as a whole: whoever reads it has the old or the new one.
fn replace(file: &PathBuf, text: &str) -> anyhow::Result<()> {
    let new = file.with_extension("replaced");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, file)?)
}

#[tokio::test]
async fn credentials_that_have_ended_are_said_and_the_next_ones_are_taken_without_a_restart() -> anyhow::Result<()> {
    let mut server = NatsServer::prepared("include \"auth.conf\"")?;
    let mut make = python::command()?;
    make.arg(python::root().join("tests/contract/credentials.py")).arg(server.folder());
    let made = python::run(&mut make, SHORT).await?;
    ensure!(made.code == Some(0), "no credentials: {}", made.stderr);
    server.start().await?;
    let folder = server.folder().to_owned();
    let (file, text) = (folder.join("feed.creds"), |name: &str| std::fs::read_to_string(folder.join(name)));
    std::fs::write(&file, text("ended.creds")?)?;
    let node = fed(&server)?.variable("WASMWIZ_FEED__NATS__CREDENTIALS_FILE", &file).start().await?;
    let failing = until_feed(&node, "failing", "refuses the credentials").await?.to_string();
    let told = text("ended.creds")?.lines().any(|line| line.len() > 40 && failing.contains(line));
    ensure!(!told, "a secret is told: {failing}");
    replace(&file, &text("right.creds")?)?;
    until_feed(&node, "ok", "connected, 0 commits behind").await.map(drop)
}
