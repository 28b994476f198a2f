//! Every setting of a node, with its unit and its default.
//!
//! Order of precedence, the later wins: defaults, the file given with `--config`, environment variables
//! `WASMWIZ_<SECTION>__<KEY>` (for instance `WASMWIZ_LISTEN__API`), command line flags. An unknown key is an error.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, Serializer};
use wasmwiz_actors::{executor::ExecutorConfig, limits::Policy, region::RegionConfig};
use wasmwiz_events::{
    feed::FeedConfig,
    id::NodeId,
    log::{jetstream::JetstreamLogConfig, sqlite::SqliteLogConfig},
};
use wasmwiz_gateway::{GatewayConfig, server::TlsConfig};
use wasmwiz_projections::Config as ViewsConfig;

use crate::cluster::config::ClusterConfig;

/// A value that is never printed. Written as `"***"` wherever a configuration is shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The value itself: for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// All settings of a node.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who this node is and where it keeps its data.
    pub node: NodeConfig,
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

/// The most asynchronous executions of one tenant that a tier may allow.
const QUEUED_MAX: u32 = 10_000;

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
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { format: Format::Auto, filter: "info".into() }
    }
}

/// How it stops, each step with the most time it may take.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// Milliseconds to answer "not ready" and still serve, so that load balancers look elsewhere first.
    pub announce_ms: u64,
    /// Milliseconds for executions under way to end. Longer than most, shorter than the longest that a tier allows:
    /// what is cut off is declared lost at the next start.
    pub executions_ms: u64,
    /// Milliseconds for the entities to record what they decided.
    pub entities_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { announce_ms: 0, executions_ms: 20_000, entities_ms: 5_000 }
    }
}

/// The configuration cannot be used. The text says which key, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or variable does not parse, or names an unknown key.
    #[error("the configuration cannot be read: {0}")]
    Read(#[from] config::ConfigError),
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

impl Config {
    /// Reads the file, if there is one, and the environment over it.
    ///
    /// # Errors
    /// [`ConfigError`] for unknown keys, values of the wrong type or out of range, and unreadable secrets.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_over(file, environment())
    }

    fn load_over(file: Option<&Path>, environment: config::Environment) -> Result<Self, ConfigError> {
        // The defaults come first as data, so that a file may override one field of a table and leave the others.
        let mut builder = config::Config::builder().add_source(config::Config::try_from(&Self::default())?);
        if let Some(file) = file {
            builder = builder.add_source(config::File::from(file).format(config::FileFormat::Toml));
        }
        let config: Self = builder.add_source(environment).build()?.try_deserialize()?;
        config.with_secrets_from_files()?.checked()
    }

    fn with_secrets_from_files(mut self) -> Result<Self, ConfigError> {
        let auth = &mut self.auth;
        read_secret("auth.operator_key_file", auth.operator_key_file.as_ref(), &mut auth.operator_key)?;
        read_secret("auth.pepper_file", auth.pepper_file.as_ref(), &mut auth.pepper)?;
        Ok(self)
    }

    /// Gives the configuration back if every value is in its range.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the first that is not.
    pub fn checked(self) -> Result<Self, ConfigError> {
        let bad = |key: &str, problem: &str| Err(ConfigError::Value { key: key.into(), problem: problem.into() });
        if self.auth.pepper.as_ref().is_some_and(|pepper| pepper.reveal().len() < PEPPER_MIN_BYTES) {
            return bad("auth.pepper", "is too short; give at least 32 random bytes");
        }
        for tier in wasmwiz_events::tenant::Tier::ALL {
            let (limits, key) = (self.tiers.of(tier), |field: &str| format!("tiers.{}.{field}", tier.as_str()));
            if limits.executions_per_minute > 60_000 {
                return bad(&key("executions_per_minute"), "is at most 60000; 0 means without limit");
            }
            if limits.writes_per_minute > 60_000 {
                return bad(&key("writes_per_minute"), "is at most 60000; 0 means without limit");
            }
            if limits.memory_bytes > self.executor.memory_max_bytes {
                return bad(&key("memory_bytes"), "is more than executor.memory_max_bytes; raise that or lower this");
            }
            if limits.executions_queued > QUEUED_MAX {
                return bad(&key("executions_queued"), "is at most 10000: a tenant's queue is in its entity's memory");
            }
            if limits.wall_ms == 0 || limits.executions_concurrent == 0 {
                return bad(&key("wall_ms and executions_concurrent"), "must not be 0");
            }
        }
        if self.tiers.modules_max > self.tiers.module_names_max {
            return bad("tiers.modules_max", "is more than tiers.module_names_max; raise that or lower this");
        }
        if self.gateway.bodies_bytes_per_tenant_max > self.gateway.bodies_bytes_max {
            return bad("gateway.bodies_bytes_per_tenant_max", "is more than gateway.bodies_bytes_max; lower it");
        }
        if let Some(origin) = self.gateway.cors.misspelt() {
            let problem = format!("names {origin:?}; give origins as browsers do, such as https://console.example.org");
            return bad("gateway.cors.allowed_origins", &problem);
        }
        if self.tiers.attempts_max == 0 || self.tiers.start_within_ms == 0 {
            return bad("tiers.attempts_max and tiers.start_within_ms", "must not be 0");
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
        if let Err((key, problem)) = self.gateway.tokens.check() {
            return bad(&format!("gateway.tokens.{key}"), problem);
        }
        if let Err((key, problem)) = self.cluster.check() {
            return bad(&format!("cluster.{key}"), &problem);
        }
        if self.executor.threads == 0 || self.executor.guests_max == 0 {
            return bad("executor.threads and executor.guests_max", "must not be 0");
        }
        Ok(self)
    }

    /// The configuration as TOML, secrets redacted.
    ///
    /// # Errors
    /// When a value cannot be written as TOML, such as a path that is not UTF-8.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}

/// Variables of the command line's client, which are no settings of a node.
const OF_THE_CLIENT: [&str; 4] = ["WASMWIZ_PROFILE", "WASMWIZ_PROFILES", "WASMWIZ_URL", "WASMWIZ_API_KEY"];

/// The variables of the environment that are settings.
fn environment() -> config::Environment {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let settings = all.filter(|(name, _)| !OF_THE_CLIENT.contains(&name.as_str())).collect();
    let environment = config::Environment::with_prefix("WASMWIZ").prefix_separator("_").separator("__");
    environment.try_parsing(true).source(Some(settings))
}

fn read_secret(key: &'static str, file: Option<&PathBuf>, into: &mut Option<Secret>) -> Result<(), ConfigError> {
    let Some(path) = file else { return Ok(()) };
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| ConfigError::SecretFile { key, path: path.clone(), source })?;
    *into = Some(Secret(text.trim_end_matches(['\r', '\n']).to_owned()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(toml: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wasmwiz.toml");
        std::fs::write(&path, toml).unwrap();
        Config::load(Some(&path))
    }

    #[test]
    fn the_defaults_are_valid_and_survive_toml() {
        let written = Config::default().checked().unwrap().to_toml().unwrap();
        let read = loaded(&written).unwrap();
        assert_eq!(read.to_toml().unwrap(), written);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = loaded("[gateway]\nlisten_adress = \"x\"\n").unwrap_err().to_string();
        assert!(error.contains("listen_adress"), "{error}");
    }

    #[test]
    fn a_value_out_of_range_is_named_with_what_would_be_right() {
        let error = loaded("[tiers.free]\nexecutions_per_minute = 70000\n").unwrap_err().to_string();
        assert_eq!(error, "tiers.free.executions_per_minute is at most 60000; 0 means without limit");
        let error = loaded("[gateway.cors]\nallowed_origins = [\"*\"]\n").unwrap_err().to_string();
        assert!(error.starts_with("gateway.cors.allowed_origins names \"*\"; give origins"), "{error}");
        let error = loaded("[auth]\npepper = \"short\"\n").unwrap_err().to_string();
        assert_eq!(error, "auth.pepper is too short; give at least 32 random bytes");
    }

    #[test]
    fn an_issuer_is_read_as_it_is_written_and_one_that_could_do_harm_is_refused() {
        let issuer = |url: &str| {
            format!(
                "[[gateway.tokens.issuers]]\nname = \"corp\"\nissuer = \"{url}\"\naudience = \"Wiz\"\n\
                 tenant_claim = \"Org\"\ntenants = {{ Acme = \"t-1\" }}\nalgorithms = [\"RS256\"]\n\
                 scopes = {{ \"Dev.Ops\" = [\"usage:read\"] }}\n"
            )
        };
        let config = loaded(&issuer("https://login.example/Realm")).unwrap();
        let read = &config.gateway.tokens.issuers[0];
        assert_eq!((read.issuer.as_str(), read.tenant_claim.as_deref()), ("https://login.example/Realm", Some("Org")));
        assert!(read.tenants.contains_key("Acme") && read.scopes.contains_key("Dev.Ops"), "{read:?}");
        assert_eq!(loaded(&config.to_toml().unwrap()).unwrap().gateway.tokens, config.gateway.tokens);
        let error = loaded(&issuer("http://login.example")).unwrap_err().to_string();
        assert!(error.starts_with("gateway.tokens.issuers[0] needs an https URL"), "{error}");
        assert!(loaded("[gateway.tokens]\nleeway_seconds = 61\n").is_err());
    }

    #[test]
    fn a_log_on_jetstream_needs_its_servers_and_answers_before_the_region_does() {
        let log = |more: &str| loaded(&format!("[log]\nkind = \"jetstream\"\n[log.jetstream]\n{more}\n"));
        let error = log("").unwrap_err().to_string();
        assert!(error.starts_with("log.jetstream.nats.url is missing"), "{error}");
        let config = log("replicas = 3\nnats.url = \"nats://one:4222\"").unwrap();
        assert_eq!((config.log.kind, config.log.jetstream.replicas), (LogKind::Jetstream, 3));
        let error = log("append_within_ms = 10000\nnats.url = \"nats://one:4222\"").unwrap_err().to_string();
        assert!(error.contains("region.answer_within_ms"), "{error}");
    }

    #[test]
    fn one_field_of_a_tier_is_changed_by_itself() {
        let config = loaded("[tiers.free]\nexecutions_per_minute = 60\n").unwrap();
        let expected = Policy::default().free;
        assert_eq!(config.tiers.free.executions_per_minute, 60);
        assert_eq!(config.tiers.free.wall_ms, expected.wall_ms);
    }

    /// Every text that tells people of variables.
    const DOCUMENTS: [&str; 5] = [
        include_str!("config.rs"),
        include_str!("cli/node.rs"),
        include_str!("cli/dev.rs"),
        include_str!("../../README.md"),
        include_str!("../../docs/ARCHITECTURE.md"),
    ];

    /// The variables that a text names, as far as they name a key.
    fn variables(text: &str) -> impl Iterator<Item = &str> {
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        let rests = shipped.match_indices("WASMWIZ_").filter_map(|(at, _)| shipped.get(at..));
        let names = rests.filter_map(|rest| rest.split(|c: char| !c.is_ascii_uppercase() && c != '_').next());
        names.filter(|name| name.contains("__"))
    }

    #[test]
    fn every_documented_variable_is_a_setting() {
        let documented: std::collections::BTreeSet<_> = DOCUMENTS.into_iter().flat_map(variables).collect();
        assert!(documented.contains("WASMWIZ_LISTEN__API"), "{documented:?}");
        for name in documented {
            // No setting takes this value, or it is a text: either way its key is known, or the error says that it is not.
            let value = [(name.to_owned(), "\u{1}".to_owned())].into_iter().collect();
            let loaded = Config::load_over(None, environment().source(Some(value)));
            let error = loaded.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!error.contains("unknown field"), "{name}: {error}");
        }
        let unknown = [("WASMWIZ_LISTEN__NOWHERE".to_owned(), "x".to_owned())].into_iter().collect();
        let error = Config::load_over(None, environment().source(Some(unknown))).unwrap_err().to_string();
        assert!(error.contains("unknown field") && error.contains("nowhere"), "{error}");
    }

    #[test]
    fn a_variable_overrides_its_key() {
        let variable = [("WASMWIZ_LISTEN__API".to_owned(), "0.0.0.0:1".to_owned())].into_iter().collect();
        let config = Config::load_over(None, environment().source(Some(variable))).unwrap();
        assert_eq!(config.listen.api.to_string(), "0.0.0.0:1");
    }

    #[test]
    fn a_secret_is_never_printed() {
        let config = loaded("[auth]\noperator_key = \"ww_canary\"\n").unwrap();
        assert!(!config.to_toml().unwrap().contains("canary"));
        assert!(!format!("{config:?}").contains("canary"));
        assert_eq!(config.auth.operator_key.unwrap().reveal(), "ww_canary");
    }

    #[test]
    fn a_secret_may_come_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("pepper");
        std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
        let config = loaded(&format!("[auth]\npepper_file = {secret:?}\n")).unwrap();
        assert_eq!(config.auth.pepper.unwrap().reveal(), "0123456789abcdef0123456789abcdef");
        let error = loaded("[auth]\npepper_file = \"/does/not/exist\"\n").unwrap_err().to_string();
        assert_eq!(error, "/does/not/exist cannot be read; auth.pepper_file names it");
    }
}
