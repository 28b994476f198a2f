//! A deployment, as a configuration names it: its servers of NATS are asked, and the disk of this machine. Nothing is changed,
//! and no node is needed.

use std::{collections::BTreeSet, path::Path, time::Duration};

use wasmwiz_events::{
    feed,
    log::jetstream::{Durability, JetstreamLog, JetstreamLogConfig},
    nats::{
        NatsConfig, Purpose, monitor,
        survey::{self, Wanted},
    },
    time::{Clock as _, SystemClock},
};

use super::{
    finding::Finding,
    servers::{self, Section},
};
use crate::{
    cluster::buckets,
    config::{Config, LogKind},
    disk,
};

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A part of the configuration, where its servers are, and which streams should be there.
struct Part<'a> {
    section: Section,
    /// Where the settings of the connection are, for remedies.
    connection: &'static str,
    nats: &'a NatsConfig,
    wanted: Vec<Wanted>,
}

/// Everything that the configuration names.
pub(super) async fn examined(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut log_keepers = Vec::new();
    for part in parts(config) {
        let (found, keepers) = Box::pin(part.examined()).await;
        findings.extend(found);
        if part.section.name == LOG {
            log_keepers = keepers;
        }
    }
    match config.log.kind {
        LogKind::Sqlite => findings.push(Finding::ok("log", "it is on the disk of the node, which syncs it")),
        LogKind::Jetstream => {
            let log = &config.log.jetstream;
            findings.extend(servers::copies(log.replicas));
            findings.extend(Box::pin(monitored(log, &log_keepers)).await);
        }
    }
    findings.push(disk_of(&config.node.data_dir, config));
    findings
}

/// Where the settings of the log are.
const LOG: &str = "log.jetstream";

fn parts(config: &Config) -> Vec<Part<'_>> {
    let (log, feed, cluster) = (&config.log.jetstream, &config.feed, &config.cluster);
    let log = (config.log.kind == LogKind::Jetstream).then(|| Part {
        section: Section {
            name: LOG,
            without: "a node refuses to start on it",
            message_bytes: JetstreamLog::MESSAGE_BYTES_MAX,
        },
        connection: "log.jetstream.nats",
        nats: &log.nats,
        wanted: JetstreamLog::wanted_streams(log),
    });
    let feed = feed.is_on().then(|| Part {
        section: Section { name: "feed", without: "the feed waits meanwhile", message_bytes: 0 },
        connection: "feed.nats",
        nats: &feed.nats,
        wanted: feed::wanted_streams(feed, cluster.is_on()),
    });
    let cluster = cluster.is_on().then(|| Part {
        section: Section { name: "cluster", without: "a node refuses to be a member on it", message_bytes: 0 },
        connection: "cluster.nats",
        nats: &cluster.nats,
        wanted: buckets::wanted_streams(cluster),
    });
    [log, feed, cluster].into_iter().flatten().collect()
}

impl Part<'_> {
    /// What is found, and the names of the servers that keep each of its streams.
    async fn examined(&self) -> (Vec<Finding>, Vec<BTreeSet<String>>) {
        let purpose = Purpose { name: "wasmwiz-doctor", section: self.connection, timeout: ANSWER_WITHIN };
        let reached = Box::pin(survey::servers(self.nats, purpose)).await;
        let mut findings = servers::reached(self.section, &reached);
        // With none that lets this program in, that is what there is to say.
        let Ok(found) = Box::pin(survey::streams(self.nats, purpose, &self.wanted)).await else {
            return (findings, Vec::new());
        };
        let all: BTreeSet<_> = reached.into_iter().filter_map(|(_, server)| Some(server.ok()?.name)).collect();
        let mut keepers = Vec::new();
        for (wanted, found) in self.wanted.iter().zip(&found) {
            findings.extend(servers::stream(self.section, wanted, found));
            if let Ok(Some(stream)) = found {
                // One that is alone need not say so.
                let is_said = !stream.servers.is_empty();
                keepers.push(if is_said { stream.servers.iter().cloned().collect() } else { all.clone() });
            }
        }
        if keepers.is_empty() {
            // Nobody has made them yet.
            keepers.push(all);
        }
        (findings, keepers)
    }
}

/// What the servers say of themselves on their monitoring ports.
async fn monitored(log: &JetstreamLogConfig, keepers: &[BTreeSet<String>]) -> Vec<Finding> {
    let asked = SystemClock.now();
    let answers = monitor::ask(&log.monitor_urls, log.nats.tls_ca_file.as_deref(), ANSWER_WITHIN).await;
    let answered = SystemClock.now();
    let mut findings = vec![servers::synced(&Durability::of(keepers, &answers), log.acknowledged)];
    for answer in &answers {
        match answer {
            Ok(said) => {
                findings.extend(servers::clock(said, asked, answered));
                findings.push(servers::storage(said));
            }
            Err(unsaid) => findings.push(servers::unmonitored(unsaid)),
        }
    }
    findings
}

fn disk_of(folder: &Path, config: &Config) -> Finding {
    // It may not be made yet.
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    servers::disk(folder, disk::free_bytes(there), config.disk)
}
