//! Completions and the manual.

use anyhow::ensure;
use wasmwiz_tests::cli::User;

use super::ends;

#[tokio::test]
async fn shells_complete_and_every_command_has_a_page() -> anyhow::Result<()> {
    let user = User::new()?;
    for shell in ["bash", "zsh", "fish"] {
        let script = ends(user.run(&["completions", shell]).await?, 0)?;
        ensure!(script.contains("recompute") && script.contains("suspend"), "{shell}: {script}");
    }
    ends(user.run(&["man", "man1"]).await?, 0)?;
    for page in ["wasmwiz.1", "wasmwiz-run.1", "wasmwiz-usage-recompute.1", "wasmwiz-key-rotate.1"] {
        let text = std::fs::read_to_string(user.path("man1").join(page))?;
        ensure!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let run = std::fs::read_to_string(user.path("man1/wasmwiz-run.1"))?;
    ensure!(run.contains("137 out of memory"), "the page does not tell the exit codes: {run}");
    Ok(())
}
