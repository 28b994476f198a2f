//! The cluster, through kubectl, and the registry, through cosign.

use std::{fs, path::PathBuf, process::Command, thread::sleep, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::{
    k8s::manifest::{Document, at, items},
    process::{command, read, run},
};

/// Who issues the certificates of the workflows' signatures.
const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// As whom fields are changed: two of one name do not get in each other's way.
const MANAGER: &str = "wasmwiz-deploy";

/// How often it is asked whether the cluster has seen a change, and how long is waited between.
const ASKED: u32 = 30;
const BETWEEN: Duration = Duration::from_secs(1);

/// What speaks to both.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) kubectl: String,
    pub(super) cosign: String,
}

impl Default for Programs {
    fn default() -> Self {
        Self { kubectl: "kubectl".to_owned(), cosign: "cosign".to_owned() }
    }
}

/// One namespace of it.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) programs: Programs,
    pub(super) namespace: &'static str,
    /// How long a StatefulSet may take until all its pods are ready.
    pub(super) wait: Duration,
    /// Where what is applied is written, for whoever looks into a failure.
    pub(super) folder: PathBuf,
}

/// What runs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) image: String,
    pub(super) revision: Option<String>,
    pub(super) replicas: u64,
}

impl Cluster {
    pub(super) fn verify(&self, reference: &str, signer: &str) -> Command {
        let mut cosign = command(&self.programs.cosign);
        cosign.args([
            "verify",
            reference,
            "--certificate-oidc-issuer",
            ISSUER,
            "--certificate-identity-regexp",
            signer,
        ]);
        cosign
    }

    pub(super) fn is_signed(&self, reference: &str, signer: &str) -> anyhow::Result<()> {
        read(&mut self.verify(reference, signer))
            .map(|_| ())
            .with_context(|| format!("{reference} is not shown to be signed by {signer}"))
    }

    fn kubectl(&self, words: &[&str]) -> Command {
        let mut kubectl = command(&self.programs.kubectl);
        kubectl.args(["--namespace", self.namespace]).args(words);
        kubectl
    }

    fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let printed = read(&mut self.kubectl(words))?;
        if printed.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&printed).context("kubectl prints no JSON")
    }

    /// Says all that is missing at once. Values are not looked at, and never printed.
    pub(super) fn has_secrets(&self, secrets: &[(String, Vec<String>)]) -> anyhow::Result<()> {
        let mut missing = Vec::new();
        for (name, keys) in secrets {
            let secret = self.json(&["get", "secret", name, "--ignore-not-found", "--output", "json"])?;
            let has = |key: &str| at(&secret, "/data").get(key).is_some();
            let is_empty = at(&secret, "/data").as_object().is_none_or(serde_json::Map::is_empty);
            if secret.is_null() || (keys.is_empty() && is_empty) {
                missing.push(name.clone());
            }
            missing.extend(keys.iter().filter(|key| !secret.is_null() && !has(key)).map(|key| format!("{name}/{key}")));
        }
        missing.sort();
        missing.dedup();
        ensure!(
            missing.is_empty(),
            "{} lacks the Secrets {}: k8s/examples/external-secrets.yaml and certificates.yaml make them",
            self.namespace,
            missing.join(", ")
        );
        Ok(())
    }

    /// What the StatefulSet runs; nothing when there is none.
    pub(super) fn running(&self, set: &str, revision: &str) -> anyhow::Result<Option<Running>> {
        let set = self.json(&["get", "statefulset", set, "--ignore-not-found", "--output", "json"])?;
        if set.is_null() {
            return Ok(None);
        }
        let image = at(&set, "/spec/template/spec/containers/0/image").as_str().unwrap_or_default().to_owned();
        let revision = at(&set, "/metadata/annotations").get(revision).and_then(Value::as_str).map(str::to_owned);
        Ok(Some(Running { image, revision, replicas: at(&set, "/spec/replicas").as_u64().unwrap_or_default() }))
    }

    /// Would the cluster take it? Its admission is asked, and nothing changes.
    pub(super) fn try_out(&self, name: &str, documents: &[Document]) -> anyhow::Result<()> {
        run(self.application(name, documents)?.arg("--dry-run=server")).context("the cluster would not take it")
    }

    pub(super) fn apply(&self, name: &str, documents: &[Document]) -> anyhow::Result<()> {
        run(&mut self.application(name, documents)?)
    }

    fn application(&self, name: &str, documents: &[Document]) -> anyhow::Result<Command> {
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot create {}", self.folder.display()))?;
        let file = self.folder.join(format!("{name}.json"));
        let items: Vec<_> = documents.iter().map(|document| &document.0).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        fs::write(&file, list.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        let mut apply = self.kubectl(&["apply", "--server-side", "--field-manager", MANAGER, "--filename"]);
        apply.arg(&file);
        Ok(apply)
    }

    pub(super) fn rollout(&self, set: &str) -> Command {
        let timeout = format!("--timeout={}s", self.wait.as_secs());
        self.kubectl(&["rollout", "status", &format!("statefulset/{set}"), &timeout])
    }

    /// Waits until all its pods are of the newest revision and ready. Says how they are when they do not become so.
    pub(super) fn await_rollout(&self, set: &str) -> anyhow::Result<()> {
        let ready = run(&mut self.rollout(set));
        if ready.is_err() {
            let selector = format!("app.kubernetes.io/name={set}");
            // For whoever looks into it: the reason is the failure itself, whatever these say.
            let _ = run(&mut self.kubectl(&["get", "pods", "--selector", &selector, "--output", "wide"]));
            let _ = run(&mut self.kubectl(&["logs", "--selector", &selector, "--tail=20", "--prefix"]));
        }
        ready
    }

    /// Deletes pods of another revision that are not ready. A StatefulSet waits for such a one for ever, and no other change
    /// gets past it.
    pub(super) fn remove_stuck(&self, set: &str) -> anyhow::Result<()> {
        let newest = self.newest(set)?;
        let selector = format!("app.kubernetes.io/name={set}");
        let pods = self.json(&["get", "pods", "--selector", &selector, "--output", "json"])?;
        for pod in items(pods.get("items")).filter(|pod| is_stuck(pod, &newest)) {
            let name = at(pod, "/metadata/name").as_str().context("a pod has no name")?;
            eprintln!("deploy: {name} never became ready, and makes room");
            run(&mut self.kubectl(&["delete", "pod", name, "--wait=false"]))?;
        }
        Ok(())
    }

    /// The revision that the cluster is going to, once it has seen the last change.
    fn newest(&self, set: &str) -> anyhow::Result<String> {
        for _ in 0..ASKED {
            let set = self.json(&["get", "statefulset", set, "--output", "json"])?;
            let seen = at(&set, "/status/observedGeneration") == at(&set, "/metadata/generation");
            if let Some(newest) = at(&set, "/status/updateRevision").as_str().filter(|_| seen) {
                return Ok(newest.to_owned());
            }
            sleep(BETWEEN);
        }
        bail!("the cluster does not see the change of {set}")
    }
}

fn is_stuck(pod: &Value, newest: &str) -> bool {
    let is_newest = at(pod, "/metadata/labels/controller-revision-hash") == newest;
    let is_ready = items(pod.pointer("/status/conditions"))
        .any(|condition| at(condition, "/type") == "Ready" && at(condition, "/status") == "True");
    !is_newest && !is_ready
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_ready_or_of_the_newest_revision_is_left_alone() {
        let pod = |revision: &str, ready: &str| {
            json!({"metadata": {"labels": {"controller-revision-hash": revision}},
                   "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        assert!(is_stuck(&pod("old", "False"), "new"));
        assert!(!is_stuck(&pod("old", "True"), "new") && !is_stuck(&pod("new", "False"), "new"));
    }
}
