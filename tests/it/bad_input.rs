//! Requests that cannot be served: each is told what is wrong and what to do, in the same form.

use anyhow::{Context, ensure};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use wasmwiz_tests::{
    client::{Answer, Client},
    guests,
    harness::NodeProcess,
    raw::Connection,
    tenants::register,
    wait,
};

/// A module of the component model: its header has layer 1 where a core module has 0.
const COMPONENT: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];

/// Bytes that are no module, and the reason that must be given.
fn no_modules() -> anyhow::Result<Vec<(&'static str, Vec<u8>, &'static str)>> {
    let echo = guests::ECHO.wasm()?;
    let text = |text: &str| guests::Guest { name: "text", text: text.to_owned().leak() }.wasm();
    Ok(vec![
        ("an image", b"\x89PNG\r\n\x1a\n and so on".to_vec(), "not-wasm"),
        ("truncated", echo.get(..echo.len() / 2).unwrap_or_default().to_vec(), "truncated"),
        ("only a magic number", b"\0asm".to_vec(), "truncated"),
        ("text", guests::ECHO.text.as_bytes().to_vec(), "text-format"),
        ("a component", COMPONENT.to_vec(), "component"),
        ("a library", text("(module (memory (export \"memory\") 1))")?, "no-start"),
        ("an import that does not exist", guests::FOREIGN_IMPORT.wasm()?, "unknown-import"),
        ("an import of another type", text(WRONG_TYPE)?, "wrong-import-type"),
        ("a _start with a result", text("(module (func (export \"_start\") (result i32) (i32.const 0)))")?, "no-start"),
        ("not valid", text("(module (func (export \"_start\") (i32.const 0)))")?, "invalid"),
        ("64-bit memory", text("(module (memory i64 1) (func (export \"_start\")))")?, "invalid"),
    ])
}

const WRONG_TYPE: &str = "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i64)))
    (memory (export \"memory\") 1) (func (export \"_start\")))";

#[tokio::test]
async fn what_is_no_module_is_told_why_by_both_doors() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let client = node.client()?;
    for (what, bytes, reason) in no_modules()? {
        let published = client.put_module("bad", bytes.clone()).await?;
        let uploaded = upload(&client, Form::new().part("wasm", Part::bytes(bytes).file_name("x.wasm"))).await?;
        for answer in [published, uploaded] {
            let problem = answer.refuses(422, "module-rejected").context(what)?;
            ensure!(problem["reason"] == reason, "{what}: {problem}");
        }
    }
    client.get("/v1/modules/bad").await?.refuses(404, "module-not-found")?;
    // That there were rejections is history, and a flood of them is no flood of events.
    client.put_module("good", guests::TRAP.wasm()?).await?.is(201)?;
    let page = client.get("/v1/audit?type=dev.wasmwiz.module.rejected.v1&limit=200").await?.is(200)?;
    let recorded: Vec<_> = page["items"].as_array().into_iter().flatten().collect();
    ensure!((1..no_modules()?.len()).contains(&recorded.len()), "{} rejections are recorded", recorded.len());
    ensure!(recorded.iter().all(|event| event["data"]["name"] == "bad"), "{page}");
    Ok(())
}

#[tokio::test]
async fn bodies_over_their_limit_are_refused_with_the_limit() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let free = register(&node.operator()?, "Free", "free").await?.client;
    let mebibyte = 1_usize << 20;
    let over = vec![0; 4 * mebibyte + 1];
    free.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    for answer in [
        free.put_module("big", over.clone()).await?,
        free.post_bytes("/v1/modules/echo/executions", vec![0; mebibyte + 1]).await?,
        upload(&free, Form::new().part("wasm", Part::bytes(over))).await?,
        upload(&free, wasm()?.part("input", Part::bytes(vec![0; mebibyte + 1]))).await?,
        free.post_json("/v1/keys", &json!({"name": "x".repeat(mebibyte), "scopes": ["audit:read"]})).await?,
    ] {
        let problem = answer.refuses(413, "body-too-large")?;
        let told = problem["detail"].as_str().is_some_and(|detail| detail.contains(|c: char| c.is_ascii_digit()));
        ensure!(told, "the limit is not told: {problem}");
    }
    // A body of unknown length is counted while it comes.
    let pieces = (0..3).map(move |_| Ok::<_, std::io::Error>(vec![0_u8; mebibyte / 2]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let chunked = free.request(Method::POST, "/v1/modules/echo/executions").body(body);
    free.send(chunked).await?.refuses(413, "body-too-large")?;
    // At the limit it is taken.
    let exactly = free.post_bytes("/v1/modules/echo/executions", vec![b'x'; mebibyte]).await?.is(200)?;
    ensure!(exactly["usage"]["stdout_bytes"] == mebibyte, "{}", exactly["usage"]);
    Ok(())
}

#[tokio::test]
async fn broken_bodies_are_told_apart() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let client = node.client()?;
    let multipart = |kind: &'static str, body: &'static str| {
        let request = client.request(Method::POST, "/v1/executions");
        client.send(request.header("content-type", kind).body(body))
    };
    multipart("multipart/form-data; boundary=B", "no boundary at all").await?.refuses(400, "broken-multipart")?;
    let cut = "--B\r\nContent-Disposition: form-data; name=\"wasm\"\r\n\r\n\0asm";
    multipart("multipart/form-data; boundary=B", cut).await?.refuses(400, "broken-multipart")?;
    multipart("multipart/form-data", "x").await?.refuses(400, "broken-multipart")?;
    multipart("application/json", "{}").await?.refuses(415, "unsupported-media-type")?;
    upload(&client, Form::new().text("input", "x")).await?.refuses(400, "invalid-body")?;
    upload(&client, wasm()?.text("colour", "red")).await?.refuses(400, "invalid-body")?;
    upload(&client, wasm()?.part("wasm", Part::bytes(guests::ECHO.wasm()?))).await?.refuses(400, "invalid-body")?;

    let json = |kind: &'static str, body: &'static str| {
        client.send(client.request(Method::POST, "/v1/keys").header("content-type", kind).body(body))
    };
    json("application/json", "{").await?.refuses(400, "invalid-body")?;
    let empty = client.request(Method::POST, "/v1/keys").header("content-length", "0");
    client.send(empty).await?.refuses(400, "empty-body")?;
    json("application/json", "null").await?.refuses(400, "invalid-body")?;
    let twice = r#"{"name":"x","name":"y","scopes":["audit:read"]}"#;
    json("application/json", twice).await?.refuses(400, "invalid-body")?;
    json("text/plain", r#"{"name":"x","scopes":["audit:read"]}"#).await?.refuses(415, "unsupported-media-type")?;
    let unknown = r#"{"name":"x","scopes":["audit:read"],"colour":"red"}"#;
    let problem = json("application/json", unknown).await?.refuses(400, "invalid-body")?;
    ensure!(problem["errors"][0]["at"] == "/colour", "{problem}");
    Ok(())
}

#[tokio::test]
async fn paths_methods_and_headers_that_do_not_exist_are_problems_too() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let client = node.client()?;
    for path in ["/", "/v1", "/v1/nothing", "/v2/keys", "/v1/keys/", "/v1//keys", "/metrics", "/v1/modules/a/b/c/d"] {
        let answer = client.get(path).await?;
        ensure!(answer.status == 404, "{path}: {} {}", answer.status, answer.text());
        answer.refuses(404, "no-such-route").context(path)?;
    }
    for (method, path, allowed) in [
        (Method::PUT, "/v1/keys", "POST"),
        (Method::DELETE, "/v1/executions", "GET"),
        (Method::POST, "/v1/modules/echo", "PUT"),
        (Method::POST, "/health", "GET"),
        (Method::PATCH, "/v1/audit", "GET"),
    ] {
        let answer = client.send(client.request(method.clone(), path)).await?;
        answer.refuses(405, "method-not-allowed").with_context(|| format!("{method} {path}"))?;
        let allow = answer.header("allow").with_context(|| format!("no Allow: {answer:?}"))?;
        ensure!(allow.contains(allowed), "{method} {path} allows {allow}");
    }
    for position in ["nonsense", "-1", ""] {
        let request = client.request(Method::GET, "/v1/keys").header("wasmwiz-min-position", position);
        client.send(request).await?.refuses(400, "malformed-position").context(position)?;
    }
    let request_id = client.request(Method::GET, "/livez").header("x-request-id", "mine-1");
    ensure!(
        client.send(request_id).await?.header("x-request-id") == Some("mine-1"),
        "a caller's request id is not kept"
    );
    let bad_id = client.request(Method::GET, "/livez").header("x-request-id", "not one\" of ours");
    let answered = client.send(bad_id).await?;
    ensure!(answered.conforms()?.header("x-request-id") != Some("not one\" of ours"), "any text is taken for an id");
    let head = client.send(client.request(Method::HEAD, "/v1/keys")).await?;
    ensure!(head.body.is_empty() && [200, 405].contains(&head.status.as_u16()), "{head:?}");
    Ok(())
}

#[tokio::test]
async fn a_body_without_a_length_is_asked_for_one() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let key = node.ready().api_key.clone().context("dev gives a key")?;
    for (request, status) in [
        ("PUT /v1/modules/x HTTP/1.1\r\nContent-Type: application/wasm\r\n", 411),
        ("POST /v1/keys HTTP/1.1\r\nContent-Type: application/json\r\n", 411),
        ("POST /v1/executions HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=B\r\n", 411),
        ("GET /v1/keys HTTP/1.1\r\n", 200),
        ("GET /v1/keys HTTP/1.1\r\nContent-Length: x\r\n", 400),
        ("GET /v1/keys HTTP/1.1\r\nno colon\r\n", 400),
    ] {
        let mut connection = Connection::open(&node.ready().url).await?;
        connection
            .send(format!("{request}Host: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"))
            .await?;
        let got = connection.read_status(wait::SOON).await.with_context(|| request.to_owned())?;
        ensure!(got == status, "{request:?} gives {got}, not {status}");
        connection.read_to_end(wait::SOON).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_tenant_over_its_limits_is_told_when_to_come_back() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let operator = node.operator()?;
    // A burst, and then the rate: of twenty at most five and what comes back meanwhile.
    let free = register(&operator, "Free", "free").await?.client;
    free.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let mut refused = None;
    for number in 0..20 {
        let answer = free.post_bytes("/v1/modules/echo/executions", "").await?;
        if answer.status == 200 {
            ensure!(number < 10, "{number} executions at once in a tier of 10 a minute");
            continue;
        }
        ensure!(number >= 5, "only {number} executions in a burst of 5: {}", answer.text());
        answer.refuses(429, "rate-limited")?;
        let seconds: u64 = answer.header("retry-after").unwrap_or_default().parse()?;
        ensure!((1..=6).contains(&seconds), "Retry-After: {seconds}");
        let (limit, policy) = (answer.header("ratelimit"), answer.header("ratelimit-policy"));
        ensure!(limit.is_some() && policy.is_some(), "no RateLimit headers: {:?}", answer.headers);
        refused = Some(answer);
        break;
    }
    ensure!(refused.is_some(), "twenty executions at once were not too many");
    // Reading is not limited with it.
    free.get("/v1/executions").await?.is(200)?;

    // As many at the same time as the tier allows: the third of two.
    let concurrent = register(&operator, "Concurrent", "free").await?.client;
    concurrent.put_module("sleep", guests::ENDLESS_SLEEP.wasm()?).await?.is(201)?;
    let sleeping =
        |client: Client| async move { client.post_bytes("/v1/modules/sleep/executions?timeout_ms=1500", "").await };
    let (one, two, three) =
        tokio::join!(sleeping(concurrent.clone()), sleeping(concurrent.clone()), sleeping(concurrent.clone()));
    let (over, within): (Vec<Answer>, Vec<Answer>) =
        [one?, two?, three?].into_iter().partition(|got| got.status == 429);
    ensure!(over.len() == 1 && within.len() == 2, "{over:?} {within:?}");
    for answer in over {
        answer.refuses(429, "too-many-concurrent")?;
    }
    for answer in within {
        let ended: Value = answer.is(200)?;
        ensure!(ended["outcome"] == "deadline_exceeded", "{ended}");
    }
    Ok(())
}

#[tokio::test]
async fn a_daily_quota_is_a_quota() -> anyhow::Result<()> {
    let settings = wasmwiz_tests::cli::run(["config"]).await?;
    ensure!(settings.code == Some(0), "{settings:?}");
    // A day of three, otherwise the tier as it is.
    let mut settings: toml::Table = settings.stdout.parse()?;
    let basic = settings.get("tiers").and_then(|tiers| tiers.get("basic")).cloned().context("no tier basic")?;
    let mut basic = basic.as_table().cloned().context("a tier is a table")?;
    basic.insert("executions_per_day".into(), 3.into());
    settings.retain(|_, _| false);
    settings.insert("tiers".into(), toml::Table::from_iter([("basic".to_owned(), basic.into())]).into());
    let file = tempfile::NamedTempFile::with_suffix(".toml")?;
    std::fs::write(file.path(), settings.to_string())?;
    let node = wasmwiz_tests::harness::Launch::dev()?.argument("--config").argument(file.path()).start().await?;
    let basic = register(&node.operator()?, "Basic", "basic").await?.client;
    basic.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    for _ in 0..3 {
        basic.execute("echo", "").await?;
    }
    let over = basic.post_bytes("/v1/modules/echo/executions", "").await?;
    over.refuses(429, "daily-quota-used")?;
    let seconds: u64 = over.header("retry-after").unwrap_or_default().parse()?;
    ensure!((1..=86_400).contains(&seconds), "Retry-After: {seconds}");
    Ok(())
}

fn wasm() -> anyhow::Result<Form> {
    Ok(Form::new().part("wasm", Part::bytes(guests::ECHO.wasm()?).file_name("echo.wasm")))
}

async fn upload(client: &Client, form: Form) -> anyhow::Result<Answer> {
    client.send(client.request(Method::POST, "/v1/executions").multipart(form)).await
}
