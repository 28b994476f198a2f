//! The gateway: what its routes work with, and the two endpoints that a node serves.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::header;
use poem::{Endpoint, Response};
use wasmwiz_actors::{aggregate::Authority, tenant::Command};
use wasmwiz_actors::{
    dispatch::Dispatch,
    handle::{Ask, AskError, Decided, Origin},
    limits::Policy,
    region::Region,
};
use wasmwiz_events::{blobs::Blobs, id::TenantId, log::EventLog, revision::Position, time::Clock};
use wasmwiz_projections::{Views, views::View};

use crate::{
    auth::api_key::{Hasher, Secret},
    config::GatewayConfig,
    extract::body::Memory,
    middleware::Edge,
    router,
    routes::health::CheckCache,
};

/// What a gateway needs from its node.
pub struct GatewayDeps {
    /// Who decides.
    pub region: Region,
    /// Who runs and publishes.
    pub dispatch: Dispatch,
    /// What may be asked.
    pub views: Views,
    /// Where events and small payloads are read.
    pub log: Arc<dyn EventLog>,
    /// Where modules and large payloads are read.
    pub blobs: Arc<dyn Blobs>,
    /// Where "now" comes from.
    pub clock: Arc<dyn Clock>,
    /// What each tier allows.
    pub policy: Policy,
    /// With it, secrets are hashed as HMAC-SHA-256 instead of SHA-256.
    pub pepper: Option<Secret>,
    /// Does the node want requests?
    pub readiness: Readiness,
}

/// Does the node want requests? Clones share the answer.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on `/readyz` says that the node is draining, so that no new requests are sent here. Requests are served
    /// as before.
    pub fn begin_draining(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The gateway of a node. Clones share it.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

struct Shared {
    deps: GatewayDeps,
    config: GatewayConfig,
    hasher: Hasher,
    memory: Memory,
    executor_check: CheckCache,
}

impl Gateway {
    /// A gateway over what the node has started.
    pub fn new(mut deps: GatewayDeps, config: GatewayConfig) -> Self {
        let hasher = Hasher::new(deps.pepper.take());
        let (memory, executor_check) = (Memory::new(config.bodies_bytes_max), CheckCache::default());
        Self(Arc::new(Shared { deps, config, hasher, memory, executor_check }))
    }

    pub(crate) fn deps(&self) -> &GatewayDeps {
        &self.0.deps
    }

    pub(crate) fn config(&self) -> &GatewayConfig {
        &self.0.config
    }

    pub(crate) fn hasher(&self) -> &Hasher {
        &self.0.hasher
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.0.memory
    }

    pub(crate) fn executor_check(&self) -> &CheckCache {
        &self.0.executor_check
    }

    /// Gives a command to a tenant.
    pub(crate) async fn ask(
        &self,
        tenant: &TenantId,
        command: Command,
        by: Authority,
        origin: Origin,
    ) -> Result<Decided, AskError> {
        self.deps().region.ask(tenant, Ask { command, by, origin, payloads: Vec::new() }).await
    }

    /// Waits until this node's view shows what was written, so that the next request finds it. What was written is
    /// durable whether or not the view is in time.
    pub(crate) async fn until_visible(&self, view: View, position: Position) {
        let waited = self.deps().views.wait_for_view(view, position, self.config().visible_wait()).await;
        if let Err(behind) = waited {
            tracing::debug!(%behind, "a view does not show a write yet");
        }
    }
}

/// Everything that faces clients.
pub fn app(gateway: &Gateway) -> impl Endpoint<Output = Response> + 'static {
    let config = gateway.config();
    let (deadline, tls) = (config.request_deadline(), config.tls);
    Edge::new(router::build(router::table(), gateway), deadline, tls)
}

/// What faces operators: `/metrics` with the text that `metrics` gives, and the probes.
pub fn admin(
    gateway: &Gateway,
    metrics: impl Fn() -> String + Send + Sync + 'static,
) -> impl Endpoint<Output = Response> + 'static {
    let text = move || {
        Response::builder().header(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8").body(metrics())
    };
    Edge::new(router::admin(gateway, text), gateway.config().request_deadline(), false)
}
