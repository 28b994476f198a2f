//! Pages of other origins: none may read an answer unless its origin is listed.

use super::*;
use reqwest::Method;
use wasmwiz_tests::{client::Answer, harness::Launch};

const LISTED: &str = "https://console.example.org";

async fn asked(client: &Client, method: Method, origin: &str) -> anyhow::Result<Answer> {
    let request = client.request(method.clone(), "/v1/keys").header("origin", origin);
    let asks = method == Method::OPTIONS;
    client.send(if asks { request.header("access-control-request-method", "POST") } else { request }).await
}

fn names(answer: &Answer, prefix: &str) -> bool {
    answer.headers.keys().any(|name| name.as_str().starts_with(prefix))
}

#[tokio::test]
async fn no_origin_is_let_in_unless_it_is_listed() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    for method in [Method::GET, Method::OPTIONS] {
        let answer = asked(&node.client()?, method, LISTED).await?;
        ensure!(!names(&answer, "access-control-"), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_listed_origin_may_ask_and_read_and_no_other() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("cors.toml");
    std::fs::write(&file, format!("[gateway.cors]\nallowed_origins = [{LISTED:?}]\n"))?;
    let node = Launch::dev()?.argument("--config").argument(file).start().await?;
    let client = node.client()?;
    let preflight = asked(&client, Method::OPTIONS, LISTED).await?;
    preflight.is(204)?;
    for (name, part) in [
        ("access-control-allow-origin", LISTED),
        ("access-control-allow-methods", "DELETE"),
        ("access-control-allow-headers", "authorization"),
        ("vary", "origin"),
    ] {
        ensure!(preflight.header(name).is_some_and(|value| value.contains(part)), "{name}: {preflight:?}");
    }
    let read = asked(&client, Method::GET, LISTED).await?;
    read.is(200)?;
    ensure!(read.header("access-control-allow-origin") == Some(LISTED), "{read:?}");
    // Refusals are read too.
    let refused = asked(&client.anonymous(), Method::GET, LISTED).await?;
    refused.refuses(401, "unauthenticated")?;
    ensure!(refused.header("access-control-allow-origin") == Some(LISTED), "{refused:?}");
    for foreign in ["https://evil.example.org", "null", "https://console.example.org.evil.example"] {
        for method in [Method::GET, Method::OPTIONS] {
            let answer = asked(&client, method, foreign).await?;
            ensure!(!names(&answer, "access-control-"), "{foreign}: {answer:?}");
        }
    }
    Ok(())
}
