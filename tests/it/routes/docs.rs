//! `/openapi.json` and `/docs`.

use anyhow::ensure;
use wasmwiz_tests::{cli, harness::NodeProcess};

/// Paths that the document must describe, with their methods.
const ROUTES: [(&str, &[&str]); 21] = [
    ("/livez", &["get"]),
    ("/readyz", &["get"]),
    ("/health", &["get"]),
    ("/v1/tenants", &["get", "post"]),
    ("/v1/tenants/{tenant}", &["get", "patch"]),
    ("/v1/tenants/{tenant}/suspend", &["post"]),
    ("/v1/tenants/{tenant}/resume", &["post"]),
    ("/v1/keys", &["get", "post"]),
    ("/v1/keys/{id}", &["get", "delete"]),
    ("/v1/modules", &["get"]),
    ("/v1/modules/{name}", &["get", "put", "delete"]),
    ("/v1/modules/{name}/versions", &["get"]),
    ("/v1/modules/{name}/executions", &["post"]),
    ("/v1/executions", &["get", "post"]),
    ("/v1/executions/{id}", &["get"]),
    ("/v1/executions/{id}/stdin", &["get"]),
    ("/v1/executions/{id}/stdout", &["get"]),
    ("/v1/executions/{id}/stderr", &["get"]),
    ("/v1/usage", &["get"]),
    ("/v1/audit", &["get"]),
    ("/v1/audit/head", &["get"]),
];

#[tokio::test]
async fn the_document_describes_every_route_and_the_page_needs_no_other_host() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let anybody = node.client()?.anonymous();
    let document = anybody.get("/openapi.json").await?.is(200)?;
    ensure!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{}", document["openapi"]);
    let described = |template: &str| {
        let blank = |path: &str| -> Vec<String> {
            let named = |part: &str| if part.starts_with('{') { "{}".to_owned() } else { part.to_owned() };
            path.split('/').map(named).collect()
        };
        let paths = document["paths"].as_object().into_iter().flatten();
        paths.filter(|(path, _)| blank(path) == blank(template)).map(|(_, item)| item.clone()).next()
    };
    for (path, methods) in ROUTES {
        let item = described(path);
        for method in methods {
            let operation = item.as_ref().and_then(|item| item.get(*method));
            ensure!(operation.is_some_and(|operation| !operation["responses"].is_null()), "no {method} {path}");
        }
    }
    let printed = cli::run(["openapi"]).await?;
    ensure!(printed.code == Some(0), "{printed:?}");
    let printed: serde_json::Value = serde_json::from_str(&printed.stdout)?;
    ensure!(printed["paths"] == document["paths"], "the command prints another document than the node serves");

    let page = anybody.get("/docs").await?;
    ensure!(page.conforms()?.status == 200, "{}", page.text());
    ensure!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{:?}", page.headers);
    let html = page.text();
    for outside in ["src=\"http", "href=\"http", "src=\"//", "href=\"//", "url(http", "cdn."] {
        ensure!(!html.contains(outside), "the page loads from another host: {outside}");
    }
    Ok(())
}
