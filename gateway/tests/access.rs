//! Who may do what: keys, scopes, tenants, and that nothing of one tenant reaches another.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail like tests, and draw keys"
)]

mod support;

use reqwest::Method;
use serde_json::{Value, json};
use support::{ECHO, Node, problem, read, send, text, with_secret_of};
use wasmwiz_actors::ids::Ids;
use wasmwiz_events::{
    commit::{Commit, Header},
    id::TenantId,
    ledger::Head,
    log::{Append, EventLog as _},
    revision::Position,
};
use wasmwiz_gateway::GatewayConfig;
use wasmwiz_projections::views::View;

/// How long something may take that is bound to happen.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

#[tokio::test]
async fn a_key_works_at_once_and_stops_at_once() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    for _ in 0..5 {
        let body = json!({"name": "reader", "scopes": ["modules:read", "keys:manage"]});
        let response = send(node.post("/v1/keys", &key).json(&body)).await;
        assert_eq!(response.status(), 201);
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        let issued: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        let secret = text(&issued["secret"]);
        assert_eq!(read(node.get("/v1/modules", &secret)).await.0, 200);
        assert_eq!(problem(node.get("/v1/usage", &secret)).await, (403, "missing-scope".into()));
        let wider = json!({"name": "w", "scopes": ["modules:write"]});
        assert_eq!(problem(node.post("/v1/keys", &secret).json(&wider)).await, (403, "wider-scopes".into()));
        let (_, shown) = read(node.get(&location, &key)).await;
        assert!(shown.get("secret").is_none() && shown["revoked_at"].is_null(), "{shown}");
        assert_eq!(send(node.request(Method::DELETE, &location, &key)).await.status(), 204);
        assert_eq!(problem(node.get("/v1/modules", &secret)).await, (401, "unauthenticated".into()));
        assert_eq!(send(node.request(Method::DELETE, &location, &key)).await.status(), 204);
    }
    let (_, list) = read(node.get("/v1/keys", &key)).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 6);
    assert!(!list.to_string().contains("hash"));
}

#[tokio::test]
async fn every_credential_that_is_not_one_gets_the_same_answer() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    let (_, stranger) = node.tenant("pro").await;
    let mut details = Vec::new();
    // The id of one key with the secret of another: once with a wrong checksum, once with one that fits.
    let unknown = wasmwiz_gateway::auth::api_key::draw(&mut rand::rng(), &Default::default());
    let spliced = format!("{}{}", &key[..16], &stranger[16..]);
    let mixed = with_secret_of(&key, &stranger);
    assert_eq!(with_secret_of(&key, &key), key);
    for credential in ["", "x", &key[..53], &spliced, &mixed, unknown.text()] {
        let response = send(node.get("/v1/modules", credential)).await;
        assert_eq!(response.status(), 401, "{credential}");
        assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        details.push(text(&body["detail"]));
    }
    details.dedup();
    assert_eq!(details.len(), 1);
}

#[tokio::test]
async fn nothing_of_one_tenant_reaches_another() {
    let node = Node::start().await;
    let (_, ours) = node.tenant("pro").await;
    let (_, theirs) = node.tenant("pro").await;
    node.publish(&ours, "echo", ECHO).await;
    let (_, ran) = read(node.post("/v1/modules/echo/executions", &ours).body("secret")).await;
    let (_, keys) = read(node.get("/v1/keys", &ours)).await;
    node.settle().await;
    let execution = format!("/v1/executions/{}", text(&ran["id"]));
    let key = format!("/v1/keys/{}", text(&keys["items"][0]["id"]));
    for path in [
        execution.clone(),
        format!("{execution}/stdin"),
        format!("{execution}/stdout"),
        key.clone(),
        "/v1/modules/echo".into(),
        "/v1/modules/echo/versions".into(),
        "/v1/modules/echo/versions/1/wasm".into(),
    ] {
        assert_eq!(send(node.get(&path, &ours)).await.status(), 200, "{path}");
        assert_eq!(problem(node.get(&path, &theirs)).await.0, 404, "{path}");
    }
    for (method, path) in [
        (Method::DELETE, key),
        (Method::DELETE, "/v1/modules/echo".into()),
        (Method::POST, "/v1/modules/echo/executions".into()),
    ] {
        assert_eq!(problem(node.request(method, &path, &theirs)).await.0, 404, "{path}");
    }
    for path in ["/v1/executions", "/v1/modules"] {
        let (_, list) = read(node.get(path, &theirs)).await;
        assert_eq!(list["items"], json!([]), "{path}");
    }
}

#[tokio::test]
async fn operators_register_change_suspend_and_resume_tenants() {
    let node = Node::start().await;
    let (id, key) = node.tenant("free").await;
    let path = format!("/v1/tenants/{id}");
    let (status, tenant) = read(node.get(&path, &node.operator)).await;
    assert_eq!((status, text(&tenant["status"]), text(&tenant["tier"])), (200, "active".into(), "free".into()));
    let patch = |body: Value| node.request(Method::PATCH, &path, &node.operator).json(&body);
    let (_, tenant) = read(patch(json!({"name": "Acme Ltd", "tier": "basic"}))).await;
    assert_eq!((text(&tenant["name"]), text(&tenant["tier"])), ("Acme Ltd".into(), "basic".into()));
    assert_eq!(problem(patch(json!({}))).await, (400, "invalid-body".into()));
    assert_eq!(problem(patch(json!({"tier": "gold"}))).await, (400, "invalid-body".into()));
    let suspend = node.post(&format!("{path}/suspend"), &node.operator).json(&json!({"reason": "unpaid"}));
    let (_, tenant) = read(suspend).await;
    assert_eq!((text(&tenant["status"]), text(&tenant["suspended_reason"])), ("suspended".into(), "unpaid".into()));
    assert_eq!(problem(node.get("/v1/modules", &key)).await, (403, "tenant-suspended".into()));
    let (_, tenant) = read(node.post(&format!("{path}/resume"), &node.operator)).await;
    assert_eq!(text(&tenant["status"]), "active");
    assert_eq!(read(node.get("/v1/modules", &key)).await.0, 200);
    let (_, list) = read(node.get("/v1/tenants?limit=1", &node.operator)).await;
    assert_eq!(list["items"][0]["id"], json!(id));
    let absent = problem(node.get("/v1/tenants/nobody", &node.operator)).await;
    assert_eq!(absent, (404, "tenant-not-found".into()));
    let absent = problem(node.post("/v1/tenants/nobody/resume", &node.operator)).await;
    assert_eq!(absent, (404, "tenant-not-found".into()));
}

#[tokio::test]
async fn the_history_shows_who_did_what_for_which_request() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    let body = json!({"name": "ci", "scopes": ["executions:run"]});
    let (_, issued) = read(node.post("/v1/keys", &key).header("x-request-id", "req-7").json(&body)).await;
    node.settle().await;
    let subject = format!("keys/{}", text(&issued["id"]));
    let (_, found) = read(node.get(&format!("/v1/audit?subject={subject}"), &key)).await;
    let event = &found["items"][0];
    assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(
        (text(&event["type"]), text(&event["correlation"])),
        ("dev.wasmwiz.key.issued.v1".into(), "req-7".into())
    );
    assert_eq!((text(&event["specversion"]), text(&event["subject"])), ("1.0".into(), subject));
    let (_, all) = read(node.get("/v1/audit", &key)).await;
    let revisions: Vec<_> = all["items"].as_array().unwrap().iter().map(|event| event["revision"].as_u64()).collect();
    assert_eq!(revisions, [Some(3), Some(2), Some(1)]);
    assert!(text(&all["items"][2]["actor"]).starts_with("operator:"));
    let (_, head) = read(node.get("/v1/audit/head", &key)).await;
    assert_eq!((&head["revision"], &head["position"]), (&json!(3), &all["items"][0]["position"]));
}

#[tokio::test]
async fn a_tenant_over_its_rate_is_told_when_to_come_back() {
    let node = Node::start().await;
    let (_, key) = node.tenant("free").await;
    node.publish(&key, "echo", ECHO).await;
    for _ in 0..5 {
        assert_eq!(read(node.post("/v1/modules/echo/executions", &key)).await.0, 200);
    }
    let response = send(node.post("/v1/modules/echo/executions", &key)).await;
    assert_eq!(response.status(), 429);
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(response.headers()["ratelimit-policy"], "\"executions\";q=10;w=60");
}

#[tokio::test]
async fn what_the_node_does_not_forbid_yet_is_not_called_forbidden() {
    let node = Node::start_with(GatewayConfig { visible_wait_ms: 50, ..Default::default() }).await;
    let (id, key) = node.tenant("pro").await;
    let (_, keys) = read(node.get("/v1/keys", &key)).await;
    node.views.shutdown().await;
    let suspended = node.post(&format!("/v1/tenants/{id}/suspend"), &node.operator);
    let resumed = node.post(&format!("/v1/tenants/{id}/resume"), &node.operator);
    let revoked = node.request(Method::DELETE, &format!("/v1/keys/{}", text(&keys["items"][0]["id"])), &key);
    assert_eq!(problem(suspended).await, (503, "unavailable".into()));
    assert_eq!(read(resumed).await.0, 200);
    let response = send(revoked).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(response.text().await.unwrap().contains("is recorded"));
    // The entity knows.
    assert_eq!(problem(node.request(Method::DELETE, "/v1/modules/m", &key)).await, (401, "unauthenticated".into()));
}

#[tokio::test]
async fn nobody_is_let_in_by_a_view_that_has_not_caught_up() {
    let node = Node::start().await;
    let ((_, key), (id, suspended)) = (node.tenant("pro").await, node.tenant("pro").await);
    let body = json!({"name": "leaked", "scopes": ["modules:read"]});
    let (_, issued) = read(node.post("/v1/keys", &key).json(&body)).await;
    let (leaked, path) = (text(&issued["secret"]), format!("/v1/keys/{}", text(&issued["id"])));
    let before = node.log.tail().await.unwrap();
    assert_eq!(send(node.request(Method::DELETE, &path, &key)).await.status(), 204);
    assert_eq!(read(node.post(&format!("/v1/tenants/{id}/suspend"), &node.operator)).await.0, 200);

    node.log.show_until(before);
    let again = node.without_its_views().await;
    again.views.wait_for_view(View::Keys, before, DEADLINE).await.unwrap();
    for key in [&leaked, &suspended, &key, &again.operator] {
        let response = send(again.get("/v1/modules", key)).await;
        assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    }
    assert_eq!(read(again.get("/livez", "")).await.0, 200);

    node.log.show_all();
    for view in [View::Keys, View::Modules] {
        again.views.until_live(view, DEADLINE).await.unwrap();
    }
    assert_eq!(problem(again.get("/v1/modules", &leaked)).await, (401, "unauthenticated".into()));
    assert_eq!(problem(again.get("/v1/modules", &suspended)).await, (403, "tenant-suspended".into()));
    assert_eq!(read(again.get("/v1/modules", &key)).await.0, 200);
}

#[tokio::test]
async fn a_revoked_operator_has_no_power_even_while_the_view_lags() {
    let node = Node::start_with(GatewayConfig { visible_wait_ms: 50, ..Default::default() }).await;
    let (id, _) = node.tenant("pro").await;
    node.views.shutdown().await;
    let revoke = node.request(Method::DELETE, &format!("/v1/keys/{}", &node.operator[3..15]), &node.operator);
    assert_eq!(problem(revoke).await, (503, "unavailable".into()));
    let recorded = node.log.commits().len();
    // The view lets the key in as before.
    assert_eq!(read(node.get("/v1/tenants", &node.operator)).await.0, 200);
    for (method, path) in [
        (Method::POST, "/v1/tenants".to_owned()),
        (Method::PATCH, format!("/v1/tenants/{id}")),
        (Method::POST, format!("/v1/tenants/{id}/suspend")),
        (Method::POST, format!("/v1/tenants/{id}/resume")),
    ] {
        let request = node.request(method, &path, &node.operator);
        let body = if path == "/v1/tenants" || path.ends_with(&id) {
            json!({"name": "Mine", "tier": "pro"})
        } else {
            json!({})
        };
        assert_eq!(problem(request.json(&body)).await, (401, "unauthenticated".into()), "{path}");
    }
    assert_eq!(node.log.commits().len(), recorded);
}

#[tokio::test]
async fn nobody_is_let_in_by_a_view_that_has_stopped() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    node.settle().await;
    assert_eq!(read(node.get("/v1/modules", &key)).await.0, 200);
    // A commit that no view can fold, as it decodes to nothing, and of which nothing says whose it is: there is no stream to set aside.
    node.log.lose(Position::new(node.log.commits().len() as u64 + 1));
    let like = node.log.commits()[0].commit.clone();
    let tenant = TenantId::new("t-unreadable").unwrap();
    let prev_hash = Head::genesis(&tenant).hash;
    let header = Header { tenant, prev_hash, commit_id: Ids.commit(), ..like.header().clone() };
    let commit = Commit::from_stored(header, like.hash(), b"nonsense".to_vec().into());
    let appended = node.log.append(Append { commit, payloads: Vec::new() }).await.unwrap();
    let behind = node.views.wait_for_view(View::Keys, appended.position, DEADLINE).await.unwrap_err();
    assert!(behind.stopped);
    let refused = tokio::time::timeout(DEADLINE, async {
        while read(node.get("/v1/modules", &key)).await.0 != 503 {
            tokio::task::yield_now().await;
        }
    });
    refused.await.expect("the stopped view is noticed");
    assert_eq!(problem(node.get("/v1/modules", &key)).await, (503, "unavailable".into()));
    assert_eq!(read(node.get("/livez", "")).await.0, 200);
}
