//! `cargo xtask engine`: is there a newer release of the engine's line?

use anyhow::{Context, bail};

use crate::process::{command, describe};

/// Fail when there is a newer wasmtime than Cargo.lock has, on the line that Cargo.toml names
///
/// The engine is a line with long-term support, which gets fixes of security. Being behind it is an alarm, not a choice. Needs
/// the registry.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// The crate that the engine is.
const ENGINE: &str = "wasmtime";

pub(crate) fn run(_: &Arguments) -> anyhow::Result<()> {
    let mut update = command("cargo");
    update.args(["update", "--dry-run", "--package", ENGINE]).env("CARGO_TERM_COLOR", "never");
    let output = update.output().context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("`{}` ended with {}: {}", describe(&update), output.status, said.trim());
    }
    if let Some(news) = newer(&said) {
        bail!("the engine is behind: {news}; run `cargo update --package {ENGINE}`, the tests, and release");
    }
    eprintln!("engine: Cargo.lock has the newest {ENGINE} of its line");
    Ok(())
}

/// What cargo would change of the engine.
fn newer(said: &str) -> Option<&str> {
    let lines = said.lines().map(str::trim);
    lines.into_iter().find(|line| line.starts_with(&format!("Updating {ENGINE} v")))
}

#[cfg(test)]
mod tests {
    use super::newer;

    #[test]
    fn an_update_of_the_engine_is_news_and_one_of_the_index_is_none() {
        let said = "    Updating crates index\n    Updating wasmtime v48.0.8 -> v48.0.9\n";
        assert_eq!(newer(said), Some("Updating wasmtime v48.0.8 -> v48.0.9"));
        assert_eq!(newer("    Updating crates index\n     Locking 0 packages\n"), None);
        assert_eq!(newer("Updating wasmtime-environ v48.0.8 -> v48.0.9"), None);
    }
}
