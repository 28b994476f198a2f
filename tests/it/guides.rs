//! The guides: every command in them is run, as it stands, against a real node.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, ensure};
use wasmwiz_tests::{
    harness::{self, Launch, NodeProcess},
    nats::NatsServer,
    python,
};

/// How long the commands of one guide may take.
const DEADLINE: Duration = Duration::from_secs(90);

/// It has a home folder, a terminal and a port of its own: `cli/guide.rs` runs it.
const ELSEWHERE: &str = "cli.md";

/// What begins and ends a block of commands.
const FENCES: (&str, &str) = ("```sh", "```");

#[tokio::test]
async fn every_command_of_the_guides_runs() -> anyhow::Result<()> {
    let folder = python::root().join("docs/guides");
    let mut guides: Vec<_> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    guides.retain(|guide| guide.extension().is_some_and(|extension| extension == "md"));
    guides.retain(|guide| guide.file_name().is_some_and(|name| name != ELSEWHERE));
    guides.sort();
    let mut ran = 0;
    for guide in &guides {
        let commands = commands(&fs::read_to_string(guide)?);
        if commands.contains("$NATS") {
            let server = NatsServer::started().await?;
            let launch = Launch::dev()?.variable("WASMWIZ_FEED__NATS__URL", server.url());
            let node = launch.variable("WASMWIZ_FEED__MAX_BYTES", "67108864").start().await?;
            run(&commands, &node, &server.url()).await.with_context(|| format!("{} does not run", guide.display()))?;
            ran += 1;
        } else if !commands.is_empty() {
            run(&commands, &NodeProcess::dev().await?, "")
                .await
                .with_context(|| format!("{} does not run", guide.display()))?;
            ran += 1;
        }
    }
    ensure!(ran >= 4, "only {ran} guides have commands");
    Ok(())
}

/// The commands of all blocks, as one script: what one block sets, the next may use.
fn commands(guide: &str) -> String {
    let mut inside = false;
    let mut commands = String::new();
    for line in guide.lines() {
        match line {
            opening if opening == FENCES.0 => inside = true,
            closing if closing == FENCES.1 => inside = false,
            command if inside => {
                commands.push_str(command);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

/// Runs a script in an empty folder with the examples, on a node and, if it has one, its bus.
async fn run(commands: &str, node: &NodeProcess, nats: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::symlink(fs::canonicalize(python::root().join("examples"))?, folder.path().join("examples"))?;
    // The interpreter of the tests has the compiler already, so that nothing is fetched.
    let interpreter = python::command()?;
    let interpreter = Path::new(interpreter.as_std().get_program());
    let binary = harness::binary()?;
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = [interpreter.parent(), binary.parent()].into_iter().flatten().map(Path::to_path_buf);
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&inherited)))?;
    let ready = node.ready();
    let mut shell = tokio::process::Command::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", commands])
        .current_dir(folder.path())
        .env("PATH", path)
        .env("URL", &ready.url)
        .env("KEY", ready.api_key.as_deref().context("the node gave no key")?)
        .env("OPERATOR", ready.operator_token.as_deref().context("the node gave no operator token")?)
        .env("DATA", node.data())
        .env("NATS", nats)
        .env("NO_PROXY", "*")
        .kill_on_drop(true);
    let ended = python::run(&mut shell, DEADLINE).await?;
    ensure!(ended.code == Some(0), "ended with {:?}:\n{}\n{}", ended.code, ended.stdout, ended.stderr);
    Ok(())
}
