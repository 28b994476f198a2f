//! `cargo xtask test`: every test of the workspace.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Context;

use crate::{
    process::{command, run as run_command},
    setup,
};

/// Run the tests; with no arguments, all of them
///
/// Installs what they need (see `setup`), builds the node that the scenarios start, runs the examples in the
/// documentation and then everything else with cargo-nextest, whose summary is the last thing printed. Arguments go to
/// `cargo nextest run`: a filter, `-p <crate>`, `--no-capture`; with any, the documentation's examples are left out.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Arguments for `cargo nextest run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NEXTEST_ARGUMENTS")]
    nextest: Vec<OsString>,
}

/// Runs them. A failed test is no error of this chore, but its exit code: the runner has said what there is to say, and its
/// summary stays the last thing printed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    setup::for_tests()?;
    // Cargo builds a package's program for that package's own tests only; the scenarios of another one start it too.
    run_command(command("cargo").args(["build", "--workspace", "--all-features", "--bins"]))?;
    if arguments.nextest.is_empty() {
        run_command(command("cargo").args(["test", "--doc", "--workspace", "--all-features"]))?;
    }
    let mut nextest = command("cargo");
    nextest.args(["nextest", "run", "--all-features"]);
    let names_packages = arguments.nextest.iter().any(|word| is_package_flag(&word.to_string_lossy()));
    if !names_packages {
        nextest.arg("--workspace");
    }
    let status = nextest.args(&arguments.nextest).status().context("cannot start cargo-nextest")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Does the word choose packages? Then it must win over `--workspace`.
fn is_package_flag(word: &str) -> bool {
    word.starts_with("-p") || word.starts_with("--package")
}

#[cfg(test)]
mod tests {
    use super::is_package_flag;

    #[test]
    fn a_chosen_package_wins_over_the_whole_workspace() {
        assert!(is_package_flag("-p") && is_package_flag("-pwasmwiz") && is_package_flag("--package=wasmwiz"));
        assert!(!is_package_flag("hostile::") && !is_package_flag("--no-capture"));
    }
}
