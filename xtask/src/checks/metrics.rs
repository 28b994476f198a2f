//! Every metric that an alert, a panel or a runbook names is one that a node has, or the pipeline, by the name in its code.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, bail};

use super::{Outcome, files_below, files_in};

/// What Prometheus makes of one histogram.
const OF_A_HISTOGRAM: [&str; 3] = ["_bucket", "_sum", "_count"];

/// Where metrics are named.
const FOLDERS: [&str; 2] = ["docs/observability", "docs/runbooks"];

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    let mut known = BTreeSet::new();
    let own = tree.join("xtask/src/checks/metrics.rs");
    for file in files_below(tree)?.iter().filter(|path| path.ends_with("metrics.rs") && **path != own) {
        known.extend(defined(&read(file)?));
    }
    let mut findings = Vec::new();
    for folder in FOLDERS {
        for file in files_in(tree, folder, &[".json", ".yaml", ".md"])? {
            let unknown = unknown(&read(&file)?, &known);
            findings.extend(unknown.into_iter().map(|name| format!("{} names {name}", file.display())));
        }
    }
    if !findings.is_empty() {
        bail!("neither a node nor the pipeline has these metrics:\n{}", findings.join("\n"));
    }
    Ok(Outcome::Passed)
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The metrics of a `metrics.rs`: its constants whose value begins like one.
fn defined(text: &str) -> impl Iterator<Item = String> {
    let constants = text.lines().filter(|line| line.trim_start().starts_with("pub"));
    constants.filter_map(|line| line.split('"').nth(1)).filter(|value| value.starts_with(PREFIX)).map(str::to_owned)
}

const PREFIX: &str = "wasmwiz_";

/// The metrics that a text names, and that are not known.
fn unknown(text: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    named(text).filter(|name| !is_known(name, known)).map(str::to_owned).collect()
}

fn is_known(name: &str, known: &BTreeSet<String>) -> bool {
    let histogram = OF_A_HISTOGRAM.iter().filter_map(|ending| name.strip_suffix(ending));
    known.contains(name) || histogram.into_iter().any(|name| known.contains(name))
}

/// Every word that begins as a metric does. Crates are named `wasmwiz_events` in filters of logs: they are none.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    words.filter(|word| word.starts_with(PREFIX) && word.len() > PREFIX.len())
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    const CODE: &str =
        "/// Histogram.\npub const A: &str = \"wasmwiz_a_seconds\";\n/// Gauge.\npub const B: &str = \"wasmwiz_b\";\n";

    #[test]
    fn a_metric_that_no_node_has_is_found() {
        let look = |text: &str| check(tree(&[("events/src/metrics.rs", CODE), ("docs/runbooks/a.md", text)]).path());
        assert_eq!(look("rate(wasmwiz_a_seconds_bucket[5m]) and wasmwiz_b").unwrap(), Outcome::Passed);
        let error = look("wasmwiz_c > 0").unwrap_err().to_string();
        assert!(error.contains("wasmwiz_c"), "{error}");
    }

    #[test]
    fn the_metrics_of_this_repository_are_read() {
        let text = fs::read_to_string(crate::workspace::root().join("events/src/metrics.rs")).unwrap();
        let known: Vec<_> = defined(&text).collect();
        assert!(known.contains(&"wasmwiz_log_commit_seconds".to_owned()), "{known:?}");
    }

    #[test]
    fn the_files_of_this_repository_name_only_metrics_that_there_are() {
        check(crate::workspace::root()).unwrap();
    }
}
