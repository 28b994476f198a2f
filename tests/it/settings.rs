//! What a node takes from its surroundings, and what it does not: variables, proxies, limits, and what is in its folder.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, ensure};
use tokio::net::TcpListener;
use wasmwiz_tests::{
    cli::User,
    guests,
    harness::{Launch, NodeProcess},
};

/// Every variable by which programs are told of proxies.
const PROXIES: [&str; 6] = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_to_a_node_of_this_machine_goes_to_a_proxy() -> anyhow::Result<()> {
    let proxy = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", proxy.local_addr()?);
    let asked = tokio::spawn(async move { proxy.accept().await });
    let with = |launch: Launch| PROXIES.iter().fold(launch, |launch, name| launch.variable(*name, &address));
    let mut node = with(Launch::dev()?).start().await?;
    let user = User::new()?;
    let user = PROXIES.iter().fold(user, |user, name| user.variable(name, &address));
    let key = node.ready().api_key.clone().context("dev gives a key")?;
    let user = user.variable("WASMWIZ_URL", &node.ready().url).variable("WASMWIZ_API_KEY", &key);
    for command in [&["module", "list"][..], &["status"], &["run", "--module", "greeter"]] {
        let ended = user.run(command).await?;
        ensure!(ended.code == Some(0), "{command:?}: {ended:?}");
    }
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
    ensure!(!asked.is_finished(), "somebody has asked the proxy");
    asked.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_that_kubernetes_sets_are_no_settings_and_those_of_a_node_win_over_its_file() -> anyhow::Result<()> {
    let file = "node.data_dir = \"{data}\"\nnode.name = \"of-the-file\"\nlisten.api = \"127.0.0.1:1\"\n\
                listen.admin = \"127.0.0.1:0\"\n";
    let injected = [
        ("WASMWIZ_PORT", "tcp://10.0.0.1:8080"),
        ("WASMWIZ_SERVICE_HOST", "10.0.0.1"),
        ("WASMWIZ_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("WASMWIZ_LISTEN__API", "127.0.0.1:0"),
        ("WASMWIZ_NODE__NAME", "007"),
    ];
    let launch = injected.iter().fold(Launch::node(file)?, |launch, (name, value)| launch.variable(*name, *value));
    let mut node = launch.variable("WASMWIZ_TELEMETRY__FILTER", "info").start().await?;
    ensure!(node.stderr().contains("\"node\":\"007\""), "it has another name: {}", node.stderr());
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");

    for (name, value) in [("WASMWIZ_LISTEN__NOWHERE", "x"), ("WASMWIZ_NODE__NAME", "2026.10")] {
        let ended = Launch::dev()?.variable(name, value).start_in_vain().await?;
        ensure!(ended.code == Some(1), "{name}: {ended:?}");
        ensure!(ended.stderr.starts_with(&format!("wasmwiz: {name} ")), "{name}: {}", ended.stderr);
        ensure!(ended.stderr.lines().count() == 1 && ended.stderr.matches(name).count() == 1, "{}", ended.stderr);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flag_wins_over_a_variable_and_that_over_the_file_for_dev_too() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, data) = (folder.path().join("node.toml"), folder.path().join("of-the-variable"));
    std::fs::write(
        &file,
        "listen.api = \"127.0.0.1:1\"\nlisten.admin = \"127.0.0.1:1\"\nnode.data_dir = \"/nowhere\"\n",
    )?;
    let launch = Launch::bare()?.argument("dev").argument("--config").argument(&file);
    let launch = launch.variable("WASMWIZ_LISTEN__API", "127.0.0.1:1").variable("WASMWIZ_NODE__DATA_DIR", &data);
    let launch = launch.variable("WASMWIZ_LISTEN__ADMIN", "127.0.0.1:0").argument("--listen").argument("127.0.0.1:0");
    let mut node = launch.start().await?;
    ensure!(data.join("log").is_dir(), "its data is elsewhere");
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");

    let user = User::new()?.variable("WASMWIZ_NODE__DATA_DIR", &data.to_string_lossy());
    let verified = user.run(&["audit", "verify"]).await?;
    ensure!(verified.code == Some(0), "the variable says where the log is: {verified:?}");
    let shown = user.run(&["config", "--config", &file.to_string_lossy()]).await?;
    for line in ["data_dir = ", "api = "] {
        let shown = shown.stdout.lines().find(|shown| shown.starts_with(line)).context("a setting is not shown")?;
        let origin = if line == "api = " { "# from the file" } else { "# from WASMWIZ_NODE__DATA_DIR" };
        ensure!(shown.ends_with(origin), "{shown}");
    }
    let json = user.run(&["config", "--output", "json"]).await?.stdout;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(json["origins"]["node.data_dir"] == "WASMWIZ_NODE__DATA_DIR", "{json}");
    ensure!(json["listen"]["api"] == "127.0.0.1:8080" && json["origins"]["listen.api"].is_null(), "{json}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_of_ones_own_under_an_examples_name_stays() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    let own = guests::EXIT7.wasm()?;
    let published = node.client()?.put_module("greeter", own.clone()).await?.is(201)?;
    for _ in 0..2 {
        node.restart().await?;
        let there = node.client()?.get_json("/v1/modules/greeter").await?;
        ensure!(there["version"] == published["version"] && there["digest"] == published["digest"], "{there}");
        ensure!(node.client()?.get_json("/v1/modules/echo").await?["version"] == 1, "the example was published again");
    }
    ensure!(node.stdout().contains("is your own, and stays"), "{}", node.stdout());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_its_machine_does_not_let_start_says_what_to_do_once() -> anyhow::Result<()> {
    let limited = Launch::dev()?;
    let (program, script) = (wasmwiz_tests::harness::binary()?, "ulimit -n 24; exec \"$0\" \"$@\"");
    let shell = Launch::bare()?.program("/bin/sh".into()).argument("-c").argument(script).argument(program);
    let shell = shell.argument("dev").argument("--listen").argument("127.0.0.1:0").argument("--data");
    let ended = shell.argument(limited.data()).start_in_vain().await?;
    ensure!(ended.code == Some(1) && ended.stderr.contains("24 files open, and a node needs"), "{ended:?}");
    ensure!(ended.stderr.contains("ulimit -Hn") && ended.stderr.lines().count() == 1, "{}", ended.stderr);

    let folder = tempfile::tempdir()?;
    let link = folder.path().join("data");
    std::os::unix::fs::symlink(folder.path().join("no-disk"), &link)?;
    let file = folder.path().join("file");
    std::fs::write(&file, "")?;
    let locked = folder.path().join("locked");
    std::fs::create_dir(&locked)?;
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o500))?;
    let mut cases = vec![(link, "is a symbolic link to"), (file, "is a file and no folder")];
    if !rustix::process::geteuid().is_root() {
        cases.push((locked, "may not write to it"));
    }
    for (data, said) in cases {
        let dev = Launch::bare()?.argument("dev").argument("--listen").argument("127.0.0.1:0");
        let ended = dev.argument("--data").argument(&data).start_in_vain().await?;
        ensure!(ended.code == Some(1), "{ended:?}");
        ensure!(ended.stderr.matches(said).count() == 1 && ended.stderr.lines().count() == 1, "{}", ended.stderr);
        ensure!(ended.stderr.contains("node.data_dir"), "{}", ended.stderr);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modules_are_compiled_with_what_a_small_container_has_for_it() -> anyhow::Result<()> {
    // What the manifest of staging says. The allocator of this program would reserve more than that when it begins.
    let launch = Launch::dev()?.variable("WASMWIZ_EXECUTOR__COMPILE__MEMORY_BYTES", (384_u64 << 20).to_string());
    let node = launch.start().await?;
    let client = node.client()?;
    client.put_module("stderr", guests::STDERR.wasm()?).await?.is(201)?;
    let ran = client.execute("stderr", "small").await?;
    ensure!(ran.outcome.as_deref() == Some("succeeded"), "{ran:?}");
    Ok(())
}
