//! Wiring: every concrete type is made here, in order, and stopped in the other order. No rule lives here.
//!
//! ```text
//! start: data folder, log, blobs, executors, region, views, dispatch, gateway     then the sweep for lost executions
//! stop:  not ready, gateway drained, executions ended, entities retired, views, executors, log flushed
//! ```

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
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
use wasmwiz_projections::Views;

use crate::{
    config::{Config, ShutdownConfig},
    ready::Ready,
    shutdown, telemetry,
};

/// How long the views may take to catch up before the sweep for lost executions gives up for this start, in seconds.
/// The executions it would have found are then declared lost when their tenants are next asked, or by their deadline.
const SWEEP_WITHIN_S: u64 = 300;

/// The runtime of the gateway, the entities and the views. Guests run elsewhere.
///
/// # Errors
/// When the system has no threads left.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("wasmwiz").build();
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
    /// When the log has failed: nothing can be recorded any more, so nothing may run.
    pub async fn run_until_stopped(self) -> anyhow::Result<()> {
        let signal = tokio::select! {
            signal = shutdown::requested() => signal?,
            reason = self.log.poisoned() => {
                tracing::error!(%reason, "the log has failed; the node stops");
                return Err(anyhow!("the log has failed: {reason}; repair the disk and start the node again"));
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
    /// earlier life of this node accepted. The view only says where to look.
    fn sweep(&self) {
        let (views, region, log) = (self.views.clone(), self.region.clone(), Arc::clone(&self.log));
        let (node, boot) = (self.node.clone(), self.boot);
        tokio::spawn(async move {
            let swept = async {
                views.wait_for(log.tail().await?, Duration::from_secs(SWEEP_WITHIN_S)).await?;
                for tenant in views.executions().open_tenants().await? {
                    let command = Command::Reap { node: node.clone(), boot };
                    let origin = Origin::internal(Ids.command());
                    let ask = Ask { command, by: Authority::System, origin, payloads: vec![] };
                    if let Err(error) = region.ask(&tenant, ask).await {
                        tracing::warn!(tenant.id = %tenant, %error, "lost executions could not be looked for");
                    }
                }
                anyhow::Ok(())
            };
            if let Err(error) = swept.await {
                tracing::warn!(%error, "lost executions could not be looked for");
            }
        });
    }
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
