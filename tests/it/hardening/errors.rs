//! What a caller is told when something is wrong: never how the platform is made.

use super::*;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use wasmwiz_tests::{guests, tenants::register};

/// Words of the inside: paths, types and modules of Rust, SQL, what libraries say of themselves.
const INSIDE: [&str; 34] = [
    "/tmp/",
    "home/",
    "/var/",
    "/usr/",
    "root/",
    "target/",
    ".rs:",
    ".sqlite",
    "::",
    "u8,",
    "u32",
    "u64",
    "usize",
    "struct ",
    "enum ",
    "Option<",
    "Vec<",
    "Some(",
    "None",
    "Err(",
    "Ok(",
    "panicked",
    "unwrap",
    "SELECT ",
    "INSERT ",
    "sqlite",
    "rusqlite",
    "tokio",
    "hyper",
    "poem",
    "serde",
    "wasmtime",
    "os error",
    "backtrace",
];

/// What of a document is not ours: it repeats what the caller has sent.
fn ours(mut document: Value) -> String {
    if let Some(members) = document.as_object_mut() {
        members.remove("instance");
        members.remove("request_id");
    }
    document.to_string()
}

#[tokio::test]
async fn no_problem_shows_how_the_platform_is_made() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let free = register(&node.operator()?, "Free", "free").await?.client;
    free.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    free.put_module("trap", guests::TRAP.wasm()?).await?.is(201)?;
    let (mut seen, mut slugs) = (0, std::collections::BTreeSet::new());
    for request in requests(&free).into_iter().chain(requests(&node.operator()?)).chain(requests(&free.anonymous())) {
        let answer = free.send(request).await?;
        let Some(slug) = answer.problem() else { continue };
        let text = ours(answer.json()?);
        for word in INSIDE {
            ensure!(!text.contains(word), "{word:?} is told: {text}");
        }
        seen += 1;
        slugs.insert(slug);
    }
    eprintln!("{seen} problem documents of {} kinds: {slugs:?}", slugs.len());
    ensure!(slugs.len() >= 20, "only {slugs:?} were seen");
    Ok(())
}

fn requests(client: &Client) -> Vec<RequestBuilder> {
    let ids =
        ["none", "..%2f..%2fetc%2fpasswd", "%00", "a'%20OR%201=1--", "%ff%fe", "0190a0a0-0000-7000-8000-000000000000"];
    let mut requests = Vec::new();
    for id in ids {
        for path in ["tenants", "keys", "modules", "executions"] {
            requests.push(client.request(Method::GET, &format!("/v1/{path}/{id}")));
            requests.push(client.request(Method::DELETE, &format!("/v1/{path}/{id}")));
        }
        for path in [format!("modules/{id}/versions/{id}/wasm"), format!("executions/{id}/stdout"), id.to_owned()] {
            requests.push(client.request(Method::GET, &format!("/v1/{path}")));
        }
        for query in ["limit", "cursor", "from", "type", "outcome", "version", "by", "no"] {
            for path in ["keys", "modules", "executions", "usage", "audit"] {
                requests.push(client.request(Method::GET, &format!("/v1/{path}?{query}={id}")));
            }
        }
        requests.push(client.request(Method::PUT, &format!("/v1/modules/{id}")).body("no module"));
    }
    let bodies = [
        json!(null),
        json!([]),
        json!({}),
        json!({"name": 1, "scopes": 2, "tier": 3}),
        json!({"name": null, "scopes": [1]}),
        json!({"name": "x", "scopes": ["none"], "expires_at": "never", "tier": "none"}),
        json!({"name": "x".repeat(5_000), "scopes": ["operator"], "expires_at": 1, "tier": "free", "more": {}}),
    ];
    for path in ["keys", "tenants", "executions", "modules/echo/executions", "tenants/none/suspend"] {
        for body in &bodies {
            requests.push(client.request(Method::POST, &format!("/v1/{path}")).json(body));
        }
        for text in ["{", "\u{0}", "{\"a\":", "[[[[", "{\"name\":1e999}", "\u{feff}{}"] {
            let post = client.request(Method::POST, &format!("/v1/{path}")).header("content-type", "application/json");
            requests.push(post.body(text));
        }
        requests.push(client.request(Method::TRACE, &format!("/v1/{path}")));
        requests
            .push(client.request(Method::POST, &format!("/v1/{path}")).header("content-encoding", "gzip").body("x"));
        requests.push(client.request(Method::POST, &format!("/v1/{path}")).body(vec![b'x'; 2 << 20]));
    }
    for (name, value) in
        [("wasmwiz-min-position", "x"), ("authorization", "Basic x"), ("x-long", "x"), ("origin", "null")]
    {
        let value = if name == "x-long" { value.repeat(40 << 10) } else { value.to_owned() };
        requests.push(client.request(Method::GET, "/v1/keys").header(name, value));
    }
    requests.push(client.request(Method::GET, &format!("/{}", "a".repeat(9_000))));
    let kind = "multipart/form-data; boundary=B";
    for body in ["", "--B\r\n\r\n--B--", "--B\r\nContent-Disposition: form-data; name=\"wasm\"\r\n\r\nx\r\n--B--\r\n"] {
        requests.push(client.request(Method::POST, "/v1/executions").header("content-type", kind).body(body));
    }
    for _ in 0..10 {
        requests.push(client.request(Method::POST, "/v1/modules/trap/executions").body("x"));
    }
    requests
}
