//! The rules of alerts, the tests of them, and the queries of the dashboards, by Prometheus' own promtool.

use std::{fs, path::Path, process::Command};

use anyhow::Context;
use serde_json::{Value, json};

use super::{Outcome, files_in};
use crate::{
    process::{command, run, works},
    workspace,
};

/// Where the rules are.
const FOLDER: &str = "docs/observability";

/// What Grafana puts in the place of its variables.
const VARIABLES: [(&str, &str); 3] = [("$__rate_interval", "5m"), ("$__range", "30d"), ("$instance", ".*")];

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    let rules = files_in(tree, FOLDER, &["alerts.yaml"])?;
    if rules.is_empty() {
        return Ok(Outcome::Skipped("there are no rules"));
    }
    if !is_there() {
        return Ok(Outcome::Skipped("promtool is not there; Debian's package prometheus has it"));
    }
    run(promtool(tree, &["check", "rules", "--lint-fatal"]).args(&rules))?;
    let tests = files_in(tree, FOLDER, &["alerts-test.yaml"])?;
    if !tests.is_empty() {
        run(promtool(tree, &["test", "rules"]).args(&tests))?;
    }
    for dashboard in files_in(tree, FOLDER, &["dashboard.json", "pipeline.json"])? {
        let text = fs::read_to_string(&dashboard).with_context(|| format!("cannot read {}", dashboard.display()))?;
        let dashboard = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", dashboard.display()))?;
        parse(tree, &as_rules(&dashboard))?;
    }
    Ok(Outcome::Passed)
}

/// Has promtool read queries that are in no rules.
fn parse(tree: &Path, rules: &Value) -> anyhow::Result<()> {
    // JSON is YAML too.
    let folder = workspace::root().join("target/observability");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = folder.join(format!("queries-{}.yaml", std::process::id()));
    fs::write(&file, rules.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let parsed = run(promtool(tree, &["check", "rules"]).arg(&file));
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    parsed
}

/// The queries of a dashboard, as rules that record them.
fn as_rules(dashboard: &Value) -> Value {
    let panels = dashboard.get("panels").and_then(Value::as_array).into_iter().flatten();
    let targets = panels.filter_map(|panel| panel.get("targets")?.as_array()).flatten();
    let queries = targets.filter_map(|target| target.get("expr")?.as_str());
    let rules: Vec<_> = queries
        .enumerate()
        .map(|(number, query)| {
            let query = VARIABLES.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value));
            json!({ "record": format!("query:{number}"), "expr": query })
        })
        .collect();
    json!({ "groups": [{ "name": "dashboard", "rules": rules }] })
}

fn is_there() -> bool {
    works(command("promtool").arg("--version"))
}

fn promtool(tree: &Path, words: &[&str]) -> Command {
    let mut promtool = command("promtool");
    promtool.current_dir(tree).args(words);
    promtool
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    const RULE: &str =
        "groups:\n  - name: a\n    rules:\n      - alert: Down\n        expr: up == 0\n        for: 1m\n";
    const RULES: &str = "docs/observability/alerts.yaml";

    fn can_look() -> bool {
        if !is_there() {
            println!("skipped: promtool is not there");
        }
        is_there()
    }

    #[test]
    fn a_rule_that_does_not_parse_is_found() {
        if can_look() {
            assert_eq!(check(tree(&[(RULES, RULE)]).path()).unwrap(), Outcome::Passed);
            let error = check(tree(&[(RULES, &RULE.replace("== 0", "=="))]).path()).unwrap_err();
            assert!(error.to_string().contains("promtool"), "{error}");
        }
    }

    #[test]
    fn a_test_of_a_rule_that_fails_is_found() {
        if can_look() {
            let test = "rule_files: [alerts.yaml]\ntests:\n  - input_series:\n      - series: up\n        values: 1x5\n    \
                        alert_rule_test:\n      - eval_time: 5m\n        alertname: Down\n        exp_alerts:\n          \
                        - exp_labels: {}\n";
            assert!(check(tree(&[(RULES, RULE), ("docs/observability/alerts-test.yaml", test)]).path()).is_err());
        }
    }

    #[test]
    fn a_query_of_the_dashboard_that_does_not_parse_is_found() {
        let dashboard = |query: &str| json!({ "panels": [{ "targets": [{ "expr": query }] }, {}] });
        let good = dashboard("rate(up{instance=~\"$instance\"}[$__rate_interval])");
        let rule = &as_rules(&good)["groups"][0]["rules"][0];
        assert_eq!(rule["expr"], "rate(up{instance=~\".*\"}[5m])");
        if can_look() {
            let name = "docs/observability/dashboard.json";
            let look = |dashboard: Value| check(tree(&[(RULES, RULE), (name, &dashboard.to_string())]).path());
            assert_eq!(look(good).unwrap(), Outcome::Passed);
            assert!(look(dashboard("rate(up[)")).is_err());
        }
    }
}
