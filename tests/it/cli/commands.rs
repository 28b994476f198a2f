//! What a tenant does from the command line.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::Value;
use wasmwiz_tests::{cli::User, guests, harness::NodeProcess, tenants};

use super::ends;

/// A node, and somebody who is logged in to it.
async fn logged_in() -> anyhow::Result<(NodeProcess, User)> {
    let node = NodeProcess::dev().await?;
    let user = User::new()?;
    let key = node.ready().api_key.clone().context("the node gave no key")?;
    ends(user.run_with(&["login", "--url", &node.ready().url], &format!("{key}\n")).await?, 0)?;
    Ok((node, user))
}

fn json(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))
}

#[tokio::test]
async fn a_key_is_kept_privately_and_only_when_the_node_lets_it_in() -> anyhow::Result<()> {
    let (node, user) = logged_in().await?;
    let file = user.path(".config/wasmwiz/profiles.toml");
    ensure!(std::fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
    let kept = std::fs::read_to_string(&file)?;

    let url = node.ready().url.as_str();
    for (key, code) in [("ww_abc_nonsense", 3), ("nonsense", 1), ("", 1)] {
        let refused = user.run_with(&["login", "--profile", "bad", "--url", url], key).await?;
        ensure!(refused.code == Some(code), "{key}: {refused:?}");
    }
    ensure!(std::fs::read_to_string(&file)? == kept, "a key was kept that is none");
    ensure!(user.run(&["key", "list", "--profile", "bad"]).await?.code == Some(1), "there is no such profile");

    // A key that may not read keys is one all the same.
    let narrow = tenants::issue(&node.client()?, "narrow", &["usage:read"]).await?;
    ends(user.run_with(&["login", "--profile", "narrow", "--url", url], &narrow.secret).await?, 0)?;
    ends(user.run(&["usage", "--profile", "narrow"]).await?, 0)?;
    let refused = user.run(&["module", "list", "--profile", "narrow"]).await?;
    ensure!(refused.code == Some(3) && refused.stderr.contains("modules:read"), "{refused:?}");

    let elsewhere = user.run(&["module", "list", "--url", "http://127.0.0.1:9"]).await?;
    ensure!(elsewhere.code == Some(1) && elsewhere.stderr.contains("not sent elsewhere"), "{elsewhere:?}");
    let garbled = user.path("garbled.toml");
    std::fs::copy(&file, &garbled)?;
    std::fs::write(&garbled, std::fs::read_to_string(&garbled)?.replace("api_key = \"", "api_key = "))?;
    let quoted = user.run(&["module", "list", "--profiles", "garbled.toml"]).await?;
    let secret = node.ready().api_key.as_deref().context("the node gave no key")?;
    ensure!(quoted.code == Some(1) && quoted.stderr.contains("is no file of profiles"), "{quoted:?}");
    ensure!(!quoted.stderr.contains(secret), "an error quotes the key: {quoted:?}");
    let broken = User::new()?.variable("WASMWIZ_URL", url).variable("WASMWIZ_API_KEY", "ww_a b");
    let refused = broken.run(&["module", "list"]).await?;
    ensure!(refused.code == Some(1) && !refused.stderr.contains("ww_a"), "{refused:?}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    let open = user.run(&["module", "list"]).await?;
    ensure!(open.code == Some(1) && open.stderr.contains("chmod 600"), "{open:?}");
    Ok(())
}

#[tokio::test]
async fn a_guest_is_run_and_its_end_is_the_commands() -> anyhow::Result<()> {
    let (_node, user) = logged_in().await?;
    for guest in [guests::ECHO, guests::EXIT7, guests::TRAP, guests::ENDLESS_LOOP, guests::STDERR] {
        user.file(&format!("{}.wasm", guest.name), guest.wasm()?)?;
    }
    let file = |guest: guests::Guest| format!("{}.wasm", guest.name);
    let ran = user.run_with(&["run", &file(guests::ECHO), "--input", "-"], "grüße\n").await?;
    ensure!(ran.code == Some(0) && ran.stdout == "grüße\n", "{ran:?}");
    ensure!(ran.stderr.starts_with("succeeded  execution ") && ran.stderr.contains("wall ms"), "{ran:?}");
    user.file("input.txt", "from a file")?;
    ensure!(ends(user.run(&["run", &file(guests::ECHO), "--input", "input.txt"]).await?, 0)? == "from a file");
    ends(user.run(&["run", &file(guests::EXIT7)]).await?, 7)?;
    ends(user.run(&["run", &file(guests::TRAP)]).await?, 134)?;
    ends(user.run(&["run", &file(guests::ENDLESS_LOOP), "--timeout", "200ms"]).await?, 124)?;
    let wrote = user.run(&["run", &file(guests::STDERR)]).await?;
    ensure!(wrote.stderr.lines().count() >= 2 || !wrote.stderr.starts_with("succeeded"), "{wrote:?}");

    user.file("broken.wasm", "no module")?;
    let refused = user.run(&["run", "broken.wasm"]).await?;
    ensure!(refused.code == Some(125) && refused.stderr.contains("422"), "{refused:?}");
    ensure!(user.run(&["run", "absent.wasm"]).await?.code == Some(125));
    for wrong in [&["run"][..], &["run", "a.wasm", "--timeout", "5"], &["run", "a.wasm", "--module", "b"], &["fly"]] {
        ensure!(user.run(wrong).await?.code == Some(2), "{wrong:?}");
    }
    Ok(())
}

#[tokio::test]
async fn modules_executions_and_keys_are_kept_from_the_command_line() -> anyhow::Result<()> {
    let (node, user) = logged_in().await?;
    user.file("repeat.wasm", guests::ECHO.wasm()?)?;
    let pushed = ends(user.run(&["module", "push", "repeat.wasm", "--output", "json"]).await?, 0)?;
    ensure!(json(&pushed)?["name"] == "repeat" && json(&pushed)?["version"] == 1, "{pushed}");
    let listed = ends(user.run(&["module", "list"]).await?, 0)?;
    ensure!(listed.starts_with("NAME") && listed.contains("repeat") && !listed.contains('\u{1b}'), "{listed}");
    ends(user.run(&["module", "show", "repeat"]).await?, 0)?;
    let said = ends(user.run_with(&["run", "--module", "repeat", "--input", "-", "--output", "json"], "hi").await?, 0)?;
    let id = json(&said)?["id"].as_str().context("no id")?.to_owned();
    ensure!(json(&said)?["stdout"] == "hi", "{said}");

    let logs = user.run(&["exec", "logs", &id]).await?;
    ensure!(logs.code == Some(0) && logs.stdout == "hi" && logs.stderr.is_empty(), "{logs:?}");
    let listed = ends(user.run(&["exec", "list", "--module", "repeat", "--limit", "5"]).await?, 0)?;
    ensure!(listed.contains(&id) && listed.contains("repeat v1") && listed.contains("succeeded"), "{listed}");
    let yaml = ends(user.run(&["exec", "show", &id, "--output", "yaml"]).await?, 0)?;
    ensure!(yaml.contains("\"outcome\": \"succeeded\"") && yaml.contains("\"usage\":\n  \"cpu_ms\": "), "{yaml}");
    let absent = user.run(&["exec", "show", "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f"]).await?;
    ensure!(absent.code == Some(4) && absent.stderr.contains("(404)"), "{absent:?}");

    let ended = user.run(&["exec", "cancel", &id]).await?;
    ensure!(ended.code == Some(5), "what has ended is not cancelled: {ended:?}");

    let created = user.run(&["key", "create", "ci", "--scope", "modules:read", "--output", "json"]).await?;
    ensure!(created.stderr.contains("shown this once"), "{created:?}");
    let key = json(&ends(created, 0)?)?;
    let (id, secret) = (key["id"].as_str().context("no id")?, key["secret"].as_str().context("no secret")?);
    let other = User::new()?.variable("WASMWIZ_URL", &node.ready().url).variable("WASMWIZ_API_KEY", secret);
    ends(other.run(&["module", "list"]).await?, 0)?;
    ends(user.run(&["key", "show", id]).await?, 0)?;
    ends(user.run(&["key", "revoke", id]).await?, 0)?;
    ensure!(other.run(&["module", "list"]).await?.code == Some(3), "a revoked key opens something");
    let listed = ends(user.run(&["key", "list"]).await?, 0)?;
    ensure!(listed.lines().any(|line| line.starts_with(id) && line.contains("revoked 20")), "{listed}");
    ensure!(!listed.contains(secret), "a secret is listed");
    ensure!(user.run(&["key", "rotate", "absent", "--grace-seconds", "60"]).await?.code == Some(4));
    let wide = user.run(&["key", "create", "x", "--scope", "moon:walk"]).await?;
    ensure!(wide.code == Some(5) && wide.stderr.contains("/scopes"), "a fault is not shown: {wide:?}");
    ends(user.run(&["module", "rm", "repeat"]).await?, 0)?;
    Ok(())
}

#[tokio::test]
async fn what_a_command_shows_is_json_and_yaml_when_that_is_asked_for() -> anyhow::Result<()> {
    let (node, user) = logged_in().await?;
    let ready = node.ready();
    user.file("echo.wasm", guests::ECHO.wasm()?)?;
    let client = node.client()?;
    let id = client.execute("echo", "x").await?.id.to_string();
    client.get("/v1/usage").await?.is(200)?;
    let data = node.data();
    let data = data.to_str().context("the folder's name is no text")?;
    let own = user.run(&["key", "list", "--output", "json"]).await?;
    let key = json(&own.stdout)?["items"][0]["id"].as_str().context("no key")?.to_owned();
    let of_tenant: [&[&str]; 13] = [
        &["run", "echo.wasm"],
        &["module", "push", "echo.wasm", "--name", "again"],
        &["module", "list"],
        &["module", "show", "echo"],
        &["exec", "list"],
        &["exec", "show", &id],
        &["key", "create", "x", "--scope", "modules:read"],
        &["key", "list"],
        &["key", "show", &key],
        &["usage"],
        &["audit", "list"],
        &["audit", "head"],
        &["status"],
    ];
    for command in of_tenant {
        let shown = ends(user.run(&[command, &["--output", "json"]].concat()).await?, 0)?;
        ensure!(json(&shown)?.is_object(), "{command:?}: {shown}");
        let shown = ends(user.run(&[command, &["--output", "yaml"]].concat()).await?, 0)?;
        ensure!(shown.starts_with('"') && shown.contains("\": "), "{command:?}: {shown}");
    }
    for offline in [&["audit", "verify", "--data", data][..], &["usage", "recompute", "--check", "--data", data]] {
        json(&ends(user.run(&[offline, &["--output", "json"]].concat()).await?, 0)?)?;
    }
    let operator = ready.operator_token.as_deref().context("the node gave no operator's key")?;
    let operator = User::new()?.variable("WASMWIZ_URL", &ready.url).variable("WASMWIZ_API_KEY", operator);
    let of_operator: [&[&str]; 6] = [
        &["tenant", "create", "Acme", "--tier", "pro"],
        &["tenant", "list"],
        &["tenant", "show", "dev"],
        &["tenant", "change", "dev", "--name", "Dev"],
        &["tenant", "suspend", "dev", "--reason", "unpaid"],
        &["tenant", "resume", "dev"],
    ];
    for command in of_operator {
        let shown = ends(operator.run(&[command, &["--output", "json"]].concat()).await?, 0)?;
        ensure!(json(&shown)?.is_object(), "{command:?}: {shown}");
    }
    // What has nothing to say says nothing.
    let silent = user.run(&["module", "rm", "again", "--output", "json"]).await?;
    ensure!(silent.code == Some(0) && silent.stdout.is_empty(), "{silent:?}");
    Ok(())
}

#[tokio::test]
async fn usage_history_and_health_are_shown() -> anyhow::Result<()> {
    let (mut node, user) = logged_in().await?;
    let client = node.client()?;
    client.execute("echo", "12345").await?;
    client.get("/v1/usage").await?.is(200)?;
    let table = ends(user.run(&["usage", "--by", "module"]).await?, 0)?;
    ensure!(table.starts_with("BUCKET") && table.contains("echo") && table.contains('█'), "{table}");
    let usage = json(&ends(user.run(&["usage", "--by", "module", "--output", "json"]).await?, 0)?)?;
    ensure!(usage["items"][0]["stdin_bytes"] == 5 && usage["more"] == false, "{usage}");
    let page = user.run(&["usage", "--by", "module", "--limit", "1"]).await?;
    ensure!(page.stderr.contains("there are more") && page.stdout.lines().count() == 2, "{page:?}");
    let bad = user.run(&["usage", "--from", "yesterday"]).await?;
    ensure!(bad.code == Some(5) && bad.stderr.contains("query:from"), "{bad:?}");

    let listed = ends(user.run(&["audit", "list", "--type", "dev.wasmwiz.execution.accepted.v1"]).await?, 0)?;
    ensure!(listed.starts_with("REVISION") && listed.lines().count() == 3, "{listed}");
    let head = json(&ends(user.run(&["audit", "head", "--output", "json"]).await?, 0)?)?;
    ensure!(head["hash"].as_str().is_some_and(|hash| hash.len() == 64), "{head}");

    let status = ends(user.run(&["status"]).await?, 0)?;
    ensure!(status.contains("event_log") && status.contains("executor"), "{status}");
    let url = node.ready().url.clone();
    ends(User::new()?.run(&["status", "--url", &url]).await?, 0)?;
    node.terminate().await?;
    let gone = user.run(&["status"]).await?;
    ensure!(gone.code == Some(6) && gone.stderr.contains("is a node running there?"), "{gone:?}");
    ensure!(user.run(&["run", "--module", "echo"]).await?.code == Some(125), "nothing ran");
    Ok(())
}

#[tokio::test]
async fn an_execution_under_way_is_cancelled_from_the_command_line_and_one_that_has_ended_is_not() -> anyhow::Result<()>
{
    let (node, user) = logged_in().await?;
    let client = node.client()?;
    client.put_module("sleeper", guests::ENDLESS_SLEEP.wasm()?).await?.is(201)?;
    let request = client.request(Method::POST, "/v1/modules/sleeper/executions").header("prefer", "respond-async");
    let accepted = client.send(request).await?.is(202)?;
    let id = accepted["id"].as_str().context("no id")?;
    let cancelled = user.run(&["exec", "cancel", id, "--output", "json"]).await?;
    ensure!(cancelled.code == Some(0), "{cancelled:?}");
    ensure!(json(&cancelled.stdout)?["outcome"] == "cancelled", "{cancelled:?}");
    let ended = client.execute("echo", "x").await?;
    let refused = user.run(&["exec", "cancel", &ended.id]).await?;
    ensure!(refused.code == Some(5) && refused.stderr.contains("had ended"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_rotated_from_the_command_line_opens_with_both_secrets_for_the_grace() -> anyhow::Result<()> {
    let (node, user) = logged_in().await?;
    let client = node.client()?;
    let key = tenants::issue(&client, "nightly", &["usage:read"]).await?;
    let rotated = user.run(&["key", "rotate", &key.id, "--grace-seconds", "3600", "--output", "json"]).await?;
    ensure!(rotated.code == Some(0), "{rotated:?}");
    let rotated = json(&rotated.stdout)?;
    let secret = rotated["secret"].as_str().context("no secret")?;
    ensure!(secret != key.secret && rotated["id"] == key.id, "{rotated}");
    for secret in [secret, &key.secret] {
        client.with_credential(secret).get("/v1/usage").await?.is(200)?;
    }
    Ok(())
}
