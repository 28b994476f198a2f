//! The cluster of containers for one machine: `examples/compose.yaml` is whole, and its settings are those of the manifests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::Outcome;
use crate::k8s::{
    manifest::{at, items},
    policy::lines_in_blocks,
};

/// The file, and those that its containers mount.
const FILE: &str = "examples/compose.yaml";
const NODE: &str = "examples/compose/wasmwiz.toml";
const SERVER: &str = "examples/compose/nats.conf";

/// What they have to agree with.
const NODE_OF_MANIFESTS: &str = "k8s/base/node/wasmwiz.toml";
const SERVER_OF_MANIFESTS: &str = "k8s/base/nats/nats.conf";
const SETS: [(&str, &str); 2] =
    [("node-", "k8s/base/node/stateful-set.yaml"), ("nats-", "k8s/base/nats/stateful-set.yaml")];
const IMAGES: &str = "k8s/components/images/kustomization.yaml";

/// How many nodes, and how many servers.
const EACH: usize = 3;

/// Settings of nodes that are others here: what is of certificates, credentials and an ingress, and what names hosts.
const OTHERS: [&str; 7] = [
    "auth.",
    "cluster.nats.",
    "gateway.",
    "log.jetstream.monitor_urls",
    "log.jetstream.nats.",
    "shutdown.announce_ms",
    "telemetry.",
];

/// Settings that the manifests leave alone: the feed, which is tried out here, and memory, which is set by variables there.
const ADDED: [&str; 2] = ["executor.", "feed."];

/// What servers say in the same words.
const SAME: [&str; 9] = [
    "listen:",
    "http:",
    "max_payload:",
    "jetstream.store_dir:",
    "jetstream.max_memory_store:",
    "jetstream.sync_interval:",
    "cluster.name:",
    "cluster.listen:",
    "cluster.no_advertise:",
];

/// The files as they are.
struct Files {
    compose: Value,
    /// The image of the servers, by the manifests.
    nats: String,
    node: toml::Table,
    node_of_manifests: toml::Table,
    server: String,
    server_of_manifests: String,
    /// How long containers whose names begin so may take to stop, by the manifests.
    graces: Vec<(&'static str, String)>,
}

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    if !tree.join(FILE).is_file() {
        return Ok(Outcome::Skipped("there is no examples/compose.yaml"));
    }
    let findings = Files::read(tree)?.findings();
    if !findings.is_empty() {
        bail!("{FILE}:\n{}", findings.join("\n"));
    }
    Ok(Outcome::Passed)
}

fn text(tree: &Path, file: &str) -> anyhow::Result<String> {
    fs::read_to_string(tree.join(file)).with_context(|| format!("cannot read {file}"))
}

/// A file of YAML, with what it takes over from its anchors.
fn yaml(tree: &Path, file: &str) -> anyhow::Result<Value> {
    let mut value: serde_yaml::Value =
        serde_yaml::from_str(&text(tree, file)?).with_context(|| format!("{file} is not YAML"))?;
    value.apply_merge().with_context(|| format!("{file} takes over what is none"))?;
    serde_json::to_value(value).with_context(|| format!("{file} has keys that are no texts"))
}

fn table(tree: &Path, file: &str) -> anyhow::Result<toml::Table> {
    text(tree, file)?.parse().with_context(|| format!("{file} is not TOML"))
}

impl Files {
    fn read(tree: &Path) -> anyhow::Result<Self> {
        let images = yaml(tree, IMAGES)?;
        let mut named = items(images.get("images"));
        let nats = named.find(|image| at(image, "/name") == "nats").and_then(|image| at(image, "/newTag").as_str());
        let nats = format!("nats:{}", nats.with_context(|| format!("{IMAGES} has no tag of nats"))?);
        let mut graces = Vec::new();
        for (prefix, file) in SETS {
            let set = yaml(tree, file)?;
            let seconds = at(&set, "/spec/template/spec/terminationGracePeriodSeconds").as_u64();
            graces.push((prefix, format!("{}s", seconds.with_context(|| format!("{file} has no grace"))?)));
        }
        Ok(Self {
            compose: yaml(tree, FILE)?,
            nats,
            node: table(tree, NODE)?,
            node_of_manifests: table(tree, NODE_OF_MANIFESTS)?,
            server: text(tree, SERVER)?,
            server_of_manifests: text(tree, SERVER_OF_MANIFESTS)?,
            graces,
        })
    }

    fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for (prefix, grace) in &self.graces {
            let services = self.services(prefix);
            if services.len() != EACH {
                findings.push(format!("there are {} services {prefix}*, and not {EACH}", services.len()));
            }
            for (name, service) in services {
                findings.extend(self.of_service(name, service, grace));
            }
        }
        findings.extend(self.of_nodes());
        findings.extend(self.of_servers());
        findings
    }

    /// The services whose names begin so.
    fn services(&self, prefix: &str) -> Vec<(&str, &Value)> {
        let all = at(&self.compose, "/services").as_object().into_iter().flatten();
        all.filter(|(name, _)| name.starts_with(prefix)).map(|(name, service)| (name.as_str(), service)).collect()
    }

    /// It has no right that it does not need, stops in time, mounts what is there, and nobody outside this machine reaches it.
    fn of_service(&self, name: &str, service: &Value, grace: &str) -> Vec<String> {
        let is_node = name.starts_with("node-");
        let texts = |key: &str| items(service.get(key)).filter_map(Value::as_str).collect::<Vec<_>>();
        let image = at(service, "/image").as_str().unwrap_or_default();
        let (default, variable) =
            if is_node { ("wasmwiz", "WASMWIZ_IMAGE") } else { (self.nats.as_str(), "NATS_IMAGE") };
        let mounts = if is_node {
            ["./compose/wasmwiz.toml:/etc/wasmwiz/wasmwiz.toml:ro", "nodes:/var/lib/wasmwiz"].map(str::to_owned)
        } else {
            ["./compose/nats.conf:/etc/nats/nats.conf:ro".to_owned(), format!("{name}:/data")]
        };
        let (ports, networks) = (texts("ports"), texts("networks"));
        let own = |key: &str| at(service, &format!("/environment/{key}")).as_str().unwrap_or_default().to_owned();
        let named = if is_node {
            own("WASMWIZ_NODE__NAME") == name && own("WASMWIZ_NODE__DATA_DIR") == format!("/var/lib/wasmwiz/{name}")
        } else {
            texts("command").ends_with(&["--name", name])
        };
        let rules = [
            (image == format!("${{{variable}:-{default}}}"), "is not of the image that the manifests name"),
            (at(service, "/read_only") == true, "may write to its image"),
            (texts("cap_drop") == ["ALL"], "keeps capabilities"),
            (texts("security_opt") == ["no-new-privileges:true"], "may get privileges"),
            (at(service, "/stop_grace_period") == grace, "has not the time to stop that the manifests give it"),
            (ports.iter().all(|port| port.starts_with("127.0.0.1:")), "is reached from outside"),
            (ports.len() == usize::from(is_node), "publishes other ports than one of a node"),
            (networks.contains(&"log"), "is not in the network of the log"),
            (mounts.iter().all(|mount| texts("volumes").contains(&mount.as_str())), "lacks its file or its volume"),
            (named, "has not its own name and folder"),
        ];
        rules.into_iter().filter(|(kept, _)| !kept).map(|(_, broken)| format!("{name} {broken}")).collect()
    }

    /// What nodes are told is what the manifests tell them, and all servers are named.
    fn of_nodes(&self) -> Vec<String> {
        let (mut here, mut there) = (BTreeMap::new(), BTreeMap::new());
        flatten("", &toml::Value::Table(self.node.clone()), &mut here);
        flatten("", &toml::Value::Table(self.node_of_manifests.clone()), &mut there);
        let is_of = |list: &[&str], key: &str| list.iter().any(|prefix| key.starts_with(prefix));
        let mut findings = Vec::new();
        for (key, value) in there.iter().filter(|(key, _)| !is_of(&OTHERS, key)) {
            if here.get(key) != Some(value) {
                findings.push(format!("{NODE}: {key} is {:?}, and {value} in the manifests", here.get(key)));
            }
        }
        let more = here.keys().filter(|key| !there.contains_key(*key) && !is_of(&OTHERS, key) && !is_of(&ADDED, key));
        findings.extend(more.map(|key| format!("{NODE}: {key} is not set in the manifests")));
        let servers: BTreeSet<_> = self.services("nats-").into_iter().map(|(name, _)| name.to_owned()).collect();
        let keys = ["log.jetstream.monitor_urls", "log.jetstream.nats.url", "cluster.nats.url", "feed.nats.url"];
        for key in keys {
            let named = hosts(here.get(key).map(String::as_str).unwrap_or_default());
            if named != servers {
                findings.push(format!("{NODE}: {key} names {named:?}, and the servers are {servers:?}"));
            }
        }
        findings
    }

    /// Servers say what those of the manifests say, and know each other.
    fn of_servers(&self) -> Vec<String> {
        let (here, there) = (lines_in_blocks(&self.server), lines_in_blocks(&self.server_of_manifests));
        let line = |lines: &[String], key: &str| lines.iter().find(|line| line.starts_with(key)).cloned();
        let mut findings = Vec::new();
        for key in SAME {
            let (said, wanted) = (line(&here, key), line(&there, key));
            if said.is_none() || said != wanted {
                findings.push(format!("{SERVER}: says {said:?}, and the manifests {wanted:?}"));
            }
        }
        for (name, _) in self.services("nats-") {
            if !here.contains(&format!("cluster.routes.\"nats-route://{name}:6222\"")) {
                findings.push(format!("{SERVER}: there is no route to {name}"));
            }
        }
        findings
    }
}

/// Every setting by its whole name.
fn flatten(prefix: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&name, value, into);
            }
        }
        other => drop(into.insert(prefix.to_owned(), other.to_string())),
    }
}

/// The hosts of the URLs in a setting, as it is written.
fn hosts(setting: &str) -> BTreeSet<String> {
    let urls = setting.split(',').map(|url| url.trim_matches(['"', '[', ']', ' ']));
    urls.filter_map(|url| Some(url.split_once("://")?.1.split(':').next()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    fn files() -> Files {
        Files::read(workspace::root()).unwrap()
    }

    #[test]
    fn the_example_agrees_with_the_manifests() {
        assert_eq!(files().findings(), [""; 0]);
    }

    #[test]
    fn a_setting_that_the_manifests_have_otherwise_is_found() {
        let mut files = files();
        files.server =
            files.server.replace("sync_interval: always", "sync_interval: 2m").replace("nats-2:6222", "b:6222");
        files.node.insert("log".to_owned(), toml::Value::String("sqlite".to_owned()));
        let found = files.findings().join("\n");
        for said in ["sync_interval: 2m", "no route to nats-2", "log.jetstream.replicas", "log.kind", "log is not set"]
        {
            assert!(found.contains(said), "{said}: {found}");
        }
    }

    #[test]
    fn a_container_with_more_rights_or_another_image_is_found() {
        for (pointer, value, said) in [
            ("/services/node-2/read_only", Value::Bool(false), "node-2 may write to its image"),
            ("/services/node-3/ports/0", "8083:8080".into(), "node-3 is reached from outside"),
            ("/services/nats-1/image", "nats:latest".into(), "nats-1 is not of the image"),
            ("/services/nats-2/stop_grace_period", "1s".into(), "nats-2 has not the time"),
            ("/services/nats-3/command/3", "nats-1".into(), "nats-3 has not its own name"),
            ("/services/node-1/environment/WASMWIZ_NODE__NAME", "node-2".into(), "node-1 has not its own name"),
        ] {
            let mut files = files();
            *files.compose.pointer_mut(pointer).unwrap() = value;
            let found = files.findings();
            assert!(found.len() == 1 && found[0].starts_with(said), "{said}: {found:?}");
        }
    }

    #[test]
    fn a_server_that_nobody_names_is_found() {
        let mut files = files();
        files.compose.pointer_mut("/services").unwrap().as_object_mut().unwrap().remove("nats-3");
        let found = files.findings().join("\n");
        assert!(found.contains("there are 2 services nats-*") && found.contains("monitor_urls names"), "{found}");
    }
}
