//! Every command of the guide to the command line, as it is written there.

use anyhow::{Context, ensure};
use wasmwiz_tests::{cli::User, guests, harness::NodeProcess};

const GUIDE: &str = include_str!("../../../docs/guides/cli.md");

/// The blocks of the guide that are for a shell.
fn blocks() -> impl Iterator<Item = &'static str> {
    GUIDE.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block)
}

#[tokio::test]
async fn every_command_of_the_guide_works() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let ready = node.ready();
    let user = User::new()?;
    user.file("key.txt", ready.api_key.as_deref().context("the node gave no key")?)?;
    user.file("operator.txt", ready.operator_token.as_deref().context("the node gave no operator's key")?)?;
    for (name, guest) in [("greeter.wasm", guests::GREETER), ("exit7.wasm", guests::EXIT7)] {
        user.file(name, guest.wasm()?)?;
    }
    std::os::unix::fs::symlink(node.data(), user.path(".wasmwiz"))?;
    let script: String = blocks().collect::<Vec<_>>().join("\n");
    ensure!(blocks().count() >= 8, "the guide has lost its commands");
    let script = script.replace("http://127.0.0.1:8080", &ready.url);
    let ended = user.script(&script).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    for shown in ["Hello, Ada!", "exit code 7", "logged in to", "every figure is the log's", "REVISION", "BUCKET"] {
        ensure!(ended.stdout.contains(shown) || ended.stderr.contains(shown), "no `{shown}`: {ended:?}");
    }
    Ok(())
}
