//! `/v1/executions` and `/v1/modules/{name}/executions`: what runs, and what ran.

use anyhow::{Context, ensure};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::Value;
use wasmwiz_events::digest::Digest;
use wasmwiz_tests::{
    client::Answer,
    guests,
    tenants::{only, register},
};

mod asynchronous;
mod cancel;
mod events;

use super::{Setting, all_pages, asks_for, pages_are_checked};

#[tokio::test]
async fn an_execution_is_answered_kept_and_shown_to_its_tenant_alone() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    let answer = client.post_bytes("/v1/modules/echo/executions?arg=a&arg=b%20c", "Hällo\n").await?;
    let ran = answer.is(200)?;
    ensure!(answer.header("wasmwiz-position").is_some(), "a write without a position");
    ensure!(ran["outcome"] == "succeeded" && ran["exit_code"] == 0, "{ran}");
    ensure!(ran["stdout"] == "Hällo\n" && ran["stderr"] == "" && ran["stdout_encoding"] == "utf-8", "{ran}");
    ensure!(ran["truncated"]["stdout"] == false && ran["truncated"]["stderr"] == false, "{ran}");
    ensure!(ran["module"]["name"] == "echo" && ran["module"]["version"] == 1, "{ran}");
    ensure!(ran["module"]["digest"] == Digest::of(&guests::ECHO.wasm()?).to_string(), "{ran}");
    ensure!(ran["key_id"] == tenant.key.id, "{ran}");
    for member in ["cpu_ms", "wall_ms", "peak_memory_bytes"] {
        ensure!(ran["usage"][member].is_number(), "no usage.{member}: {ran}");
    }
    ensure!(ran["usage"]["stdin_bytes"] == 7 && ran["usage"]["stdout_bytes"] == 7, "{ran}");
    let time = |member: &str| ran[member].as_str().unwrap_or_default().to_owned();
    ensure!(time("accepted_at").ends_with('Z') && time("accepted_at") <= time("finished_at"), "{ran}");

    let id = ran["id"].as_str().context("no id")?;
    let path = format!("/v1/executions/{id}");
    let again = client.get(&path).await?.is(200)?;
    ensure!(again == ran, "it was answered as {ran} and is shown as {again}");
    for (stream, bytes) in [("stdin", "Hällo\n"), ("stdout", "Hällo\n"), ("stderr", "")] {
        let answer = client.get(&format!("{path}/{stream}")).await?;
        ensure!(answer.conforms()?.status == 200 && answer.text() == bytes, "{stream}: {answer:?}");
        ensure!(answer.header("content-type") == Some("application/octet-stream"), "{stream}: {answer:?}");
    }
    for stream in ["", "/stdin", "/stdout", "/stderr"] {
        stranger.client.get(&format!("{path}{stream}")).await?.refuses(404, "execution-not-found")?;
    }
    ensure!(all_pages(&stranger.client, "/v1/executions", 50).await?.is_empty(), "a stranger sees executions");

    // Bytes that are no text, and large ones.
    let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let ran: Value = client.post_bytes("/v1/modules/echo/executions", bytes.clone()).await?.is(200)?;
    ensure!(ran["stdout_encoding"] == "base64", "{}", ran["stdout_encoding"]);
    let path = format!("/v1/executions/{}", ran["id"].as_str().context("no id")?);
    for stream in ["stdin", "stdout"] {
        let answer = client.get(&format!("{path}/{stream}")).await?;
        ensure!(answer.body == bytes, "{stream} has {} other bytes", answer.body.len());
    }
    Ok(())
}

#[tokio::test]
async fn a_guest_that_fails_is_an_answer_and_no_error() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    for (guest, query, outcome, exit_code) in [
        (guests::EXIT7, "", "exited", Some(7)),
        (guests::TRAP, "", "trapped", None),
        (guests::OUT_OF_BOUNDS, "", "trapped", None),
        (guests::DEEP_RECURSION, "", "trapped", None),
        (guests::ENDLESS_LOOP, "?timeout_ms=100", "deadline_exceeded", None),
        (guests::ENDLESS_SLEEP, "?timeout_ms=100", "deadline_exceeded", None),
    ] {
        let form = Form::new().part("wasm", Part::bytes(guest.wasm()?).file_name("guest.wasm"));
        let uploaded =
            client.send(client.request(Method::POST, &format!("/v1/executions{query}")).multipart(form)).await?;
        client.put_module(guest.name, guest.wasm()?).await?.is(201)?;
        let named = client.post_bytes(&format!("/v1/modules/{}/executions{query}", guest.name), "").await?;
        for answer in [uploaded, named] {
            let ran = answer.is(200).context(guest.name)?;
            ensure!(ran["outcome"] == outcome && ran["exit_code"].as_i64() == exit_code, "{}: {ran}", guest.name);
            let told = ran["message"].as_str().is_some_and(|message| !message.is_empty());
            ensure!(told || outcome == "exited", "{} ends without a word: {ran}", guest.name);
        }
    }
    let said = guests::STDERR;
    client.put_module(said.name, said.wasm()?).await?.is(201)?;
    let said = client.execute(said.name, "").await?;
    ensure!(said.stderr == "this is an error\n" && said.outcome.as_deref() == Some("succeeded"), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn executions_are_listed_filtered_and_paged() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    client.put_module("exit7", guests::EXIT7.wasm()?).await?.is(201)?;
    let second = wasmwiz_tests::tenants::issue(client, "second", &["executions:run"]).await?;
    let mut newest_first = Vec::new();
    for number in 0..7 {
        let module = if number % 3 == 0 { "exit7" } else { "echo" };
        let client = if number == 5 { client.with_credential(&second.secret) } else { client.clone() };
        newest_first.insert(0, client.execute(module, "").await?.id);
    }
    let ids = |items: &[Value]| -> Vec<String> {
        items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect()
    };
    for limit in [1, 3, 200] {
        let listed = ids(&all_pages(client, "/v1/executions", limit).await?);
        ensure!(listed == newest_first, "{limit} a page: {listed:?}, not {newest_first:?}");
    }
    for (filter, count) in [
        ("module=exit7", 3),
        ("module=nothing", 0),
        ("outcome=exited", 3),
        ("outcome=succeeded", 4),
        ("outcome=succeeded&module=exit7", 0),
        (&format!("key={}", second.id), 1),
        ("from=2001-01-01T00:00:00Z", 7),
        ("to=2001-01-01T00:00:00Z", 0),
    ] {
        let listed = all_pages(client, &format!("/v1/executions?{filter}"), 2).await?;
        ensure!(listed.len() == count, "{filter} gives {} of {count}", listed.len());
    }
    for bad in ["outcome=happy", "from=yesterday", "to=1", "key=!", "module=UPPER"] {
        client.get(&format!("/v1/executions?{bad}")).await?.refuses(400, "invalid-query").context(bad)?;
    }
    // A cursor belongs to the list it came from.
    let page = client.get("/v1/executions?limit=1&module=echo").await?.is(200)?;
    let cursor = page["next_cursor"].as_str().context("no cursor")?;
    let elsewhere = client.get(&format!("/v1/executions?limit=1&cursor={cursor}&module=exit7")).await?;
    elsewhere.refuses(400, "malformed-cursor")?;
    client.get(&format!("/v1/modules?cursor={cursor}")).await?.refuses(400, "malformed-cursor")?;
    pages_are_checked(client, "/v1/executions").await
}

#[tokio::test]
async fn executions_are_checked() -> anyhow::Result<()> {
    let Setting { node: _node, operator, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    let id = client.execute("echo", "").await?.id;
    let one = format!("/v1/executions/{id}");
    for (scope, method, path) in [
        ("executions:read", Method::GET, "/v1/executions"),
        ("executions:read", Method::GET, one.as_str()),
        ("executions:read", Method::GET, &format!("{one}/stdin")),
        ("executions:read", Method::GET, &format!("{one}/stdout")),
        ("executions:read", Method::GET, &format!("{one}/stderr")),
        ("executions:run", Method::POST, "/v1/modules/echo/executions"),
        ("executions:run", Method::POST, "/v1/executions"),
    ] {
        asks_for(client, scope, method, path).await?;
    }
    // One scope is enough where it is the right one; what runs is answered even to who may not read.
    let runner = only(client, "executions:run").await?;
    ensure!(runner.execute("echo", "abc").await?.stdout == "abc", "a key that may run was not answered");
    only(client, "executions:read").await?.get(&one).await?.is(200)?;
    // An operator runs nothing: executions belong to tenants.
    let refused = operator.post_bytes("/v1/modules/echo/executions", "").await?;
    ensure!(refused.status == 403, "{}", refused.text());

    for bad in [
        "timeout_ms=x",
        "timeout_ms=0",
        "timeout_ms=-1",
        "version=x",
        "version=-1",
        "unknown=1",
        "fuel=0",
        "fuel=-1",
        "fuel=1000000000001",
    ] {
        let answer = client.post_bytes(&format!("/v1/modules/echo/executions?{bad}"), "").await?;
        answer.refuses(400, "invalid-query").context(bad)?;
    }
    client.post_bytes("/v1/modules/echo/executions?version=7", "").await?.refuses(404, "version-not-found")?;
    client.post_bytes("/v1/modules/nothing/executions", "").await?.refuses(404, "module-not-found")?;
    let many = "arg=x&".repeat(65);
    client.post_bytes(&format!("/v1/modules/echo/executions?{many}"), "").await?.refuses(400, "invalid-arguments")?;
    for absent in ["00000000-0000-7000-8000-000000000000", "nonsense", &id.to_uppercase()] {
        for stream in ["", "/stdin", "/stdout", "/stderr"] {
            let answer = client.get(&format!("/v1/executions/{absent}{stream}")).await?;
            answer.refuses(404, "execution-not-found")?;
        }
    }
    client.get(&format!("{one}/nothing")).await?.refuses(404, "no-such-route")?;
    Ok(())
}

#[tokio::test]
async fn the_output_alone_is_answered_to_whom_it_is_enough() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    client.put_module("exit7", guests::EXIT7.wasm()?).await?.is(201)?;
    for (module, input, outcome, exit_code) in [("echo", "abc", "succeeded", "0"), ("exit7", "", "exited", "7")] {
        let request = client.request(Method::POST, &format!("/v1/modules/{module}/executions"));
        let answer = client.send(request.header("accept", "application/octet-stream").body(input)).await?;
        ensure!(answer.conforms()?.status == 200 && answer.text() == input, "{module}: {answer:?}");
        ensure!(answer.header("content-type") == Some("application/octet-stream"), "{module}: {answer:?}");
        ensure!(answer.header("wasmwiz-outcome") == Some(outcome), "{module}: {answer:?}");
        ensure!(answer.header("wasmwiz-exit-code") == Some(exit_code), "{module}: {answer:?}");
        ensure!(answer.header("wasmwiz-position").is_some(), "a write without a position: {answer:?}");
        ensure!(answer.header("server-timing").is_some_and(|timing| timing.contains("cpu;dur=")), "{answer:?}");
        let id = answer.header("wasmwiz-execution-id").context("no id")?;
        let shown = client.get(&format!("/v1/executions/{id}")).await?.is(200)?;
        ensure!(shown["outcome"] == outcome && shown["stdout"] == input, "{shown}");
    }
    Ok(())
}

#[tokio::test]
async fn an_upload_is_checked_part_by_part() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    let wasm = || anyhow::Ok(Part::bytes(guests::ECHO.wasm()?).file_name("echo.wasm"));
    let upload = async |query: &str, form: Form| {
        client.send(client.request(Method::POST, &format!("/v1/executions{query}")).multipart(form)).await
    };
    for (form, at) in [
        (Form::new().text("input", "x"), "part:wasm"),
        (Form::new().part("wasm", Part::bytes(Vec::new())), "part:wasm"),
        (Form::new().part("wasm", wasm()?).part("wasm", wasm()?), "part:wasm"),
        (Form::new().part("wasm", wasm()?).text("colour", "red"), "part:colour"),
        (Form::new().part("wasm", wasm()?).part("arg", Part::bytes(vec![0xff])), "part:arg"),
    ] {
        let refused = upload("", form).await?.refuses(400, "invalid-body")?;
        ensure!(refused["errors"][0]["at"] == at, "{at} is not named: {refused}");
    }
    for bad in ["?timeout_ms=0", "?version=1", "?arg=x", "?fuel=0"] {
        let form = Form::new().part("wasm", wasm()?);
        upload(bad, form).await?.refuses(400, "invalid-query").context(bad)?;
    }
    client.post_bytes("/v1/executions", "x").await?.refuses(415, "unsupported-media-type")?;
    Ok(())
}

#[tokio::test]
async fn a_tenant_with_a_rate_is_told_how_much_of_it_is_left() -> anyhow::Result<()> {
    let Setting { node: _node, operator, tenant, .. } = Setting::new().await?;
    let free = register(&operator, "Free", "free").await?.client;
    free.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let run = async || free.post_bytes("/v1/modules/echo/executions", "").await;
    let left = |answer: &Answer| {
        let (_, left) = answer.header("ratelimit")?.split_once("\"executions\";r=")?;
        left.split(';').next()?.parse::<u64>().ok()
    };
    let mut before = 5;
    // Five at once; one more for each six seconds that these take.
    let refused = loop {
        let answer = run().await?;
        ensure!(answer.header("ratelimit-policy") == Some("\"executions\";q=10;w=60"), "{answer:?}");
        if answer.status == 429 {
            break answer;
        }
        answer.is(200)?;
        let now = left(&answer).context("no RateLimit")?;
        ensure!(now < 5 && now + 1 >= before, "from {before} to {now} by one execution");
        before = now;
    };
    ensure!(before == 0, "refused with {before} left");
    refused.refuses(429, "rate-limited")?;
    ensure!(left(&refused) == Some(0), "{refused:?}");
    let seconds: u64 = refused.header("retry-after").context("no Retry-After")?.parse()?;
    ensure!((1..=6).contains(&seconds), "{seconds}");
    // A tier without a rate has nothing to tell.
    let unlimited = tenant.client.post_bytes("/v1/modules/echo/executions", "").await?;
    ensure!(unlimited.status == 200 && unlimited.header("ratelimit").is_none(), "{unlimited:?}");
    Ok(())
}
