//! What the pods' configuration says, as far as the manifests and the program have to agree on it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    super::manifest::{Document, at, bytes, items},
    Findings,
};

/// What the nodes' file must say.
const NODE: [(&str, &str); 7] = [
    ("log.kind", "\"jetstream\""),
    ("log.jetstream.replicas", "3"),
    ("log.jetstream.acknowledged", "\"synced\""),
    ("cluster.name", "\"wasmwiz\""),
    ("cluster.replicas", "3"),
    ("listen.api", "\"0.0.0.0:8080\""),
    ("listen.admin", "\"0.0.0.0:9090\""),
];

/// What the servers' file must say, with the blocks that it is in.
const SERVER: [&str; 12] = [
    "http: \"0.0.0.0:8222\"",
    "max_payload: 2MB",
    "jetstream.sync_interval: always",
    "tls.cert_file: \"/etc/nats/tls/tls.crt\"",
    "tls.key_file: \"/etc/nats/tls/tls.key\"",
    "cluster.no_advertise: true",
    "cluster.tls.cert_file: \"/etc/nats/tls/tls.crt\"",
    "cluster.tls.key_file: \"/etc/nats/tls/tls.key\"",
    "cluster.tls.ca_file: \"/etc/nats/tls/ca.crt\"",
    "cluster.tls.verify: true",
    "accounts.WASMWIZ.jetstream: enabled",
    "accounts.WASMWIZ.users.{ nkey: $NODE_NKEY }",
];

/// Bounds of memory that are to fit the container together.
const BOUNDS: [&str; 5] = [
    "WASMWIZ_EXECUTOR__MEMORY_BUDGET_BYTES",
    "WASMWIZ_EXECUTOR__CACHED_BYTES_MAX",
    "WASMWIZ_EXECUTOR__COMPILE__MEMORY_BYTES",
    "WASMWIZ_GATEWAY__BODIES_BYTES_MAX",
    "WASMWIZ_LOG__JETSTREAM__WAITING_BYTES_MAX",
];

/// What is left beside them for the program itself, its tenants and its stacks, and for the compilation of a small
/// module.
const BESIDE_BYTES: u64 = (192 + 64) << 20;

/// How much longer the kubelet waits than a stop may take.
const GRACE_MS: u64 = 5_000;

pub(super) fn findings(documents: &[Document]) -> Findings {
    let mut findings = Vec::new();
    let file = |set: &str, name: &str| {
        let maps = documents.iter().filter(|document| document.kind() == "ConfigMap");
        let mut mine = maps.filter(|map| map.name().starts_with(set));
        mine.find_map(|map| map.at("/data").get(name)?.as_str())
    };
    let set =
        |name: &str| documents.iter().find(|document| document.kind() == "StatefulSet" && document.name() == name);
    let servers = file("nats-settings", "nats.conf").unwrap_or_default();
    let servers = lines_in_blocks(servers);
    let missing = SERVER.iter().filter(|said| !servers.iter().any(|line| line == **said));
    findings.extend(missing.map(|said| format!("nats.conf does not say `{said}`")));
    let table = file("wasmwiz-settings", "wasmwiz.toml").and_then(|text| text.parse::<toml::Table>().ok());
    let Some(table) = table else {
        findings.push("the nodes have no wasmwiz.toml, or one that is no TOML".to_owned());
        return findings;
    };
    for (key, expected) in NODE {
        let said = setting(&table, key).map(ToString::to_string).unwrap_or_default();
        if said != expected {
            findings.push(format!("{key} is {said:?}, and not {expected}"));
        }
    }
    findings.extend(monitored(&table));
    if let Some(nodes) = set("wasmwiz") {
        findings.extend(stops_in_time(&table, nodes));
        findings.extend(fits(nodes));
        findings.extend(mounted(&table, nodes));
    }
    findings
}

/// Each line of nats.conf after the names of the blocks that it is in.
pub(crate) fn lines_in_blocks(text: &str) -> Vec<String> {
    let (mut blocks, mut lines) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_suffix(['{', '[']) {
            Some(name) => blocks.push(format!("{}.", name.trim_end().trim_end_matches(':'))),
            None if line == "}" || line == "]" => drop(blocks.pop()),
            None => lines.push(blocks.concat() + line),
        }
    }
    lines
}

fn setting<'t>(table: &'t toml::Table, key: &str) -> Option<&'t toml::Value> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    match rest {
        None => table.get(first),
        Some(rest) => setting(table.get(first)?.as_table()?, rest),
    }
}

/// Every server of the log is asked whether it syncs what it acknowledges.
fn monitored(table: &toml::Table) -> Findings {
    let host = |url: &str| Some(url.trim().split_once("://")?.1.split(':').next()?.to_owned());
    let servers = setting(table, "log.jetstream.nats.url").and_then(toml::Value::as_str).unwrap_or_default();
    let servers: BTreeSet<_> = servers.split(',').filter_map(host).collect();
    let monitors = setting(table, "log.jetstream.monitor_urls").and_then(toml::Value::as_array);
    let monitors: BTreeSet<_> =
        monitors.into_iter().flatten().filter_map(toml::Value::as_str).filter_map(host).collect();
    if servers == monitors {
        return Vec::new();
    }
    vec![format!("log.jetstream.monitor_urls names {monitors:?}, and the log's servers are {servers:?}")]
}

fn stops_in_time(table: &toml::Table, nodes: &Document) -> Findings {
    let within = setting(table, "shutdown.within_ms").and_then(toml::Value::as_integer);
    let within = within.and_then(|ms| u64::try_from(ms).ok());
    let grace = nodes.at("/spec/template/spec/terminationGracePeriodSeconds").as_u64().unwrap_or_default() * 1_000;
    match within {
        Some(within) if within + GRACE_MS <= grace => Vec::new(),
        within => vec![format!("a node may take {within:?} ms to stop, and is killed after {grace}")],
    }
}

fn fits(nodes: &Document) -> Findings {
    let Some(container) = nodes.containers().next() else { return Vec::new() };
    let variables: Vec<_> = items(container.get("env")).collect();
    let mut sum = BESIDE_BYTES;
    for bound in BOUNDS {
        let set = variables.iter().find(|variable| at(variable, "/name") == bound);
        let value = set.and_then(|variable| at(variable, "/value").as_str()?.parse::<u64>().ok());
        match value {
            Some(bytes) => sum += bytes,
            None => return vec![format!("{bound} is not set to bytes")],
        }
    }
    let limit = bytes(at(container, "/resources/limits/memory")).unwrap_or_default();
    if sum > limit { vec![format!("the bounds of memory are {sum} together, of {limit}")] } else { Vec::new() }
}

/// Every file that the settings name is below a volume of the pod.
fn mounted(table: &toml::Table, nodes: &Document) -> Findings {
    let Some(container) = nodes.containers().next() else { return Vec::new() };
    let mounts: Vec<_> =
        items(container.get("volumeMounts")).filter_map(|mount| mount.get("mountPath")?.as_str()).collect();
    let mut files = Vec::new();
    collect(&toml::Value::Table(table.clone()), &mut files);
    files.extend(
        items(container.get("args")).filter_map(Value::as_str).filter(|arg| arg.starts_with('/')).map(str::to_owned),
    );
    let below = |file: &String| {
        mounts.iter().any(|mount| file.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    files.iter().filter(|file| !below(file)).map(|file| format!("{file} is below no volume of a node")).collect()
}

fn collect(value: &toml::Value, files: &mut Vec<String>) {
    match value {
        toml::Value::String(text) if text.starts_with('/') => files.push(text.clone()),
        toml::Value::Table(table) => table.values().for_each(|value| collect(value, files)),
        _ => {}
    }
}
