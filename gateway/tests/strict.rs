//! What is asked is taken as it is or refused with its place; nothing is repaired on the way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail like tests, and draw keys"
)]

mod support;

use std::time::Duration;

use reqwest::{Method, multipart};
use serde_json::{Value, json};
use support::{ECHO, Node, problem, read, send, text, wasm};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Long enough for any answer here, on a machine that does other things.
const SOON: Duration = Duration::from_secs(30);

/// Sends bytes as they are, ends its side if asked to, and reads to the end.
async fn exchange(node: &Node, bytes: &[u8], half_close: bool) -> String {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if half_close {
        stream.shutdown().await.unwrap();
    }
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {answer}"))
}

/// How many executions the list shows, once its view has come to `count`, or what it shows in the end.
async fn listed(node: &Node, key: &str, count: usize) -> usize {
    let mut shown = 0;
    let all = async {
        while shown != count {
            let (_, list) = read(node.get("/v1/executions", key)).await;
            shown = list["items"].as_array().map_or(0, Vec::len);
            tokio::task::yield_now().await;
        }
    };
    let _ = timeout(SOON, all).await;
    shown
}

#[tokio::test]
async fn text_that_cannot_be_taken_as_it_is_is_refused_with_its_place() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    node.publish(&key, "echo", ECHO).await;
    for (method, target, kind, at) in [
        ("POST", "/v1/modules/echo/executions?arg=caf%E9", "invalid-query", "query:arg"),
        ("POST", "/v1/modules/echo/executions?arg=a&arg=%zz", "invalid-query", "query:arg"),
        ("POST", "/v1/modules/echo/executions?arg=100%", "invalid-query", "query:arg"),
        ("GET", "/v1/audit?subject=%C3", "invalid-query", "query:subject"),
        ("GET", "/v1/executions?%FF=1", "invalid-query", "query:%FF"),
        ("GET", "/v1/keys?limit=05", "invalid-query", "query:limit"),
        ("GET", "/v1/keys?limit=%2B5", "invalid-query", "query:limit"),
        ("POST", "/v1/modules/echo/executions?version=01", "invalid-query", "query:version"),
        ("POST", "/v1/modules/echo/executions?timeout_ms=%2B9", "invalid-query", "query:timeout_ms"),
        ("GET", "/v1/modules/caf%E9", "malformed-request", "path"),
        ("GET", "/v1/modules/%", "malformed-request", "path"),
        ("GET", "/nowhere/%zz", "malformed-request", "path"),
    ] {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
             content-length: 0\r\n\r\n"
        );
        let answer = exchange(&node, request.as_bytes(), false).await;
        assert_eq!(status(&answer), 400, "{target}: {answer}");
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert!(text(&body["type"]).ends_with(kind), "{target}: {body}");
        assert_eq!(body["errors"][0]["at"], at, "{target}: {body}");
    }
    // What is text is, to the byte.
    let (code, ran) = read(node.post("/v1/modules/echo/executions?arg=caf%C3%A9&arg=%25", &key)).await;
    assert_eq!((code, text(&ran["outcome"])), (200, "succeeded".into()), "{ran}");
}

#[tokio::test]
async fn a_resource_has_one_address() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    node.publish(&key, "echo", ECHO).await;
    let known = async {
        while send(node.get("/v1/modules/echo/versions/1/wasm", &key)).await.status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, known).await.expect("the module is there");
    for alias in ["01", "+1", "%2B1", "1.0", "0x1", "1%20", "00001", ""] {
        let (code, _) = problem(node.get(&format!("/v1/modules/echo/versions/{alias}/wasm"), &key)).await;
        assert_eq!(code, 404, "{alias}");
    }
    let (_, ran) = read(node.post("/v1/modules/echo/executions", &key)).await;
    let id = text(&ran["id"]);
    for alias in [id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}"), format!("urn:uuid:{id}")] {
        let (code, _) = problem(node.get(&format!("/v1/executions/{alias}"), &key)).await;
        assert_eq!(code, 404, "{alias}");
    }
}

#[tokio::test]
async fn a_body_that_is_encoded_is_refused_and_never_run() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    node.publish(&key, "echo", ECHO).await;
    for encoding in ["gzip", "br", "identity, gzip", "x-anything"] {
        let run = node.post("/v1/modules/echo/executions", &key).header("content-encoding", encoding).body("x");
        assert_eq!(problem(run).await, (415, "unsupported-encoding".into()), "{encoding}");
    }
    for (header, value) in [
        ("content-transfer-encoding", "base64"),
        ("content-transfer-encoding", "QUOTED-PRINTABLE"),
        ("content-encoding", "gzip"),
    ] {
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("content-transfer-encoding", "binary".parse().unwrap());
        headers.insert(header, value.parse().unwrap());
        let input = multipart::Part::bytes(b"aGk=".to_vec()).headers(headers);
        let form = multipart::Form::new().part("wasm", multipart::Part::bytes(wasm(ECHO))).part("input", input);
        let (code, body) = read(node.post("/v1/executions", &key).multipart(form)).await;
        assert_eq!((code, &body["errors"][0]["at"]), (415, &json!("part:input")), "{header}: {value}: {body}");
    }
    let part = node.request(Method::PUT, "/v1/modules/part", &key).header("content-range", "bytes 0-7/100");
    assert_eq!(problem(part.body(wasm(ECHO))).await, (400, "invalid-header".into()));
    let latin = node.post("/v1/keys", &key).header("content-type", "application/json; charset=iso-8859-1");
    assert_eq!(problem(latin.body("{}")).await, (415, "unsupported-media-type".into()));
    let (_, list) = read(node.get("/v1/executions", &key)).await;
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn times_are_read_to_the_end_of_their_years_and_in_order() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    for (expires_at, shown) in [
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ("9999-12-31T23:59:59+14:00", "9999-12-31T09:59:59.000Z"),
    ] {
        let body = json!({"name": "never", "scopes": ["usage:read"], "expires_at": expires_at});
        let (code, issued) = read(node.post("/v1/keys", &key).json(&body)).await;
        assert_eq!((code, &issued["expires_at"]), (201, &json!(shown)), "{issued}");
        let (code, found) = read(node.get(&format!("/v1/keys/{}", text(&issued["id"])), &key)).await;
        assert_eq!((code, &found["expires_at"]), (200, &json!(shown)), "{found}");
        assert_eq!(read(node.get("/v1/usage", &text(&issued["secret"]))).await.0, 200);
    }
    let beyond = json!({"name": "n", "scopes": ["usage:read"], "expires_at": "9999-12-31T23:59:59-00:01"});
    let (code, body) = read(node.post("/v1/keys", &key).json(&beyond)).await;
    assert_eq!((code, &body["errors"][0]["at"]), (400, &json!("/expires_at")), "{body}");
    for list in ["/v1/executions", "/v1/audit", "/v1/usage"] {
        let all = format!("{list}?from=0000-01-01T00:00:00Z&to=9999-12-31T23:59:59.999Z");
        assert_eq!(read(node.get(&all, &key)).await.0, 200, "{list}");
        let later = format!("{list}?from=9999-12-31T23:59:59.999Z");
        assert_eq!(read(node.get(&later, &key)).await.1["items"], json!([]), "{list}");
        let turned = format!("{list}?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z");
        let (code, body) = read(node.get(&turned, &key)).await;
        assert!(code == 400 && text(&body["type"]).ends_with("invalid-query"), "{list}: {body}");
        assert_eq!(body["errors"], json!([{"at": "query:from", "detail": "lies after to"}]), "{list}");
    }
}

#[tokio::test]
async fn a_caller_gets_what_it_accepts_or_is_told_what_there_is() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    node.publish(&key, "echo", ECHO).await;
    let upload = || multipart::Form::new().part("wasm", multipart::Part::bytes(wasm(ECHO)));
    for (fields, kind) in [
        (&["application/octet-stream;q=0"][..], "application/json"),
        (&["application/json, application/octet-stream;q=0.5"], "application/json"),
        (&["application/octet-stream"], "application/octet-stream"),
        (&["application/json;q=0.5", "application/octet-stream"], "application/octet-stream"),
        (&["text/html"], "application/problem+json"),
    ] {
        let doors = [
            node.post("/v1/modules/echo/executions", &key).body("x"),
            node.post("/v1/executions", &key).multipart(upload()),
        ];
        for door in doors {
            let answer = send(fields.iter().fold(door, |request, field| request.header("accept", *field))).await;
            let refused = kind == "application/problem+json";
            assert_eq!(answer.status(), if refused { 406 } else { 200 }, "{fields:?}");
            assert_eq!(answer.headers()["content-type"], kind, "{fields:?}");
            assert_eq!(answer.headers().contains_key("vary"), !refused, "{fields:?}");
        }
    }
    // What was refused for its answer has not run.
    assert_eq!(listed(&node, &key, 8).await, 8);
    for (accept, kind) in [
        ("text/csv", "text/csv; charset=utf-8; header=present"),
        ("text/csv;q=0.1, application/json;q=0.2", "application/json"),
        ("text/csv;q=0", "application/json"),
        ("text/*", "text/csv; charset=utf-8; header=present"),
        ("image/png", "application/problem+json"),
    ] {
        let answer = send(node.get("/v1/usage", &key).header("accept", accept)).await;
        assert_eq!(answer.headers()["content-type"], kind, "{accept}");
    }
    let stream = node.get("/v1/audit/stream", &key).header("accept", "application/json");
    assert_eq!(problem(stream).await, (406, "not-acceptable".into()));
    // One form is answered to whoever asks.
    assert_eq!(send(node.get("/v1/keys", &key).header("accept", "text/html")).await.status(), 200);
}

#[tokio::test]
async fn an_idempotency_key_is_refused_where_it_would_say_nothing() {
    let node = Node::start().await;
    let (tenant, key) = node.tenant("pro").await;
    for (method, path, credential) in [
        (Method::PUT, "/v1/modules/echo".to_owned(), &key),
        (Method::DELETE, "/v1/modules/echo".to_owned(), &key),
        (Method::DELETE, "/v1/keys/abcd".to_owned(), &key),
        (Method::PATCH, format!("/v1/tenants/{tenant}"), &node.operator),
        (Method::POST, "/v1/tokens".to_owned(), &key),
    ] {
        let request = node.request(method.clone(), &path, credential).header("idempotency-key", "k").body("{}");
        let (code, body) = read(request).await;
        assert_eq!(
            (code, &body["errors"][0]["at"]),
            (400, &json!("header:Idempotency-Key")),
            "{method} {path}: {body}"
        );
    }
}

#[tokio::test]
async fn a_request_whose_host_is_not_one_is_refused() {
    let node = Node::start().await;
    for (head, expected) in [
        ("GET /livez HTTP/1.1\r\nhost: x\r\n", 200),
        ("GET /livez HTTP/1.1\r\nHOST: x:80\r\n", 200),
        ("GET /livez HTTP/1.1\r\nhost: [::1]:80\r\n", 200),
        ("GET http://x/livez HTTP/1.1\r\nhost: x\r\n", 200),
        ("GET /livez HTTP/1.0\r\n", 200),
        ("GET /livez HTTP/1.1\r\n", 400),
        ("GET http://x/livez HTTP/1.1\r\n", 400),
        ("GET /livez HTTP/1.1\r\nhost: x\r\nhost: x\r\n", 400),
        ("GET /livez HTTP/1.1\r\nhost: x\r\nHost: y\r\n", 400),
        ("GET /livez HTTP/1.0\r\nhost: x\r\nHost: y\r\n", 400),
        ("GET /livez HTTP/1.1\r\nhost:\r\n", 400),
        ("GET /livez HTTP/1.1\r\nhost: a b\r\n", 400),
        ("GET /livez HTTP/1.1\r\nhost: a/b\r\n", 400),
        ("GET /livez HTTP/1.1\r\nhost: a, b\r\n", 400),
        ("GET /livez HTTP/1.1\r\nhost: user@a\r\n", 400),
        ("GET /livez HTTP/1.1\r\nhost: a:port\r\n", 400),
        ("GET http://a/livez HTTP/1.1\r\nhost: b\r\n", 400),
    ] {
        let answer = exchange(&node, format!("{head}connection: close\r\n\r\n").as_bytes(), false).await;
        assert_eq!(status(&answer), expected, "{head:?}: {answer}");
    }
}

/// What ADR 042 says of line ends and chunks.
#[tokio::test]
async fn lines_and_chunks_are_read_as_the_record_says() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    node.publish(&key, "echo", ECHO).await;
    let bare = "GET /livez HTTP/1.1\nhost: x\nconnection: close\n\n";
    assert_eq!(status(&exchange(&node, bare.as_bytes(), false).await), 200, "a line may end without its CR");
    let head = format!(
        "POST /v1/modules/echo/executions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
         accept: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    for (chunks, body) in [
        ("3\r\nabc\r\n0\r\n\r\n", Some("abc")),
        ("0003\r\nabc\r\n0\r\n\r\n", Some("abc")),
        ("00A\r\n0123456789\r\n000\r\n\r\n", Some("0123456789")),
        ("3;name=value\r\nabc\r\n0\r\n\r\n", Some("abc")),
        ("3 \r\nabc\r\n0\r\n\r\n", Some("abc")),
        ("3\r\nabc\r\n0\r\ntrailer: x\r\n\r\n", Some("abc")),
        ("3\nabc\n0\n\n", None),
        ("3\r\nabc\n0\r\n\r\n", None),
        ("3\r\nabcd\r\n0\r\n\r\n", None),
        ("+3\r\nabc\r\n0\r\n\r\n", None),
        ("-3\r\nabc\r\n0\r\n\r\n", None),
        ("0x3\r\nabc\r\n0\r\n\r\n", None),
        (" 3\r\nabc\r\n0\r\n\r\n", None),
        ("\r\nabc\r\n0\r\n\r\n", None),
        ("3;a\nb\r\nabc\r\n0\r\n\r\n", None),
        ("10000000000000000\r\nabc\r\n0\r\n\r\n", None),
    ] {
        let answer = exchange(&node, format!("{head}{chunks}").as_bytes(), true).await;
        match body {
            Some(body) => {
                assert!(status(&answer) == 200 && answer.ends_with(&format!("\r\n\r\n{body}")), "{chunks:?}: {answer}")
            }
            None => assert!(answer.is_empty() || status(&answer) == 400, "{chunks:?}: {answer}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_ends_its_side_is_answered() {
    let node = Node::start().await;
    let (_, key) = node.tenant("pro").await;
    node.publish(&key, "echo", ECHO).await;
    let head = format!(
        "POST /v1/modules/echo/executions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
         accept: application/octet-stream\r\n"
    );
    for rest in ["content-length: 5\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        let answer = exchange(&node, format!("{head}{rest}").as_bytes(), true).await;
        assert!(status(&answer) == 200 && answer.ends_with("hello"), "{answer}");
    }
    // Half a body is none.
    let answer = exchange(&node, format!("{head}content-length: 5\r\n\r\nhel").as_bytes(), true).await;
    assert!(answer.is_empty() || status(&answer) == 400, "{answer}");
    assert_eq!(listed(&node, &key, 2).await, 2);
}

#[tokio::test]
async fn a_stream_ends_with_a_client_that_has_gone() {
    let streams = serde_json::from_value(json!({"streams_per_tenant_max": 1, "heartbeat_ms": 600_000})).unwrap();
    let node = Node::start_with(wasmwiz_gateway::GatewayConfig { streams, ..Default::default() }).await;
    let (_, key) = node.tenant("pro").await;
    let head = format!("GET /v1/audit/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n");
    for _ in 0..3 {
        let answered = async {
            loop {
                let mut stream = TcpStream::connect(node.address).await.unwrap();
                stream.write_all(head.as_bytes()).await.unwrap();
                let mut line = [0; 12];
                stream.read_exact(&mut line).await.unwrap();
                if &line == b"HTTP/1.1 200" {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, answered).await.expect("the seat of a stream whose client has gone is free again");
    }
}

#[tokio::test]
async fn a_client_that_writes_before_it_reads_is_told_why_its_body_was_refused() {
    let node = Node::start().await;
    let (_, key) = node.tenant("enterprise").await;
    for bytes in [(64 << 20) + 1, 96 << 20] {
        let head = format!(
            "PUT /v1/modules/large HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/wasm\r\n\
             connection: close\r\ncontent-length: {bytes}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        timeout(SOON, stream.write_all(&vec![0; bytes])).await.unwrap().unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(status(&answer) == 413 && answer.contains("body-too-large"), "{bytes}: {answer}");
    }
}
