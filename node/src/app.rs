//! Wiring: every concrete type is made here, in order, and stopped in the other order. No rule lives here.
//!
//! ```text
//! start: data folder, log, blobs, executors, region, views, dispatch, gateway     then the sweep for lost executions
//! stop:  not ready, gateway drained, executions ended, entities retired, views, executors, log flushed
//! ```

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::{
    dispatch::{Dispatch, DispatchDeps},
    executor::Executors,
    ids::Ids,
    region::{Region, RegionDeps},
};
use wasmwiz_events::{
    blobs::{Blobs, fs::FsBlobs},
    id::{BootId, NodeId},
    log::{EventLog, sqlite::SqliteLog},
    revision::{Epoch, Position},
    time::{Clock, SystemClock},
};
use wasmwiz_gateway::{
    Gateway, GatewayDeps, Readiness,
    auth::api_key::{Hasher, Secret},
    server::{self, Drained},
};
use wasmwiz_projections::{Views, views::View};

use crate::{
    config::{Config, ShutdownConfig},
    folder,
    ready::Ready,
    shutdown::Signals,
    sweep::Sweep,
    telemetry,
};

/// The exit code of a node whose log has failed: `EX_IOERR` of BSD's sysexits.
const EXIT_LOG_FAILED: i32 = 74;

/// How often a start that waits for its views says so.
const STILL_WAITING_EVERY: Duration = Duration::from_secs(10);

/// How long a start waits until keys are let in, in seconds: with the view on disk that takes a moment.
const KEYS_WITHIN_S: u64 = 10;

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
        reason = app.log.poisoned() => {
            tracing::error!(%reason, "the log has failed; the node stops: repair the disk and start it again");
            // At once: an orderly stop would wait for the same disk, and nothing may be served meanwhile.
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
    log: Arc<SqliteLog>,
    executors: Executors,
    region: Region,
    views: Views,
    dispatch: Dispatch,
    readiness: Readiness,
    hasher: Hasher,
    api_address: SocketAddr,
    admin_address: SocketAddr,
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
        let (api, admin) =
            (listen(config.listen.api, "listen.api").await?, listen(config.listen.admin, "listen.admin").await?);
        let (api_address, admin_address) = (api.local_addr()?, admin.local_addr()?);
        let data = &config.node.data_dir;
        folder::make(data)
            .with_context(|| format!("the data folder {} cannot be made; set node.data_dir", data.display()))?;

        let log = Arc::new(SqliteLog::open(&data.join("log"), config.log.sqlite.clone())?);
        let blobs: Arc<dyn Blobs> = Arc::new(FsBlobs::open(&data.join("blobs"))?);
        let executors = Executors::start(executor_config(config)?)?;
        let (node, boot) = (config.node.name.clone(), Ids.boot());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let deps = RegionDeps {
            log: Arc::clone(&log) as Arc<dyn EventLog>,
            clock: Arc::clone(&clock),
            policy: config.tiers,
            node: node.clone(),
            boot,
            epoch: Epoch::FIRST,
        };
        let region = Region::start(config.region, deps).await?;
        let views =
            Views::open(&data.join("views"), config.views.clone(), Arc::clone(&log) as Arc<dyn EventLog>).await?;
        let dispatch = Dispatch::new(DispatchDeps {
            region: region.clone(),
            executors: executors.clone(),
            blobs: Arc::clone(&blobs),
            log: Arc::clone(&log) as Arc<dyn EventLog>,
            node: node.clone(),
            boot,
        });
        let pepper = config.auth.pepper.as_ref().map(|pepper| Secret::new(pepper.reveal().as_bytes()));
        let (hasher, readiness) = (Hasher::new(pepper.clone()), Readiness::default());
        let deps = GatewayDeps {
            region: region.clone(),
            dispatch: dispatch.clone(),
            views: views.clone(),
            log: Arc::clone(&log) as Arc<dyn EventLog>,
            blobs,
            clock,
            policy: config.tiers,
            pepper,
            readiness: readiness.clone(),
        };
        let gateway = Gateway::new(deps, config.gateway.clone());
        let (stopping, bounds) = (CancellationToken::new(), &config.gateway.server);
        let admin_app = wasmwiz_gateway::admin(&gateway, move || metrics.render());
        let serving = vec![
            tokio::spawn(server::serve(api, wasmwiz_gateway::app(&gateway), bounds.clone(), stopping.clone())),
            tokio::spawn(server::serve(admin, admin_app, bounds.clone(), stopping.clone())),
        ];
        let app = Self {
            node,
            boot,
            log,
            executors,
            region,
            views,
            dispatch,
            readiness,
            hasher,
            api_address,
            admin_address,
            stopping,
            serving,
            shutdown: config.shutdown,
        };
        app.sweep();
        tracing::info!(node = %app.node, boot = %app.boot, api = %api_address, admin = %admin_address, "the node serves");
        Ok(app)
    }

    /// The tenants of this node.
    pub fn region(&self) -> &Region {
        &self.region
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
            url: format!("http://{}", self.api_address),
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
        self.region.shutdown(within(self.shutdown.entities_ms)).await;
        self.views.shutdown().await;
        self.executors.shutdown(within(self.shutdown.entities_ms)).await;
        let log = self.log;
        if let Err(error) = tokio::task::spawn_blocking(move || log.close()).await {
            tracing::error!(%error, "the log could not be closed");
        }
        tracing::info!("the node has stopped");
    }

    /// Looks for lost executions, beside everything else, until all are found or the node stops.
    fn sweep(&self) {
        let sweep = Sweep {
            views: self.views.clone(),
            region: self.region.clone(),
            log: Arc::clone(&self.log) as Arc<dyn EventLog>,
            node: self.node.clone(),
            boot: self.boot,
        };
        tokio::spawn(self.stopping.clone().run_until_cancelled_owned(sweep.run()));
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
