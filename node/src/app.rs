//! Wiring: every concrete type is made here, in order, and stopped in the other order. No rule lives here.
//!
//! ```text
//! start: data folder, log, blobs, executors, region, views, dispatch, gateway     then the sweep for lost executions
//! stop:  not ready, gateway drained, executions ended, entities retired, views, executors, log flushed
//! ```

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::{
    aggregate::Authority,
    dispatch::{Dispatch, DispatchDeps},
    executor::Executors,
    handle::{Ask, Origin},
    ids::Ids,
    region::{Region, RegionDeps},
    tenant::Command,
};
use wasmwiz_events::{
    blobs::{Blobs, fs::FsBlobs},
    id::{BootId, NodeId},
    log::{EventLog, sqlite::SqliteLog},
    revision::Epoch,
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
    ready::Ready,
    shutdown, telemetry,
};

/// The exit code of a node whose log has failed: `EX_IOERR` of BSD's sysexits.
const EXIT_LOG_FAILED: i32 = 74;

/// The pause before the sweep for lost executions is tried again, in seconds.
const SWEEP_AGAIN_S: u64 = 5;

/// How long a start waits for one view to catch up, in seconds.
const VIEW_WITHIN_S: u64 = 60;

/// How long a start waits until keys are let in, in seconds: with the view on disk that takes a moment.
const KEYS_WITHIN_S: u64 = 10;

/// How often the histograms are drained, in seconds: without it they grow while nobody scrapes them.
const UPKEEP_EVERY_S: u64 = 5;

/// The runtime of the gateway, the entities and the views. Guests run elsewhere.
///
/// # Errors
/// When the system has no threads left.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("wasmwiz")
        .global_queue_interval(4)
        .build();
    runtime.context("the runtime cannot be started")
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
        std::fs::create_dir_all(data)
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

    /// Waits until the view of keys shows everything that the log has.
    ///
    /// # Errors
    /// When the log cannot be read, or the view does not get there within a minute.
    pub async fn until_keys_are_visible(&self) -> anyhow::Result<()> {
        let tail = self.log.tail().await?;
        self.views.wait_for_view(View::Keys, tail, Duration::from_secs(VIEW_WITHIN_S)).await?;
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

    /// Waits for a signal and stops in order; or for the log to fail, and stops at once.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub async fn run_until_stopped(self) -> anyhow::Result<()> {
        let signal = tokio::select! {
            signal = shutdown::requested() => signal?,
            reason = self.log.poisoned() => {
                tracing::error!(%reason, "the log has failed; the node stops: repair the disk and start it again");
                // At once: an orderly stop would wait for the same disk, and nothing may be served meanwhile.
                std::process::exit(EXIT_LOG_FAILED);
            }
        };
        tracing::info!(signal, "the node stops");
        self.stop().await;
        Ok(())
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

    /// Wakes the tenants that have executions without an end: an entity that is read back declares lost what an
    /// earlier life of this node accepted. The view only says where to look. Goes on until every tenant has answered.
    fn sweep(&self) {
        let (views, region, log) = (self.views.clone(), self.region.clone(), Arc::clone(&self.log));
        let (node, boot) = (self.node.clone(), self.boot);
        tokio::spawn(async move {
            while let Err(error) = sweep_once(&views, &region, &log, &node, boot).await {
                tracing::warn!(%error, "lost executions could not be looked for; trying again");
                tokio::time::sleep(Duration::from_secs(SWEEP_AGAIN_S)).await;
            }
        });
    }
}

async fn sweep_once(
    views: &Views,
    region: &Region,
    log: &SqliteLog,
    node: &NodeId,
    boot: BootId,
) -> anyhow::Result<()> {
    let caught_up = views.wait_for_view(View::Executions, log.tail().await?, Duration::from_secs(VIEW_WITHIN_S));
    caught_up.await?;
    for tenant in views.executions().open_tenants().await? {
        let command = Command::Reap { node: node.clone(), boot };
        let origin = Origin::internal(Ids.command());
        region.ask(&tenant, Ask { command, by: Authority::System, origin, payloads: vec![] }).await?;
    }
    Ok(())
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
