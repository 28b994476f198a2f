//! `/v1/audit`: the recorded history.

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::Value;
use wasmwiz_tests::history::History;

mod stream;

use super::{Setting, all_pages, asks_for, pages_are_checked};

mod denied;

#[tokio::test]
async fn a_tenant_reads_its_own_history_newest_first() -> anyhow::Result<()> {
    let Setting { node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    let ran = client.post_bytes("/v1/modules/echo/executions", "abc").await?;
    let id = ran.is(200)?["id"].as_str().context("no id")?.to_owned();
    let page = client.get(&format!("/v1/audit?subject=executions/{id}")).await?.is(200)?;
    let types: Vec<_> =
        page["items"].as_array().into_iter().flatten().filter_map(|event| event["type"].as_str()).collect();
    ensure!(types == ["dev.wasmwiz.execution.finished.v1", "dev.wasmwiz.execution.accepted.v1"], "{page}");

    let events = all_pages(client, "/v1/audit", 2).await?;
    let revisions: Vec<u64> = events.iter().filter_map(|event| event["revision"].as_u64()).collect();
    let recorded = History::read(&node.data())?;
    let count = recorded.ids.get(&tenant.id).map(|events| events.len() as u64);
    let all: Vec<u64> = (1..=count.context("nothing is recorded")?).rev().collect();
    ensure!(revisions == all, "{revisions:?}");
    for event in &events {
        ensure!(event["source"] == format!("/tenants/{}", tenant.id), "another tenant's event: {event}");
        for member in ["id", "type", "subject", "time", "actor"] {
            ensure!(event[member].is_string(), "no {member}: {event}");
        }
        ensure!(!event.to_string().contains(&tenant.key.secret), "a secret is in {event}");
    }
    let head = client.get("/v1/audit/head").await?.is(200)?;
    ensure!(head["revision"].as_u64() == count, "{head}");
    ensure!(head["hash"].as_str().is_some_and(|hash| hash.len() >= 64) && !head["position"].is_null(), "{head}");

    for (filter, expected) in [
        ("type=dev.wasmwiz.module.published.v1".to_owned(), 1),
        (format!("actor={}", tenant.key.id), 2),
        ("subject=modules/echo".to_owned(), 1),
        ("from=2001-01-01T00:00:00Z".to_owned(), all.len()),
        ("to=2001-01-01T00:00:00Z".to_owned(), 0),
    ] {
        let found: Vec<Value> = all_pages(client, &format!("/v1/audit?{filter}"), 50).await?;
        ensure!(found.len() == expected, "{filter} gives {} of {expected}: {found:?}", found.len());
    }
    let others = all_pages(&stranger.client, "/v1/audit", 200).await?;
    ensure!(!others.is_empty() && !format!("{others:?}").contains(&tenant.id), "a stranger reads it: {others:?}");

    for path in ["/v1/audit", "/v1/audit/head"] {
        asks_for(client, "audit:read", Method::GET, path).await?;
    }
    for bad in ["from=x", "to=x", "colour=red"] {
        client.get(&format!("/v1/audit?{bad}")).await?.refuses(400, "invalid-query").context(bad)?;
    }
    pages_are_checked(client, "/v1/audit").await
}
