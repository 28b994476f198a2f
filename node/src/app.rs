//! Wiring: every concrete type is made here, in order, and stopped in the other order. No rule lives here.
//!
//! ```text
//! start: data folder, disk, log, blobs, executors, region, bus, views, feed, dispatch, seat, gateway   then the sweep
//! stop:  not ready, API drained, executions ended, seat left, entities retired, feed, views, executors, log flushed, admin
//! ```
//! How long each part of a stop may take: see [`crate::shutdown`].

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use futures_util::FutureExt as _;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::{
    bus::CommandBus,
    dispatch::{Dispatch, DispatchDeps},
    executor::Executors,
    ids::Ids,
    ownership::Alone,
    region::{Region, RegionDeps},
    snapshots::{self, FileSnapshots},
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
    config::Config,
    descriptors,
    disk::Disk,
    folder, image,
    ready::Ready,
    shutdown::{self, Budget, Plan, Signals},
    store::{self, Store},
    telemetry, token_keys,
};

mod beside;

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

/// How long the last answers of the admin listener may take once everything else has stopped.
const ADMIN_WITHIN: Duration = Duration::from_millis(250);

/// Below the data folder: how far the feed has come.
const FEED_CHECKPOINT: &str = "feed.json";

/// The runtime of the gateway, the entities and the views. Guests run elsewhere.
///
/// # Errors
/// When the system has no threads left.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Said here, it is not read from the environment.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let builder = &mut tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(threads).enable_all().thread_name("wasmwiz").build();
    runtime.context("the runtime cannot be started")
}

/// Runs a node until it is told to stop, and stops it in order; or until its log fails, and stops at once. `prepare` is run
/// once it serves, for whatever should be there before anybody asks; a signal breaks it off.
///
/// # Errors
/// What could not be started or prepared, and what to do about it.
pub fn run(config: &Config, prepare: impl AsyncFnOnce(&App) -> anyhow::Result<()>) -> anyhow::Result<()> {
    descriptors::raise(config.gateway.server.connections_max)?;
    let runtime = runtime()?;
    let lived = runtime.block_on(live(config, prepare));
    // Whoever still waits for a disk must not be waited for.
    runtime.shutdown_background();
    lived
}

async fn live(config: &Config, prepare: impl AsyncFnOnce(&App) -> anyhow::Result<()>) -> anyhow::Result<()> {
    // First of all: a node that serves must never be ended by a signal that it does not hear.
    let mut signals = Signals::install().context("signals cannot be heard")?;
    shutdown::enforce(signals.clone(), config.shutdown.within());
    let app = tokio::select! {
        biased;
        told = signals.requested() => {
            tracing::info!(signal = told.name(), "the node stops before it has started");
            return Ok(());
        }
        started = App::start(config) => started?,
    };
    let log = Arc::clone(&app.store.log);
    let lived = tokio::select! {
        biased;
        reason = log.poisoned() => log_has_failed(&reason),
        told = signals.requested() => {
            tracing::info!(signal = told.name(), "the node stops");
            Ok(())
        }
        Err(unprepared) = prepared_for_ever(prepare(&app)) => {
            shutdown::cut_off_after(config.shutdown.within());
            Err(unprepared)
        }
    };
    tokio::select! {
        biased;
        reason = log.poisoned() => log_has_failed(&reason),
        () = app.stop(signals.budget()) => {}
    }
    // Its last write may be what failed.
    if let Some(reason) = log.poisoned().now_or_never() {
        log_has_failed(&reason);
    }
    tracing::info!("the node has stopped");
    lived
}

/// Ends the process at once: an orderly stop would wait for the same log, and nothing may be served meanwhile.
fn log_has_failed(reason: &str) -> ! {
    tracing::error!(reason, "the log has failed; the node stops: repair what it names and start it again");
    shutdown::exit(EXIT_LOG_FAILED)
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
    stopped: CancellationToken,
    serving: Serving,
    plan: Plan,
    entities: Duration,
}

/// The listeners.
struct Serving {
    api: JoinHandle<Drained>,
    admin: JoinHandle<Drained>,
}

impl App {
    /// Starts a node and returns once it serves; it may still be catching up, which its readiness tells.
    ///
    /// # Errors
    /// What could not be started, and what to do about it.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        config.warn();
        let metrics = telemetry::init_metrics()?;
        telemetry::keep_up(metrics.clone());
        let tls = certificates::load(config.listen.tls.as_ref()).await?;
        certificates::check_issuers(&config.gateway.tokens).await?;
        let (api, admin) =
            (listen(config.listen.api, "listen.api").await?, listen(config.listen.admin, "listen.admin").await?);
        let (api_address, admin_address) = (api.local_addr()?, admin.local_addr()?);
        let data = &config.node.data_dir;
        folder::make(data)
            .with_context(|| format!("the data folder {} cannot be used; set node.data_dir", data.display()))?;
        let disk = Disk::open(data, config.disk)?;
        let space = disk.space();
        // What may take a while at a first start comes before the views are opened: then they fold while it serves.
        let store = Store::open(config).await?;
        tokio::spawn(disk.watch(store.bounded_log()));
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
            policy: config.policy(),
            ownership: match &seat {
                Some(seat) => Arc::new(seat.beliefs()),
                None => Arc::new(Alone { node: node.clone(), boot }),
            },
            snapshots: Some(Arc::new(FileSnapshots::new(&snapshots::folder(&config.node.data_dir)))),
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
            space,
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
            policy: config.policy(),
            pepper,
            keyring,
            last_used: last_used.clone(),
            readiness: readiness.clone(),
            feed: feed.as_ref().map(Feed::status),
            feed_in_readiness: config.feed.in_readiness,
        };
        let stopping = CancellationToken::new();
        if let Some(seat) = &mut seat {
            seat.take(region.clone(), dispatch.clone());
        }
        certificates::keep_current(tls.as_ref(), &stopping)?;
        let settings = GatewayConfig { tls: config.gateway.tls || is_tls, ..config.gateway.clone() };
        let gateway = Gateway::new(deps, settings);
        let stopped = CancellationToken::new();
        let (executing, files) = (executors.clone(), store.files());
        let scrape = move || {
            region.observe();
            executing.observe();
            files.iter().for_each(|log| store::observe(log));
            metrics.render()
        };
        let serving = serve((api, tls), admin, &gateway, scrape, [&stopping, &stopped]);
        let leave = if seat.is_some() { config.cluster.leave_ms } else { 0 };
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
            stopped,
            serving,
            plan: Plan::of(&config.shutdown, Duration::from_millis(leave)),
            entities: Duration::from_millis(config.shutdown.entities_ms),
        };
        app.sweep();
        app.retain(config);
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

    /// Stops in order, within the time for it. The admin listener answers until the end, that this node is not ready.
    async fn stop(self, budget: Budget) {
        let plan = self.plan;
        self.readiness.begin_draining();
        tokio::time::sleep(plan.announce).await;
        self.stopping.cancel();
        let Serving { mut api, admin } = self.serving;
        let drained = async {
            let (drained, _) = tokio::join!(&mut api, self.dispatch.drain(budget.left(plan.guests_until)));
            told(drained);
            // A request that came while others ended may have begun another one.
            self.dispatch.drain(budget.left(plan.guests_until)).await
        };
        if budget.until(plan.guests_until, "waiting for executions and answers", drained).await != Some(true) {
            self.dispatch.cut_off();
            let ended = async {
                self.dispatch.drain(budget.left(plan.ends_until)).await;
                if !api.is_finished() {
                    told((&mut api).await);
                }
            };
            budget.until(plan.ends_until, "recording the ends of executions that were cut off", ended).await;
        }
        // A disk that hangs keeps no cluster waiting for its member.
        budget.until(plan.ends_until, "keeping when keys were last used", save(&self.last_used)).await;
        if let Some(seat) = self.seat {
            budget.until(plan.leave_until, "leaving the cluster", seat.leave(budget.left(plan.leave_until))).await;
        }
        let entities = |until| self.entities.min(budget.left(until));
        self.bus.region().shutdown(entities(plan.settle_until)).await;
        if let Some(feed) = self.feed {
            budget.until(plan.settle_until, "sending the last events", feed.stop()).await;
        }
        budget.until(plan.settle_until, "closing the views", self.views.shutdown()).await;
        self.executors.shutdown(entities(plan.settle_until)).await;
        if budget.until(plan.end, "closing the log", self.store.close()).await.is_none() {
            shutdown::exit(shutdown::EXIT_CUT_OFF);
        }
        self.stopped.cancel();
        if let Ok(drained) = tokio::time::timeout(ADMIN_WITHIN.min(budget.left(plan.end)), admin).await {
            told(drained);
        }
    }
}

fn told(drained: Result<Drained, tokio::task::JoinError>) {
    match drained {
        Ok(drained) => tracing::info!(open = drained.open, aborted = drained.aborted, "a listener has drained"),
        Err(error) => tracing::error!(%error, "a listener failed"),
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

/// Serves the API, by TLS if there is one, and what is for operators; each until its end.
fn serve(
    (api, tls): (TcpListener, Option<Tls>),
    admin: TcpListener,
    gateway: &Gateway,
    scrape: impl Fn() -> String + Send + Sync + 'static,
    [stopping, stopped]: [&CancellationToken; 2],
) -> Serving {
    let (app, bounds) = (wasmwiz_gateway::app(gateway), &gateway.config().server);
    let admin_app = wasmwiz_gateway::admin(gateway, scrape);
    Serving {
        api: tokio::spawn(server::serve_by(api, app, bounds.clone(), tls, stopping.clone())),
        admin: tokio::spawn(server::serve(admin, admin_app, bounds.clone(), stopped.clone())),
    }
}

/// Writes down when keys were last used.
async fn save(last_used: &LastUsed) {
    let last_used = last_used.clone();
    let saved = tokio::task::spawn_blocking(move || last_used.save()).await;
    if let Ok(Err(error)) = saved {
        tracing::warn!(%error, "when keys were last used cannot be kept; it is tried again");
    }
}

async fn listen(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}; free the port or set {key}"))
}

/// Guests are compiled by a child process of this same program, and its artefacts are kept below the data folder.
fn executor_config(config: &Config) -> anyhow::Result<wasmwiz_actors::executor::ExecutorConfig> {
    let mut executor = config.executor.clone();
    executor.compile.worker = Some(vec![image::path()?.into(), "__compile".into()]);
    executor.artefacts_dir.get_or_insert_with(|| config.node.data_dir.join("artefacts"));
    Ok(executor)
}
