//! The cluster, through kubectl, and the registry, through cosign.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::{
    k8s::manifest::{Document, at, items},
    process::{command, describe, read, run},
    workspace,
};

/// Who issues the certificates of the workflows' signatures.
const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// As whom fields are changed: two of one name do not get in each other's way.
const MANAGER: &str = "wasmwiz-deploy";

/// How often it is asked whether the cluster has seen a change, and how long is waited between.
const ASKED: u32 = 30;
const BETWEEN: Duration = Duration::from_secs(1);

/// The exit code of a program that is asked what it does not understand.
const WRONG_USAGE: i32 = 2;

/// What speaks to both, and what is known here.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) kubectl: String,
    pub(super) cosign: String,
    pub(super) docker: String,
    /// The folder of a git repository with the history of what runs and of what is to run.
    pub(super) history: PathBuf,
    /// Where what is applied is written, for whoever looks into a failure.
    pub(super) folder: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        let folder = workspace::root().join(format!("target/deploy/{}", std::process::id()));
        let [kubectl, cosign, docker] = ["kubectl", "cosign", "docker"].map(str::to_owned);
        Self { kubectl, cosign, docker, history: workspace::root().to_owned(), folder }
    }
}

/// One namespace of it.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) programs: Programs,
    pub(super) namespace: &'static str,
    /// How long one pod may take until it is replaced and ready.
    pub(super) pod_wait: Duration,
}

/// What runs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) image: String,
    /// The commit that the image is of, where the annotation was made for this image.
    pub(super) revision: Option<String>,
    pub(super) replicas: u64,
    pub(super) ready: u64,
}

/// The commit of an annotation `COMMIT@DIGEST`, which somebody may have forgotten when they exchanged the image.
fn annotated(annotation: &str, image: &str) -> Option<String> {
    let (revision, digest) = annotation.split_once('@')?;
    let (_, running) = image.split_once('@')?;
    (digest == running).then(|| revision.to_owned())
}

impl Cluster {
    /// The signature is that of a workflow which ran for this very commit.
    pub(super) fn verify(&self, reference: &str, signer: &str, revision: &str) -> Command {
        let mut cosign = command(&self.programs.cosign);
        cosign.args([
            "verify",
            reference,
            "--certificate-oidc-issuer",
            ISSUER,
            "--certificate-identity-regexp",
            signer,
            "--certificate-github-workflow-sha",
            revision,
        ]);
        cosign
    }

    pub(super) fn is_signed(&self, reference: &str, signer: &str, revision: &str) -> anyhow::Result<()> {
        read(&mut self.verify(reference, signer, revision))
            .map(|_| ())
            .with_context(|| format!("{reference} is not shown to be signed by {signer}, for the commit {revision}"))
    }

    /// Asks the program of an image whether it knows these types of events. It gets them as a list, and nothing else: no network, no
    /// log, no secret. Gives whether it could be asked.
    ///
    /// # Errors
    /// When it does not know one of them, or cannot be started.
    pub(super) fn knows(&self, reference: &str, types: &[String]) -> anyhow::Result<bool> {
        let kinds: Vec<_> = types.iter().map(|name| json!({ "type": name })).collect();
        let mut ask = command(&self.programs.docker);
        ask.args(["run", "--rm", "--interactive", "--network", "none", "--read-only", "--cap-drop", "ALL"]);
        ask.args(["--security-opt", "no-new-privileges", reference, "compat", "check", "--recorded", "-"]);
        let asked = describe(&ask);
        ask.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut asking = ask.spawn().with_context(|| format!("cannot start `{asked}`"))?;
        if let Some(mut list) = asking.stdin.take() {
            // One that does not read it has ended without it, and says why.
            let _ = list.write_all(json!({ "kinds": kinds }).to_string().as_bytes());
        }
        let said = asking.wait_with_output().with_context(|| format!("`{asked}` has no end"))?;
        let texts = [said.stdout, said.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        // A program of before it could be asked says that this is wrong usage.
        let is_asked = said.status.code() != Some(WRONG_USAGE);
        ensure!(
            said.status.success() || !is_asked,
            "{reference} does not say that it knows what may be recorded: {}",
            texts.join("\n")
        );
        Ok(is_asked)
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
        let annotation = at(&set, "/metadata/annotations").get(revision).and_then(Value::as_str);
        let revision = annotation.and_then(|annotation| annotated(annotation, &image));
        let [replicas, ready] =
            ["/spec/replicas", "/status/readyReplicas"].map(|place| at(&set, place).as_u64().unwrap_or_default());
        Ok(Some(Running { image, revision, replicas, ready }))
    }

    /// Would the cluster take it? Its admission is asked, and nothing changes.
    pub(super) fn try_out(&self, name: &str, documents: &[Document]) -> anyhow::Result<()> {
        run(self.application(name, documents)?.arg("--dry-run=server")).context("the cluster would not take it")
    }

    pub(super) fn apply(&self, name: &str, documents: &[Document]) -> anyhow::Result<()> {
        run(&mut self.application(name, documents)?)
    }

    fn application(&self, name: &str, documents: &[Document]) -> anyhow::Result<Command> {
        let folder = &self.programs.folder;
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join(format!("{name}.json"));
        let items: Vec<_> = documents.iter().map(|document| &document.0).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        fs::write(&file, list.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        // What an autoscaler, `kubectl scale` or somebody's annotation has set is somebody else's field: a deployment has read it,
        // and takes it over.
        let words = ["apply", "--server-side", "--force-conflicts", "--field-manager", MANAGER, "--filename"];
        let mut apply = self.kubectl(&words);
        apply.arg(&file);
        Ok(apply)
    }

    pub(super) fn rollout(&self, set: &str, wait: Duration) -> Command {
        let timeout = format!("--timeout={}s", wait.as_secs());
        self.kubectl(&["rollout", "status", &format!("statefulset/{set}"), &timeout])
    }

    /// Waits until all its pods are of the newest revision and ready. Says how they are when they do not become so.
    pub(super) fn await_rollout(&self, set: &str, wait: Duration) -> anyhow::Result<()> {
        let ready = run(&mut self.rollout(set, wait));
        if ready.is_err() {
            let selector = format!("app.kubernetes.io/name={set}");
            // For whoever looks into it: the reason is the failure itself, whatever these say.
            let _ = run(&mut self.kubectl(&["get", "pods", "--selector", &selector, "--output", "wide"]));
            let _ = run(&mut self.kubectl(&["logs", "--selector", &selector, "--tail=20", "--prefix"]));
        }
        ready
    }

    /// Deletes the pod of a change that failed, if there is one, so that it is replaced whatever this version of the cluster
    /// does with it by itself. One at most: the controller goes on from there, one after the other.
    pub(super) fn remove_stuck(&self, set: &str) -> anyhow::Result<()> {
        let revisions = self.revisions(set)?;
        let selector = format!("app.kubernetes.io/name={set}");
        let pods = self.json(&["get", "pods", "--selector", &selector, "--output", "json"])?;
        let stuck = items(pods.get("items")).filter(|pod| revisions.is_stuck(pod));
        let names = stuck.filter_map(|pod| at(pod, "/metadata/name").as_str());
        // The order of the controller: the highest first.
        let number = |name: &&str| name.rsplit('-').next().and_then(|number| number.parse::<u64>().ok());
        let Some(name) = names.max_by_key(number) else { return Ok(()) };
        eprintln!("deploy: {name} never became ready, and makes room");
        run(&mut self.kubectl(&["delete", "pod", name, "--wait=false"]))
    }

    /// Where the cluster comes from and goes to, once it has seen the last change.
    fn revisions(&self, set: &str) -> anyhow::Result<Revisions> {
        for _ in 0..ASKED {
            let set = self.json(&["get", "statefulset", set, "--output", "json"])?;
            let seen = at(&set, "/status/observedGeneration") == at(&set, "/metadata/generation");
            let [newest, current] =
                ["/status/updateRevision", "/status/currentRevision"].map(|place| at(&set, place).as_str());
            if let Some(newest) = newest.filter(|_| seen) {
                return Ok(Revisions { newest: newest.to_owned(), current: current.unwrap_or(newest).to_owned() });
            }
            sleep(BETWEEN);
        }
        bail!("the cluster does not see the change of {set}")
    }
}

/// The revisions of a StatefulSet.
#[derive(Debug)]
struct Revisions {
    /// That it goes to.
    newest: String,
    /// That it comes from: the last that all its pods were of.
    current: String,
}

impl Revisions {
    /// A pod that is in the way of going on: of an earlier change that failed, or one that never started. A pod that worked and is
    /// not ready for a moment, or one that leaves already, is none: to delete it would take away one more.
    fn is_stuck(&self, pod: &Value) -> bool {
        let revision = at(pod, "/metadata/labels/controller-revision-hash");
        let is_ready = items(pod.pointer("/status/conditions"))
            .any(|condition| at(condition, "/type") == "Ready" && at(condition, "/status") == "True");
        let leaves = !at(pod, "/metadata/deletionTimestamp").is_null();
        let started = items(pod.pointer("/status/containerStatuses")).any(|status| at(status, "/started") == true);
        let worked = revision == &self.current && started;
        !leaves && !is_ready && revision != &self.newest && !worked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(revision: &str, ready: &str, started: bool) -> Value {
        json!({"metadata": {"labels": {"controller-revision-hash": revision}},
               "status": {"conditions": [{"type": "Ready", "status": ready}], "containerStatuses": [{"started": started}]}})
    }

    #[test]
    fn a_pod_is_stuck_if_it_never_started_or_is_of_a_change_that_failed() {
        let revisions = Revisions { newest: "new".to_owned(), current: "old".to_owned() };
        for (revision, ready, started, is_stuck) in [
            // Went along, and is not ready for a moment.
            ("old", "False", true, false),
            ("old", "True", true, false),
            ("old", "False", false, true),
            ("failed", "False", true, true),
            ("failed", "False", false, true),
            ("failed", "True", true, false),
            ("new", "False", false, false),
        ] {
            assert_eq!(revisions.is_stuck(&pod(revision, ready, started)), is_stuck, "{revision} {ready} {started}");
            let mut leaves = pod(revision, ready, started);
            leaves["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            assert!(!revisions.is_stuck(&leaves), "{revision}: it leaves already");
        }
    }

    #[test]
    fn an_annotation_counts_for_the_image_that_it_was_made_for() {
        assert_eq!(annotated("abc@sha256:0", "registry.example/w@sha256:0"), Some("abc".to_owned()));
        for (annotation, image) in [
            ("abc@sha256:1", "registry.example/w@sha256:0"),
            ("abc", "registry.example/w@sha256:0"),
            ("unresolved", "wasmwiz@unresolved"),
            ("abc@sha256:0", "registry.example/w:latest"),
        ] {
            assert_eq!(annotated(annotation, image), None, "{annotation} {image}");
        }
    }
}
