//! The gateway: what its routes work with, and the two endpoints that a node serves.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use http::header;
use poem::{Endpoint, Response};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::{
    aggregate::Authority,
    tenant::{Command, SYSTEM},
};
use wasmwiz_actors::{
    bus::CommandBus,
    dispatch::Dispatch,
    handle::{Ask, AskError, Decided, Origin},
    limits::Policy,
};
use wasmwiz_events::{blobs::Blobs, feed, id::TenantId, key::Scope, log::EventLog, revision::Position, time::Clock};
use wasmwiz_projections::{Behind, State, Views, keys::Standing, views::View};

use crate::{
    auth::{
        self, Caller,
        api_key::{Hasher, Secret},
        attempts::Attempts,
        issuer::Issuers,
        keyring::Keyring,
        last_used::LastUsed,
    },
    config::GatewayConfig,
    denials::Denials,
    lists::{Lists, Turn},
    memory::{Memory, Share},
    middleware::Edge,
    problem::Problem,
    router,
    routes::health::CheckCache,
    shares::Purpose,
    stream::{Seats, follow::Follower},
};

/// What a gateway needs from its node.
pub struct GatewayDeps {
    /// Who decides.
    pub bus: CommandBus,
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
    /// With what the platform signs its own tokens.
    pub keyring: Keyring,
    /// When keys were last let in here.
    pub last_used: LastUsed,
    /// Does the node want requests?
    pub readiness: Readiness,
    /// The feed, if there is one.
    pub feed: Option<feed::Status>,
    /// Is the node not ready while its feed is not well?
    pub feed_in_readiness: bool,
}

/// Does the node want requests? Clones share the answer.
#[derive(Debug, Clone, Default)]
pub struct Readiness(CancellationToken);

impl Readiness {
    /// From now on `/readyz` says that the node is draining, so that no new requests are sent here. Requests are served
    /// as before; streams end, so that their clients go elsewhere.
    pub fn begin_draining(&self) {
        self.0.cancel();
    }

    /// Cancelled once it does not.
    pub(crate) fn draining(&self) -> CancellationToken {
        self.0.clone()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.is_cancelled()
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
    lists: Lists,
    /// Pages of audit, which are read from the log: no other page waits for what that takes.
    audits: Lists,
    executor_check: CheckCache,
    keys_health: KeysHealth,
    denials: Denials,
    seats: Seats,
    follower: Follower,
    attempts: Attempts,
    issuers: Issuers,
}

impl Gateway {
    /// A gateway over what the node has started, within its runtime: the keys of issuers are fetched from now on.
    pub fn new(mut deps: GatewayDeps, config: GatewayConfig) -> Self {
        let hasher = Hasher::new(deps.pepper.take());
        let memory = Memory::of(&config);
        let executor_check = CheckCache::default();
        let (keys_health, denials) = (KeysHealth::new(), Denials::default());
        let (attempts, issuers) = (Attempts::new(config.attempts), Issuers::start(&config.tokens, &deps.clock));
        let (seats, follower) = (Seats::default(), Follower::new(Arc::clone(&deps.log), deps.readiness.draining()));
        let shared = Shared {
            deps,
            config,
            hasher,
            memory,
            lists: Lists::default(),
            audits: Lists::default(),
            executor_check,
            keys_health,
            denials,
            attempts,
            issuers,
            seats,
            follower,
        };
        Self(Arc::new(shared))
    }

    pub(crate) fn deps(&self) -> &GatewayDeps {
        &self.0.deps
    }

    /// Its settings.
    pub fn config(&self) -> &GatewayConfig {
        &self.0.config
    }

    pub(crate) fn hasher(&self) -> &Hasher {
        &self.0.hasher
    }

    pub(crate) fn attempts(&self) -> &Attempts {
        &self.0.attempts
    }

    pub(crate) fn issuers(&self) -> &Issuers {
        &self.0.issuers
    }

    /// The memory for the requests of a caller and the answers to them.
    pub(crate) fn memory_of(&self, caller: &Caller) -> Share {
        self.0.memory.share(caller.tenant_id(), caller.connection())
    }

    /// The same, with a part of the reserve: for what operators do, and for what keeps a tenant in control of itself.
    pub(crate) fn reserve_of(&self, caller: &Caller) -> Share {
        let operates = caller.tenant_id().as_str() == SYSTEM;
        self.memory_of(caller).with_reserve(if operates { Purpose::Operation } else { Purpose::Control })
    }

    /// The caller's turn to have a page of a list made. Keep it until the page is ready to be sent.
    pub(crate) async fn turn_of_list(&self, caller: &Caller) -> Result<Turn, Problem> {
        self.0.lists.turn(caller.tenant_id()).await
    }

    /// The same for a page of events.
    pub(crate) async fn turn_of_audit(&self, caller: &Caller) -> Result<Turn, Problem> {
        self.0.audits.turn(caller.tenant_id()).await
    }

    /// What was denied and is not written down yet.
    pub(crate) fn denials(&self) -> &Denials {
        &self.0.denials
    }

    /// Who has a stream open.
    pub(crate) fn seats(&self) -> &Seats {
        &self.0.seats
    }

    /// Who tells streams that there is more.
    pub(crate) fn follower(&self) -> &Follower {
        &self.0.follower
    }

    /// Would the caller still be let in, and may it act under `scope`?
    pub(crate) fn still_holds(&self, caller: &Caller, scope: Scope) -> bool {
        self.require_keys().is_ok() && self.renewed(caller).is_some_and(|caller| caller.authorise(Some(scope)).is_ok())
    }

    /// May the tenant act, as far as this node knows?
    pub(crate) fn is_active(&self, tenant: &TenantId) -> bool {
        let known = self.deps().views.keys().tenant(tenant);
        known.is_some_and(|tenant| tenant.standing == Standing::Active)
    }

    /// The caller as the view knows it now, if its credential still holds.
    pub(crate) fn renewed(&self, caller: &Caller) -> Option<Caller> {
        auth::renew(caller, self.deps().views.keys(), self.deps().clock.now())
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
        self.deps().bus.ask(tenant, Ask { command, by, origin, payloads: Vec::new() }).await
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

    /// Waits until this node knows what became of keys up to there. What is to last longer than a request must not rest on less.
    pub(crate) async fn until_known(&self, position: Position) -> Result<(), Problem> {
        self.shown(View::Keys, position).await.map_err(|behind| {
            let detail =
                "This node does not know at the moment whether the credential still holds. Try again after the pause.";
            Problem::unavailable(detail, behind)
        })
    }

    async fn shown(&self, view: View, position: Position) -> Result<(), Behind> {
        self.deps().views.wait_for_view(view, position, self.config().visible_wait()).await
    }
}

/// Everything that faces clients.
pub fn app(gateway: &Gateway) -> impl Endpoint<Output = Response> + 'static {
    Edge::new(router::build(router::table(), gateway), gateway.config(), gateway.deps().readiness.clone())
}

/// What faces operators: `/metrics` with the text that `metrics` gives, and the probes.
pub fn admin(
    gateway: &Gateway,
    metrics: impl Fn() -> String + Send + Sync + 'static,
) -> impl Endpoint<Output = Response> + 'static {
    let text = move || {
        Response::builder().header(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8").body(metrics())
    };
    // It is in the clear, and for no browser.
    let config = GatewayConfig { tls: false, cors: Default::default(), ..gateway.config().clone() };
    Edge::new(router::admin(gateway, text), &config, gateway.deps().readiness.clone())
}
