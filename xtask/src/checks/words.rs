//! Words that are misspelt, by typos.

use std::path::Path;

use super::{Outcome, configuration, tools::tool};
use crate::process::run;

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    run(tool("typos", tree)?.args(["--force-exclude", "--config"]).arg(configuration("typos.toml")).arg("."))?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::super::{tests::tree, tools};
    use super::*;

    #[test]
    fn a_misspelt_word_is_found() {
        if tools::are_there() {
            assert_eq!(check(tree(&[("a.md", "The word is separate.\n")]).path()).unwrap(), Outcome::Passed);
            let misspelt = format!("The word is sepa{}.\n", "rete");
            let error = check(tree(&[("a.md", &misspelt)]).path()).unwrap_err();
            assert!(error.to_string().contains("typos"), "{error}");
        }
    }
}
