//! Overlays, rendered by kubectl's kustomize.

use std::{fs, path::Path};

use anyhow::Context;

use crate::process::{command, read, works};

/// A folder that is rendered to a file, both below the root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// With its kustomization.
    pub(crate) folder: &'static str,
    /// What is applied.
    pub(crate) file: &'static str,
}

/// All of them.
pub(crate) const TARGETS: [Target; 3] = [
    Target { folder: "k8s/namespaces", file: "k8s/namespaces-and-secrets.yaml" },
    Target { folder: "k8s/overlays/staging", file: "k8s/staging-deployment.yaml" },
    Target { folder: "k8s/overlays/production", file: "k8s/production-deployment.yaml" },
];

/// The alerts, and the object that has them for the operator of Prometheus.
const ALERTS: &str = "docs/observability/alerts.yaml";
pub(crate) const RULES: &str = "k8s/components/monitoring/prometheus-rule.yaml";

impl Target {
    /// The file's name, without its folder.
    pub(crate) fn name(&self) -> &'static str {
        self.file.rsplit('/').next().unwrap_or(self.file)
    }

    /// What the file has to be.
    ///
    /// # Errors
    /// When kustomize complains.
    pub(crate) fn render(&self, tree: &Path) -> anyhow::Result<String> {
        let rendered = read(command("kubectl").current_dir(tree).args(["kustomize", self.folder]))?;
        let Self { folder, .. } = self;
        Ok(format!(
            "# Rendered from {folder} by `cargo xtask k8s render`: change that folder, and render again.\n{rendered}\n"
        ))
    }

    /// What the file is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn read(&self, tree: &Path) -> anyhow::Result<String> {
        fs::read_to_string(tree.join(self.file)).with_context(|| format!("cannot read {}", self.file))
    }
}

/// Is kubectl there?
pub(crate) fn is_possible() -> bool {
    works(command("kubectl").args(["version", "--client"]))
}

/// The object with the alerts of the tree.
///
/// # Errors
/// When the alerts cannot be read, or have no groups.
pub(crate) fn rules(tree: &Path) -> anyhow::Result<String> {
    let alerts = fs::read_to_string(tree.join(ALERTS)).with_context(|| format!("cannot read {ALERTS}"))?;
    rules_of(&alerts).with_context(|| format!("{ALERTS} has no groups"))
}

fn rules_of(alerts: &str) -> Option<String> {
    let groups = alerts.lines().skip_while(|line| !line.starts_with("groups:"));
    // As text: comments, and the writing of queries, stay as they are.
    let indented = groups.map(|line| if line.is_empty() { String::new() } else { format!("  {line}") });
    let indented = indented.collect::<Vec<_>>();
    let head = format!(
        "# The alerts of {ALERTS}, by `cargo xtask k8s render`: change them there.\napiVersion: monitoring.coreos.com/v1\n\
         kind: PrometheusRule\nmetadata:\n  name: wasmwiz\n  labels:\n    app.kubernetes.io/name: wasmwiz\nspec:\n"
    );
    (!indented.is_empty()).then(|| head + &indented.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{k8s::manifest, workspace};

    #[test]
    fn the_object_has_exactly_the_groups_of_the_alerts() {
        let rules = manifest::read(&rules(workspace::root()).unwrap()).unwrap();
        let alerts = fs::read_to_string(workspace::root().join(ALERTS)).unwrap();
        let alerts: Value = serde_yaml::from_str(&alerts).unwrap();
        assert!(alerts["groups"].as_array().unwrap().len() > 3);
        assert_eq!(rules[0].at("/spec/groups"), &alerts["groups"]);
        assert_eq!(rules_of("rules: []\n"), None);
    }
}
