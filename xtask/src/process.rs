//! Running other programs: with the tools on the path, without a terminal's input, and with a clear word on failure.

use std::{
    ffi::OsString,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use crate::workspace;

/// `program`, to be run in the workspace's root, with the programs of `.tools` found first and nothing to read.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace::root()).stdin(Stdio::null()).env("PATH", path_with_tools());
    command
}

/// A program of the workspace that was built: `folder` is the one of its profile, beside that of this program's own.
///
/// # Errors
/// When this program does not know where it is itself.
pub(crate) fn built(folder: &str, program: &str) -> anyhow::Result<Command> {
    let own = std::env::current_exe().context("cannot find the folder of what is built")?;
    let target = own.ancestors().nth(2).context("this program is not in a folder of Cargo's")?;
    Ok(command(&target.join(folder).join(program).to_string_lossy()))
}

/// Runs it and shows what it says.
///
/// # Errors
/// When it cannot be started, or ends with another status than 0.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = describe(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Runs it and gives what it printed, trimmed.
///
/// # Errors
/// As [`run`]; what it printed on standard error is in the message.
pub(crate) fn read(command: &mut Command) -> anyhow::Result<String> {
    let line = describe(command);
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Does it run, and succeed? What it says is thrown away.
pub(crate) fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|word| word.to_string_lossy()));
    words.join(" ")
}

fn path_with_tools() -> OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(workspace::tool_bin()).chain(std::env::split_paths(&inherited));
    std::env::join_paths(folders).unwrap_or(inherited.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_an_error_that_names_it() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(error.to_string().contains("sh -c exit 3"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_that_names_it() {
        let error = run(&mut Command::new("no-such-program")).unwrap_err();
        assert!(error.to_string().contains("cannot start `no-such-program`"), "{error}");
    }
}
