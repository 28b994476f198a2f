//! `/livez`, `/readyz`, `/health`, and `/metrics` of the admin listener.

use anyhow::ensure;
use wasmwiz_tests::{guests, harness::NodeProcess, wait};

#[tokio::test]
async fn a_healthy_node_says_so_to_anybody() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let anybody = node.client()?.anonymous();
    for path in ["/livez", "/readyz"] {
        let answer = anybody.get(path).await?;
        ensure!(answer.conforms()?.status == 200, "{path}: {}", answer.text());
    }
    let health = anybody.get("/health").await?.is(200)?;
    ensure!(!health["status"].as_str().unwrap_or_default().is_empty(), "{health}");
    for check in ["event_log", "projections", "executor", "feed"] {
        let check = &health["checks"][check];
        ensure!(check["status"].is_string() && !check["message"].is_null(), "{health}");
    }

    let admin = node.admin()?;
    for path in ["/livez", "/readyz"] {
        ensure!(admin.get(path).await?.status == 200, "{path} of the admin listener");
    }
    let metrics = admin.get("/metrics").await?;
    ensure!(metrics.status == 200 && metrics.text().contains("# TYPE wasmwiz_"), "{}", metrics.text());
    // The numbers of all tenants are no tenant's business.
    anybody.get("/metrics").await?.refuses(404, "no-such-route")?;
    Ok(())
}

/// The value of a metric in the text of a scrape, of the first of its series.
fn value(scrape: &str, name: &str) -> Option<f64> {
    let of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.split('{').next() == Some(name)).then(|| value.parse().ok()).flatten()
    };
    scrape.lines().filter(|line| !line.starts_with('#')).find_map(of)
}

#[tokio::test]
async fn what_operators_ask_is_in_the_metrics_of_a_live_node() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let client = node.client()?;
    client.put_module("mine", guests::EXIT7.wasm()?).await?.is(201)?;
    client.execute("mine", "hello").await?;
    client.get("/v1/executions?limit=1").await?.is(200)?;
    let admin = node.admin()?;
    let scrape = wait::until("what the views measure", wait::SOON, async || {
        let scrape = admin.get("/metrics").await?.text();
        Ok(value(&scrape, "wasmwiz_projection_lag_commits").is_some().then_some(scrape))
    })
    .await?;
    // How long appends take and how many share a sync; what waits; how far views and feed are; what ran, how it ended, what it
    // cost; what compiles; what is held; how large the log is; what was asked.
    for (name, at_least) in [
        ("wasmwiz_log_commit_seconds_count", 1.0),
        ("wasmwiz_log_batch_appends_count", 1.0),
        ("wasmwiz_log_commits_total", 4.0),
        ("wasmwiz_log_bytes", 4_096.0),
        ("wasmwiz_disk_free_bytes", 1.0),
        ("wasmwiz_disk_level", 0.0),
        ("wasmwiz_disk_reserve_bytes", 1.0),
        ("wasmwiz_commands_waiting", 0.0),
        ("wasmwiz_commands_waiting_longest", 0.0),
        ("wasmwiz_entities", 1.0),
        ("wasmwiz_entity_batch_commands_count", 1.0),
        ("wasmwiz_projection_lag_commits", 0.0),
        ("wasmwiz_executions_running", 0.0),
        ("wasmwiz_executions_total", 1.0),
        ("wasmwiz_execution_seconds_count", 1.0),
        ("wasmwiz_guest_cpu_seconds_count", 1.0),
        ("wasmwiz_executor_wait_seconds_count", 1.0),
        ("wasmwiz_guest_memory_bytes", 0.0),
        ("wasmwiz_guest_memory_max_bytes", 1.0),
        ("wasmwiz_compile_results_total", 1.0),
        ("wasmwiz_compile_seconds_count", 1.0),
        ("wasmwiz_http_request_seconds_count", 1.0),
        ("wasmwiz_http_requests_in_flight", 0.0),
        ("wasmwiz_http_connections", 1.0),
    ] {
        let found = value(&scrape, name);
        ensure!(found.is_some_and(|found| found >= at_least), "{name} is {found:?}:\n{scrape}");
    }
    Ok(())
}
