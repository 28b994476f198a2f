//! Whether a version can read a log, asked of its program before anything is changed.

use std::{path::Path, sync::Arc};

use anyhow::{Context, ensure};
use serde_json::{Value, value::RawValue};
use wasmwiz_actors::ids::Ids;
use wasmwiz_events::{
    commit::Commit,
    envelope::{Actor, Cause, Envelope},
    event::{Event, Unknown},
    id::TenantId,
    log::{Append, EventLog as _, sqlite::SqliteLog},
    time::{Clock as _, SystemClock},
};
use wasmwiz_tests::{
    cli::{self, Ended},
    guests,
    harness::NodeProcess,
    tenants::register,
};

/// A type that a later version may write, and a later version of one that there is.
const KIND: &str = "dev.wasmwiz.execution.paused.v1";
const VERSION: &str = "dev.wasmwiz.tenant.renamed.v2";

async fn asked(data: &str, more: &[&str]) -> anyhow::Result<Ended> {
    cli::run(["compat", "check", "--data", data].iter().chain(more)).await
}

/// Appends events of types that no version has yet.
async fn append_newer(data: &Path, tenant: &TenantId) -> anyhow::Result<()> {
    let log = Arc::new(SqliteLog::open(&data.join("log"), Default::default())?);
    let (head, now) = (log.head(tenant).await?, SystemClock.now());
    let mut revision = head.revision;
    let mut events = Vec::new();
    for type_name in [KIND, VERSION] {
        revision = revision.next();
        let data = RawValue::from_string(r#"{"more":1}"#.to_owned())?;
        let cause = Cause {
            command: Ids.command(),
            correlation: None,
            actor: Actor::system(),
            traceparent: None,
            idempotency: None,
        };
        let event = Event::Unknown(Unknown { type_name: type_name.to_owned(), data });
        events.push(Envelope { id: Ids.event(), tenant: tenant.clone(), revision, time: now, cause, event });
    }
    let commit = Commit::seal(&head, tenant.clone(), Ids.commit(), head.epoch, now, events)?;
    log.append(Append { commit, payloads: Vec::new() }).await?;
    tokio::task::spawn_blocking(move || log.close()).await?;
    Ok(())
}

#[tokio::test]
async fn a_log_is_read_in_whole_until_a_later_version_has_written_to_it() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    let tenant = register(&node.operator()?, "Acme", "pro").await?;
    tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    tenant.client.execute("echo", "hello").await?;
    let data = node.data().to_string_lossy().into_owned();

    // Beside a node that writes to it, and without one.
    let beside = asked(&data, &[]).await?;
    ensure!(beside.code == Some(0) && beside.stdout.contains("can read all of it"), "{beside:?}");
    ensure!(node.terminate().await?.success(), "{}", node.stderr());
    let json = asked(&data, &["--output", "json"]).await?;
    ensure!(json.code == Some(0), "{json:?}");
    let judged: Value = serde_json::from_str(&json.stdout)?;
    let kinds = judged["kinds"].as_array().context("no kinds")?;
    let finished = kinds.iter().find(|kind| kind["type"] == "dev.wasmwiz.execution.finished.v1");
    ensure!(finished.is_some_and(|kind| kind["events"].as_u64() >= Some(1) && kind["known"] == true), "{judged}");
    ensure!(judged["compatible"] == true && judged["events"].as_u64() > Some(4), "{judged}");

    append_newer(node.data().as_ref(), &TenantId::new(&tenant.id)?).await?;
    let refused = asked(&data, &[]).await?;
    ensure!(refused.code == Some(1), "{refused:?}");
    for said in [KIND, VERSION, "UNKNOWN", "CANNOT READ", &format!("tenant {}", tenant.id)] {
        ensure!(refused.stdout.contains(said), "no {said:?} in {}", refused.stdout);
    }

    // What one program has printed of the log, another judges without it.
    let newer = asked(&data, &["--output", "json"]).await?;
    let folder = tempfile::tempdir()?;
    let list = async |text: &str| {
        let file = folder.path().join("recorded.json");
        std::fs::write(&file, text)?;
        let file = file.to_string_lossy().into_owned();
        cli::run(["compat", "check", "--output", "json", "--recorded", &file]).await
    };
    ensure!(list(&json.stdout).await?.code == Some(0), "its own list is refused");
    let refused = list(&newer.stdout).await?;
    ensure!(refused.code == Some(1) && refused.stdout.contains(VERSION), "{refused:?}");
    ensure!(list("{}").await?.code == Some(1), "no list is taken for one");
    Ok(())
}

#[tokio::test]
async fn a_folder_without_a_log_is_no_compatible_one() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let ended = asked(&folder.path().to_string_lossy(), &[]).await?;
    ensure!(ended.code == Some(1) && ended.stderr.contains("there is no log"), "{ended:?}");
    Ok(())
}
