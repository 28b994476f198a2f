//! `/livez`, `/readyz`, `/health`, and `/metrics` of the admin listener.

use anyhow::ensure;
use wasmwiz_tests::harness::NodeProcess;

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
