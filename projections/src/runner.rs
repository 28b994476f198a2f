//! The thread of one view: follows the log from the checkpoint, folds, and writes by batches.

use std::{io, sync::Arc, thread, time::Duration};

use rusqlite::Connection;
use tokio::{sync::watch, time::Instant};
use wasmwiz_events::{
    commit::Recorded,
    log::{EventLog, ReadError, ReadLimit, Subscription},
    revision::Position,
};

use crate::{
    checkpoint::{Checkpoint, Delta},
    metrics,
    progress::{Progress, State},
    projection::{Fault, Projection},
    quarantine::{Change, PassedOver, Quarantine},
    rebuild::ViewFile,
    views::Config,
};

mod aside;

/// Body bytes of one read, 1 MiB: with about 1 KiB an event, half a batch.
const READ_BYTES: usize = 1 << 20;

/// The first pause after the log could not be read or the view not be written; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A read that gives no more commits than this was at the end of the log.
const AT_END_COMMITS: usize = 64;

/// How often a busy view asks the log for its end, for the lag it reports.
const TAIL_EVERY: Duration = Duration::from_secs(1);

/// What the owner of the threads asks of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Follow the log.
    Follow,
    /// Write what was gathered, then end.
    Finish,
    /// End at once; what was gathered is folded again at the next start.
    Abandon,
}

/// Why following ended.
enum End {
    Ordered,
    /// The file cannot be written, or holds what it should not.
    Broken {
        position: Position,
        fault: Fault,
    },
    /// A commit cannot be folded.
    Unfoldable {
        recorded: Arc<Recorded>,
        fault: Fault,
    },
    /// Somebody wants what is set aside to be tried again.
    TryAgain,
    /// Something is in the way that may pass: trying again may help.
    Hindered(Arc<str>),
    Damaged {
        position: Position,
        what: Arc<str>,
    },
}

pub(crate) struct Runner<P> {
    pub(crate) projection: P,
    pub(crate) file: ViewFile,
    pub(crate) connection: Connection,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) quarantine: Quarantine,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) orders: watch::Receiver<Order>,
    pub(crate) retries: watch::Receiver<u64>,
    /// When the streams that are set aside are tried again; `None`: when somebody asks.
    pub(crate) again_at: Option<Instant>,
    pub(crate) config: Config,
}

/// Commits that are folded and not yet written.
struct Batch {
    commits: Vec<Arc<Recorded>>,
    events: usize,
    delta: Delta,
    passed_over: PassedOver,
    /// Was a commit of a stream that is set aside skipped?
    skips: bool,
}

impl Batch {
    fn beginning_at(checkpoint: &Checkpoint) -> Self {
        let (delta, passed_over) = (Delta::beginning_at(checkpoint), PassedOver::default());
        Self { commits: Vec::new(), events: 0, delta, passed_over, skips: false }
    }
}

/// A thread that dies of a panic says so: a view must not look alive when nobody folds it.
struct Obituary(Arc<Progress>);

impl Drop for Obituary {
    fn drop(&mut self) {
        if thread::panicking() {
            let position = self.0.standing().checkpoint.position;
            self.0.enter(State::Stopped { position, reason: "its thread panicked".into() });
        }
    }
}

impl<P: Projection> Runner<P> {
    /// Starts the view's thread.
    pub(crate) fn spawn(self) -> io::Result<thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name(format!("view-{}", P::NAME)).spawn(move || {
            let _obituary = Obituary(Arc::clone(&self.progress));
            runtime.block_on(self.run());
        })
    }

    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        // A node that has started anew may read what the one before could not, or be another version.
        let mut try_again = true;
        loop {
            let before = self.checkpoint.position;
            // Folding and writing await nothing in between, so a view can be abandoned wherever it waits.
            let orders = self.orders.clone();
            let end = tokio::select! {
                biased;
                () = abandoned(orders) => return,
                end = self.follow(&mut try_again) => end,
            };
            try_again |= matches!(end, End::TryAgain);
            let end = match end {
                End::TryAgain => continue,
                End::Unfoldable { .. } | End::Damaged { .. } => match self.set_aside(end).await {
                    Ok(()) => continue,
                    Err(end) => end,
                },
                end => end,
            };
            match end {
                End::Ordered => return,
                // Handled above: setting aside gives neither.
                End::TryAgain => {}
                End::Unfoldable { recorded, fault } => {
                    return self.stop(recorded.position, &fault.in_full(), false).await;
                }
                End::Broken { position, fault } => {
                    return self.stop(position, &fault.in_full(), fault.is_damage()).await;
                }
                End::Damaged { position, what } => {
                    return self.stop(position, &format!("the log is damaged: {what}"), false).await;
                }
                End::Hindered(reason) => {
                    if self.checkpoint.position > before {
                        pause = FIRST_PAUSE;
                    }
                    tracing::warn!(view = P::NAME, %reason, ?pause, "the view cannot go on, trying again");
                    self.progress.troubled(Some(reason));
                    let mut orders = self.orders.clone();
                    let ordered = orders.wait_for(|order| *order != Order::Follow);
                    if tokio::time::timeout(pause, ordered).await.is_ok() {
                        return;
                    }
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Stops folding. The connection stays open until the process ends, so that readers find the file as it is.
    async fn stop(&mut self, position: Position, reason: &str, damaged: bool) {
        tracing::error!(view = P::NAME, %position, reason, "the view has stopped");
        ::metrics::counter!(metrics::PROJECTION_STOPPED_TOTAL, "view" => P::NAME).increment(1);
        if damaged && let Err(error) = self.file.mark_damaged() {
            tracing::error!(view = P::NAME, %error, "the damaged file cannot be marked: delete it by hand");
        }
        self.progress.tail_seen(position);
        self.progress.enter(State::Stopped { position, reason: reason.into() });
        let _ordered = self.orders.wait_for(|order| *order != Order::Follow).await;
    }

    /// Follows the log until something ends it. What was folded and not written is forgotten.
    async fn follow(&mut self, try_again: &mut bool) -> End {
        if *try_again {
            if let Err(end) = self.try_again().await {
                self.projection.discard();
                return end;
            }
            *try_again = false;
        }
        let ended = match self.log.subscribe(self.checkpoint.position).await {
            Ok(mut subscription) => {
                // Counted from when it can read: a subscription may take longer than the turn.
                self.again_at = self.again_at.map(|at| at.max(Instant::now() + aside::OTHERS_TURN));
                match self.fold_and_write(&mut *subscription).await {
                    Ok(never) => match never {},
                    Err(end) => end,
                }
            }
            Err(error) => unreadable(error),
        };
        self.projection.discard();
        ended
    }

    async fn fold_and_write(&mut self, log: &mut dyn Subscription) -> Result<std::convert::Infallible, End> {
        let mut goal = Some(self.log.tail().await.map_err(unreadable)?);
        let mut tail_asked = Instant::now();
        loop {
            if let Some(tail) = goal {
                goal = self.approach(tail).await?;
            }
            let (batch, ended) = self.gather(log).await;
            let events = batch.events;
            self.write(batch)?;
            if let Some(end) = ended {
                return Err(end);
            }
            if self.again_at.is_some_and(|at| at <= Instant::now()) {
                return Err(End::TryAgain);
            }
            if tail_asked.elapsed() >= TAIL_EVERY || goal.is_some() {
                self.progress.tail_seen(self.log.tail().await.map_err(unreadable)?);
                tail_asked = Instant::now();
            }
            self.report(events);
        }
    }

    /// Is the view live? It is when it has reached what was the end of the log, and is less than a batch behind what is:
    /// under load there is always a commit more.
    async fn approach(&self, goal: Position) -> Result<Option<Position>, End> {
        if self.checkpoint.position < goal {
            self.progress.tail_seen(goal);
            return Ok(Some(goal));
        }
        let tail = self.log.tail().await.map_err(unreadable)?;
        self.progress.tail_seen(tail);
        self.progress.troubled(None);
        let behind = tail.get().saturating_sub(self.checkpoint.position.get());
        if behind > self.config.batch_events as u64 {
            return Ok(Some(tail));
        }
        self.progress.enter(State::Live);
        if let Err(error) = self.file.is_built() {
            tracing::warn!(view = P::NAME, %error, "it cannot be noted that the view is built: the next start takes it for unfinished");
        }
        if let Err(error) = self.file.remove_other_versions() {
            tracing::warn!(view = P::NAME, %error, "files of other versions of the view cannot be deleted");
        }
        Ok(None)
    }

    /// Folds commits until the batch is full, or nothing more comes and nobody should wait longer. At the end of the log
    /// it lets commits gather in the meantime: a view that wakes for every one of them takes the time of who appends.
    async fn gather(&mut self, log: &mut dyn Subscription) -> (Batch, Option<End>) {
        let mut batch = Batch::beginning_at(&self.checkpoint);
        let progress = Arc::clone(&self.progress);
        let (mut orders, mut retries) = (self.orders.clone(), self.retries.clone());
        let again_at = self.again_at;
        let again = async || match again_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        };
        let (mut lingered_until, mut at_end) = (None, false);
        while batch.events < self.config.batch_events {
            let limit = ReadLimit { commits: self.config.batch_events.saturating_sub(batch.events), bytes: READ_BYTES };
            let linger = async |until: Option<Instant>| match until {
                Some(moment) => tokio::select! {
                    () = tokio::time::sleep_until(moment) => {}
                    () = progress.somebody_waits() => {}
                },
                None => std::future::pending().await,
            };
            let next = async {
                if at_end {
                    linger(lingered_until).await;
                }
                log.next(limit).await
            };
            tokio::select! {
                biased;
                order = orders.wait_for(|order| *order != Order::Follow) => {
                    if !matches!(order.as_deref(), Ok(Order::Finish)) {
                        self.projection.discard();
                        batch = Batch::beginning_at(&self.checkpoint);
                    }
                    return (batch, Some(End::Ordered));
                }
                Ok(()) = retries.changed() => return (batch, Some(End::TryAgain)),
                () = again(), if batch.commits.is_empty() => return (batch, Some(End::TryAgain)),
                next = next => match next {
                    Ok(commits) => {
                        at_end = commits.len() <= AT_END_COMMITS;
                        if let Err(end) = self.take(&mut batch, commits) {
                            return (batch, Some(end));
                        }
                    }
                    Err(error) => return (batch, Some(unreadable(error))),
                },
                () = linger(lingered_until) => break,
            }
            lingered_until.get_or_insert_with(|| Instant::now() + Duration::from_millis(self.config.linger_ms));
        }
        (batch, None)
    }

    /// Folds `commits` into the batch. At a fault the batch is what came before the commit that cannot be folded.
    fn take(&mut self, batch: &mut Batch, commits: Vec<Arc<Recorded>>) -> Result<(), End> {
        for recorded in commits {
            if let Err(fault) = self.fold(batch, &recorded) {
                self.projection.discard();
                let folded = std::mem::take(&mut batch.commits);
                *batch = Batch::beginning_at(&self.checkpoint);
                for earlier in folded {
                    // It could be folded a moment ago, and folding is pure.
                    self.fold(batch, &earlier).map_err(|fault| broken(earlier.position, fault))?;
                    batch.commits.push(earlier);
                }
                return Err(End::Unfoldable { recorded, fault });
            }
            batch.commits.push(recorded);
            // The stream is tried again right behind the skip, wherever batches are cut; what was read beyond it is read again.
            if batch.skips {
                return Err(End::TryAgain);
            }
        }
        Ok(())
    }

    fn fold(&mut self, batch: &mut Batch, recorded: &Recorded) -> Result<(), Fault> {
        let header = recorded.commit.header();
        batch.delta.extend(recorded)?;
        batch.events = batch.events.saturating_add(header.count as usize);
        if self.quarantine.holds(&header.tenant) {
            batch.passed_over.count(&header.tenant);
            if P::KNOWS_KEYS {
                batch.passed_over.note_keys(recorded, recorded.commit.tenant());
            }
            return Ok(());
        }
        self.fold_events(recorded)?;
        let mut skips = batch.passed_over.note_skips(&header.tenant, recorded.commit.events()?);
        batch.skips |= skips.any(|tenant| self.quarantine.holds(tenant));
        Ok(())
    }

    fn fold_events(&mut self, recorded: &Recorded) -> Result<(), Fault> {
        let (header, events) = (recorded.commit.header(), recorded.commit.events()?);
        // A foreign envelope in a tenant's commit must never become a row of that tenant, or of the other one.
        let announced =
            events.len() == header.count as usize && events.iter().all(|event| event.tenant == header.tenant);
        if !announced {
            return Err(Fault::Mismatch);
        }
        self.projection.fold(recorded, events)
    }

    /// Writes the batch. When its content is at fault, the commits before the faulty one are written all the same.
    fn write(&mut self, batch: Batch) -> Result<(), End> {
        let Batch { commits, delta, passed_over, .. } = batch;
        let Some(first) = commits.first() else { return Ok(()) };
        let Err(fault) = self.advance(&delta, passed_over) else { return Ok(()) };
        self.projection.discard();
        if !fault.is_of_content() {
            return Err(broken(first.position, fault));
        }
        for recorded in commits {
            let mut single = Batch::beginning_at(&self.checkpoint);
            let written = self.fold(&mut single, &recorded);
            let written = written.and_then(|()| self.advance(&single.delta, std::mem::take(&mut single.passed_over)));
            written.map_err(|fault| match fault {
                fault if fault.is_of_content() => End::Unfoldable { recorded, fault },
                fault => broken(recorded.position, fault),
            })?;
        }
        // Alone, every commit could be written: they are, and nothing is left of the fault.
        Ok(())
    }

    fn advance(&mut self, delta: &Delta, passed_over: PassedOver) -> Result<(), Fault> {
        let next = self.checkpoint.advanced_by(delta)?;
        self.commit(next, Change::PassedOver(passed_over))
    }

    /// Writes rows, quarantine and checkpoint in one transaction, then shows them to readers.
    fn commit(&mut self, next: Checkpoint, change: Change) -> Result<(), Fault> {
        let started = Instant::now();
        self.transact(&next, &change)?;
        self.checkpoint = next;
        self.projection.committed();
        self.quarantine.apply(change);
        self.progress.advance(self.checkpoint);
        ::metrics::histogram!(metrics::PROJECTION_FLUSH_SECONDS, "view" => P::NAME).record(started.elapsed());
        Ok(())
    }

    fn transact(&mut self, next: &Checkpoint, change: &Change) -> Result<(), Fault> {
        let transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        self.projection.flush(&transaction)?;
        change.write(&transaction)?;
        next.store(&transaction, &self.checkpoint)?;
        transaction.commit()?;
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge and a histogram are of floating point")]
    fn report(&self, events: usize) {
        let standing = self.progress.standing();
        let lag = standing.tail.get().saturating_sub(standing.checkpoint.position.get());
        ::metrics::gauge!(metrics::PROJECTION_LAG_COMMITS, "view" => P::NAME).set(lag as f64);
        ::metrics::histogram!(metrics::PROJECTION_BATCH_EVENTS, "view" => P::NAME).record(events as f64);
    }
}

async fn abandoned(mut orders: watch::Receiver<Order>) {
    // When the sender is gone there is nobody to work for.
    let _abandoned = orders.wait_for(|order| *order == Order::Abandon).await;
}

fn unreadable(error: ReadError) -> End {
    match error {
        ReadError::Damaged { position, what } => End::Damaged { position, what },
        unavailable @ ReadError::Unavailable(_) => End::Hindered(unavailable.to_string().into()),
    }
}

fn broken(position: Position, fault: Fault) -> End {
    if fault.is_passing() { End::Hindered(fault.in_full().into()) } else { End::Broken { position, fault } }
}
