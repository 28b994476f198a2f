//! The command line at a terminal, from the login to the history.

use anyhow::{Context, ensure};
use wasmwiz_tests::{cli::User, guests, harness::NodeProcess, terminal::Terminal};

const BOLD: &str = "\u{1b}[1m";

#[tokio::test]
async fn somebody_at_a_terminal_logs_in_runs_and_looks_around() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let key = node.ready().api_key.clone().context("the node gave no key")?;
    let user = User::new()?;
    user.file("greeter.wasm", guests::GREETER.wasm()?)?;
    // Large enough for a bar: a custom section, which runs nothing.
    let mut large = guests::EXIT7.wasm()?;
    large.extend([0, 0x81, 0x80, 0x10, 0]);
    large.resize(large.len() + (1 << 18), 0);
    user.file("large.wasm", large)?;

    let mut terminal = Terminal::open(&user).await?;
    terminal.types(&format!("wasmwiz login --url {}", node.ready().url)).await?;
    terminal.appears("API key: ").await?;
    terminal.types(&key).await?;
    let login = terminal.appears("ready> ").await?;
    ensure!(login.contains("logged in to"), "{login}");
    ensure!(!terminal.record().contains(&key), "the key was shown:\n{}", terminal.record());

    // Whoever gives up leaves a terminal that shows again what is typed.
    terminal.types(&format!("wasmwiz login --profile other --url {}", node.ready().url)).await?;
    terminal.appears("API key: ").await?;
    terminal.interrupts().await?;
    let given_up = terminal.appears("ready> ").await?;
    ensure!(given_up.contains("interrupted"), "{given_up}");
    let modes = terminal.command("stty -a").await?;
    ensure!(modes.contains(" echo ") && !modes.contains("-echo "), "the terminal is silent: {modes}");

    let ran = terminal.command("echo Ada | wasmwiz run greeter.wasm --input -").await?;
    ensure!(ran.contains("Hello, Ada") && ran.contains("\u{1b}[32msucceeded"), "{ran}");
    let pushed = terminal.command("wasmwiz module push large.wasm").await?;
    ensure!(pushed.contains("100 % of 25") && pushed.contains('█'), "no bar: {pushed}");
    let id = "$(wasmwiz exec list --limit 1 | tail -n 1 | cut -d ' ' -f 1)";
    let logs = terminal.command(&format!("wasmwiz exec logs {id}")).await?;
    ensure!(logs.contains("Hello, "), "{logs}");
    let keys = terminal.command("wasmwiz key list").await?;
    ensure!(keys.contains(&format!("{BOLD}ID")) && keys.contains("executions:run"), "{keys}");
    let usage = terminal.command("wasmwiz usage --by module").await?;
    ensure!(usage.contains("P99 MS") && usage.contains('█'), "{usage}");
    let history = terminal.command("wasmwiz audit list --limit 3").await?;
    ensure!(history.contains("dev.wasmwiz."), "{history}");
    let plain = terminal.command("NO_COLOR=1 wasmwiz audit list --limit 3").await?;
    ensure!(plain.contains("REVISION") && !plain.contains(BOLD), "{plain}");
    Ok(())
}
