//! Settings of the gateway: every bound with its unit and default.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    auth::config::{AttemptsConfig, TokensConfig},
    server::ServerConfig,
    stream::StreamsConfig,
};

/// What the gateway takes, and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// The listener's bounds.
    pub server: ServerConfig,
    /// A JSON body, in bytes.
    pub json_bytes_max: u64,
    /// All bodies and answers that are in memory together, in bytes. More is answered 503. At least three times the largest upload
    /// of the widest tier: one tenant may have half of what the others leave.
    pub bodies_bytes_max: u64,
    /// Of them, those of one tenant, in bytes. More is answered 503. At least the largest upload of the widest tier: a
    /// module with its input.
    pub bodies_bytes_per_tenant_max: u64,
    /// Of those of one tenant, those that come over one connection, in bytes; never more than the tenant's. More is answered 503.
    pub bodies_bytes_per_connection_max: u64,
    /// What the work of tenants leaves of all, in bytes: for operators, and for keys and tokens.
    pub bodies_bytes_reserved: u64,
    /// The items of one page of a list, in bytes, about. A page that would have more ends early, with its cursor.
    pub page_bytes_max: u64,
    /// Between two pieces of a body, in milliseconds.
    pub body_idle_ms: u64,
    /// What a body may take whatever its size, in milliseconds.
    pub body_grace_ms: u64,
    /// The least rate at which a body must come once that has passed, in bytes a second.
    pub body_rate_bytes: u64,
    /// Parts of a multipart body: a module, an input and the arguments.
    pub multipart_parts_max: usize,
    /// One request in all, in milliseconds. Longer than the longest execution with its compilation.
    pub request_deadline_ms: u64,
    /// What the resource of an execution has of each of its outputs, in bytes. More is read under `/stdout` and `/stderr`.
    pub inline_output_bytes: u64,
    /// How long a read waits for `Wasmwiz-Min-Position`, in milliseconds.
    pub position_wait_ms: u64,
    /// How long a write waits until this node's views show it, in milliseconds. It is durable in any case.
    pub visible_wait_ms: u64,
    /// How often denied requests are written down, in milliseconds; a tenant does so once a minute at most.
    pub denials_every_ms: u64,
    /// Streams of events.
    pub streams: StreamsConfig,
    /// The longest time that `Prefer: respond-async, wait=N` waits, in milliseconds. Longer waits are cut to it.
    pub prefer_wait_max_ms: u64,
    /// How long the result of the executor's check is good, in milliseconds: it runs a module.
    pub check_every_ms: u64,
    /// How long one health check may take, in milliseconds.
    pub check_timeout_ms: u64,
    /// Signed tokens, and the issuers that are believed.
    pub tokens: TokensConfig,
    /// How often somebody may present credentials that are none.
    pub attempts: AttemptsConfig,
    /// Are clients reached by TLS? Then they are told to insist on it (HSTS). Set it when a proxy in front speaks TLS; a
    /// node that does so itself need not be told.
    pub tls: bool,
    /// Which pages of other origins may call the API.
    pub cors: CorsConfig,
}

/// Which pages of other origins may call the API from a browser. None may, unless it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Their origins, each as a browser names it: `https://console.example.org`. There is no wildcard.
    pub allowed_origins: Vec<String>,
    /// How long a browser may remember the answer to a preflight, in seconds.
    pub max_age_s: u32,
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self { allowed_origins: Vec::new(), max_age_s: 600 }
    }
}

impl CorsConfig {
    /// The first of the origins that no browser would ever name.
    pub fn misspelt(&self) -> Option<&str> {
        let spelt = |origin: &str| {
            let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            authority.is_some_and(|authority| {
                let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
                !authority.is_empty() && authority.chars().all(part)
            })
        };
        self.allowed_origins.iter().map(String::as_str).find(|origin| !spelt(origin))
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            json_bytes_max: 64 << 10,
            bodies_bytes_max: 512 << 20,
            bodies_bytes_per_tenant_max: 128 << 20,
            bodies_bytes_per_connection_max: 96 << 20,
            bodies_bytes_reserved: 16 << 20,
            page_bytes_max: 512 << 10,
            body_idle_ms: 10_000,
            body_grace_ms: 10_000,
            body_rate_bytes: 16 << 10,
            multipart_parts_max: 70,
            request_deadline_ms: 360_000,
            inline_output_bytes: 256 << 10,
            position_wait_ms: 2_000,
            visible_wait_ms: 2_000,
            denials_every_ms: 60_000,
            streams: StreamsConfig::default(),
            prefer_wait_max_ms: 30_000,
            check_every_ms: 5_000,
            check_timeout_ms: 3_000,
            tokens: TokensConfig::default(),
            attempts: AttemptsConfig::default(),
            tls: false,
            cors: CorsConfig::default(),
        }
    }
}

impl GatewayConfig {
    pub(crate) const fn request_deadline(&self) -> Duration {
        Duration::from_millis(self.request_deadline_ms)
    }

    pub(crate) const fn prefer_wait_max(&self) -> Duration {
        Duration::from_millis(self.prefer_wait_max_ms)
    }

    pub(crate) const fn visible_wait(&self) -> Duration {
        Duration::from_millis(self.visible_wait_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_spelt_as_browsers_do() {
        let misspelt = |origin: &str| {
            let cors = CorsConfig { allowed_origins: vec![origin.to_owned()], ..Default::default() };
            cors.misspelt().is_some()
        };
        for origin in ["https://a.example", "http://localhost:3000", "http://[::1]:8080"] {
            assert!(!misspelt(origin), "{origin}");
        }
        for origin in
            ["*", "null", "", "https://", "a.example", "https://a.example/", "https://A.example", "https://*.a"]
        {
            assert!(misspelt(origin), "{origin}");
        }
    }
}
