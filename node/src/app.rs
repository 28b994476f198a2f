//! Wiring: every concrete type is made here, in order, and stopped in the other order. No rule lives here.
//!
//! ```text
//! start: data folder, log, blobs, executors, region, bus, views, feed, dispatch, seat, gateway   then the sweep
//! stop:  not ready, gateway drained, executions ended, seat left, entities retired, feed, views, executors, log flushed
//! ```

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::{
    bus::CommandBus,
    dispatch::{Dispatch, DispatchDeps},
    executor::Executors,
    ids::Ids,
    ownership::Alone,
    region::{Region, RegionDeps},
};
use wasmwiz_events::{
    feed::{Feed, Keep},
    id::{BootId, NodeId},
    log::EventLog,
    revision::Position,
    time::{Clock, SystemClock},
};
use wasmwiz_gateway::{
    Gateway, GatewayConfig, GatewayDeps, Readiness,
    auth::{
        api_key::{Hasher, Secret},
        last_used::LastUsed,
    },
    server::{self, Drained, Tls},
};
use wasmwiz_projections::{Views, views::View};

use crate::{
    certificates,
    cluster::{membership::Identity, seat::Seat},
    config::{Config, ShutdownConfig},
    descriptors, folder,
    ready::Ready,
    shutdown::Signals,
    store::Store,
    sweep::Sweep,
    telemetry, token_keys,
};

/// The version of this node, for people.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The exit code of a node whose log has failed: `EX_IOERR` of BSD's sysexits.
const EXIT_LOG_FAILED: i32 = 74;

/// How often a start that waits for its views says so.
const STILL_WAITING_EVERY: Duration = Duration::from_secs(10);

/// How long a start waits until keys are let in, in seconds: with the view on disk that takes a moment.
const KEYS_WITHIN_S: u64 = 10;

/// Below the data folder: when keys were last used at this node.
const LAST_USED: &str = "last-used.json";

/// How often that is written, in seconds, if it has changed.
const LAST_USED_EVERY_S: u64 = 60;

/// Below the data folder: how far the feed has come.
const FEED_CHECKPOINT: &str = "feed.json";

/// How often the histograms are drained, in seconds: without it they grow while nobody scrapes them.
const UPKEEP_EVERY_S: u64 = 5;

/// The runtime of the gateway, the entities and the views. Guests run elsewhere.
///
/// # Errors
/// When the system has no threads left.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("wasmwiz").build();
    runtime.context("the runtime cannot be started")
}

/// Runs a node until it is told to stop, and stops it in order; or until its log fails, and stops at once. `prepare` is run
/// once it serves, for whatever should be there before anybody asks; a signal breaks it off.
///
/// # Errors
/// What could not be started or prepared, and what to do about it.
pub async fn run(config: &Config, prepare: impl AsyncFnOnce(&App) -> anyhow::Result<()>) -> anyhow::Result<()> {
    // First of all: a node that serves must never be ended by a signal that it does not hear.
    let mut signals = Signals::install().context("signals cannot be heard")?;
    descriptors::raise(config.gateway.server.connections_max);
    let app = tokio::select! {
        biased;
        signal = signals.requested() => {
            tracing::info!(signal, "the node stops before it has started");
            return Ok(());
        }
        started = App::start(config) => started?,
    };
    let lived = tokio::select! {
        biased;
        reason = app.store.log.poisoned() => {
            tracing::error!(%reason, "the log has failed; the node stops: repair what it names and start it again");
            // At once: an orderly stop would wait for the same log, and nothing may be served meanwhile.
            std::process::exit(EXIT_LOG_FAILED);
        }
        signal = signals.requested() => {
            tracing::info!(signal, "the node stops");
            Ok(())
        }
        Err(unprepared) = prepared_for_ever(prepare(&app)) => Err(unprepared),
    };
    app.stop().await;
    lived
}

/// Gives only the failure of `preparing`: what is prepared has nothing more to say.
async fn prepared_for_ever(preparing: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Infallible> {
    preparing.await?;
    std::future::pending().await
}

/// A running node.
pub struct App {
    node: NodeId,
    boot: BootId,
    store: Store,
    executors: Executors,
    seat: Option<Seat>,
    bus: CommandBus,
    views: Views,
    feed: Option<Feed>,
    dispatch: Dispatch,
    readiness: Readiness,
    hasher: Hasher,
    last_used: LastUsed,
    api_address: SocketAddr,
    admin_address: SocketAddr,
    is_tls: bool,
    stopping: CancellationToken,
    serving: Vec<JoinHandle<Drained>>,
    shutdown: ShutdownConfig,
}

impl App {
    /// Starts a node and returns once it serves; it may still be catching up, which its readiness tells.
    ///
    /// # Errors
    /// What could not be started, and what to do about it.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let metrics = telemetry::init_metrics()?;
        spawn_upkeep(metrics.clone());
        let tls = certificates::load(config.listen.tls.as_ref()).await?;
        let (api, admin) =
            (listen(config.listen.api, "listen.api").await?, listen(config.listen.admin, "listen.admin").await?);
        let (api_address, admin_address) = (api.local_addr()?, admin.local_addr()?);
        let data = &config.node.data_dir;
        folder::make(data)
            .with_context(|| format!("the data folder {} cannot be made; set node.data_dir", data.display()))?;

        // What may take a while at a first start comes before the views are opened: then they fold while it serves.
        let store = Store::open(config).await?;
        let (log, blobs) = (Arc::clone(&store.log), Arc::clone(&store.blobs));
        let (keyring, last_used) = (token_keys::ring(config)?, LastUsed::open(data.join(LAST_USED)));
        let executors = Executors::start(executor_config(config)?)?;
        tracing::info!(how = executors.memory_reset(), "the executors have started");
        let (node, boot) = (config.node.name.clone(), Ids.boot());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let is_tls = tls.is_some();
        let mut seat = config.cluster.is_on().then(|| {
            let address = url(api_address, is_tls);
            let identity = Identity { node: node.clone(), boot, version: VERSION.to_owned(), address };
            Seat::new(&config.cluster, identity, Arc::clone(&clock))
        });
        let deps = RegionDeps {
            log: Arc::clone(&log),
            clock: Arc::clone(&clock),
            policy: config.tiers,
            ownership: match &seat {
                Some(seat) => Arc::new(seat.beliefs()),
                None => Arc::new(Alone { node: node.clone(), boot }),
            },
        };
        let region = Region::start(config.region, deps).await?;
        let bus = match &seat {
            Some(seat) => seat.bus(region.clone()),
            None => CommandBus::alone(region.clone()),
        };
        let views = Views::open(&data.join("views"), config.views.clone(), Arc::clone(&log)).await?;
        let feed = start_feed(config, &log, &clock, seat.as_ref());
        let dispatch = Dispatch::new(DispatchDeps {
            bus: bus.clone(),
            executors: executors.clone(),
            blobs: Arc::clone(&blobs),
            log: Arc::clone(&log),
            node: node.clone(),
            boot,
        });
        let pepper = config.auth.pepper.as_ref().map(|pepper| Secret::new(pepper.reveal().as_bytes()));
        let (hasher, readiness) = (Hasher::new(pepper.clone()), Readiness::default());
        let deps = GatewayDeps {
            bus: bus.clone(),
            dispatch: dispatch.clone(),
            views: views.clone(),
            log,
            blobs,
            clock,
            policy: config.tiers,
            pepper,
            keyring,
            last_used: last_used.clone(),
            readiness: readiness.clone(),
            feed: feed.as_ref().map(Feed::status),
            feed_in_readiness: config.feed.in_readiness,
        };
        let stopping = CancellationToken::new();
        if let Some(seat) = &mut seat {
            seat.take(region, dispatch.clone());
        }
        certificates::keep_current(tls.as_ref(), &stopping)?;
        let settings = GatewayConfig { tls: config.gateway.tls || is_tls, ..config.gateway.clone() };
        let gateway = Gateway::new(deps, settings);
        let serving = serve((api, tls), admin, &gateway, metrics, &stopping);
        let app = Self {
            node,
            boot,
            store,
            executors,
            seat,
            bus,
            views,
            feed,
            dispatch,
            readiness,
            hasher,
            last_used,
            api_address,
            admin_address,
            is_tls,
            stopping,
            serving,
            shutdown: config.shutdown,
        };
        app.sweep();
        let denials = wasmwiz_gateway::record_denials(gateway);
        tokio::spawn(app.stopping.clone().run_until_cancelled_owned(denials));
        app.keep_last_used();
        tracing::info!(node = %app.node, boot = %app.boot, api = %api_address, admin = %admin_address, "the node serves");
        Ok(app)
    }

    /// Waits until every tenant has an owner: at a node that is alone, it is that already.
    ///
    /// # Errors
    /// When this node may not be a member of its cluster.
    pub async fn until_owned(&self) -> anyhow::Result<()> {
        match &self.seat {
            Some(seat) => seat.settled().await,
            None => Ok(()),
        }
    }

    /// The tenants.
    pub const fn bus(&self) -> &CommandBus {
        &self.bus
    }

    /// The views of this node.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// Waits until all views show what was recorded up to `position`. Views that are folded again may take long.
    ///
    /// # Errors
    /// When one has stopped: waiting longer does not help.
    pub async fn until_visible(&self, position: Position) -> anyhow::Result<()> {
        while let Err(behind) = self.views.wait_for(position, STILL_WAITING_EVERY).await {
            ensure!(!behind.stopped, "{behind}, and has stopped; the log line of that says why");
            tracing::warn!(%behind, "still waiting for the views to catch up");
        }
        Ok(())
    }

    /// Waits until the view of keys has caught up with the log since the start. One that is folded again may take long.
    ///
    /// # Errors
    /// When it has stopped: waiting longer does not help.
    pub async fn until_keys_are_folded(&self) -> anyhow::Result<()> {
        while let Err(behind) = self.views.until_live(View::Keys, STILL_WAITING_EVERY).await {
            ensure!(!behind.stopped, "{behind}, and has stopped; the log line of that says why");
            tracing::warn!(%behind, "still waiting for the view of keys to catch up");
        }
        Ok(())
    }

    /// Waits, for a moment, until the gateway lets keys in: until the view of keys has caught up with the log. A node
    /// that has more to fold goes on meanwhile and says so by its readiness.
    pub async fn until_keys_are_known(&self) {
        let within = Duration::from_secs(KEYS_WITHIN_S);
        if let Err(behind) = self.views.until_live(View::Keys, within).await {
            tracing::warn!(%behind, "the node refuses all keys until it knows which are valid");
        }
    }

    /// How the secrets of keys are hashed here.
    pub const fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// What a script needs to know of the node, without any key.
    pub fn ready(&self) -> Ready {
        Ready {
            url: url(self.api_address, self.is_tls),
            admin_url: format!("http://{}", self.admin_address),
            tenant: None,
            api_key: None,
            operator_token: None,
            pid: std::process::id(),
        }
    }

    async fn stop(self) {
        let within = Duration::from_millis;
        self.readiness.begin_draining();
        tokio::time::sleep(within(self.shutdown.announce_ms)).await;
        self.stopping.cancel();
        for serving in self.serving {
            match serving.await {
                Ok(drained) => tracing::info!(open = drained.open, aborted = drained.aborted, "a listener has drained"),
                Err(error) => tracing::error!(%error, "a listener failed"),
            }
        }
        self.dispatch.drain(within(self.shutdown.executions_ms)).await;
        save(&self.last_used).await;
        if let Some(seat) = self.seat {
            seat.leave().await;
        }
        self.bus.region().shutdown(within(self.shutdown.entities_ms)).await;
        if let Some(feed) = self.feed {
            feed.stop().await;
        }
        self.views.shutdown().await;
        self.executors.shutdown(within(self.shutdown.entities_ms)).await;
        self.store.close().await;
        tracing::info!("the node has stopped");
    }

    /// Keeps when keys were last used, beside everything else, until the node stops.
    fn keep_last_used(&self) {
        let last_used = self.last_used.clone();
        let keeping = async move {
            loop {
                tokio::time::sleep(Duration::from_secs(LAST_USED_EVERY_S)).await;
                save(&last_used).await;
            }
        };
        tokio::spawn(self.stopping.clone().run_until_cancelled_owned(keeping));
    }

    /// Looks for lost executions, beside everything else, until all are found or the node stops.
    fn sweep(&self) {
        let sweep = Sweep { views: self.views.clone(), bus: self.bus.clone(), log: Arc::clone(&self.store.log) };
        tokio::spawn(self.stopping.clone().run_until_cancelled_owned(sweep.run()));
    }
}

/// Where the API is.
fn url(address: SocketAddr, is_tls: bool) -> String {
    format!("{}://{address}", if is_tls { "https" } else { "http" })
}

/// The feed, if there is a bus to feed. It may be away: the node does not wait for it.
fn start_feed(config: &Config, log: &Arc<dyn EventLog>, clock: &Arc<dyn Clock>, seat: Option<&Seat>) -> Option<Feed> {
    let keep = || match seat {
        Some(seat) => Keep::Shared(seat.turns()),
        None => Keep::File(config.node.data_dir.join(FEED_CHECKPOINT)),
    };
    config.feed.is_on().then(|| Feed::start(config.feed.clone(), Arc::clone(log), Arc::clone(clock), keep()))
}

/// Serves the API, by TLS if there is one, and what is for operators.
fn serve(
    (api, tls): (TcpListener, Option<Tls>),
    admin: TcpListener,
    gateway: &Gateway,
    metrics: PrometheusHandle,
    stopping: &CancellationToken,
) -> Vec<JoinHandle<Drained>> {
    let (app, bounds) = (wasmwiz_gateway::app(gateway), &gateway.config().server);
    let admin_app = wasmwiz_gateway::admin(gateway, move || metrics.render());
    vec![
        tokio::spawn(server::serve_by(api, app, bounds.clone(), tls, stopping.clone())),
        tokio::spawn(server::serve(admin, admin_app, bounds.clone(), stopping.clone())),
    ]
}

/// Writes down when keys were last used.
async fn save(last_used: &LastUsed) {
    let last_used = last_used.clone();
    let saved = tokio::task::spawn_blocking(move || last_used.save()).await;
    if let Ok(Err(error)) = saved {
        tracing::warn!(%error, "when keys were last used cannot be kept; it is tried again");
    }
}

/// Drains the histograms for as long as the process lives.
fn spawn_upkeep(metrics: PrometheusHandle) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(UPKEEP_EVERY_S)).await;
            metrics.run_upkeep();
        }
    });
}

async fn listen(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}; free the port or set {key}"))
}

/// Guests are compiled by a child process of this same program, and its artefacts are kept below the data folder.
fn executor_config(config: &Config) -> anyhow::Result<wasmwiz_actors::executor::ExecutorConfig> {
    let mut executor = config.executor.clone();
    let program = std::env::current_exe().context("this program cannot find itself, to compile modules in a child")?;
    executor.compile.worker = Some(vec![program.into(), "__compile".into()]);
    executor.artefacts_dir.get_or_insert_with(|| config.node.data_dir.join("artefacts"));
    Ok(executor)
}
