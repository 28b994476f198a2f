//! Any node answers any request, and what one has written is seen at every other.

use anyhow::{Context as _, ensure};
use reqwest::Method;
use wasmwiz_tests::{
    fleet::{Fleet, Size},
    guests,
    tenants::{issue, register},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_has_written_every_other_shows_by_its_position() -> anyhow::Result<()> {
    let fleet = Fleet::started(Size { nodes: 3, servers: 3, tenants: 6 }).await?;
    let urls: Vec<_> = fleet.nodes.iter().map(|node| node.ready().url.clone()).collect();
    for (number, tenant) in fleet.tenants.iter().enumerate() {
        for (writer, url) in urls.iter().enumerate() {
            let name = format!("echo{writer}");
            let written = tenant.client.at(url);
            written.put_module(&name, guests::ECHO.wasm()?).await?.is(201)?;
            let key = issue(&written, &name, &["executions:run"]).await?;
            let ran = written.with_credential(&key.secret).execute(&name, "hello").await?;
            ensure!(ran.stdout == "hello", "{ran:?}");
            for other in &urls {
                // A key that was given elsewhere a moment ago works here, where its position is named.
                let fresh = issue(&written, "fresh", &["executions:run"]).await?;
                let new = written.at(other).with_credential(&fresh.secret);
                let request = new.request(Method::POST, &format!("/v1/modules/{name}/executions"));
                new.send(new.as_seen(request).body("x")).await?.is(200)?;
                let reader = tenant.client.at(other);
                reader.get(&format!("/v1/modules/{name}")).await?.is(200)?;
                reader.get(&format!("/v1/keys/{}", key.id)).await?.is(200)?;
                let again = reader.execute(&name, format!("from {other}")).await?;
                ensure!(again.stdout == format!("from {other}"), "{again:?}");
                reader.get_json(&format!("/v1/executions/{}", again.id)).await.context("its own execution")?;
                reader.get_json(&format!("/v1/executions/{}", ran.id)).await.context("another's execution")?;
            }
            written.delete(&format!("/v1/keys/{}", key.id)).await?.is(204)?;
            let next = urls.get((writer + number) % urls.len()).context("no node")?;
            let revoked = tenant.client.at(next).with_credential(&key.secret);
            let refused = revoked.post_bytes(&format!("/v1/modules/{name}/executions"), "x").await?;
            ensure!(refused.status == 401, "a revoked key: {} {}", refused.status, refused.text());
        }
    }
    // A tenant that one node has just registered is known to all.
    let operator = fleet.operator(1)?;
    let young = register(&operator, "Young", "pro").await?;
    for url in &urls {
        young.client.at(url).get("/v1/keys").await?.is(200)?;
    }
    fleet.settled().await?;
    Ok(())
}
