//! What a deployment does, in its order: everything that may refuse it comes before the first change.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{
    Deployment,
    cluster::{Cluster, Running},
    compatible,
    record::{Kind, Record},
};
use crate::{
    k8s::{
        image::{self, REVISION},
        manifest::{self, Document},
        policy::{COPIES_WITHIN, Environment},
    },
    process::describe,
};

/// The StatefulSets: the servers of the log come first.
const SERVERS: &str = "nats";
const NODES: &str = "wasmwiz";

/// How the names of their settings begin.
const SERVERS_SETTINGS: &str = "nats-settings";

/// What is to be done to one environment.
#[derive(Debug)]
pub(super) struct Plan<'d> {
    deployment: &'d Deployment,
    /// Whose signature is good, as a regular expression.
    signer: String,
    /// The Secrets that have to be there, with keys.
    secrets: Vec<(String, Vec<String>)>,
    /// The servers of the log, with their settings.
    servers: Vec<Document>,
    /// Everything but those and the nodes.
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
        let text = image::filled(manifest, &deployment.repository, &deployment.digest, &deployment.revision)?;
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
        let is_of_servers =
            |document: &Document| document.name() == SERVERS || document.name().starts_with(SERVERS_SETTINGS);
        let (mut nodes, others): (Vec<_>, Vec<_>) = documents.into_iter().partition(is_of_nodes);
        let (servers, around) = others.into_iter().partition(is_of_servers);
        for set in nodes.iter_mut().filter(|document| document.kind() == "StatefulSet") {
            annotate(set, deployment).context("the StatefulSet of the nodes has no metadata")?;
        }
        let signer = signer(environment, source, deployment.version.as_deref())?;
        Ok(Self { deployment, signer, secrets, servers, around, nodes })
    }

    /// What would be changed.
    fn lines(&self, cluster: &Cluster) -> Vec<String> {
        let mut lines = vec![format!("apply {}", titles(&[&self.servers[..], &self.around].concat()))];
        if !self.servers.is_empty() {
            lines.push(format!("run {}", describe(&cluster.rollout(SERVERS, servers_wait(&self.servers, cluster)))));
        }
        lines.push(format!("apply {}, of {}", titles(&self.nodes), reference(self.deployment)));
        lines.push("delete one pod of an earlier change that never became ready, if there is one".to_owned());
        lines.push(format!("run {}", describe(&cluster.rollout(NODES, wait(&self.nodes, cluster)))));
        lines
    }

    /// Everything that may refuse it. Nothing is changed.
    pub(super) fn ask(&mut self, cluster: &Cluster, how: How, record: &mut Record) -> anyhow::Result<()> {
        let (deployment, history) = (self.deployment, &cluster.programs.history);
        let reference = reference(deployment);
        record.step("signature", || cluster.is_signed(&reference, &self.signer, &deployment.revision))?;
        record.step("secrets", || cluster.has_secrets(&self.secrets))?;
        let running = record.step("what runs", || cluster.running(NODES, REVISION))?;
        let servers = record.step("the log's servers as they are", || cluster.running(SERVERS, REVISION))?;
        record.before(running.as_ref());
        record.step("compatibility", || match &running {
            Some(running) => is_compatible(history, running, deployment),
            None => Ok(()),
        })?;
        if let Some(revision) = running.as_ref().and_then(|running| running.revision.as_deref())
            && deployment.kind == Kind::Rollback
        {
            let is_asked = record.step("the older program's word", || {
                cluster.knows(&reference, &compatible::types(history, revision)?)
            })?;
            if !is_asked {
                record.note("the program of that version cannot be asked what it knows: git alone was".to_owned());
            }
        }
        if let Some(servers) = &servers {
            self.keep_servers(servers, record);
            record.step("all of the log's servers are ready", || self.may_replace(servers, how))?;
        }
        let nodes = scaled(&self.nodes, running.as_ref());
        let all = [&self.servers[..], &self.around, &nodes].concat();
        record.step("the cluster's word", || cluster.try_out("all", &all))?;
        if how.dry_run {
            self.lines(cluster).iter().for_each(|line| eprintln!("deploy: would {line}"));
        }
        Ok(())
    }

    /// The changes, in their order.
    pub(super) fn change(&self, cluster: &Cluster, record: &mut Record) -> anyhow::Result<()> {
        record.changes()?;
        let first = [&self.servers[..], &self.around].concat();
        record.step("everything but the nodes", || cluster.apply("around", &first))?;
        if !self.servers.is_empty() {
            let wait = servers_wait(&self.servers, cluster);
            record.step("the log's servers", || cluster.await_rollout(SERVERS, wait))?;
        }
        record.step("the nodes", || {
            // Asked again: the servers may have taken long, and an autoscaler does not wait.
            let nodes = scaled(&self.nodes, cluster.running(NODES, REVISION)?.as_ref());
            cluster.apply("nodes", &nodes)?;
            cluster.remove_stuck(NODES)?;
            cluster.await_rollout(NODES, wait(&nodes, cluster))
        })
    }

    /// Going back is for the nodes: an older server may not read what a newer one wrote, and nobody has asked for it.
    fn keep_servers(&mut self, running: &Running, record: &mut Record) {
        let image = self.servers.iter().flat_map(Document::images).next().unwrap_or_default();
        if self.deployment.kind == Kind::Rollback && !self.deployment.servers && image != running.image {
            record.note(format!(
                "the log's servers stay as they are, with {}: that version had {image}, and --servers was not said",
                running.image
            ));
            self.servers.clear();
        }
    }

    /// The controller replaces the highest server first, however the others are: with one that is down already, the log would be
    /// without its majority.
    fn may_replace(&self, running: &Running, how: How) -> anyhow::Result<()> {
        let Running { ready, replicas, .. } = running;
        ensure!(
            self.servers.is_empty() || how.repair || ready == replicas,
            "{ready} of {replicas} of the log's servers are ready, and a change of them would take one more away: see to them \
             first (docs/operations.md), or say --repair where this change is what mends them"
        );
        Ok(())
    }
}

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Ask, and change nothing.
    pub(super) dry_run: bool,
    /// Servers of the log that are not ready are no reason to refuse.
    pub(super) repair: bool,
}

pub(super) fn reference(deployment: &Deployment) -> String {
    format!("{}@{}", deployment.repository, deployment.digest)
}

fn titles(documents: &[Document]) -> String {
    documents.iter().map(Document::title).collect::<Vec<_>>().join(", ")
}

/// How long all pods of the StatefulSet may take, one after the other.
fn wait(documents: &[Document], cluster: &Cluster) -> Duration {
    let sets = documents.iter().filter(|document| document.kind() == "StatefulSet");
    let pods: u64 = sets.filter_map(|set| set.at("/spec/replicas").as_u64()).sum();
    cluster.pod_wait * u32::try_from(pods).unwrap_or(u32::MAX)
}

/// The same for servers, of which one may have to copy all of its history.
fn servers_wait(documents: &[Document], cluster: &Cluster) -> Duration {
    wait(documents, cluster) + Duration::from_secs(COPIES_WITHIN)
}

fn annotate(set: &mut Document, deployment: &Deployment) -> Option<()> {
    let metadata = set.0.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut()?;
    let Deployment { revision, digest, .. } = deployment;
    annotations.insert(REVISION.to_owned(), json!(image::annotation(revision, digest)));
    Some(())
}

fn is_compatible(history: &Path, running: &Running, deployment: &Deployment) -> anyhow::Result<()> {
    let Some(revision) = &running.revision else {
        bail!(
            "what runs, {}, does not say which commit it is of, or says it of another image; annotate its StatefulSet once \
             with {REVISION}=COMMIT@DIGEST, and try again",
            running.image
        )
    };
    compatible::check(history, revision, &deployment.revision)?;
    ensure!(
        deployment.kind == Kind::Rollback || !compatible::is_older(history, revision, &deployment.revision),
        "{} is older than {revision}, which runs: going back is a rollback, with its reason",
        deployment.revision
    );
    Ok(())
}

/// The nodes, as many as are to run.
fn scaled(nodes: &[Document], running: Option<&Running>) -> Vec<Document> {
    let mut nodes = nodes.to_vec();
    if let Some(running) = running {
        keep_scale(&mut nodes, running);
    }
    nodes
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

/// Whose signature is good: that of the version's own release where one is named; otherwise for production that of a release
/// alone, for staging also that of the main branch.
fn signer(environment: &Environment, source: &str, version: Option<&str>) -> anyhow::Result<String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let words: Vec<_> = source.split('/').collect();
    let named = words.len() == 2 && words.iter().all(|word| !word.is_empty() && word.bytes().all(inner));
    ensure!(named, "{source:?} is no repository: OWNER/NAME");
    let source = source.replace('.', r"\.");
    let release = r"release\.yml@refs/tags/v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?";
    let workflows = match (version, environment.name) {
        (Some(version), _) => {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
            ensure!(!version.is_empty() && version.bytes().all(inner), "{version:?} is no version");
            format!(r"release\.yml@refs/tags/v{}", version.replace('.', r"\."))
        }
        (None, "production") => release.to_owned(),
        (None, _) => format!(r"({release}|deploy\.yml@refs/heads/main)"),
    };
    Ok(format!(r"^https://github\.com/{source}/\.github/workflows/{workflows}$"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::policy::ENVIRONMENTS;

    #[test]
    fn production_takes_releases_alone_and_staging_the_main_branch_too() {
        let [staging, production] =
            ENVIRONMENTS.each_ref().map(|environment| signer(environment, "a.b/c", None).unwrap());
        assert!(staging.contains("deploy") && !production.contains("deploy"), "{production}");
        assert!(production.starts_with(r"^https://github\.com/a\.b/c/\.github/workflows/release\.yml@refs/tags/v"));
        for source in ["a", "a/b/c", "a/", "a/(.*)", "/b"] {
            assert!(signer(&ENVIRONMENTS[0], source, None).is_err(), "{source}");
        }
    }

    #[test]
    fn a_version_is_signed_by_its_own_release_and_by_no_other() {
        for environment in &ENVIRONMENTS {
            let exact = r"^https://github\.com/a/b/\.github/workflows/release\.yml@refs/tags/v0\.1\.0-rc\.1$";
            assert_eq!(signer(environment, "a/b", Some("0.1.0-rc.1")).unwrap(), exact);
            for version in ["", "0.1.0|0.2.0", ".*", "0.1.0/a"] {
                assert!(signer(environment, "a/b", Some(version)).is_err(), "{version}");
            }
        }
    }
}
