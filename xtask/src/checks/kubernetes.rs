//! The manifests: rendered files are what their folders say, keep the schemas of Kubernetes, and do what was promised.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use serde_json::json;

use super::{Outcome, configuration, tools::tool};
use crate::{
    k8s::{
        manifest::{self, CUSTOM, Document},
        policy::{self, ENVIRONMENTS},
        render::{self, TARGETS},
    },
    process::run,
    workspace,
};

/// The oldest and the newest version of Kubernetes that the manifests are for.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

/// Examples, which are applied as they are once names are changed.
const EXAMPLES: &str = "k8s/examples";

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    if !tree.join("k8s").is_dir() {
        return Ok(Outcome::Skipped("there are no manifests"));
    }
    if !render::is_possible() {
        return Ok(Outcome::Skipped("kubectl is not there; kubernetes.io says how it is installed"));
    }
    found("rendered files", &unrendered(tree)?)?;
    let mut all = Vec::new();
    for target in &TARGETS {
        let documents = manifest::read(&target.read(tree)?).with_context(|| target.file.to_owned())?;
        let findings = match ENVIRONMENTS.iter().find(|environment| target.folder.ends_with(environment.name)) {
            Some(environment) => policy::of_environment(environment, &documents),
            None => policy::of_namespaces(&documents),
        };
        found(target.file, &findings)?;
        all.extend(documents);
    }
    let examples = examples(tree)?;
    found(EXAMPLES, &unprovided(&all, &examples))?;
    schemas(tree, &all)?;
    schemas(tree, &examples)?;
    harm(tree, &TARGETS.map(|target| target.file))?;
    Ok(Outcome::Passed)
}

fn found(place: &str, findings: &[String]) -> anyhow::Result<()> {
    if !findings.is_empty() {
        bail!("{place}:\n{}", findings.join("\n"));
    }
    Ok(())
}

/// Files that are not what they are rendered from.
fn unrendered(tree: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let rules =
        fs::read_to_string(tree.join(render::RULES)).with_context(|| format!("cannot read {}", render::RULES))?;
    if rules != render::rules(tree)? {
        findings.push(format!("{} is not what the alerts are", render::RULES));
    }
    for target in &TARGETS {
        if target.read(tree)? != target.render(tree)? {
            findings.push(format!("{} is not what {} is", target.file, target.folder));
        }
    }
    Ok(findings)
}

fn examples(tree: &Path) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for file in super::files_in(tree, EXAMPLES, &[".yaml"])? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        documents.extend(manifest::read(&text).with_context(|| file.display().to_string())?);
    }
    Ok(documents)
}

/// Secrets that pods mount and no example makes, or without a key that is named.
fn unprovided(documents: &[Document], examples: &[Document]) -> Vec<String> {
    let made = |name: &str| {
        examples.iter().find(|example| match example.kind() {
            "ExternalSecret" => example.text("/spec/target/name") == name,
            "Certificate" => example.text("/spec/secretName") == name,
            _ => false,
        })
    };
    let mut findings = Vec::new();
    for (name, keys) in documents.iter().flat_map(Document::secrets) {
        let Some(example) = made(&name) else {
            findings.push(format!("no example makes the Secret {name}"));
            continue;
        };
        let has = |key: &String| {
            // What cert-manager writes.
            let certificate =
                example.kind() == "Certificate" && ["tls.crt", "tls.key", "ca.crt"].contains(&key.as_str());
            certificate
                || manifest::items(Some(example.at("/spec/data"))).any(|one| manifest::at(one, "/secretKey") == key)
        };
        findings
            .extend(keys.iter().filter(|key| !has(key)).map(|key| format!("the example of {name} has no key {key}")));
    }
    findings.sort();
    findings.dedup();
    findings
}

/// By kubernetes-validate: fields that there are not, and values of the wrong type. Kinds of others are left out by name.
fn schemas(tree: &Path, documents: &[Document]) -> anyhow::Result<()> {
    let known: Vec<_> =
        documents.iter().filter(|document| !CUSTOM.contains(&document.kind())).map(|it| &it.0).collect();
    // JSON is YAML too.
    let folder = workspace::root().join("target/kubernetes");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let number = std::process::id();
    let file = folder.join(format!("objects-{number}-{}.json", known.len()));
    let text = known.iter().map(|value| json!(value).to_string()).collect::<Vec<_>>().join("\n---\n");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let looked = VERSIONS.iter().try_for_each(|version| {
        run(tool("kubernetes-validate", tree)?.args(["--strict", "--quiet", "-k", version]).arg(&file))
    });
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    looked
}

/// By checkov: what of it would harm a deployment.
fn harm(tree: &Path, files: &[&str]) -> anyhow::Result<()> {
    let mut policies = tool("checkov", tree)?;
    policies.arg("--config-file").arg(configuration("checkov-kubernetes.yaml")).arg("--file");
    run(policies.args(files))
}

#[cfg(test)]
mod tests {
    use super::super::{tests::tree, tools};
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: b\nspec:\n  containers:\n  - name: a\n    \
                       image: a\n";

    fn documents(text: &str) -> Vec<Document> {
        manifest::read(text).unwrap()
    }

    #[test]
    fn a_file_that_is_not_rendered_anew_is_found() {
        if !render::is_possible() {
            println!("skipped: kubectl is not there");
            return;
        }
        let root = workspace::root();
        assert_eq!(unrendered(root).unwrap(), [""; 0]);
        let alerts = ("docs/observability/alerts.yaml", "groups:\n  - name: a\n");
        let (service, one) = ("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n", "resources: [a.yaml]\n");
        let folders = TARGETS.map(|target| format!("{}/kustomization.yaml", target.folder));
        let services = TARGETS.map(|target| format!("{}/a.yaml", target.folder));
        let mut files = vec![alerts, (render::RULES, "")];
        files.extend(folders.iter().map(|file| (file.as_str(), one)));
        files.extend(services.iter().map(|file| (file.as_str(), service)));
        files.extend(TARGETS.iter().map(|target| (target.file, service)));
        let tree = tree(&files);
        assert_eq!(unrendered(tree.path()).unwrap().len(), 4);
        for target in &TARGETS {
            fs::write(tree.path().join(target.file), target.render(tree.path()).unwrap()).unwrap();
        }
        fs::write(tree.path().join(render::RULES), render::rules(tree.path()).unwrap()).unwrap();
        assert_eq!(unrendered(tree.path()).unwrap(), [""; 0]);
    }

    #[test]
    fn a_field_that_there_is_not_is_found_and_a_kind_of_others_is_not_looked_at() {
        if tools::are_there() {
            let folder = tree(&[]);
            let custom = "---\napiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor\nmetadata:\n  nam: a\n";
            schemas(folder.path(), &documents(&format!("{POD}{custom}"))).unwrap();
            let error = schemas(folder.path(), &documents(&POD.replace("image:", "imag:"))).unwrap_err();
            assert!(error.to_string().contains("kubernetes-validate"), "{error}");
        }
    }

    #[test]
    fn a_pod_that_may_do_anything_is_found() {
        if tools::are_there() {
            let error = harm(tree(&[("a.yaml", POD)]).path(), &["a.yaml"]).unwrap_err();
            assert!(error.to_string().contains("checkov"), "{error}");
        }
    }

    #[test]
    fn a_secret_that_no_example_makes_and_a_key_that_it_lacks_are_found() {
        let pod =
            format!("{POD}  volumes:\n  - name: a\n    secret:\n      secretName: s\n      items:\n      - key: k\n");
        let example = |target: &str, key: &str| {
            format!("kind: ExternalSecret\nspec:\n  target:\n    name: {target}\n  data:\n  - secretKey: {key}\n")
        };
        let look = |example: &str| unprovided(&documents(&pod), &documents(example));
        assert_eq!(look(&example("s", "k")), [""; 0]);
        assert_eq!(look(&example("t", "k")), ["no example makes the Secret s"]);
        assert_eq!(look(&example("s", "l")), ["the example of s has no key k"]);
    }

    #[test]
    fn a_tree_without_manifests_has_nothing_to_look_at() {
        assert_eq!(check(tree(&[]).path()).unwrap(), Outcome::Skipped("there are no manifests"));
    }
}
