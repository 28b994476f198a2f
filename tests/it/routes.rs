//! Every route, as the contract describes it. The modules mirror the URLs.

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use wasmwiz_tests::{
    client::Client,
    guests,
    harness::NodeProcess,
    tenants::{Tenant, all_but, register},
};

mod audit;
mod conditional;
mod docs;
mod executions;
mod health;
mod keys;
mod modules;
mod tenants;
mod tokens;
mod usage;

/// A node, its operator, and two tenants that must not know of each other.
struct Setting {
    node: NodeProcess,
    operator: Client,
    tenant: Tenant,
    stranger: Tenant,
}

impl Setting {
    async fn new() -> anyhow::Result<Self> {
        let node = NodeProcess::dev().await?;
        let operator = node.operator()?;
        let tenant = register(&operator, "Acme", "enterprise").await?;
        let stranger = register(&operator, "Stranger", "enterprise").await?;
        for tenant in [&tenant, &stranger] {
            tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
        }
        Ok(Self { node, operator, tenant, stranger })
    }
}

/// Without a valid key the route is a 401, and with every scope but its own a 403.
async fn asks_for(client: &Client, scope: &str, method: Method, path: &str) -> anyhow::Result<()> {
    let shown = format!("{method} {path}");
    let request = |client: &Client| {
        let request = client.request(method.clone(), path);
        // A body that is right, where there is one: who asks is looked at first.
        if method == Method::GET || method == Method::DELETE { request } else { request.json(&json!({"name": "x"})) }
    };
    client.send(request(&client.anonymous())).await?.refuses(401, "unauthenticated").context(shown.clone())?;
    let narrow = all_but(client, scope).await?;
    let refused = client.send(request(&narrow)).await?.refuses(403, "missing-scope").context(shown.clone())?;
    ensure!(refused.to_string().contains(scope), "{shown} does not name the scope {scope}: {refused}");
    Ok(())
}

/// Bad values of the parameters that every list has.
async fn pages_are_checked(client: &Client, path: &str) -> anyhow::Result<()> {
    for (query, slug) in [
        ("limit=0", "invalid-query"),
        ("limit=201", "invalid-query"),
        ("limit=x", "invalid-query"),
        ("limit=1&limit=2", "invalid-query"),
        ("no_such_parameter=1", "invalid-query"),
        ("cursor=nonsense", "malformed-cursor"),
        ("cursor=", "malformed-cursor"),
    ] {
        let refused = client.get(&format!("{path}?{query}")).await?.refuses(400, slug);
        refused.with_context(|| format!("{path}?{query}"))?;
    }
    Ok(())
}

/// Walks a list from page to page, `limit` items each, and gives all of them.
async fn all_pages(client: &Client, path: &str, limit: usize) -> anyhow::Result<Vec<Value>> {
    let (mut items, mut cursor) = (Vec::new(), None::<String>);
    let joined = if path.contains('?') { '&' } else { '?' };
    loop {
        let more = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let answer = client.get(&format!("{path}{joined}limit={limit}{more}")).await?;
        let page = answer.is(200)?;
        let new = page["items"].as_array().with_context(|| format!("{path} gives no items: {page}"))?;
        ensure!(new.len() <= limit, "{path} gives {} items of at most {limit}", new.len());
        items.extend(new.iter().cloned());
        let link = answer.header("link").is_some_and(|link| link.contains("rel=\"next\""));
        ensure!(link == page["next_cursor"].is_string(), "{path}: Link and next_cursor disagree: {answer:?}");
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(items),
        }
        ensure!(items.len() < 10_000, "{path} has no last page");
    }
}
