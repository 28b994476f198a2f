//! Executions that are made of the records of earlier ones, and versions that are tried on recorded input.

use anyhow::{Context as _, ensure};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use wasmwiz_tests::{
    cli::User,
    client::{Answer, Client},
    guests,
    harness::NodeProcess,
    tenants::{issue, only, register},
};

async fn again(client: &Client, id: &str, wish: Value) -> anyhow::Result<Answer> {
    client.post_json(&format!("/v1/executions/{id}/rerun"), &wish).await
}

fn id(execution: &Value) -> anyhow::Result<String> {
    Ok(execution["id"].as_str().context("no id")?.to_owned())
}

/// The same module in other bytes: with a section that nothing reads.
fn rebuilt(mut wasm: Vec<u8>) -> Vec<u8> {
    wasm.extend([0, 5, 4, b't', b'e', b's', b't']);
    wasm
}

#[tokio::test]
async fn a_record_becomes_another_execution_with_what_is_to_be_otherwise() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let tenant = register(&node.operator()?, "Again", "enterprise").await?;
    let client = &tenant.client;
    client.put_module("curious", guests::CURIOUS.wasm()?).await?.is(201)?;
    let first = client.post_bytes("/v1/modules/curious/executions?arg=one", "who am I?").await?.is(200)?;
    ensure!(first["rerun_of"].is_null(), "{first}");
    let of = id(&first)?;

    // What it says hangs on its time, its random numbers, its arguments and its input.
    let same = again(client, &of, json!({"as_recorded": true})).await?.is(200)?;
    ensure!(same["id"] != first["id"] && same["rerun_of"] == first["id"], "{same}");
    for what in ["outcome", "exit_code", "stdout", "stderr", "module", "reproducibility"] {
        ensure!(same[what] == first[what], "{what}: {first} {same}");
    }
    let own = client.post_bytes(&format!("/v1/executions/{of}/rerun"), "").await?.is(200)?;
    ensure!(own["rerun_of"] == first["id"] && own["stdout"] != first["stdout"], "its own time: {own}");
    for wish in [
        json!({"as_recorded": true, "args": ["two"]}),
        json!({"as_recorded": true, "args": []}),
        json!({"as_recorded": true, "stdin": "else"}),
    ] {
        let other = again(client, &of, wish.clone()).await?.is(200)?;
        ensure!(other["stdout"] != first["stdout"], "{wish}: {other}");
    }

    // It is an execution as any other: listed, read, verified, made again.
    let shown = client.get_json(&format!("/v1/executions/{}", id(&same)?)).await?;
    ensure!(shown["rerun_of"] == first["id"], "{shown}");
    let listed = client.get_json("/v1/executions").await?;
    let of_it = listed["items"].as_array().context("no items")?.iter().filter(|item| item["rerun_of"] == first["id"]);
    ensure!(of_it.count() == 5, "{listed}");
    let verified = client.post_bytes(&format!("/v1/executions/{}/verify", id(&same)?), "").await?.is(200)?;
    ensure!(verified["reproduced"] == true, "{verified}");
    let third = again(client, &id(&same)?, json!({"as_recorded": true})).await?.is(200)?;
    ensure!(third["stdout"] == first["stdout"] && third["rerun_of"] == same["id"], "{third}");
    let later = client.request(reqwest::Method::POST, &format!("/v1/executions/{of}/rerun"));
    client.send(later.header("prefer", "respond-async")).await?.is(202)?;

    // The same request, sent twice, is done once.
    let keyed = || {
        let request = client.request(reqwest::Method::POST, &format!("/v1/executions/{of}/rerun"));
        client.send(request.header("idempotency-key", "once").json(&json!({"args": ["x"]})))
    };
    ensure!(keyed().await?.is(200)?["id"] == keyed().await?.is(200)?["id"], "done twice");
    Ok(())
}

#[tokio::test]
async fn another_version_an_uploaded_module_and_other_input_are_run() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let tenant = register(&node.operator()?, "Versions", "enterprise").await?;
    let client = &tenant.client;
    client.put_module("greeter", guests::GREETER.wasm()?).await?.is(201)?;
    let first = client.post_bytes("/v1/modules/greeter/executions", "Ada").await?.is(200)?;
    let of = id(&first)?;
    client.put_module("greeter", guests::ECHO.wasm()?).await?.is(201)?;

    // The recorded version, not the latest one.
    let same = again(client, &of, json!({})).await?.is(200)?;
    ensure!(same["module"] == first["module"] && same["stdout"] == "Hello, Ada!\n", "{same}");
    let latest = again(client, &of, json!({"version": 2})).await?.is(200)?;
    ensure!(latest["module"]["version"] == 2 && latest["stdout"] == "Ada", "{latest}");
    let binary = json!({"version": 2, "stdin": "//4=", "stdin_encoding": "base64"});
    let binary = again(client, &of, binary).await?.is(200)?;
    ensure!(binary["stdout"] == "//4=" && binary["stdout_encoding"] == "base64", "{binary}");

    let part = Part::bytes(guests::GREETER.wasm()?).file_name("greeter.wasm");
    let form = Form::new().part("wasm", part).text("input", "Grace");
    let uploaded =
        client.send(client.request(reqwest::Method::POST, "/v1/executions").multipart(form)).await?.is(200)?;
    let kept = again(client, &id(&uploaded)?, json!({})).await?.is(200)?;
    ensure!(kept["stdout"] == "Hello, Grace!\n" && kept["module"]["name"].is_null(), "{kept}");
    let refused = again(client, &id(&uploaded)?, json!({"version": 1})).await?.refuses(400, "invalid-body")?;
    ensure!(refused["errors"][0]["at"] == "/version", "{refused}");

    again(client, &of, json!({"version": 9})).await?.refuses(404, "version-not-found")?;
    for wish in [
        json!({"stdin": "x", "stdin_encoding": "utf-16"}),
        json!({"stdin": "%", "stdin_encoding": "base64"}),
        json!({"stdin_encoding": "base64"}),
        json!({"args": "x"}),
        json!({"input": "x"}),
    ] {
        again(client, &of, wish).await?.refuses(400, "invalid-body")?;
    }
    again(client, &of, json!({"args": ["x".repeat(9_000)]})).await?.refuses(400, "invalid-arguments")?;
    client.delete("/v1/modules/greeter").await?.is(204)?;
    again(client, &of, json!({})).await?.refuses(404, "module-not-found")?;
    Ok(())
}

#[tokio::test]
async fn what_is_recorded_is_run_again_by_nobody_who_may_not_read_it() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let tenant = register(&node.operator()?, "Whose", "enterprise").await?;
    let client = &tenant.client;
    client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let of = id(&client.post_bytes("/v1/modules/echo/executions", "a secret").await?.is(200)?)?;
    for scope in ["executions:run", "executions:read"] {
        again(&only(client, scope).await?, &of, json!({})).await?.refuses(403, "missing-scope")?;
    }
    let both = issue(client, "both", &["executions:run", "executions:read"]).await?;
    again(&client.with_credential(&both.secret), &of, json!({})).await?.is(200)?;
    let other = register(&node.operator()?, "Other", "enterprise").await?;
    again(&other.client, &of, json!({})).await?.refuses(404, "execution-not-found")?;
    again(client, "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f", json!({})).await?.refuses(404, "execution-not-found")?;
    Ok(())
}

#[tokio::test]
async fn a_version_is_tried_on_what_was_recorded() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let tenant = register(&node.operator()?, "Careful", "enterprise").await?;
    let client = &tenant.client;
    let wasm = guests::CURIOUS.wasm()?;
    client.put_module("app", wasm.clone()).await?.is(201)?;
    for turn in 0..12 {
        client.post_bytes(&format!("/v1/modules/app/executions?arg={turn}"), format!("input {turn}")).await?.is(200)?;
    }
    client.put_module("app", rebuilt(wasm)).await?.is(201)?;
    client.put_module("app", guests::ECHO.wasm()?).await?.is(201)?;
    client.get_json("/v1/executions?limit=1").await?;

    let team = User::new()?.variable("WASMWIZ_API_KEY", &tenant.key.secret);
    let url = node.ready().url.clone();
    let back_test = |version: &'static str, more: &'static [&'static str]| {
        let fixed = ["module", "back-test", "app", "--version", version, "--url", &url];
        let arguments: Vec<&str> = fixed.into_iter().chain(more.iter().copied()).collect();
        let team = &team;
        async move { team.run(&arguments).await }
    };
    let ended = back_test("2", &["--output", "json"]).await?;
    let told: Value = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    ensure!(ended.code == Some(0) && told["run"] == 12 && told["equal"] == 12, "{ended:?}");

    let ended = back_test("3", &["--output", "json"]).await?;
    let told: Value = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    ensure!(ended.code == Some(1) && told["run"] == 12 && told["left"]["rerun"] == 12, "{ended:?}");
    ensure!(told["different"].as_array().is_some_and(|all| all.len() == 12), "{told}");
    let table = back_test("3", &["--limit", "4"]).await?;
    ensure!(table.code == Some(1) && table.stdout.contains(" different, "), "{table:?}");
    ensure!(back_test("9", &[]).await?.code == Some(4), "there is no such version");

    let found = client.get_json("/v1/executions?limit=1").await?;
    let of = id(&found["items"][0])?;
    let ended =
        team.run(&["exec", "rerun", &of, "--version", "3", "--arg", "x", "--output", "json", "--url", &url]).await?;
    let told: Value = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    ensure!(ended.code == Some(0) && told["rerun_of"] == of && told["module"]["version"] == 3, "{ended:?}");
    Ok(())
}
