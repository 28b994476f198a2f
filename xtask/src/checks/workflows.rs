//! The workflows: what they let others do (zizmor), and their form (the schema of workflows and of dependency updates).

use std::path::Path;

use super::{Outcome, configuration, files_in, tools::tool};
use crate::process::run;

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    let workflows = files_in(tree, ".github/workflows", &[".yml", ".yaml"])?;
    if workflows.is_empty() {
        return Ok(Outcome::Skipped("there are no workflows"));
    }
    let mut audit = tool("zizmor", tree)?;
    audit.args(["--offline", "--no-progress", "--quiet", "--persona", "pedantic", "--config"]);
    run(audit.arg(configuration("zizmor.yml")).arg(".github"))?;
    let mut schema = tool("check-jsonschema", tree)?;
    run(schema.args(["--quiet", "--builtin-schema", "vendor.github-workflows"]).args(&workflows))?;
    let updates = files_in(tree, ".github", &["/dependabot.yml"])?;
    if !updates.is_empty() {
        let mut schema = tool("check-jsonschema", tree)?;
        run(schema.args(["--quiet", "--builtin-schema", "vendor.dependabot"]).args(&updates))?;
    }
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::super::{tests::tree, tools};
    use super::*;

    const HARMLESS: &str = "name: a\non:\n  push:\npermissions: {}\nconcurrency:\n  group: a\n  cancel-in-progress: true\n\
                            jobs:\n  a:\n    name: a\n    runs-on: ubuntu-24.04\n    timeout-minutes: 5\n    steps:\n\
                            \x20     - run: 'true'\n";

    fn look(workflow: &str) -> anyhow::Result<Outcome> {
        check(tree(&[(".github/workflows/a.yml", workflow)]).path())
    }

    #[test]
    fn a_workflow_that_runs_what_a_stranger_wrote_is_found() {
        if tools::are_there() {
            assert_eq!(look(HARMLESS).unwrap(), Outcome::Passed);
            let error = look(&HARMLESS.replace("'true'", "echo ${{ github.head_ref }}")).unwrap_err();
            assert!(error.to_string().contains("zizmor"), "{error}");
        }
    }

    #[test]
    fn a_workflow_with_a_key_that_there_is_not_is_found() {
        if tools::are_there() {
            let error = look(&HARMLESS.replace("timeout-minutes", "timeout-minuets")).unwrap_err();
            assert!(error.to_string().contains("check-jsonschema"), "{error}");
        }
    }

    #[test]
    fn an_update_with_a_key_that_there_is_not_is_found() {
        if tools::are_there() {
            let files = [(".github/workflows/a.yml", HARMLESS), (".github/dependabot.yml", "version: 2\nupdate: []\n")];
            assert!(check(tree(&files).path()).is_err());
        }
    }
}
