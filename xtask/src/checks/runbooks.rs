//! Every alert has a page that says what to do, and every page an alert.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, bail};

use super::{Outcome, files_in};

/// Where the rules and the pages are.
const RULES: &str = "docs/observability/alerts.yaml";
const PAGES: &str = "docs/runbooks";

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    if !tree.join(RULES).is_file() {
        return Ok(Outcome::Skipped("there are no rules"));
    }
    let rules = fs::read_to_string(tree.join(RULES)).with_context(|| format!("cannot read {RULES}"))?;
    let mut findings = Vec::new();
    for (alert, page) in alerts(&rules) {
        match fs::read_to_string(tree.join(&page)) {
            Ok(text) if text.contains(&alert) => {}
            Ok(_) => findings.push(format!("{page} does not say that it is about {alert}")),
            Err(_) => findings.push(format!("{alert} has no page {page:?}")),
        }
    }
    let meant: BTreeSet<_> = alerts(&rules).map(|(_, page)| tree.join(page)).collect();
    for page in files_in(tree, PAGES, &[".md"])? {
        if !page.ends_with("README.md") && !meant.contains(&page) {
            findings.push(format!("{} is about no alert", page.display()));
        }
    }
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    Ok(Outcome::Passed)
}

/// The alerts of the rules, each with its page; an empty one where it has none.
fn alerts(rules: &str) -> impl Iterator<Item = (String, String)> {
    let blocks = rules.split("- alert:").skip(1);
    blocks.map(|block| {
        let name = block.lines().next().unwrap_or_default().trim().to_owned();
        let page = block.lines().find_map(|line| line.trim().strip_prefix("runbook:")).unwrap_or_default();
        (name, page.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    const RULE: &str =
        "groups:\n  - rules:\n      - alert: Down\n        annotations:\n          runbook: docs/runbooks/down.md\n";

    #[test]
    fn an_alert_without_a_page_and_a_page_without_an_alert_are_found() {
        let good = tree(&[(RULES, RULE), ("docs/runbooks/down.md", "Alert: Down"), ("docs/runbooks/README.md", "")]);
        assert_eq!(check(good.path()).unwrap(), Outcome::Passed);
        let bad = tree(&[(RULES, RULE), ("docs/runbooks/up.md", "Alert: Up")]);
        let error = check(bad.path()).unwrap_err().to_string();
        assert!(error.contains("Down has no page") && error.contains("up.md is about no alert"), "{error}");
    }

    #[test]
    fn the_alerts_of_this_repository_have_their_pages() {
        assert_eq!(check(crate::workspace::root()).unwrap(), Outcome::Passed);
    }
}
