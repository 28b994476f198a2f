//! Settings of the gateway: every bound with its unit and default.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::server::ServerConfig;

/// What the gateway takes, and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// The listener's bounds.
    pub server: ServerConfig,
    /// A JSON body, in bytes.
    pub json_bytes_max: u64,
    /// All bodies that are in memory together, in bytes. More is answered 503.
    pub bodies_bytes_max: u64,
    /// Of them, those of one tenant, in bytes. More is answered 503. At least the largest upload of the widest tier: a
    /// module with its input.
    pub bodies_bytes_per_tenant_max: u64,
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
    /// How long a read waits for `Wasmwiz-Min-Position`, in milliseconds.
    pub position_wait_ms: u64,
    /// How long a write waits until this node's views show it, in milliseconds. It is durable in any case.
    pub visible_wait_ms: u64,
    /// How long the result of the executor's check is good, in milliseconds: it runs a module.
    pub check_every_ms: u64,
    /// How long one health check may take, in milliseconds.
    pub check_timeout_ms: u64,
    /// Are clients reached by TLS? Then they are told to insist on it (HSTS).
    pub tls: bool,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            json_bytes_max: 64 << 10,
            bodies_bytes_max: 512 << 20,
            bodies_bytes_per_tenant_max: 128 << 20,
            body_idle_ms: 10_000,
            body_grace_ms: 10_000,
            body_rate_bytes: 16 << 10,
            multipart_parts_max: 70,
            request_deadline_ms: 360_000,
            position_wait_ms: 2_000,
            visible_wait_ms: 2_000,
            check_every_ms: 5_000,
            check_timeout_ms: 3_000,
            tls: false,
        }
    }
}

impl GatewayConfig {
    pub(crate) const fn request_deadline(&self) -> Duration {
        Duration::from_millis(self.request_deadline_ms)
    }

    pub(crate) const fn visible_wait(&self) -> Duration {
        Duration::from_millis(self.visible_wait_ms)
    }
}
