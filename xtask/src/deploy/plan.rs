//! What a deployment does, in its order: everything that may refuse it comes before the first change.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{
    Deployment,
    cluster::{Cluster, Running},
    compatible,
    record::Record,
};
use crate::{
    k8s::{
        image,
        manifest::{self, Document},
        policy::Environment,
    },
    process::describe,
};

/// The StatefulSets: the servers of the log come first.
const SERVERS: &str = "nats";
const NODES: &str = "wasmwiz";

/// Where the nodes' StatefulSet says which commit it runs.
pub(super) const REVISION: &str = "wasmwiz.dev/revision";

/// What is to be done to one environment.
#[derive(Debug)]
pub(super) struct Plan<'d> {
    deployment: &'d Deployment,
    /// Whose signature is good, as a regular expression.
    signer: String,
    /// The Secrets that have to be there, with keys.
    secrets: Vec<(String, Vec<String>)>,
    /// Everything but the nodes.
    around: Vec<Document>,
    /// The nodes and what scales them.
    nodes: Vec<Document>,
}

impl<'d> Plan<'d> {
    /// Refuses what can be refused without asking anybody.
    pub(super) fn new(
        environment: &Environment,
        deployment: &'d Deployment,
        source: &str,
        manifest: &str,
    ) -> anyhow::Result<Self> {
        let text = image::filled(manifest, &deployment.repository, &deployment.digest)?;
        let documents = manifest::read(&text)?;
        let elsewhere = documents.iter().find(|document| document.namespace() != environment.namespace);
        if let Some(elsewhere) = elsewhere {
            bail!("{} is not in {}", elsewhere.title(), environment.namespace);
        }
        let reference = reference(deployment);
        ensure!(
            documents.iter().flat_map(Document::images).any(|image| image == reference),
            "the manifests run no {}",
            image::OURS
        );
        let mut secrets: Vec<_> = documents.iter().flat_map(Document::secrets).collect();
        secrets.sort();
        let is_of_nodes = |document: &Document| {
            document.name() == NODES && ["StatefulSet", "HorizontalPodAutoscaler"].contains(&document.kind())
        };
        let (mut nodes, around): (Vec<_>, Vec<_>) = documents.into_iter().partition(is_of_nodes);
        for set in nodes.iter_mut().filter(|document| document.kind() == "StatefulSet") {
            annotate(set, &deployment.revision).context("the StatefulSet of the nodes has no metadata")?;
        }
        Ok(Self { deployment, signer: signer(environment, source)?, secrets, around, nodes })
    }

    /// What would be done.
    pub(super) fn lines(&self, cluster: &Cluster) -> Vec<String> {
        let reference = reference(self.deployment);
        let secrets =
            self.secrets.iter().map(|(name, keys)| format!("see that the Secret {name} is there, with {keys:?}"));
        let mut lines = vec![format!("run {}", describe(&cluster.verify(&reference, &self.signer)))];
        lines.extend(secrets);
        lines.push(format!("see that {} knows what the running version may have recorded", self.deployment.revision));
        lines.push(format!(
            "ask the cluster whether it would take {}",
            titles(&[&self.around[..], &self.nodes].concat())
        ));
        lines.push(format!("apply {}", titles(&self.around)));
        lines.push(format!("run {}", describe(&cluster.rollout(SERVERS))));
        lines.push(format!("apply {}, of {reference}", titles(&self.nodes)));
        lines.push("delete pods of an earlier change that never became ready".to_owned());
        lines.push(format!("run {}", describe(&cluster.rollout(NODES))));
        lines
    }

    pub(super) fn carry_out(mut self, cluster: &Cluster, record: &mut Record) -> anyhow::Result<()> {
        let reference = reference(self.deployment);
        record.step("signature", || cluster.is_signed(&reference, &self.signer))?;
        record.step("secrets", || cluster.has_secrets(&self.secrets))?;
        let running = record.step("what runs", || cluster.running(NODES, REVISION))?;
        record.before(running.as_ref());
        record.step("compatibility", || match &running {
            Some(running) => is_compatible(running, self.deployment),
            None => Ok(()),
        })?;
        if let Some(running) = &running {
            keep_scale(&mut self.nodes, running);
        }
        record.step("the cluster's word", || cluster.try_out("all", &[&self.around[..], &self.nodes].concat()))?;
        record.changed = true;
        record.step("everything but the nodes", || cluster.apply("around", &self.around))?;
        record.step("the log's servers", || cluster.await_rollout(SERVERS))?;
        record.step("the nodes", || {
            cluster.apply("nodes", &self.nodes)?;
            cluster.remove_stuck(NODES)?;
            cluster.await_rollout(NODES)
        })
    }
}

pub(super) fn reference(deployment: &Deployment) -> String {
    format!("{}@{}", deployment.repository, deployment.digest)
}

fn titles(documents: &[Document]) -> String {
    documents.iter().map(Document::title).collect::<Vec<_>>().join(", ")
}

fn annotate(set: &mut Document, revision: &str) -> Option<()> {
    let metadata = set.0.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut()?;
    annotations.insert(REVISION.to_owned(), json!(revision));
    Some(())
}

fn is_compatible(running: &Running, deployment: &Deployment) -> anyhow::Result<()> {
    let Some(revision) = &running.revision else {
        bail!(
            "what runs does not say which commit it is of; annotate its StatefulSet with {REVISION} once, and try again"
        )
    };
    compatible::check(revision, &deployment.revision)
}

/// An autoscaler's nodes stay: a deployment under load must not take them away.
fn keep_scale(nodes: &mut [Document], running: &Running) {
    let least = nodes.iter().find(|document| document.kind() == "HorizontalPodAutoscaler");
    let Some(most) = least.and_then(|autoscaler| autoscaler.at("/spec/maxReplicas").as_u64()) else { return };
    for set in nodes.iter_mut().filter(|document| document.kind() == "StatefulSet") {
        if let Some(replicas) = set.0.pointer_mut("/spec/replicas")
            && replicas.as_u64().is_some_and(|least| running.replicas > least)
        {
            *replicas = Value::from(running.replicas.min(most));
        }
    }
}

/// Whose signature is good: for production that of a release alone, for staging also that of the main branch.
fn signer(environment: &Environment, source: &str) -> anyhow::Result<String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let words: Vec<_> = source.split('/').collect();
    let named = words.len() == 2 && words.iter().all(|word| !word.is_empty() && word.bytes().all(inner));
    ensure!(named, "{source:?} is no repository: OWNER/NAME");
    let source = source.replace('.', r"\.");
    let release = r"release\.yml@refs/tags/v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?";
    let workflows = match environment.name {
        "production" => release.to_owned(),
        _ => format!(r"({release}|deploy\.yml@refs/heads/main)"),
    };
    Ok(format!(r"^https://github\.com/{source}/\.github/workflows/{workflows}$"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::policy::ENVIRONMENTS;

    #[test]
    fn production_takes_releases_alone_and_staging_the_main_branch_too() {
        let [staging, production] = ENVIRONMENTS.each_ref().map(|environment| signer(environment, "a.b/c").unwrap());
        assert!(staging.contains("deploy") && !production.contains("deploy"), "{production}");
        assert!(production.starts_with(r"^https://github\.com/a\.b/c/\.github/workflows/release\.yml@refs/tags/v"));
        for source in ["a", "a/b/c", "a/", "a/(.*)", "/b"] {
            assert!(signer(&ENVIRONMENTS[0], source).is_err(), "{source}");
        }
    }
}
