//! The gateway: what its routes work with, and the two endpoints that a node serves.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use http::header;
use poem::{Endpoint, Response};
use tokio::time::Instant;
use wasmwiz_actors::{aggregate::Authority, tenant::Command};
use wasmwiz_actors::{
    dispatch::Dispatch,
    handle::{Ask, AskError, Decided, Origin},
    limits::Policy,
    region::Region,
};
use wasmwiz_events::{blobs::Blobs, id::TenantId, key::Scope, log::EventLog, revision::Position, time::Clock};
use wasmwiz_projections::{Behind, State, Views, views::View};

use crate::{
    auth::{
        Caller,
        api_key::{Hasher, Secret},
    },
    config::GatewayConfig,
    extract::body::{Memory, Share},
    middleware::Edge,
    problem::Problem,
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

/// How long it is remembered that the keys view has not stopped, in milliseconds: authentication asks for every request.
const KEYS_HEALTH_MS: u64 = 100;

/// May keys be compared with the keys view?
#[derive(Debug)]
struct KeysHealth {
    begun: Instant,
    /// Milliseconds from `begun` until the view is looked at again.
    look_at_ms: AtomicU64,
    /// It has caught up once. Before, it shows keys as they were: also those that are revoked further on in the log.
    caught_up: AtomicBool,
    /// A view that has stopped never goes on in the same process.
    stopped: AtomicBool,
}

impl KeysHealth {
    fn new() -> Self {
        let (caught_up, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { begun: Instant::now(), look_at_ms: AtomicU64::new(0), caught_up, stopped }
    }

    fn state(&self, views: &Views) -> KeysState {
        if self.stopped.load(Ordering::Acquire) {
            return KeysState::Stopped;
        }
        if self.caught_up.load(Ordering::Acquire) && !self.is_time_to_look() {
            return KeysState::Known;
        }
        match views.state(View::Keys) {
            State::CatchingUp => KeysState::CatchingUp,
            State::Live => {
                self.caught_up.store(true, Ordering::Release);
                KeysState::Known
            }
            State::Stopped { .. } => {
                self.stopped.store(true, Ordering::Release);
                KeysState::Stopped
            }
        }
    }

    /// Whoever moves the time on looks; the others have no need to.
    fn is_time_to_look(&self) -> bool {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let look_at_ms = self.look_at_ms.load(Ordering::Acquire);
        let next_ms = now_ms.saturating_add(KEYS_HEALTH_MS);
        let (done, lost) = (Ordering::AcqRel, Ordering::Relaxed);
        now_ms >= look_at_ms && self.look_at_ms.compare_exchange(look_at_ms, next_ms, done, lost).is_ok()
    }
}

/// What the keys view is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeysState {
    /// Nothing yet.
    CatchingUp,
    /// It knows the keys.
    Known,
    /// Nothing any more.
    Stopped,
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
    keys_health: KeysHealth,
}

impl Gateway {
    /// A gateway over what the node has started.
    pub fn new(mut deps: GatewayDeps, config: GatewayConfig) -> Self {
        let hasher = Hasher::new(deps.pepper.take());
        let memory = Memory::new(config.bodies_bytes_max, config.bodies_bytes_per_tenant_max);
        let executor_check = CheckCache::default();
        let keys_health = KeysHealth::new();
        Self(Arc::new(Shared { deps, config, hasher, memory, executor_check, keys_health }))
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

    /// The memory for bodies of one tenant.
    pub(crate) fn memory_of(&self, tenant: &TenantId) -> Share {
        self.0.memory.share(tenant)
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

    /// Gives an operator's command to a tenant. The system tenant is asked first whether the operator's key may: the view
    /// that let it in may be behind, and the tenant that is operated on does not know the key.
    pub(crate) async fn operate(
        &self,
        operator: &Caller,
        tenant: &TenantId,
        command: Command,
        origin: Origin,
    ) -> Result<Decided, Problem> {
        let may = Command::Authorise(Scope::Operator);
        let asked = self.ask(operator.tenant_id(), may, operator.authority(), origin.clone()).await;
        asked.map_err(Problem::not_authorised)?;
        Ok(self.ask(tenant, command, operator.operator(), origin).await?)
    }

    /// Refuses unless the keys view can tell which keys are valid: it must have caught up once since the node started,
    /// and must not have stopped. Otherwise it would let in keys that are revoked, and tenants that are suspended.
    pub(crate) fn require_keys(&self) -> Result<(), Problem> {
        match self.0.keys_health.state(&self.deps().views) {
            KeysState::Known => Ok(()),
            KeysState::CatchingUp => Err(Problem::keys_not_known_yet()),
            KeysState::Stopped => {
                let detail = "This node cannot tell any more which keys are valid. Ask another node.";
                Err(Problem::unavailable(detail, "the keys view has stopped"))
            }
        }
    }

    /// Waits until this node's view shows what was written, so that the next request finds it. What was written is
    /// durable whether or not the view is in time.
    pub(crate) async fn until_visible(&self, view: View, position: Position) {
        if let Err(behind) = self.shown(view, position).await {
            tracing::debug!(%behind, "a view does not show a write yet");
        }
    }

    /// Waits until this node refuses what was just forbidden. The answer must not claim it before.
    pub(crate) async fn until_forbidden(&self, position: Position) -> Result<(), Problem> {
        self.shown(View::Keys, position).await.map_err(|behind| {
            let detail = "The change is recorded and will last, but this node does not act on it yet: a key may work \
                 here for a moment. Send the request again after the pause to be sure; that changes nothing more.";
            Problem::unavailable(detail, behind)
        })
    }

    async fn shown(&self, view: View, position: Position) -> Result<(), Behind> {
        self.deps().views.wait_for_view(view, position, self.config().visible_wait()).await
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
