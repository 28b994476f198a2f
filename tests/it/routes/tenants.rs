//! `/v1/tenants`: the operator's.

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::json;
use wasmwiz_tests::tenants::register;

use super::{Setting, all_pages, pages_are_checked};

#[tokio::test]
async fn an_operator_registers_changes_and_suspends_tenants() -> anyhow::Result<()> {
    let Setting { node: _node, operator, .. } = Setting::new().await?;
    let new = register(&operator, "Ünïcode 漢字", "free").await?;
    let path = format!("/v1/tenants/{}", new.id);

    let shown = operator.get(&path).await?.is(200)?;
    ensure!(shown["id"] == new.id && shown["name"] == "Ünïcode 漢字" && shown["tier"] == "free", "{shown}");
    ensure!(!shown.to_string().contains(&new.key.secret), "a secret is shown a second time");
    let listed = all_pages(&operator, "/v1/tenants", 2).await?;
    ensure!(listed.iter().filter(|tenant| tenant["id"] == new.id).count() == 1, "{listed:?}");

    let changed = operator.patch_json(&path, &json!({"name": "Renamed", "tier": "pro"})).await?.is(200)?;
    ensure!(changed["name"] == "Renamed" && changed["tier"] == "pro", "{changed}");
    ensure!(operator.get(&path).await?.is(200)?["tier"] == "pro", "the change is not shown");

    new.client.get("/v1/keys").await?.is(200)?;
    let suspended = operator.post_json(&format!("{path}/suspend"), &json!({"reason": "unpaid"})).await?;
    ensure!(suspended.conforms()?.status.is_success(), "{}", suspended.text());
    new.client.post_bytes("/v1/modules/echo/executions", "").await?.refuses(403, "tenant-suspended")?;
    // Asking twice is no failure.
    let again = operator.post_json(&format!("{path}/suspend"), &json!({})).await?;
    ensure!(again.status.is_success(), "{}", again.text());
    let resumed = operator.post_json(&format!("{path}/resume"), &json!({})).await?;
    ensure!(resumed.conforms()?.status.is_success(), "{}", resumed.text());
    new.client.post_bytes("/v1/modules/echo/executions", "").await?.refuses(404, "module-not-found")?;
    Ok(())
}

#[tokio::test]
async fn tenants_are_for_operators_alone_and_checked() -> anyhow::Result<()> {
    let Setting { node: _node, operator, tenant, .. } = Setting::new().await?;
    let one = format!("/v1/tenants/{}", tenant.id);
    let body = json!({"name": "x", "tier": "free"});
    let anonymous = tenant.client.anonymous();
    for (client, status, slug) in [(&tenant.client, 403, "missing-scope"), (&anonymous, 401, "unauthenticated")] {
        for (method, path) in [
            (Method::GET, "/v1/tenants".to_owned()),
            (Method::POST, "/v1/tenants".to_owned()),
            (Method::GET, one.clone()),
            (Method::PATCH, one.clone()),
            (Method::POST, format!("{one}/suspend")),
            (Method::POST, format!("{one}/resume")),
        ] {
            let request = client.request(method.clone(), &path);
            let request = if method == Method::GET { request } else { request.json(&body) };
            client.send(request).await?.refuses(status, slug).with_context(|| format!("{method} {path}"))?;
        }
    }

    for bad in [
        json!({"tier": "free"}),
        json!({"name": "x"}),
        json!({"name": "x", "tier": "golden"}),
        json!({"name": 7, "tier": "free"}),
        json!({"name": "x", "tier": "free", "colour": "red"}),
        json!(["x"]),
    ] {
        let refused = operator.post_json("/v1/tenants", &bad).await?.refuses(400, "invalid-body")?;
        ensure!(bad.is_array() || refused["errors"][0]["at"].is_string(), "{bad}: no place is named: {refused}");
    }
    for name in ["", "a\nb", &"x".repeat(101)] {
        let answer = operator.post_json("/v1/tenants", &json!({"name": name, "tier": "free"})).await?;
        answer.refuses(400, "invalid-name")?;
    }
    for absent in ["/v1/tenants/t-nobody", "/v1/tenants/NOT-AN-ID"] {
        operator.get(absent).await?.refuses(404, "tenant-not-found")?;
        operator.patch_json(absent, &json!({"tier": "pro"})).await?.refuses(404, "tenant-not-found")?;
        operator.post_json(&format!("{absent}/suspend"), &json!({})).await?.refuses(404, "tenant-not-found")?;
    }
    for bad in [json!({}), json!({"name": null}), json!({"tier": "golden"}), json!({"colour": "red"})] {
        operator.patch_json(&one, &bad).await?.refuses(400, "invalid-body")?;
    }
    operator.patch_json(&one, &json!({"name": ""})).await?.refuses(400, "invalid-name")?;
    operator.post_json(&format!("{one}/suspend"), &json!({"reason": 7})).await?.refuses(400, "invalid-body")?;
    operator.post_json("/v1/tenants/t-nobody/resume", &json!({})).await?.refuses(404, "tenant-not-found")?;
    // Without the system tenant nobody could operate the platform.
    operator.post_json("/v1/tenants/system/suspend", &json!({})).await?.refuses(409, "system-tenant")?;
    pages_are_checked(&operator, "/v1/tenants").await
}
