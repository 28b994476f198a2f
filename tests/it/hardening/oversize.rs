//! Everything too large: it is refused before it is in memory.

use super::*;
use reqwest::Method;
use wasmwiz_tests::tenants::register;

/// What one piece of an endless body has, in bytes.
const PIECE: usize = 64 << 10;

/// An endless body, as far as a test goes: a gibibyte.
const ENDLESS: usize = 1 << 30;

#[tokio::test]
async fn heads_without_measure_are_refused() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let growth = Growth::begin(&node)?;
    let many: String = (0..100).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long = |bytes: usize| format!("x-long: {}\r\n", "a".repeat(bytes));
    let get =
        |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    for (what, request, statuses) in [
        ("a path of 9 KiB", get(&format!("/{}", "a".repeat(9 << 10)), ""), &[414][..]),
        ("a query of 9 KiB", get(&format!("/livez?{}", "a".repeat(9 << 10)), ""), &[414]),
        ("a path of 1 MiB", get(&format!("/{}", "a".repeat(1 << 20)), ""), &[414, 431]),
        ("100 headers", get("/livez", &many), &[431]),
        ("a header of 40 KiB", get("/livez", &long(40 << 10)), &[431]),
        ("a header of 1 MiB", get("/livez", &long(1 << 20)), &[431]),
        (
            "a method of 1 KiB",
            format!("{} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "A".repeat(1 << 10)),
            &[400, 405, 404],
        ),
    ] {
        let got = told(&node, [request]).await?;
        let fits = got.statuses.len() == 1 && got.statuses.iter().all(|status| statuses.contains(status));
        ensure!(fits || got.text.is_empty(), "{what}: {:?} {}", got.statuses, got.text);
    }
    let problem = node.client()?.get(&format!("/livez?{}", "a".repeat(9 << 10))).await?;
    problem.refuses(414, "uri-too-long")?;
    let headers = node.client()?.request(Method::GET, "/livez").header("x-long", "a".repeat(40 << 10));
    node.client()?.send(headers).await?.refuses(431, "headers-too-large")?;
    growth.is_small("heads").await?;
    Ok(())
}

#[tokio::test]
async fn bodies_without_end_are_stopped_at_their_limit() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let free = register(&node.operator()?, "Free", "free").await?;
    largest_that_are_taken(&free.client).await?;
    let growth = Growth::begin(&node)?;
    let json = "content-type: application/json\r\n";
    let form = "content-type: multipart/form-data; boundary=B\r\n";
    let part = "--B\r\ncontent-disposition: form-data; name=\"wasm\"\r\n\r\n";
    for (what, line, type_line, begun) in [
        ("a module", "PUT /v1/modules/big", "content-type: application/wasm\r\n", ""),
        ("an input", "POST /v1/modules/none/executions", "", ""),
        ("JSON", "POST /v1/keys", json, "{\"name\":\""),
        ("a part", "POST /v1/executions", form, part),
    ] {
        let head = format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{type_line}", free.key.secret);
        let named = format!("{head}content-length: {ENDLESS}\r\n\r\n{begun}");
        let got = told(&node, [named]).await.with_context(|| format!("{what}, of a named length"))?;
        ensure!(got.statuses == [413], "{what}, of a named length: {:?} {}", got.statuses, got.text);

        let piece = format!("{PIECE:x}\r\n{}\r\n", "a".repeat(PIECE)).into_bytes();
        let begin = format!("{head}transfer-encoding: chunked\r\n\r\n");
        let first = if begun.is_empty() { String::new() } else { format!("{:x}\r\n{begun}\r\n", begun.len()) };
        let pieces = [begin.into_bytes(), first.into_bytes()].into_iter();
        let endless = pieces.chain(std::iter::repeat_n(piece, ENDLESS / PIECE));
        let got = told(&node, endless).await.with_context(|| format!("{what}, endless"))?;
        ensure!(got.statuses == [413] || got.statuses.is_empty(), "{what}, endless: {:?}", got.statuses);
    }
    growth.is_small("bodies").await?;
    node.client()?.get("/livez").await?.is(200)?;
    Ok(())
}

/// Sends the largest bodies that a tenant of the tier `free` may send. What the allocator keeps after them is what it
/// keeps of ordinary work, so that the growth after them is that of the attack.
async fn largest_that_are_taken(client: &Client) -> anyhow::Result<()> {
    let module = vec![b'a'; 4 << 20];
    let input = vec![b'a'; 1 << 20];
    for _ in 0..3 {
        client.put_module("big", module.clone()).await?.refuses(422, "module-rejected")?;
        client.post_bytes("/v1/modules/none/executions", input.clone()).await?.refuses(404, "module-not-found")?;
        let form = reqwest::multipart::Form::new().part("wasm", reqwest::multipart::Part::bytes(module.clone()));
        let request = client.request(Method::POST, "/v1/executions").multipart(form);
        client.send(request).await?.refuses(422, "module-rejected")?;
    }
    Ok(())
}

#[tokio::test]
async fn bodies_that_are_large_in_other_ways_are_refused() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let client = node.client()?;
    let growth = Growth::begin(&node)?;
    let json = |body: String| {
        let request = client.request(Method::POST, "/v1/keys").header("content-type", "application/json");
        client.send(request.body(body))
    };
    let deep = |depth: usize| format!(r#"{{"name":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    for body in [
        deep(40),
        deep(30_000),
        r#"{"name":"a","scopes":[{"a":1,"a":2}]}"#.to_owned(),
        r#"{"name":"a","name":"b","scopes":[]}"#.to_owned(),
        r#"{"name":"a","scopes":[],"expires_at":1e999}"#.to_owned(),
        format!(r#"{{"name":"a","scopes":{}}}"#, "9".repeat(50_000)),
        r#"{"name":"a","scopes":[]} {}"#.to_owned(),
        format!("{{{}}}", (0..5_000).map(|number| format!("\"{number}\":0")).collect::<Vec<_>>().join(",")),
    ] {
        let start = body.chars().take(40).collect::<String>();
        json(body).await?.refuses(400, "invalid-body").context(start)?;
    }

    let form = |boundary: String, body: Vec<u8>| {
        let request = client.request(Method::POST, "/v1/executions");
        let request = request.header("content-type", format!("multipart/form-data; boundary={boundary}"));
        client.send(request.body(body))
    };
    let part = |name: &str, header: &str| {
        format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n{header}\r\nx\r\n")
    };
    let long = "a".repeat(1 << 20);
    for (what, body, slug) in [
        ("10,000 parts", part("arg", "").repeat(10_000), "broken-multipart"),
        ("10,000 unknown parts", part("other", "").repeat(10_000), "invalid-body"),
        ("a header of 1 MiB", part("wasm", &format!("X-Long: {long}\r\n")), "broken-multipart"),
        ("a name of 1 MiB", part(&long, ""), "invalid-body"),
        ("parts in a part", part("wasm", "Content-Type: multipart/mixed; boundary=C\r\n"), "broken-multipart"),
        ("1,000 headers", part("wasm", &"X-A: 1\r\n".repeat(1_000)), "broken-multipart"),
        ("no end", "--B\r\n".repeat(100_000), "broken-multipart"),
    ] {
        let answer = form("B".to_owned(), format!("{body}--B--\r\n").into_bytes()).await?;
        answer.refuses(400, slug).context(what)?;
    }
    form("B".repeat(1_000), b"--".to_vec()).await?.refuses(400, "broken-multipart")?;
    growth.is_small("crooked bodies").await?;
    Ok(())
}
