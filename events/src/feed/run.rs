//! The task of the feed: connects, follows the log from the checkpoint, and begins again after every trouble.

use std::{collections::HashMap, convert::Infallible, io, sync::Arc, time::Duration};

use async_nats::jetstream::kv;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Keep, Standing, State,
    bus::{Bus, Found},
    chain::Chain,
    checkpoint::{Checkpoint, CheckpointFile},
    config::FeedConfig,
    message::{Message, messages},
    trouble::Trouble,
};
use crate::{
    commit::Recorded,
    id::TenantId,
    log::{EventLog, ReadError, ReadLimit},
    metrics,
    nats::with_causes,
    revision::Position,
    time::Clock,
};

/// The first pause after a trouble; it doubles up to the setting.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The key of the checkpoint in its bucket.
const KEY: &str = "checkpoint";

/// How often a feed under way writes its checkpoint: what lies between is sent again after a crash. An idle one, at once.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);

/// How long what happens is gathered before it is sent, so that tenants' events go out beside each other. What comes after a rest
/// is sent at once.
const GATHERED: Duration = Duration::from_millis(5);

/// Why following ended.
enum End {
    Trouble(Trouble),
    Poison(Position, String),
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Where the checkpoint is kept.
enum Place {
    File(CheckpointFile),
    Bucket {
        /// Once there was a connection.
        bucket: Option<Box<kv::Store>>,
        /// Is it this node's turn?
        turn: watch::Receiver<bool>,
    },
}

pub(crate) struct Runner {
    config: FeedConfig,
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    place: Place,
    standing: watch::Sender<Standing>,
    stopping: CancellationToken,
    /// Acknowledged; at or behind it is what is kept.
    checkpoint: Option<Checkpoint>,
    /// The position that is kept.
    written: Position,
    written_at: Instant,
}

impl Runner {
    pub(crate) fn new(
        config: FeedConfig,
        (log, clock): (Arc<dyn EventLog>, Arc<dyn Clock>),
        keep: Keep,
        standing: watch::Sender<Standing>,
        stopping: CancellationToken,
    ) -> Self {
        let place = match keep {
            Keep::File(file) => Place::File(CheckpointFile::new(file)),
            Keep::Shared(turn) => Place::Bucket { bucket: None, turn },
        };
        let (written, written_at) = (Position::START, Instant::now());
        Self { config, log, clock, place, standing, stopping, checkpoint: None, written, written_at }
    }

    pub(crate) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let stopping = self.stopping.clone();
        loop {
            let (before, began) = (self.position(), Instant::now());
            // Whatever waits may be abandoned: what is not acknowledged lies behind the checkpoint.
            let end = tokio::select! {
                biased;
                () = stopping.cancelled() => {
                    if let Err(trouble) = self.write_checkpoint().await {
                        tracing::warn!(%trouble, "the feed ends with an older checkpoint");
                    }
                    return;
                }
                end = self.follow_in_turn() => match end { Ok(never) => match never {}, Err(end) => end },
            };
            ::metrics::gauge!(metrics::FEED_CONNECTED).set(0.0);
            match end {
                End::Poison(position, reason) => {
                    tracing::error!(%position, reason, "the feed has stopped at a commit that cannot be published");
                    ::metrics::counter!(metrics::FEED_STOPPED_TOTAL).increment(1);
                    let _written = self.write_checkpoint().await;
                    self.enter(State::Stopped(position, reason.into()));
                    return;
                }
                End::Trouble(trouble) => {
                    // It went well for a while: what came now is new.
                    if self.position() > before || began.elapsed() > self.config.pause_max() {
                        pause = FIRST_PAUSE;
                    }
                    ::metrics::counter!(metrics::FEED_RETRIES_TOTAL, "reason" => trouble.reason()).increment(1);
                    let hindered = State::Hindered(trouble.to_string().into());
                    // Said once, however long it lasts.
                    if self.standing.borrow().state != hindered {
                        tracing::warn!(reason = trouble.reason(), %trouble, "the feed cannot go on, and tries again");
                    }
                    self.enter(hindered);
                    self.see_tail().await;
                    let _stopped = tokio::time::timeout(pause, stopping.cancelled()).await;
                    pause = pause.saturating_mul(2).min(self.config.pause_max());
                }
            }
        }
    }

    /// Follows the log while it is this node's turn, and rests while it is not.
    async fn follow_in_turn(&mut self) -> Result<Infallible, End> {
        let Place::Bucket { turn, .. } = &self.place else { return self.follow().await };
        let mut turn = turn.clone();
        loop {
            if !*turn.borrow_and_update() {
                self.enter(State::Resting);
                // Another one goes on from here: what is known of it now is old then.
                self.checkpoint = None;
            }
            // Whoever gives the turns goes with the node.
            if turn.wait_for(|is_ours| *is_ours).await.is_err() {
                return std::future::pending().await;
            }
            tokio::select! {
                end = self.follow() => return end,
                () = over(&mut turn) => {
                    ::metrics::gauge!(metrics::FEED_CONNECTED).set(0.0);
                    if let Err(trouble) = self.write_checkpoint().await {
                        tracing::warn!(%trouble, "another node goes on with the feed at an older checkpoint");
                    }
                }
            }
        }
    }

    /// One connection, from its making to its end.
    async fn follow(&mut self) -> Result<Infallible, End> {
        if let Place::File(file) = &self.place {
            let file = file.clone();
            self.load_checkpoint(|stream| async move { of_file(move || file.load(&stream)).await }).await?;
        }
        let bus = Bus::connect(&self.config).await?;
        if let Place::Bucket { bucket, .. } = &mut self.place {
            let there = bus.bucket(&self.config).await?;
            *bucket = Some(Box::new(there.clone()));
            self.load_checkpoint(|stream| async move { of_bucket(&there, &stream).await }).await?;
        }
        let found = bus.ensure_stream(&self.config).await?;
        let mut chain = bus.chain(&self.config, &found).await?;
        let checkpoint = self.begin_in(found);
        let mut subscription = self.log.subscribe(checkpoint).await.map_err(unreadable)?;
        ::metrics::gauge!(metrics::FEED_CONNECTED).set(1.0);
        tracing::info!(stream = self.config.stream, after = %checkpoint, "the feed is connected");
        self.enter(State::Following);
        self.see_tail().await;
        let mut limit = ReadLimit { commits: self.config.window_commits, bytes: self.config.window_bytes };
        let mut next_window = Instant::now();
        loop {
            tokio::time::sleep_until(next_window).await;
            let is_behind = self.position() != self.written;
            let window = tokio::select! {
                biased;
                () = bus.lost() => return Err(Trouble::Lost.into()),
                window = subscription.next(limit) => match window {
                    // Damage takes its whole window along: one by one, all that lies before it is still sent.
                    Err(ReadError::Damaged { .. }) if limit.commits > 1 => {
                        limit.commits = 1;
                        continue;
                    }
                    window => window.map_err(unreadable)?,
                },
                () = tokio::time::sleep(CHECKPOINT_EVERY), if is_behind => {
                    self.write_checkpoint().await?;
                    self.see_tail().await;
                    continue;
                }
            };
            next_window = Instant::now() + GATHERED;
            self.publish((&bus, &mut chain), &window).await?;
            if self.written_at.elapsed() >= CHECKPOINT_EVERY {
                self.write_checkpoint().await?;
                self.see_tail().await;
            }
        }
    }

    /// Publishes a window. The checkpoint is behind it once all of it is acknowledged, and at a poisoned commit once
    /// all before that is.
    async fn publish(&mut self, (bus, chain): (&Bus, &mut Chain), window: &[Arc<Recorded>]) -> Result<(), End> {
        let (mut events, mut last, mut poison) = (Vec::new(), None, None);
        for recorded in window {
            match messages(recorded) {
                Ok(more) => {
                    events.extend(more);
                    last = Some(recorded);
                }
                Err(reason) => {
                    poison = Some(End::Poison(recorded.position, reason.to_string()));
                    break;
                }
            }
        }
        let (count, in_flight_max) = (events.len() as u64, self.config.in_flight_max);
        let all = async {
            for some in events.chunks(in_flight_max) {
                // What is there already, or finds something in its way, is no chain, and each event is told what became of it.
                if !chain.publish(some).await? {
                    chain.sent_alone(some.len(), beside_each_other(bus, some, in_flight_max).await?);
                }
            }
            Ok::<_, Trouble>(chain.last())
        };
        let sequence: u64 = tokio::select! {
            biased;
            () = bus.lost() => return Err(Trouble::Lost.into()),
            published = all => published?,
        };
        ::metrics::counter!(metrics::FEED_PUBLISHED_TOTAL).increment(count);
        if let (Some(last), Some(checkpoint)) = (last, &mut self.checkpoint) {
            checkpoint.advance(last.position, last.commit.hash(), sequence);
            self.standing.send_modify(|standing| standing.checkpoint = last.position);
        }
        poison.map_or(Ok(()), Err)
    }

    /// Everything up to here is acknowledged.
    fn position(&self) -> Position {
        self.checkpoint.as_ref().map_or(Position::START, Checkpoint::position)
    }

    /// Reads what is kept, once. The log must have the commit that it names: positions of another log are other commits.
    async fn load_checkpoint<F>(&mut self, load: impl FnOnce(String) -> F) -> Result<(), Trouble>
    where
        F: Future<Output = Result<Checkpoint, Trouble>>,
    {
        if self.checkpoint.is_some() {
            return Ok(());
        }
        let found = load(self.config.stream.clone()).await?;
        let (checkpoint, unreadable) = (found.position(), |error: ReadError| Trouble::Log(error.to_string()));
        let tail = self.log.tail().await.map_err(unreadable)?;
        let is_ours = match found.commit() {
            Some(commit) => {
                let there = self.log.read_at(checkpoint).await.map_err(unreadable)?;
                there.is_some_and(|recorded| recorded.commit.hash().to_string() == commit)
            }
            None => checkpoint <= tail,
        };
        if !is_ours {
            return Err(Trouble::OtherLog { checkpoint, tail });
        }
        (self.checkpoint, self.written) = (Some(found), checkpoint);
        self.standing.send_modify(|standing| standing.checkpoint = checkpoint);
        Ok(())
    }

    /// Where this stream continues: at the checkpoint, or before it if the stream has lost what it had acknowledged.
    fn begin_in(&mut self, found: Found) -> Position {
        if let Some(checkpoint) = &mut self.checkpoint {
            let (last, lost) = (found.last_sequence, checkpoint.go_back_to(found.created, found.last_sequence));
            if let Some(was) = lost {
                let after = checkpoint.position();
                tracing::warn!(%was, %after, last, "the stream has lost what it had acknowledged: it is sent again");
                self.standing.send_modify(|standing| standing.checkpoint = after);
            }
        }
        self.position()
    }

    async fn write_checkpoint(&mut self) -> Result<(), Trouble> {
        let Some(checkpoint) = self.checkpoint.clone().filter(|checkpoint| checkpoint.position() != self.written)
        else {
            return Ok(());
        };
        let position = checkpoint.position();
        match &self.place {
            Place::File(file) => {
                let file = file.clone();
                let stored = tokio::task::spawn_blocking(move || file.store(&checkpoint)).await;
                let stored = stored.map_err(|error| Trouble::Checkpoint(error.to_string()))?;
                stored.map_err(|error| Trouble::Checkpoint(error.to_string()))?;
            }
            // It was never connected: nothing was acknowledged.
            Place::Bucket { bucket: None, .. } => return Ok(()),
            Place::Bucket { bucket: Some(bucket), .. } => {
                let bytes = serde_json::to_vec(&checkpoint).map_err(|error| Trouble::Checkpoint(error.to_string()))?;
                let kept = bucket.put(KEY, bytes.into()).await;
                kept.map_err(|error| Trouble::Bucket(with_causes(&error)))?;
            }
        }
        (self.written, self.written_at) = (position, Instant::now());
        Ok(())
    }

    fn enter(&self, state: State) {
        self.standing.send_modify(|standing| standing.state = state);
    }

    /// Reports how far the stream is behind the log, and since when the oldest commit that it lacks waits.
    #[expect(clippy::cast_precision_loss, reason = "gauges are of floating point")]
    async fn see_tail(&self) {
        let checkpoint = self.position();
        let Ok(tail) = self.log.tail().await else { return };
        self.standing.send_modify(|standing| standing.tail = tail);
        let behind = tail.get().saturating_sub(checkpoint.get());
        ::metrics::gauge!(metrics::FEED_LAG_COMMITS).set(behind as f64);
        let one = ReadLimit { commits: 1, bytes: 1 };
        let next = match behind {
            0 => None,
            _ => self.log.read_all(checkpoint, one).await.ok().and_then(|commits| commits.into_iter().next()),
        };
        let waits =
            next.map_or(0.0, |commit| self.clock.now().ms_since(commit.commit.header().recorded_at) as f64 / 1_000.0);
        ::metrics::gauge!(metrics::FEED_LAG_SECONDS).set(waits);
    }
}

/// Resolves once the turn is over.
async fn over(turn: &mut watch::Receiver<bool>) {
    // Whoever gives the turns goes with the node.
    if turn.wait_for(|is_ours| !*is_ours).await.is_err() {
        std::future::pending().await
    }
}

async fn of_file(load: impl FnOnce() -> io::Result<Checkpoint> + Send + 'static) -> Result<Checkpoint, Trouble> {
    let found = tokio::task::spawn_blocking(load).await.map_err(|error| Trouble::Checkpoint(error.to_string()))?;
    found.map_err(|error| Trouble::File(error.to_string()))
}

async fn of_bucket(bucket: &kv::Store, stream: &str) -> Result<Checkpoint, Trouble> {
    let found = bucket.get(KEY).await.map_err(|error| Trouble::Bucket(with_causes(&error)))?;
    Ok(found.map_or_else(|| Checkpoint::at_start(stream), |bytes| Checkpoint::read(&bytes, stream)))
}

/// Tenants beside each other, at most so many, and each one's events [in order](in_order). The place of the last one.
async fn beside_each_other(bus: &Bus, events: &[Message], tenants_max: usize) -> Result<u64, Trouble> {
    let mut tenants = HashMap::<&TenantId, Vec<Message>>::new();
    for event in events {
        tenants.entry(&event.tenant).or_default().push(event.clone());
    }
    stream::iter(tenants.into_values().map(|events| in_order(bus, events)))
        .buffer_unordered(tenants_max)
        .try_fold(0, |highest, sequence| future::ready(Ok(sequence.max(highest))))
        .await
}

/// Each event of a tenant once the one before it is acknowledged. The place of the last one.
async fn in_order(bus: &Bus, events: Vec<Message>) -> Result<u64, Trouble> {
    let mut highest = 0;
    for event in events {
        // One that was there already lies before others.
        highest = bus.publish(event).await?.max(highest);
    }
    Ok(highest)
}

fn unreadable(error: ReadError) -> End {
    match error {
        ReadError::Damaged { position, what } => End::Poison(position, format!("the log is damaged: {what}")),
        unavailable @ ReadError::Unavailable(_) => End::Trouble(Trouble::Log(unavailable.to_string())),
    }
}
