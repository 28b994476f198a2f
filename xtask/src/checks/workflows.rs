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
    use std::fs;

    use serde_json::Value;

    use super::super::{tests::tree, tools};
    use super::*;
    use crate::{k8s::policy::COPIES_WITHIN, workspace};

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

    fn jobs(workflow: &str) -> Vec<(String, Value)> {
        let file = workspace::root().join(".github/workflows").join(workflow);
        let workflow: Value = serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        workflow["jobs"].as_object().unwrap().clone().into_iter().collect()
    }

    fn steps(job: &Value) -> Vec<Value> {
        job["steps"].as_array().cloned().unwrap_or_default()
    }

    #[test]
    fn a_scanner_runs_where_nothing_can_be_signed() {
        let mut scans = 0;
        for workflow in ["ci.yml", "deploy.yml", "release.yml"] {
            for (name, job) in jobs(workflow) {
                if steps(&job).iter().any(|step| step["uses"].as_str().is_some_and(|uses| uses.starts_with("anchore/")))
                {
                    assert!(job["permissions"]["id-token"].is_null(), "{workflow}: {name}");
                    scans += 1;
                }
            }
        }
        assert_eq!(scans, 3);
    }

    #[test]
    fn what_changes_an_environment_has_its_keys_last_and_time_for_all_its_steps() {
        for (workflow, job, changes) in [("deploy.yml", "deploy", 2), ("rollback.yml", "rollback", 1)] {
            let (_, job) = jobs(workflow).into_iter().find(|(name, _)| name == job).unwrap();
            let steps = steps(&job);
            let place =
                |part: &str| steps.iter().position(|step| step["run"].as_str().is_some_and(|run| run.contains(part)));
            let [compiled, keys] =
                ["cargo build --locked --package xtask", "KUBECONFIG_TEXT"].map(|part| place(part).unwrap());
            assert!(compiled < keys && keys < place("cargo xtask").unwrap(), "{workflow}");
            for name in ["KUBECONFIG_TEXT", "OPERATOR_KEY", "URL"] {
                assert!(
                    steps[keys]["run"].as_str().unwrap().contains(&format!(": \"${{{name}:?")),
                    "{workflow}: {name}"
                );
            }
            let minutes = |value: &Value| value["timeout-minutes"].as_u64();
            assert!(steps.iter().filter_map(minutes).sum::<u64>() < minutes(&job).unwrap(), "{workflow}");
            let chores = steps.iter().filter(|step| step["run"].as_str().is_some_and(|run| run.contains("--record")));
            let limits: Vec<_> = chores.map(|step| minutes(step).unwrap()).collect();
            // The servers with one that copies its history, and as many nodes as there may be, at 180 seconds each.
            let most = (COPIES_WITHIN + (3 + 9) * 180) / 60;
            assert!(limits.len() == changes && limits.iter().all(|limit| *limit > most), "{workflow}: {limits:?}");
            let last = steps.last().unwrap();
            assert_eq!(last["if"], "${{ always() }}", "{workflow}");
            assert!(last["with"]["path"].as_str().unwrap().contains("rollback.json"), "{workflow}");
        }
    }

    #[test]
    fn what_was_changed_is_taken_back_and_a_rollback_is_told_of_however_the_run_ended() {
        let (_, deploy) = jobs("deploy.yml").into_iter().find(|(name, _)| name == "deploy").unwrap();
        let back = steps(&deploy).into_iter().find(|step| step["id"] == "back").unwrap();
        let when = back["if"].as_str().unwrap();
        for part in ["always()", "steps.deploy.outcome != 'success'", "steps.smoke.outcome != 'success'"] {
            assert!(when.contains(part), "{part}");
        }
        let (_, notify) = jobs("rollback.yml").into_iter().find(|(name, _)| name == "notify").unwrap();
        assert_eq!(notify["if"], "${{ always() }}");
    }
}
