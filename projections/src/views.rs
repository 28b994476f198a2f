//! All views of a node: started together, asked one by one.

use std::{
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use wasmwiz_events::{log::EventLog, revision::Position};

use crate::{
    audit::{Audit, AuditProjection},
    checksum,
    executions::{Executions, ExecutionsProjection},
    keys::{Keys, KeysProjection},
    metrics,
    modules::{Modules, ModulesProjection},
    progress::{Behind, Progress, State, ViewStatus},
    projection::{Fault, Projection},
    quarantine::Quarantine,
    readers::{QueryError, Readers},
    rebuild::{FileError, ViewFile},
    runner::{Order, Runner},
    usage::{Usage, UsageProjection},
};

pub use crate::checksum::Checksum;

/// Settings of the views.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Events after which a batch is written. Large enough that the cost of a transaction vanishes.
    pub batch_events: usize,
    /// How long a batch waits for more events when nobody waits for it, in milliseconds.
    pub linger_ms: u64,
    /// Connections for queries, for each view.
    pub readers: usize,
    /// How long a query waits for a connection, in milliseconds.
    pub reader_wait_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { batch_events: 2_000, linger_ms: 20, readers: 4, reader_wait_ms: 2_000 }
    }
}

/// The views cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder, or a view's file, cannot be opened, replaced or written.
    #[error("view {view} cannot be opened in {folder}")]
    File {
        /// Which view.
        view: &'static str,
        /// The folder of the views.
        folder: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A thread cannot be started.
    #[error("the thread of view {view} cannot be started")]
    Thread {
        /// Which view.
        view: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The name of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// [`crate::keys`]
    Keys,
    /// [`crate::modules`]
    Modules,
    /// [`crate::executions`]
    Executions,
    /// [`crate::usage`]
    Usage,
    /// [`crate::audit`]
    Audit,
}

/// All views of a node. Clones share them; when the last one is dropped the threads end.
#[derive(Debug, Clone)]
pub struct Views(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keys: Keys,
    modules: Modules,
    executions: Executions,
    usage: Usage,
    audit: Audit,
    started: Vec<Started>,
    orders: watch::Sender<Order>,
    /// How often somebody has asked to try again what is set aside.
    retries: watch::Sender<u64>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Started {
    view: View,
    name: &'static str,
    progress: Arc<Progress>,
    readers: Readers,
}

/// How long all views may take to try again what they have set aside.
const TRIED_WITHIN: Duration = Duration::from_secs(30);

impl Views {
    /// Opens the views in `folder` and begins to follow `log`. Returns before they have caught up.
    ///
    /// A file that is damaged, or that was folded from another log, is deleted and folded again.
    ///
    /// # Errors
    /// [`OpenError`] when the folder cannot be used or a thread cannot be started.
    pub async fn open(folder: &Path, config: Config, log: Arc<dyn EventLog>) -> Result<Self, OpenError> {
        let io = |source: io::Error| OpenError::File { view: "all", folder: folder.to_owned(), source: source.into() };
        // Readable by their owner only: the views hold names, times and hashes of keys of all tenants.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        let (orders, retries) = (watch::Sender::new(Order::Follow), watch::Sender::new(0));
        let mut opening = Opening { folder, config, log, orders, retries, ready: Vec::new() };
        let keys = KeysProjection::default();
        let directory = keys.directory();
        let keys = Keys::new(directory, opening.prepare(View::Keys, keys).await?);
        let modules = Modules::new(opening.prepare(View::Modules, ModulesProjection::default()).await?);
        let executions = Executions::new(opening.prepare(View::Executions, ExecutionsProjection::default()).await?);
        let usage = Usage::new(opening.prepare(View::Usage, UsageProjection::default()).await?);
        let audit = Audit::new(opening.prepare(View::Audit, AuditProjection::default()).await?);
        let (mut started, mut threads) = (Vec::new(), Vec::new());
        for (view, spawn) in opening.ready {
            threads.push(spawn().map_err(|source| OpenError::Thread { view: view.name, source })?);
            started.push(view);
        }
        let (orders, retries, threads) = (opening.orders, opening.retries, Mutex::new(threads));
        Ok(Self(Arc::new(Inner { keys, modules, executions, usage, audit, started, orders, retries, threads })))
    }

    /// Who may come in.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// What can be run.
    pub fn modules(&self) -> &Modules {
        &self.0.modules
    }

    /// What ran.
    pub fn executions(&self) -> &Executions {
        &self.0.executions
    }

    /// What it cost.
    pub fn usage(&self) -> &Usage {
        &self.0.usage
    }

    /// Where to find it in the log.
    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// Waits until all views have folded the log up to `position`.
    ///
    /// # Errors
    /// [`Behind`]: the first view that has stopped before it, or has not reached it in time.
    pub async fn wait_for(&self, position: Position, timeout: Duration) -> Result<(), Behind> {
        let mut waits: Vec<_> =
            self.0.started.iter().map(|view| Box::pin(view.progress.wait_for(position, timeout))).collect();
        // All at once: each view that is waited for writes without lingering, and they share one deadline.
        std::future::poll_fn(|context| {
            let mut behind = None;
            waits.retain_mut(|wait| match wait.as_mut().poll(context) {
                std::task::Poll::Ready(Ok(())) => false,
                std::task::Poll::Ready(Err(error)) => {
                    behind.get_or_insert(error);
                    false
                }
                std::task::Poll::Pending => true,
            });
            match behind {
                Some(error) => std::task::Poll::Ready(Err(error)),
                None if waits.is_empty() => std::task::Poll::Ready(Ok(())),
                None => std::task::Poll::Pending,
            }
        })
        .await
    }

    /// Waits until one view has folded the log up to `position`.
    ///
    /// # Errors
    /// [`Behind`] when it has stopped before it, or has not reached it in time.
    pub async fn wait_for_view(&self, view: View, position: Position, timeout: Duration) -> Result<(), Behind> {
        for started in self.0.started.iter().filter(|started| started.view == view) {
            started.progress.wait_for(position, timeout).await?;
        }
        Ok(())
    }

    /// Has one view folded the log up to `position`? Takes no more than a look.
    pub fn has_reached(&self, view: View, position: Position) -> bool {
        let mut views = self.0.started.iter().filter(|started| started.view == view);
        views.all(|started| started.progress.standing().checkpoint.position >= position)
    }

    /// Waits until one view has caught up once: with everything that was in the log when it was opened.
    ///
    /// # Errors
    /// [`Behind`] when it has stopped, or has not caught up in time.
    pub async fn until_live(&self, view: View, timeout: Duration) -> Result<(), Behind> {
        for started in self.0.started.iter().filter(|started| started.view == view) {
            started.progress.until_live(timeout).await?;
        }
        Ok(())
    }

    /// What one view is doing. Takes no more than a look.
    pub fn state(&self, view: View) -> State {
        let started = self.0.started.iter().find(|started| started.view == view);
        // All are started together; one that were not would have caught up with nothing.
        started.map_or(State::CatchingUp, |started| started.progress.state())
    }

    /// How every view stands, in the order of [`View`]. Also renews the gauge of their lag.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is of floating point")]
    pub fn status(&self) -> Vec<ViewStatus> {
        let tail = self.0.started.iter().map(|view| view.progress.standing().tail).max().unwrap_or_default();
        let statuses: Vec<_> = self.0.started.iter().map(|view| view.progress.status(tail)).collect();
        for status in &statuses {
            ::metrics::gauge!(metrics::PROJECTION_LAG_COMMITS, "view" => status.name).set(status.lag_commits as f64);
        }
        statuses
    }

    /// Tries again to fold the streams that are set aside, and waits until every view has: once the log can be read again, or
    /// the program folds what it could not. Opening the views does the same.
    ///
    /// # Errors
    /// [`Behind`] when a view has stopped, or has not done it within 30 s; it goes on then.
    pub async fn try_again(&self) -> Result<(), Behind> {
        let mut asked = 0;
        self.0.retries.send_modify(|times| {
            *times = times.saturating_add(1);
            asked = *times;
        });
        let begun = tokio::time::Instant::now();
        // One that has stopped keeps nobody from learning what came of the others.
        let mut behind = None;
        for view in &self.0.started {
            let tried = view.progress.until_tried(asked, TRIED_WITHIN.saturating_sub(begun.elapsed())).await;
            let error = tried
                .err()
                .filter(|error| behind.as_ref().is_none_or(|first: &Behind| first.stopped && !error.stopped));
            behind = error.or(behind);
        }
        behind.map_or(Ok(()), Err)
    }

    /// Hashes all rows of every view: equal for equal histories. Reads every file to its end.
    ///
    /// # Errors
    /// [`QueryError`] when a view cannot be read.
    pub async fn checksums(&self) -> Result<Vec<Checksum>, QueryError> {
        let mut checksums = Vec::new();
        for view in &self.0.started {
            let name = view.name;
            checksums.push(view.readers.look(move |rows| checksum::of(name, rows)).await?);
        }
        Ok(checksums)
    }

    /// Writes what the views have gathered and ends their threads. Queries go on working.
    pub async fn shutdown(&self) {
        self.0.orders.send_replace(Order::Finish);
        let inner = Arc::clone(&self.0);
        // A thread that panicked has said so in its status.
        let _joined = tokio::task::spawn_blocking(move || inner.join()).await;
    }
}

impl Inner {
    fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _panicked = thread.join();
        }
    }
}

impl Drop for Inner {
    /// Ends the threads without writing what was gathered: they fold it again at the next start. No thread outlives its
    /// views, so a file never has two writers.
    fn drop(&mut self) {
        self.orders.send_if_modified(|order| {
            let following = *order == Order::Follow;
            if following {
                *order = Order::Abandon;
            }
            following
        });
        self.join();
    }
}

type Spawn = Box<dyn FnOnce() -> io::Result<JoinHandle<()>> + Send>;

/// The views that are open and not yet followed by their threads.
struct Opening<'a> {
    folder: &'a Path,
    config: Config,
    log: Arc<dyn EventLog>,
    orders: watch::Sender<Order>,
    retries: watch::Sender<u64>,
    ready: Vec<(Started, Spawn)>,
}

impl Opening<'_> {
    async fn prepare<P: Projection>(&mut self, view: View, mut projection: P) -> Result<Readers, OpenError> {
        let file = ViewFile::of::<P>(self.folder);
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::File {
            view: P::NAME,
            folder: self.folder.to_owned(),
            source,
        };
        let from_file = |error: FileError| failed(error.into());
        let (mut connection, mut checkpoint) = file.open::<P>().map_err(from_file)?;
        if let Some(reason) = self.foreign(P::NAME, &checkpoint).await {
            drop(connection);
            file.delete(&reason).map_err(from_file)?;
            (connection, checkpoint) = file.open::<P>().map_err(from_file)?;
        }
        let quarantine = Quarantine::new(P::NAME);
        let loaded = projection.load(&connection).and_then(|()| Ok(quarantine.load(&connection)?));
        if let Err(fault) = loaded {
            drop(connection);
            file.delete(&fault.in_full()).map_err(from_file)?;
            (connection, checkpoint) = file.open::<P>().map_err(from_file)?;
            projection.discard();
            projection.load(&connection).map_err(|fault: Fault| failed(fault.into()))?;
        }
        let progress = Arc::new(Progress::new(P::NAME, checkpoint, quarantine.clone(), file.is_building()));
        let wait = Duration::from_millis(self.config.reader_wait_ms);
        let readers = Readers::new(file.path(), self.config.readers, wait, quarantine.clone(), Arc::clone(&progress));
        let started = Started { view, name: P::NAME, progress: Arc::clone(&progress), readers: readers.clone() };
        let (log, config) = (Arc::clone(&self.log), self.config.clone());
        let (orders, retries) = (self.orders.subscribe(), self.retries.subscribe());
        let runner = Runner {
            projection,
            file,
            connection,
            checkpoint,
            quarantine,
            log,
            progress,
            orders,
            retries,
            again_at: None,
            config,
        };
        self.ready.push((started, Box::new(move || runner.spawn())));
        Ok(readers)
    }

    /// Was the checkpoint folded from another log than this one? A log restored from a copy may be shorter, or go on
    /// differently.
    async fn foreign(&self, view: &'static str, checkpoint: &crate::checkpoint::Checkpoint) -> Option<String> {
        if checkpoint.position == Position::START {
            return None;
        }
        match self.log.read_at(checkpoint.position).await {
            Ok(Some(recorded)) if recorded.commit.hash() == checkpoint.last_hash => None,
            Ok(_) => Some(format!("the log does not have the commit that it folded last, {}", checkpoint.position)),
            Err(error) => {
                tracing::warn!(view, %error, "the log cannot be read yet: the view's checkpoint is not checked");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
