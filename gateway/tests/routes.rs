//! Every route, over a socket, against a real region, real executors and a log in memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail like tests, and draw keys"
)]

mod support;

use reqwest::{Method, multipart};
use serde_json::{Value, json};
use support::{ECHO, EXIT_3, Node, problem, read, send, text, wasm};
use wasmwiz_actors::{ids::Ids, limits::Policy};
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::{Accepted, Content, Finished, ModuleRef, Outcome, Seed},
    id::{ExecutionId, KeyId, NodeId},
    key::Revoked,
    log::EventLog,
    tenant::Renamed,
    time::Timestamp,
};
use wasmwiz_gateway::GatewayConfig;

#[tokio::test]
async fn a_tenant_is_registered_publishes_runs_and_reads_what_ran() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    let (status, module) = node.publish(&key, "echo", ECHO).await;
    assert_eq!((status, module["version"].as_u64(), text(&module["kind"])), (201, Some(1), "core".into()), "{module}");
    assert_eq!(node.publish(&key, "echo", ECHO).await.0, 200);
    let response = send(node.post("/v1/modules/echo/executions", &key).body("grüß")).await;
    assert_eq!(response.status(), 200);
    let position = response.headers()["wasmwiz-position"].clone();
    let ran: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!((text(&ran["outcome"]), text(&ran["stdout"])), ("succeeded".into(), "grüß".into()), "{ran}");
    assert_eq!(text(&ran["stdout_encoding"]), "utf-8");
    assert_eq!(ran["usage"]["stdin_bytes"], "grüß".len());
    let path = format!("/v1/executions/{}", text(&ran["id"]));
    let (status, stored) = read(node.get(&path, &key).header("wasmwiz-min-position", &position)).await;
    assert_eq!((status, &stored), (200, &ran));
    for (stream, expected) in [("stdin", "grüß"), ("stdout", "grüß"), ("stderr", "")] {
        let bytes = send(node.get(&format!("{path}/{stream}"), &key)).await;
        assert_eq!(bytes.headers()["content-type"], "application/octet-stream");
        assert_eq!(bytes.text().await.unwrap(), expected, "{stream}");
    }
    let (_, list) = read(node.get("/v1/executions?module=echo&outcome=succeeded", &key)).await;
    assert_eq!(list["items"][0]["id"], ran["id"]);
    let (_, usage) = read(node.get("/v1/usage?by=module", &key)).await;
    assert_eq!(
        (&usage["items"][0]["bucket"], &usage["items"][0]["outcomes"]["succeeded"]),
        (&json!("echo"), &json!(1))
    );
}

#[tokio::test]
async fn a_guest_that_fails_is_an_answer() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    node.publish(&key, "exit", EXIT_3).await;
    let (status, ran) = read(node.post("/v1/modules/exit/executions", &key)).await;
    assert_eq!((status, text(&ran["outcome"]), &ran["exit_code"]), (200, "exited".into(), &json!(3)), "{ran}");
    assert_eq!((text(&ran["stdout"]), text(&ran["stdout_encoding"])), ("//4=".into(), "base64".into()));
    let raw = node.post("/v1/modules/exit/executions", &key).header("accept", "application/octet-stream");
    let raw = send(raw).await;
    let header = |name: &str| raw.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((header("wasmwiz-outcome"), header("wasmwiz-exit-code")), ("exited".into(), "3".into()));
    assert!(header("server-timing").starts_with("exec;dur="));
    assert_eq!(header("wasmwiz-execution-id").len(), 36);
    assert_eq!(&raw.bytes().await.unwrap()[..], b"\xff\xfe");
}

#[tokio::test]
async fn a_module_is_uploaded_and_run_at_once() {
    let node = Node::start().await;
    let (_, key) = node.tenant("free").await;
    let form = || multipart::Form::new().part("wasm", multipart::Part::bytes(wasm(ECHO)).file_name("m.wasm"));
    let (status, ran) = read(node.post("/v1/executions", &key).multipart(form().text("input", "hi"))).await;
    assert_eq!((status, text(&ran["stdout"]), &ran["module"]["name"]), (200, "hi".into(), &Value::Null), "{ran}");
    let door = || node.post("/v1/executions", &key);
    assert_eq!(
        problem(door().multipart(multipart::Form::new().text("input", "hi"))).await,
        (400, "invalid-body".into())
    );
    assert_eq!(problem(door().multipart(form().text("colour", "red"))).await, (400, "invalid-body".into()));
    let broken = door().header("content-type", "multipart/form-data; boundary=B").body("--B\r\nnonsense");
    assert_eq!(problem(broken).await, (400, "broken-multipart".into()));
    assert_eq!(problem(door().body("x")).await, (415, "unsupported-media-type".into()));
    let part = multipart::Part::bytes(b"not wasm".to_vec());
    assert_eq!(
        problem(door().multipart(multipart::Form::new().part("wasm", part))).await,
        (422, "module-rejected".into())
    );
}

#[tokio::test]
async fn modules_are_listed_read_and_deleted() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    node.publish(&key, "b", ECHO).await;
    node.publish(&key, "a", ECHO).await;
    node.publish(&key, "a", EXIT_3).await;
    node.settle().await;
    let (_, first) = read(node.get("/v1/modules?limit=1", &key)).await;
    assert_eq!((&first["items"][0]["name"], &first["items"][0]["version"]), (&json!("a"), &json!(2)));
    let cursor = text(&first["next_cursor"]);
    let second = send(node.get(&format!("/v1/modules?limit=1&cursor={cursor}"), &key)).await;
    assert!(!second.headers().contains_key("link"));
    let second: Value = serde_json::from_slice(&second.bytes().await.unwrap()).unwrap();
    assert_eq!((&second["items"][0]["name"], &second["next_cursor"]), (&json!("b"), &Value::Null));
    let (_, other) = node.tenant("pro").await;
    for (path, key) in [("/v1/modules", &other), ("/v1/keys", &key), ("/v1/modules/a/versions", &key)] {
        let stray = node.get(&format!("{path}?limit=1&cursor={cursor}"), key);
        assert_eq!(problem(stray).await, (400, "malformed-cursor".into()), "{path}");
    }
    let (_, versions) = read(node.get("/v1/modules/a/versions", &key)).await;
    assert_eq!(versions["items"].as_array().unwrap().len(), 2);
    let bytes = send(node.get("/v1/modules/a/versions/1/wasm", &key)).await;
    assert_eq!(bytes.headers()["content-type"], "application/wasm");
    assert_eq!(bytes.bytes().await.unwrap(), wasm(ECHO));
    for path in ["/v1/modules/a/versions/3/wasm", "/v1/modules/a/versions/x/wasm"] {
        assert_eq!(problem(node.get(path, &key)).await, (404, "version-not-found".into()));
    }
    // They are swept before the view shows the deletion.
    node.remove_blob(Digest::of(&wasm(EXIT_3)));
    let swept = node.get("/v1/modules/a/versions/2/wasm", &key);
    assert_eq!(problem(swept).await, (404, "payload-gone".into()));
    let deleted = send(node.request(Method::DELETE, "/v1/modules/a", &key)).await;
    assert_eq!(deleted.status(), 204);
    node.settle().await;
    assert_eq!(problem(node.get("/v1/modules/a", &key)).await, (404, "module-not-found".into()));
    assert_eq!(problem(node.post("/v1/modules/a/executions", &key)).await, (404, "module-not-found".into()));
}

#[tokio::test]
async fn what_is_sent_wrongly_has_a_problem_of_its_own() {
    let node = Node::start().await;
    let (_, key) = node.tenant("free").await;
    let put = || node.request(Method::PUT, "/v1/modules/m", &key);
    let large = || vec![0; (4 << 20) + 1];
    let chunks = futures_util::stream::iter(
        large().chunks(1 << 20).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
    );
    let json = |body: &'static str| node.post("/v1/keys", &key).header("content-type", "application/json").body(body);
    let wide = r#"{"name":"k","scopes":["operator"]}"#;
    for (request, status, slug) in [
        (node.get("/nowhere", ""), 404, "no-such-route"),
        (node.request(Method::PUT, "/v1/keys", &key), 405, "method-not-allowed"),
        (put().header("content-type", "text/plain").body("x"), 415, "unsupported-media-type"),
        (put().body("not wasm"), 422, "module-rejected"),
        (put().header("content-length", "0"), 400, "empty-body"),
        (put(), 411, "length-required"),
        (put().body(large()), 413, "body-too-large"),
        (put().body(reqwest::Body::wrap_stream(chunks)), 413, "body-too-large"),
        (node.request(Method::PUT, "/v1/modules/..%2fx", &key).body("x"), 400, "invalid-name"),
        (node.post("/v1/keys", &key).body("{}"), 415, "unsupported-media-type"),
        (json("{"), 400, "invalid-body"),
        (json(r#"{"name":"k","scopes":["moon:walk"]}"#), 400, "invalid-body"),
        (json(r#"{"name":"k","scopes":["keys:manage"],"colour":"red"}"#), 400, "invalid-body"),
        (json(r#"{"name":"k","scopes":[]}"#), 400, "invalid-body"),
        (json(r#"{"name":"","scopes":["keys:manage"]}"#), 400, "invalid-name"),
        (json(wide), 403, "wider-scopes"),
        (node.get("/v1/keys?limit=0", &key), 400, "invalid-query"),
        (node.get("/v1/keys?colour=red", &key), 400, "invalid-query"),
        (node.get("/v1/keys?cursor=x", &key), 400, "malformed-cursor"),
        (node.get("/v1/keys/zzzz", &key), 404, "key-not-found"),
        (node.get("/v1/executions/0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f", &key), 404, "execution-not-found"),
        (node.get("/v1/executions/x", &key), 404, "execution-not-found"),
        (node.get("/v1/executions?outcome=happy", &key), 400, "invalid-query"),
        (node.get("/v1/usage?from=yesterday", &key), 400, "invalid-query"),
        (node.get("/v1/modules", &key).header("wasmwiz-min-position", "x"), 400, "malformed-position"),
        (node.get("/v1/tenants", &key), 403, "missing-scope"),
        (node.post("/v1/keys", &key).header("idempotency-key", "x".repeat(256)).body("{}"), 400, "invalid-header"),
    ] {
        let asked = format!("{request:?}");
        assert_eq!(problem(request).await, (status, slug.to_owned()), "{asked}");
    }
    let refused = send(node.request(Method::PUT, "/v1/keys", &key)).await;
    assert_eq!(refused.headers()["allow"], "POST, GET, HEAD");
}

#[tokio::test]
async fn a_body_without_a_length_is_asked_for_one() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = Node::start().await;
    let (_, key) = node.tenant("free").await;
    for (line, slug) in [
        ("PUT /v1/modules/m HTTP/1.1", "length-required"),
        ("POST /v1/keys HTTP/1.1", "length-required"),
        ("POST /v1/modules/m/executions HTTP/1.0", "length-required"),
        ("POST /v1/modules/m/executions HTTP/1.1", "module-not-found"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
        let head = format!("{line}\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(&format!("problems/{slug}\"")), "{line}: {answer}");
    }
}

#[tokio::test]
async fn a_position_beyond_the_log_is_not_waited_for() {
    // Longer than the test may take: an answer in time was not waited for.
    let node = Node::start_with(GatewayConfig { position_wait_ms: 3_600_000, ..Default::default() }).await;
    let (_, key) = node.tenant("free").await;
    for ahead in ["AQAAAAAAD0JA", "Af__________"] {
        let response = send(node.get("/v1/modules", &key).header("wasmwiz-min-position", ahead)).await;
        assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    }
}

#[tokio::test]
async fn a_position_that_the_views_do_not_reach_is_not_waited_for_long() {
    let node =
        Node::start_with(GatewayConfig { position_wait_ms: 50, visible_wait_ms: 50, ..Default::default() }).await;
    let (_, key) = node.tenant("free").await;
    node.views.shutdown().await;
    let published = node.request(Method::PUT, "/v1/modules/echo", &key).body(wasm(ECHO));
    let position = send(published).await.headers()["wasmwiz-position"].clone();
    let ahead = node.get("/v1/modules", &key).header("wasmwiz-min-position", position);
    assert_eq!(problem(ahead).await, (503, "not-there-yet".into()));
}

#[tokio::test]
async fn the_probes_say_how_the_node_is() {
    let node = Node::start().await;
    assert_eq!(read(node.get("/livez", "")).await.0, 200);
    let ready = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while read(node.get("/readyz", "")).await.0 != 200 {
            tokio::task::yield_now().await;
        }
    });
    ready.await.expect("the node does not become ready");
    let (status, health) = read(node.get("/health", "")).await;
    assert_eq!((status, text(&health["status"])), (200, "ok".into()), "{health}");
    assert_eq!(health["checks"]["feed"]["status"], "disabled");
    let kept = send(node.get("/livez", "")).await;
    assert!(!kept.headers().contains_key("connection"), "{kept:?}");
    node.readiness.begin_draining();
    let response = send(node.get("/readyz", "")).await;
    assert_eq!(response.status(), 503);
    // Who keeps connections is to open the next one elsewhere.
    assert_eq!(response.headers()["connection"], "close");
    assert!(response.text().await.unwrap().contains("draining"));
    assert_eq!(read(node.get("/livez", "")).await.0, 200);
}

#[tokio::test]
async fn a_log_that_has_stopped_is_told() {
    let node = Node::start().await;
    node.log.poison("disk /x failed");
    let (status, health) = read(node.get("/health", "")).await;
    assert_eq!((status, &health["checks"]["event_log"]["status"]), (503, &json!("failing")), "{health}");
    assert!(!health.to_string().contains("/x"));
    assert_eq!(read(node.get("/readyz", "")).await.0, 503);
}

#[tokio::test]
async fn a_log_whose_acknowledgements_may_be_lost_is_a_condition_of_readiness_unless_that_is_accepted() {
    let node = Node::start().await;
    node.log.say_durability(Err("nats-1 syncs every 120 s: set sync_interval: always".into()));
    let (status, health) = read(node.get("/health", "")).await;
    assert_eq!((status, &health["checks"]["event_log"]["status"]), (503, &json!("failing")), "{health}");
    let response = send(node.get("/readyz", "")).await;
    assert_eq!(response.status(), 503);
    assert!(response.text().await.unwrap().contains("set sync_interval: always"));
    node.log.say_durability(Ok(Some("nobody knows, and that is accepted".into())));
    let (_, health) = read(node.get("/health", "")).await;
    let told = &health["checks"]["event_log"];
    assert!(told["status"] == "ok" && text(&told["message"]).contains("that is accepted"), "{told}");
}

#[tokio::test]
async fn operators_have_a_listener_of_their_own() {
    let node = Node::start().await;
    let metrics = reqwest::get(format!("{}/metrics", node.admin_url)).await.unwrap();
    assert!(metrics.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    assert_eq!(metrics.text().await.unwrap(), "wasmwiz_up 1\n");
    assert_eq!(reqwest::get(format!("{}/livez", node.admin_url)).await.unwrap().status(), 200);
    assert_eq!(reqwest::get(format!("{}/v1/keys", node.admin_url)).await.unwrap().status(), 404);
    assert_eq!(problem(node.get("/metrics", "")).await, (404, "no-such-route".into()));
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let node = Node::start().await;
    let (status, document) = read(node.get("/openapi.json", "")).await;
    assert_eq!((status, document["openapi"].as_str()), (200, Some("3.0.0")));
    let page = send(node.get("/docs", "")).await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("script-src 'sha256-") && policy.contains("default-src 'none'"), "{policy}");
    let head = send(node.request(Method::HEAD, "/docs", "")).await;
    assert_eq!((head.status().as_u16(), head.bytes().await.unwrap().len()), (200, 0));
}

#[tokio::test]
async fn a_stream_that_is_taken_outlives_every_deadline_of_a_request_and_of_its_connection() {
    let mut config = GatewayConfig { request_deadline_ms: 1_000, ..Default::default() };
    config.streams.heartbeat_ms = 50;
    config.streams.stall_ms = 500;
    config.server.header_read_timeout_ms = 500;
    config.server.idle_ms = 300;
    config.server.write_stall_ms = 500;
    let node = Node::start_with(config).await;
    let (_, key) = node.tenant("pro").await;
    let mut stream = send(node.get("/v1/audit/stream", &key)).await;
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(3) {
        assert!(stream.chunk().await.unwrap().is_some(), "cut off after {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_stream_does_not_tell_what_came_after_its_key_was_revoked_however_far_views_are() {
    let node = Node::start_with(GatewayConfig { visible_wait_ms: 50, ..Default::default() }).await;
    let (tenant, key) = node.tenant("pro").await;
    node.settle().await;
    let renamed = |name: &str| Event::TenantRenamed(Renamed { name: name.to_owned() });
    let mut stream = send(node.get("/v1/audit/stream", &key)).await;
    node.write(&tenant, vec![renamed("before")]).await;
    let mut told = String::new();
    while !told.ends_with("\n\n") || !told.contains("before") {
        told += std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap();
    }
    let last = told.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap().to_owned();
    node.settle().await;
    // From here on no view shows anything: to the gateway, the key is as good as it was.
    node.log.show_until(node.log.tail().await.unwrap());
    let revoked = Event::KeyRevoked(Revoked { key_id: KeyId::new(&key[3..15]).unwrap() });
    node.write(&tenant, vec![revoked, renamed("after")]).await;
    let mut stream = send(node.get("/v1/audit/stream", &key).header("last-event-id", last)).await;
    let mut told = String::new();
    while let Some(piece) = stream.chunk().await.unwrap() {
        told += std::str::from_utf8(&piece).unwrap();
        assert!(!told.contains("after"), "{told}");
    }
}

#[tokio::test]
async fn an_execution_that_was_followed_to_its_end_is_over_whatever_shares_the_commit_and_however_far_views_are() {
    let node = Node::start().await;
    let (tenant, key) = node.tenant("pro").await;
    let id = Ids.execution();
    node.write(&tenant, vec![Event::ExecutionAccepted(Box::new(accepted(id)))]).await;
    node.settle().await;
    let before = node.log.tail().await.unwrap();
    let end = Finished::without_run(id, 1, Outcome::Cancelled, "cancelled".to_owned());
    let renamed = Event::TenantRenamed(Renamed { name: "Other".to_owned() });
    node.log.show_until(before);
    node.write(&tenant, vec![Event::ExecutionFinished(Box::new(end)), renamed]).await;
    let path = format!("/v1/executions/{id}/events");
    let followed = send(node.get(&path, &key)).await.text().await.unwrap();
    let last = followed.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap().to_owned();
    assert!(followed.contains("event: finished"), "{followed}");
    // A client comes back at once with what it saw last. No view shows the end yet.
    let again = tokio::spawn({
        let request = node.get(&path, &key).header("last-event-id", &last);
        async move { send(request).await.status() }
    });
    tokio::task::yield_now().await;
    node.log.show_all();
    assert_eq!(again.await.unwrap(), 204);
    node.settle().await;
    let again = send(node.get(&path, &key).header("last-event-id", &last)).await;
    assert_eq!(again.status(), 204, "the rest of its commit is no more of it");
}

fn accepted(execution_id: ExecutionId) -> Accepted {
    Accepted {
        execution_id,
        attempt: 1,
        module: ModuleRef { name: None, version: None, digest: Digest::of(b"module") },
        key_id: KeyId::new("key1").unwrap(),
        stdin: Content::of(b""),
        args: vec![],
        limits: Policy::default().pro.grant(None),
        seed: Seed::new([0; 16]),
        start_time: Timestamp::from_unix_ms(0),
        engine: "test".to_owned(),
        node: NodeId::new("node-2").unwrap(),
        boot: Ids.boot(),
        bucket_full_at: None,
        start_by: None,
        rerun_of: None,
        fuel: None,
        sleep: Default::default(),
        clock: Default::default(),
        uploaded_bytes: None,
    }
}
