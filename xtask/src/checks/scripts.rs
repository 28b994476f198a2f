//! Shell scripts, by shellcheck. What the Dockerfile runs, hadolint gives to it.

use std::{fs, path::Path};

use super::{Outcome, files_below, tools::tool};
use crate::process::run;

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    let scripts: Vec<_> = files_below(tree)?.into_iter().filter(|path| is_script(path)).collect();
    if scripts.is_empty() {
        return Ok(Outcome::Skipped("there are no scripts"));
    }
    run(tool("shellcheck", tree)?.args(["--norc", "--severity=style"]).args(&scripts))?;
    Ok(Outcome::Passed)
}

fn is_script(path: &Path) -> bool {
    if path.extension().is_some_and(|extension| extension == "sh") {
        return true;
    }
    // A program's first line says by what it is run.
    let unnamed = path.extension().is_none();
    unnamed && fs::read_to_string(path).is_ok_and(|text| text.lines().next().is_some_and(runs_in_a_shell))
}

fn runs_in_a_shell(line: &str) -> bool {
    line.starts_with("#!")
        && ["sh", "bash"]
            .iter()
            .any(|shell| line.ends_with(&format!("/{shell}")) || line.ends_with(&format!(" {shell}")))
}

#[cfg(test)]
mod tests {
    use super::super::{tests::tree, tools};
    use super::*;

    #[test]
    fn a_script_that_takes_a_name_apart_is_found() {
        if tools::are_there() {
            let good = tree(&[("run", "#!/usr/bin/env bash\nrm -- \"$1\"\n")]);
            assert_eq!(check(good.path()).unwrap(), Outcome::Passed);
            let bad = tree(&[("run", "#!/usr/bin/env bash\nrm -- $1\n")]);
            assert!(check(bad.path()).unwrap_err().to_string().contains("shellcheck"));
        }
    }

    #[test]
    fn a_script_is_known_by_its_ending_or_its_first_line() {
        assert!(runs_in_a_shell("#!/bin/sh") && runs_in_a_shell("#!/usr/bin/env bash"));
        assert!(!runs_in_a_shell("#!/usr/bin/env python3") && !runs_in_a_shell("sh"));
    }
}
