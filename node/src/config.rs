//! Every setting of a node, with its unit and its default.
//!
//! Order of precedence, the later wins: defaults, the file given with `--config`, environment variables
//! `WASMWIZ_<SECTION>__<KEY>` (for instance `WASMWIZ_LISTEN__API`), command line flags. An unknown key is an error. A value
//! means the same wherever it stands: a variable's text is no number where a text is wanted (ADR 037).

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use layers::{Node, Origin};
use serde::{Deserialize, Serialize};
use wasmwiz_actors::{executor::ExecutorConfig, limits::Policy, region::RegionConfig};
use wasmwiz_events::{
    feed::FeedConfig,
    id::NodeId,
    log::{jetstream::JetstreamLogConfig, sqlite::SqliteLogConfig},
};
use wasmwiz_gateway::{GatewayConfig, server::TlsConfig};
use wasmwiz_projections::Config as ViewsConfig;

use crate::{cluster::config::ClusterConfig, disk::DiskConfig, retention::RetentionConfig};

mod environment;
mod fit;
pub mod layers;
mod read;
mod secret;
mod show;
mod traces;
pub use traces::TracesConfig;

pub use secret::Secret;

/// All settings of a node.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who this node is and where it keeps its data.
    pub node: NodeConfig,
    /// What it does when its disk becomes full.
    pub disk: DiskConfig,
    /// Where it listens.
    pub listen: ListenConfig,
    /// Secrets of authentication.
    pub auth: AuthConfig,
    /// The event log.
    pub log: LogConfig,
    /// The feed of events to a message bus.
    pub feed: FeedConfig,
    /// Which nodes share the work.
    pub cluster: ClusterConfig,
    /// Entities.
    pub region: RegionConfig,
    /// Executors.
    pub executor: ExecutorConfig,
    /// Views.
    pub views: ViewsConfig,
    /// The HTTP gateway.
    pub gateway: GatewayConfig,
    /// What each tier allows.
    pub tiers: Policy,
    /// For how long payloads are kept.
    pub retention: RetentionConfig,
    /// Logs of the process.
    pub telemetry: TelemetryConfig,
    /// How it stops.
    pub shutdown: ShutdownConfig,
}

/// Who this node is and where it keeps its data.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Its name, stable across restarts.
    pub name: NodeId,
    /// Everything it keeps is below this folder. Made if it is missing.
    pub data_dir: PathBuf,
}

impl Default for NodeConfig {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "a literal that is a valid id; a test makes the default")]
        let name = NodeId::new("node-1").expect("a valid node id");
        Self { name, data_dir: PathBuf::from(".wasmwiz") }
    }
}

/// Where it listens.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// The address of the API. Port 0 takes any free one.
    pub api: SocketAddr,
    /// The address of metrics and probes. It has no authentication: keep it inside.
    pub admin: SocketAddr,
    /// With it, the API is served by TLS. The admin listener never is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

impl Default for ListenConfig {
    fn default() -> Self {
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        Self { api: local(8080), admin: local(9090), tls: None }
    }
}

/// Secrets of authentication. Each may be given in a file instead, whose trailing newline is ignored.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// The operator's API key. Without it, one is drawn and printed at the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_key: Option<Secret>,
    /// A file that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_key_file: Option<PathBuf>,
    /// Mixed into the hashes of keys, so that the log alone does not help to guess one. Changing it invalidates all keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pepper: Option<Secret>,
    /// A file that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pepper_file: Option<PathBuf>,
    /// The folder of the keys that sign tokens: PKCS #8 files `*.pem`, the last by name signs. All nodes of a platform have
    /// the same. Without it, a key is drawn in the data folder at the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_keys_dir: Option<PathBuf>,
    /// The file in that folder whose key signs, instead of the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_signing_key: Option<String>,
}

/// The fewest bytes of a pepper: as many as its hash has.
const PEPPER_MIN_BYTES: usize = 32;

/// What a stop may take, in milliseconds: shorter, nothing can be recorded in it.
const SHUTDOWN_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;

/// Which log keeps the events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// SQLite below the data folder.
    #[default]
    Sqlite,
    /// NATS JetStream, with modules and large payloads in its object store.
    Jetstream,
}

/// The event log.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Which one.
    pub kind: LogKind,
    /// Settings of the SQLite log.
    pub sqlite: SqliteLogConfig,
    /// Settings of the log on JetStream.
    pub jetstream: JetstreamLogConfig,
}

impl LogConfig {
    /// Only the log that is used has to be set up.
    fn check(&self) -> Result<(), (String, &'static str)> {
        match self.kind {
            LogKind::Sqlite if self.sqlite.max_bytes == Some(0) => {
                Err(("sqlite.max_bytes".to_owned(), "must not be 0; leave it out for a log without a bound"))
            }
            LogKind::Sqlite => Ok(()),
            LogKind::Jetstream => {
                self.jetstream.check().map_err(|(key, problem)| (format!("jetstream.{key}"), problem))
            }
        }
    }
}

/// How the process's own log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Pretty on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// Logs of the process.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// How they look.
    pub format: Format,
    /// Which are written: a filter of the `tracing` family, for instance `info,wasmwiz_actors=debug`.
    pub filter: String,
    /// Traces of requests, from the gateway to the guest and the log.
    pub traces: TracesConfig,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { format: Format::Auto, filter: "info".into(), traces: TracesConfig::default() }
    }
}

/// How it stops: the time it may take in all, and the most that is taken of it by each step.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// Milliseconds from the signal to the end of the process, whatever is under way. Less than whoever stops the node waits
    /// before it is killed: Kubernetes and Docker's `stop --time` are to be set to more.
    pub within_ms: u64,
    /// Milliseconds to answer "not ready" and still serve, so that load balancers look elsewhere first. At most a quarter of
    /// the whole.
    pub announce_ms: u64,
    /// Milliseconds for executions under way to end by themselves. The rest is ended, and that is recorded. At most what the
    /// whole leaves beside the record.
    pub executions_ms: u64,
    /// Milliseconds for the entities to record what they decided.
    pub entities_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { within_ms: 25_000, announce_ms: 2_000, executions_ms: 20_000, entities_ms: 5_000 }
    }
}

impl ShutdownConfig {
    /// The time that a stop may take.
    pub const fn within(&self) -> Duration {
        Duration::from_millis(self.within_ms)
    }
}

/// The configuration cannot be used. The text says which key, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read; --config names it")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file or variable does not parse, or names an unknown key.
    #[error("{place} {problem}")]
    Setting {
        /// The variable, or the place in the file.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that holds a secret cannot be read.
    #[error("{path} cannot be read; {key} names it")]
    SecretFile {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A value is out of its range.
    #[error("{key} {problem}")]
    Value {
        /// Which.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// A configuration, and where its values are from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// The configuration as TOML, secrets redacted, with a remark at each line that is not a default.
    ///
    /// # Errors
    /// As [`Config::to_toml`].
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        Ok(show::annotated(&self.config.to_toml()?, &self.origins))
    }

    /// Every value that is not a default, by its key, and where it is from.
    pub const fn origins(&self) -> &BTreeMap<String, Origin> {
        &self.origins
    }

    /// Where the value of a key is from.
    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

impl Config {
    /// Reads the file, if there is one, and the environment over it.
    ///
    /// # Errors
    /// [`ConfigError`] for unknown keys, values of the wrong type or out of range, and unreadable secrets.
    pub fn load(file: Option<&Path>) -> Result<Loaded, ConfigError> {
        Self::load_over(Self::default(), file)
    }

    /// The same over other defaults.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_over(defaults: Self, file: Option<&Path>) -> Result<Loaded, ConfigError> {
        Self::layered(&defaults, file, std::env::vars_os())
    }

    fn layered(
        defaults: &Self,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Loaded, ConfigError> {
        let unwritable = |error: toml::ser::Error| setting("the defaults", error.to_string());
        // The defaults come first as data, so that a file may override one field of a table and leave the others.
        let mut node = Node::of(toml::Table::try_from(defaults).map_err(unwritable)?, &Origin::Default);
        if let Some(file) = file {
            node.lay(Node::of(parsed(file)?, &Origin::File));
        }
        for variable in environment::settings(environment)? {
            node.lay_variable(variable);
        }
        let config: Self = read::read(&node).map_err(|fault| refused(fault, file))?;
        let loaded = Loaded { config, origins: node.origins() }.with_secrets_from_files()?;
        match loaded.config.check() {
            Ok(()) => Ok(loaded),
            Err(ConfigError::Value { key, problem }) => Err(match loaded.origin(&key) {
                Origin::Variable(name) => setting(&name, format!("is wrong: {key} {problem}")),
                Origin::File | Origin::Default => ConfigError::Value { key, problem },
            }),
            Err(other) => Err(other),
        }
    }

    /// Is every value in its range?
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the first that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |key: &str, problem: &str| Err(ConfigError::Value { key: key.into(), problem: problem.into() });
        if self.auth.pepper.as_ref().is_some_and(|pepper| pepper.reveal().len() < PEPPER_MIN_BYTES) {
            return bad("auth.pepper", "is too short; give at least 32 random bytes");
        }
        for tier in wasmwiz_events::tenant::Tier::ALL {
            let (limits, key) = (self.tiers.of(tier), |field: &str| format!("tiers.{}.{field}", tier.as_str()));
            if let Err((field, problem)) = limits.check() {
                return bad(&key(field), problem);
            }
            if limits.memory_bytes > self.executor.memory_max_bytes {
                return bad(&key("memory_bytes"), "is more than executor.memory_max_bytes; raise that or lower this");
            }
        }
        if self.tiers.modules_max > self.tiers.module_names_max {
            return bad("tiers.modules_max", "is more than tiers.module_names_max; raise that or lower this");
        }
        if self.gateway.bodies_bytes_per_tenant_max > self.gateway.bodies_bytes_max {
            return bad("gateway.bodies_bytes_per_tenant_max", "is more than gateway.bodies_bytes_max; lower it");
        }
        if self.gateway.bodies_bytes_reserved > self.gateway.bodies_bytes_max / 2 {
            return bad("gateway.bodies_bytes_reserved", "is more than half of gateway.bodies_bytes_max; lower it");
        }
        if self.gateway.bodies_bytes_per_connection_max == 0 || self.gateway.page_bytes_max == 0 {
            return bad("gateway.bodies_bytes_per_connection_max and gateway.page_bytes_max", "must not be 0");
        }
        if let Some(origin) = self.gateway.cors.misspelt() {
            let problem = format!("names {origin:?}; give origins as browsers do, such as https://console.example.org");
            return bad("gateway.cors.allowed_origins", &problem);
        }
        if self.tiers.attempts_max == 0 || self.tiers.start_within_ms == 0 {
            return bad("tiers.attempts_max and tiers.start_within_ms", "must not be 0");
        }
        if let Err((key, problem)) = self.disk.check() {
            return bad(&format!("disk.{key}"), problem);
        }
        if let Err((key, problem)) = self.retention.check(self.log.kind) {
            return bad(&format!("retention.{key}"), problem);
        }
        if let Err((key, problem)) = self.log.check() {
            return bad(&format!("log.{key}"), problem);
        }
        let appends = self.log.jetstream.append_within_ms;
        if self.log.kind == LogKind::Jetstream && appends >= self.region.answer_within_ms {
            return bad("log.jetstream.append_within_ms", "is not less than region.answer_within_ms; lower it");
        }
        if let Err((key, problem)) = self.feed.check() {
            return bad(&format!("feed.{key}"), problem);
        }
        if let Err((key, problem)) = self.telemetry.traces.check() {
            return bad(&format!("telemetry.traces.{key}"), problem);
        }
        if let Err((key, problem)) = self.gateway.tokens.check() {
            return bad(&format!("gateway.tokens.{key}"), problem);
        }
        if let Err((key, problem)) = self.cluster.check() {
            return bad(&format!("cluster.{key}"), &problem);
        }
        if !SHUTDOWN_MS.contains(&self.shutdown.within_ms) {
            return bad("shutdown.within_ms", "is 1000 to 3600000");
        }
        if let Err((key, problem)) = self.executor.check(self.tiers.lost_grace_ms) {
            return bad(&format!("executor.{key}"), problem);
        }
        if let Err((key, problem)) = self.gateway.server.check() {
            return bad(&format!("gateway.server.{key}"), problem);
        }
        Ok(())
    }

    /// The configuration as TOML, secrets redacted.
    ///
    /// # Errors
    /// When a value cannot be written as TOML, such as a path that is not UTF-8.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}

impl Loaded {
    fn with_secrets_from_files(mut self) -> Result<Self, ConfigError> {
        for (key, named) in [("auth.operator_key", "auth.operator_key_file"), ("auth.pepper", "auth.pepper_file")] {
            // What was said later wins: a variable's key over the file that the configuration file names.
            let later = self.origin(key).wins_over(&self.origin(named));
            let auth = &mut self.config.auth;
            let (secret, path) = match key {
                "auth.pepper" => (&mut auth.pepper, &auth.pepper_file),
                _ => (&mut auth.operator_key, &auth.operator_key_file),
            };
            if let Some(path) = path
                && !(later && secret.is_some())
            {
                *secret = Some(Secret::in_file(named, path)?);
                let origin = self.origin(named);
                self.origins.insert(key.to_owned(), origin);
            }
        }
        Ok(self)
    }
}

/// The variables of this process that set these keys, or something below them.
pub fn variables_of(keys: &[&str]) -> Vec<OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names
        .filter(|name| environment::key_of(name).is_some_and(|key| keys.iter().any(|of| is_within(&key, of))))
        .collect()
}

/// Is it `table`, or something below it?
fn is_within(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn setting(place: &str, problem: String) -> ConfigError {
    ConfigError::Setting { place: place.to_owned(), problem }
}

/// Reads a file. An error names the line, and does not quote it: it may hold a secret.
fn parsed(file: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|source| ConfigError::File { path: file.to_owned(), source })?;
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.split('\n').count();
        setting(&format!("{}, line {line},", file.display()), format!("is no TOML: {}", error.message()))
    })
}

fn refused(fault: read::Fault, file: Option<&Path>) -> ConfigError {
    let (key, origin) = fault.at.unwrap_or((String::new(), Origin::Default));
    match origin {
        Origin::Variable(name) => setting(&name, format!("is wrong: {key}: {}", fault.problem)),
        Origin::File | Origin::Default => {
            let place = file.map_or_else(String::new, |file| format!(" in {}", file.display()));
            setting(&format!("{key}{place}"), format!("is wrong: {}", fault.problem))
        }
    }
}

#[cfg(test)]
mod tests;
