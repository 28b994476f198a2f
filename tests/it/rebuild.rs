//! Views are folds of the log: deleting them loses nothing.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use wasmwiz_actors::ids::Ids;
use wasmwiz_events::{
    commit::Commit,
    envelope::{Actor, Cause, Envelope},
    event::Event,
    id::TenantId,
    key::{self, Scopes},
    ledger::Head,
    log::{Append, EventLog, sqlite::SqliteLog},
    revision::{Epoch, Position, Revision},
    tenant::{self, Tier},
    time::{Clock as _, SystemClock},
};
use wasmwiz_gateway::auth::api_key::{self, Hasher, NewSecret};
use wasmwiz_node::{app::App, config::Config};
use wasmwiz_projections::{Views, views::Checksum};
use wasmwiz_tests::{
    client::Client,
    guests,
    harness::NodeProcess,
    tenants::{Tenant, issue, register},
    wait,
};

/// How many views there are; each has its checksum.
const VIEWS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_that_were_deleted_come_back_row_by_row() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    let tenant = live(&mut node).await?;
    let before = shown(&node, &tenant).await?;
    ensure!(node.terminate().await?.success(), "the node did not end well");

    let (data, views) = (node.data(), node.data().join("views"));
    let left = checksums(&data, Left::AtTheTail).await?;
    ensure!(left.len() == VIEWS, "there are {} views: {left:?}", left.len());
    fs::remove_dir_all(&views)?;
    let folded_again = checksums(&data, Left::Anywhere).await?;
    for (left, again) in left.iter().zip(&folded_again) {
        ensure!(left == again, "the node left {left:?}, and the log folds to {again:?}");
    }

    fs::remove_dir_all(&views)?;
    node.restart().await?;
    let after = shown(&node, &tenant).await?;
    for (path, before) in &before {
        let after = after.iter().find(|(other, _)| other == path).map(|(_, shown)| shown);
        ensure!(after == Some(before), "{path} showed {before}, and shows {after:?} after a rebuild");
    }
    Ok(())
}

/// Events between the one that issues the key and the one that revokes it.
const EVENTS_BETWEEN: u64 = 5_000;

/// Events of one batch of the views: so few that a request finds them on their way.
const BATCH_EVENTS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_does_not_come_back_while_the_views_are_folded_again() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let revoked = write_a_revocation(&folder.path().join("log")).await?;
    let mut config = Config::default();
    config.node.data_dir = folder.path().to_owned();
    config.listen.api.set_port(0);
    config.listen.admin.set_port(0);
    config.views.batch_events = BATCH_EVENTS;
    let app = App::start(&config).await?;
    let client = Client::new(&app.ready().url, Some(&revoked))?;
    let mut not_yet = 0;
    let told = async {
        loop {
            let answer = client.get("/v1/modules").await?;
            match answer.status.as_u16() {
                503 => not_yet += 1,
                401 => return anyhow::Ok(()),
                other => anyhow::bail!("a revoked key was answered {other} after {not_yet} refusals"),
            }
            ensure!(answer.header("retry-after").is_some(), "it is not said when to come back");
        }
    };
    tokio::time::timeout(wait::SOON, told).await.context("the views were not folded")??;
    ensure!(not_yet > 0, "the views were folded before the first request: the test shows nothing");
    Ok(())
}

/// Writes a log in which a key is issued, much happens, and it is revoked. Gives the key.
async fn write_a_revocation(folder: &Path) -> anyhow::Result<String> {
    let log = Arc::new(SqliteLog::open(folder, Default::default())?);
    let text = api_key::text_of("AAAAAAAAAAAA", "0123456789abcdef0123456789abcdef");
    let secret = NewSecret::supplied(&text, &Hasher::default())?;
    let (key_id, tenant) = (secret.key_id().clone(), TenantId::new("acme")?);
    let issued = key::Issued {
        key_id: key_id.clone(),
        name: "leaked".into(),
        scopes: Scopes::TENANT,
        hash: secret.hash(),
        expires_at: None,
        writes_full_at: None,
    };
    let registered = tenant::Registered { name: "Acme".into(), tier: Tier::Pro };
    let renamed = |n| Event::TenantRenamed(tenant::Renamed { name: format!("Acme {n}") });
    let mut commits = vec![vec![Event::TenantRegistered(registered), Event::KeyIssued(issued)]];
    let names: Vec<_> = (0..EVENTS_BETWEEN).collect();
    commits.extend(names.chunks(BATCH_EVENTS).map(|names| names.iter().map(renamed).collect()));
    commits.push(vec![Event::KeyRevoked(key::Revoked { key_id })]);
    let mut head = Head::genesis(&tenant);
    let now = SystemClock.now();
    for events in commits {
        let mut envelopes = Vec::new();
        for (event, revision) in events.into_iter().zip(head.revision.next().get()..) {
            let cause = Cause {
                command: Ids.command(),
                correlation: None,
                actor: Actor::system(),
                traceparent: None,
                idempotency: None,
            };
            let (tenant, revision) = (tenant.clone(), Revision::new(revision));
            envelopes.push(Envelope { id: Ids.event(), tenant, revision, time: now, cause, event });
        }
        let commit = Commit::seal(&head, tenant.clone(), Ids.commit(), Epoch::FIRST, now, envelopes)?;
        head = commit.head();
        log.append(Append { commit, payloads: Vec::new() }).await?;
    }
    tokio::task::spawn_blocking(move || log.close()).await?;
    Ok(text)
}

/// Where the files must stand before anything is folded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    AtTheTail,
    Anywhere,
}

/// The checksums of the views of a node that does not run, folded to the end of its log.
async fn checksums(data: &Path, left: Left) -> anyhow::Result<Vec<Checksum>> {
    let log = Arc::new(SqliteLog::open(&data.join("log"), Default::default())?);
    let tail = log.tail().await?;
    if left == Left::AtTheTail {
        stand_at(&data.join("views"), tail)?;
    }
    let views = Views::open(&data.join("views"), Default::default(), Arc::clone(&log) as Arc<dyn EventLog>).await?;
    views.wait_for(tail, Duration::from_secs(20)).await?;
    let checksums = views.checksums().await?;
    views.shutdown().await;
    Ok(checksums)
}

/// A node that ended well has folded everything.
fn stand_at(views: &Path, tail: Position) -> anyhow::Result<()> {
    let mut files = 0;
    for entry in fs::read_dir(views)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "db") {
            continue;
        }
        files += 1;
        let file = rusqlite::Connection::open(&path)?;
        let position: i64 = file.query_row("SELECT position FROM checkpoint", [], |row| row.get(0))?;
        ensure!(position.unsigned_abs() == tail.get(), "{} stands at {position}, not {tail}", path.display());
    }
    ensure!(files == VIEWS, "there are {files} files of views");
    Ok(())
}

/// A history in which everything has happened that the API can make happen.
async fn live(node: &mut NodeProcess) -> anyhow::Result<Tenant> {
    let operator = node.operator()?;
    let tenant = register(&operator, "Mixed", "enterprise").await?;
    let other = register(&operator, "Other", "free").await?;
    let path = format!("/v1/tenants/{}", other.id);
    operator.patch_json(&path, &json!({"name": "Renamed", "tier": "pro"})).await?.expect(StatusCode::OK)?;
    for act in ["suspend", "resume", "suspend"] {
        let answer = operator.post_json(&format!("{path}/{act}"), &json!({})).await?;
        ensure!(answer.status.is_success(), "{act}: {}", answer.text());
    }

    let client = &tenant.client;
    let revoked = issue(client, "revoked", &["executions:run", "executions:read"]).await?;
    client.with_credential(&revoked.secret).execute("nothing", "").await.err().context("there is no such module")?;
    client.delete(&format!("/v1/keys/{}", revoked.id)).await?.expect(StatusCode::NO_CONTENT)?;
    issue(client, "reader", &["audit:read"]).await?;

    for guest in guests::ALL.iter().filter(|guest| **guest != guests::FOREIGN_IMPORT) {
        client.put_module(guest.name, guest.wasm()?).await?.expect(StatusCode::CREATED)?;
    }
    // Another version under the same name, a rejection, and a name that is gone.
    client.put_module("trap", guests::EXIT7.wasm()?).await?.expect(StatusCode::CREATED)?;
    client.put_module("foreign", guests::FOREIGN_IMPORT.wasm()?).await?.expect(StatusCode::UNPROCESSABLE_ENTITY)?;
    client.delete("/v1/modules/clock").await?.expect(StatusCode::NO_CONTENT)?;

    for (path, outcome) in [
        ("echo/executions", "succeeded"),
        ("exit7/executions", "exited"),
        ("trap/executions?version=1", "trapped"),
        ("endless-loop/executions?timeout_ms=50", "deadline_exceeded"),
        ("stdout-megabytes/executions?arg=a&arg=b", "succeeded"),
        ("stderr/executions", "succeeded"),
    ] {
        let ended = client.post_bytes(&format!("/v1/modules/{path}"), vec![b'x'; 100_000]).await?.is(200)?;
        ensure!(ended["outcome"] == outcome, "{path}: {ended}");
    }
    lose_one(node, &tenant).await
}

/// Kills the node while a guest sleeps, and waits until the execution is declared lost.
async fn lose_one(node: &mut NodeProcess, tenant: &Tenant) -> anyhow::Result<Tenant> {
    let client = tenant.client.clone();
    let sleeping = tokio::spawn(async move { client.execute("endless-sleep", "").await });
    let data = node.data();
    wait::until("an open execution", wait::SOON, async || {
        Ok((wasmwiz_tests::history::History::read(&data)?.open() == 1).then_some(()))
    })
    .await?;
    node.kill9().await?;
    ensure!(sleeping.await?.is_err(), "an endless sleep was answered");
    node.restart().await?;
    let client = Client::new(&node.ready().url, Some(&tenant.key.secret))?;
    wait::until("a lost execution", wait::SOON, async || {
        let lost = client.get_json("/v1/executions?outcome=lost").await?;
        Ok((lost["items"].as_array().is_some_and(|items| items.len() == 1)).then_some(()))
    })
    .await?;
    Ok(Tenant { client, ..tenant.clone() })
}

/// What the API shows of the tenant.
async fn shown(node: &NodeProcess, tenant: &Tenant) -> anyhow::Result<Vec<(String, Value)>> {
    let client = Client::new(&node.ready().url, Some(&tenant.key.secret))?;
    // Whatever the node has written when it started is folded first.
    client.put_module("echo", guests::ECHO.wasm()?).await?.is(200)?;
    let mut shown = Vec::new();
    for path in [
        "keys",
        "modules",
        "modules/trap/versions",
        "executions?limit=200",
        "usage?by=key&to=2100-01-01T00:00:00Z&from=2001-01-01T00:00:00Z",
        "audit?limit=200",
    ] {
        let body = client.get(&format!("/v1/{path}")).await?.is(200)?;
        shown.push((path.to_owned(), body));
    }
    Ok(shown)
}
