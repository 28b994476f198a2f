//! The feed: an outbox from a log to a JetStream stream, for whoever subscribes.
//!
//! ```text
//! log ─ subscribe(after checkpoint) ─► window ─ publish, each behind the one before ─► acknowledged ─► checkpoint
//!                                        ▲                                                               │
//!                                        └── bus lost, stream full, …: pause, connect, begin there ──────┘
//! ```
//! - **At least once.** The checkpoint moves after the acknowledgement, so a process that dies in between sends again.
//!   Subscribers remove duplicates by the event's id, and so does the stream within its window.
//! - **In order per tenant**, of first arrivals. Events are sent in a chain, of which the stream takes each only right behind the one before
//!   it. Where a chain is broken, as by an event that is there already, the next event of a tenant is sent once the one before is acknowledged. So
//!   no failure and no repetition lets a later event overtake.
//! - **Bounded.** One window is in memory; while the bus is away nothing is read.
//! - **Nobody waits for it.** The node boots, appends and serves without a bus.
//! - **One of the nodes that share a log feeds**, in its turn; the checkpoint is then in a bucket of the same JetStream, so
//!   that the next one goes on there. Two that believe it is theirs send twice, which is what "at least once" says.
//! - **It never gives up, and never skips.** What may pass is tried again with growing pauses and said; a commit that can
//!   never be sent stops the feed and is said.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{log::EventLog, nats::survey::Wanted, revision::Position, time::Clock};

mod bus;
mod chain;
mod checkpoint;
mod config;
mod message;
mod run;
mod trouble;

pub use config::{Discard, FeedConfig};

/// The streams of a feed with these settings, for who looks whether they are there and as they should be; `shared` says whether
/// nodes share its log.
pub fn wanted_streams(config: &FeedConfig, shared: bool) -> Vec<Wanted> {
    bus::all_wanted(config, shared)
}

/// How long a stop waits for what was recorded last; what is not acknowledged by then is sent at the next start.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// How the feed stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has no connection yet, and nothing went wrong so far.
    Connecting,
    /// It is connected and publishes what comes.
    Following,
    /// It is another node's turn.
    Resting,
    /// Something is in the way that may pass; it tries again. The text has a remedy.
    Hindered(Arc<str>),
    /// It has stopped at this commit, which cannot be published. The text says why.
    Stopped(Position, Arc<str>),
}

/// What the feed tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// How it stands.
    pub state: State,
    /// Everything up to here is acknowledged by the stream.
    pub checkpoint: Position,
    /// The last commit of the log that the feed knows of.
    pub tail: Position,
}

impl Standing {
    /// For a health check: what is well, or what is not and what helps.
    ///
    /// # Errors
    /// When the feed is not connected, or has stopped.
    pub fn check(&self) -> Result<String, String> {
        let behind = self.tail.get().saturating_sub(self.checkpoint.get());
        match &self.state {
            State::Connecting => Err("the feed has not reached the bus yet".to_owned()),
            State::Following => Ok(format!("connected, {behind} commits behind")),
            State::Resting => Ok("another node feeds".to_owned()),
            State::Hindered(reason) => Err(format!("{reason} It tries again; {behind} commits wait.")),
            State::Stopped(position, reason) => Err(format!("the feed has stopped at position {position}: {reason}")),
        }
    }
}

/// A handle to ask how the feed stands.
#[derive(Debug, Clone)]
pub struct Status(watch::Receiver<Standing>);

impl Status {
    /// How it stands now.
    pub fn standing(&self) -> Standing {
        self.0.borrow().clone()
    }
}

/// Where a feed keeps its checkpoint, and when it is its turn.
#[derive(Debug)]
pub enum Keep {
    /// In this file: the log is one node's, and so is its feed.
    File(PathBuf),
    /// In the bucket [`FeedConfig::bucket`]: several nodes share the log, and one of them feeds. True while this one does.
    Shared(watch::Receiver<bool>),
}

/// A running feed.
pub struct Feed {
    log: Arc<dyn EventLog>,
    status: Status,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl Feed {
    /// Starts the feed of `log`. Returns at once, whether there is a bus or not.
    pub fn start(config: FeedConfig, log: Arc<dyn EventLog>, clock: Arc<dyn Clock>, keep: Keep) -> Self {
        let first = Standing { state: State::Connecting, checkpoint: Position::START, tail: Position::START };
        let (standing, seen) = watch::channel(first);
        let stopping = CancellationToken::new();
        let runner = run::Runner::new(config, (Arc::clone(&log), clock), keep, standing, stopping.clone());
        Self { log, status: Status(seen), stopping, task: tokio::spawn(runner.run()) }
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Stops it, once what is recorded is sent if the bus is there, or after a moment.
    pub async fn stop(mut self) {
        let Status(standing) = &mut self.status;
        if let Ok(tail) = self.log.tail().await {
            let sent = standing.wait_for(|now| now.state != State::Following || now.checkpoint >= tail);
            let _in_time = tokio::time::timeout(STOP_WITHIN, sent).await;
        }
        self.stopping.cancel();
        if tokio::time::timeout(STOP_WITHIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("status", &self.status).finish_non_exhaustive()
    }
}
