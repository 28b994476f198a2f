//! Server-sent events of one tenant's history, from the log itself.
//!
//! ```text
//! log ─ read_stream(from) ─► frames ─► channel of a few pieces ─► body ─► client
//!  └─ follower: "it has grown" ──┘           └─ not taken in time: closed; the client resumes from its last id
//! ```
//! An id names the place in the stream, so a client that comes back misses nothing and sees nothing twice. poem's own
//! events are a stream that the connection pulls: it can neither notice that nobody pulls, nor end with its key.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use poem::{Body, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use wasmwiz_events::{
    commit::Recorded,
    envelope::Envelope,
    event::Event,
    id::TenantId,
    key::Scope,
    log::ReadLimit,
    revision::{Position, Revision},
};

use crate::{
    auth::Caller,
    gateway::Gateway,
    metrics, position,
    problem::{Kind, Problem},
    router::Answer,
};

pub(crate) mod follow;
pub(crate) mod frame;

/// What a stream of events is.
pub(crate) const MEDIA_TYPE: &str = "text/event-stream";

/// How a client says where it was.
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Pieces that may wait for the connection to take them.
const PIECES: usize = 2;

/// What one piece is made of: so much of the log is in memory for a reader, whatever its speed.
const READ: ReadLimit = ReadLimit { commits: 64, bytes: 64 << 10 };

/// How often it is looked whether the credential still holds.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// When to try again while there are as many streams as may be, in milliseconds.
const RETRY_MS: u64 = 5_000;

/// Bounds of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamsConfig {
    /// Streams of this node at the same time. Each takes about 200 KiB at most.
    pub streams_max: usize,
    /// Of them, those of one tenant.
    pub streams_per_tenant_max: usize,
    /// Between two signs of life on a stream without events, in milliseconds: shorter than the patience of proxies.
    pub heartbeat_ms: u64,
    /// How long a client may take nothing of what is sent, in milliseconds. Then its stream is closed.
    pub stall_ms: u64,
}

impl Default for StreamsConfig {
    fn default() -> Self {
        Self { streams_max: 1_024, streams_per_tenant_max: 32, heartbeat_ms: 15_000, stall_ms: 30_000 }
    }
}

/// Who has a stream open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seats(Arc<Mutex<HashMap<TenantId, usize>>>);

/// The right to one stream.
#[derive(Debug)]
struct Seat {
    seats: Seats,
    tenant: TenantId,
}

impl Seats {
    fn take(&self, config: &StreamsConfig, tenant: &TenantId) -> Result<Seat, Problem> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (open.values().sum::<usize>(), open.get(tenant).copied().unwrap_or_default());
        if own >= config.streams_per_tenant_max {
            let most = config.streams_per_tenant_max;
            let detail = format!("The tenant has {most} streams open, which is the most. Close one, or share one.");
            return Err(Problem::new(Kind::TooManyStreams, detail).retry_after_ms(RETRY_MS));
        }
        if all >= config.streams_max {
            let detail = "This node has as many streams open as it takes. Try again after the pause, or elsewhere.";
            return Err(Problem::new(Kind::NodeBusy, detail).retry_after_ms(RETRY_MS));
        }
        open.insert(tenant.clone(), own + 1);
        ::metrics::gauge!(metrics::STREAMS).increment(1);
        Ok(Seat { seats: self.clone(), tenant: tenant.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.tenant) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.remove(&self.tenant);
            }
        }
        ::metrics::gauge!(metrics::STREAMS).decrement(1);
    }
}

/// An event of the log, before a stream.
pub(crate) struct Happened<'a> {
    pub(crate) envelope: &'a Envelope,
    /// As the log has it.
    pub(crate) stored: &'a str,
}

/// How a stream shows an event.
pub(crate) enum Shown {
    /// Not at all.
    Not,
    /// As this: name and data.
    As(String, String),
    /// As this, and nothing follows.
    Last(String, String),
}

/// The place after the one that the client names as its last; `None` when it names none.
pub(crate) fn resumed(headers: &HeaderMap, head: Revision) -> Result<Option<Revision>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let last = value.to_str().ok().and_then(position::event_of).filter(|last| *last <= head);
    let last = last.ok_or_else(|| {
        let detail =
            "Last-Event-ID is not an id of this stream. Send back the last one that you got, unchanged; or none.";
        Problem::new(Kind::MalformedPosition, detail)
    })?;
    Ok(Some(last.next()))
}

/// Answers with a stream of the caller's history, from this revision on, as `show` shows it.
pub(crate) async fn answer(
    gateway: &Gateway,
    caller: Caller,
    scope: Scope,
    from: Revision,
    show: impl Fn(&Happened<'_>) -> Shown + Send + 'static,
) -> Answer {
    if gateway.deps().readiness.is_draining() {
        return Err(Problem::unavailable("This node is stopping. Connect to another.", "draining"));
    }
    let config = gateway.config().streams;
    let seat = gateway.seats().take(&config, caller.tenant_id())?;
    let grown = gateway.follower().watch(caller.tenant_id()).await?;
    let (pieces, taken) = mpsc::channel(PIECES);
    let producer = Producer { gateway: gateway.clone(), caller, scope, next: from, pieces, config, _seat: seat };
    tokio::spawn(producer.run(grown, show));
    let body = futures_util::stream::unfold(taken, async |mut taken| {
        let piece: Bytes = taken.recv().await?;
        Some((Ok::<_, io::Error>(piece), taken))
    });
    let response = Response::builder()
        .header(header::CONTENT_TYPE, MEDIA_TYPE)
        .header(header::CACHE_CONTROL, "no-cache, no-store")
        // Some proxies gather what they pass on, unless they are told.
        .header("x-accel-buffering", "no");
    Ok(response.body(Body::from_bytes_stream(body)))
}

/// Why a stream ends.
enum Over {
    /// Everything was shown.
    Shown,
    /// The client has gone, or takes nothing.
    Gone,
    /// The credential does not hold any more, or the node stops.
    Withdrawn,
    /// The log cannot be read.
    Unreadable,
}

impl Over {
    const fn label(&self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Gone => "gone",
            Self::Withdrawn => "withdrawn",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Makes the pieces of one stream. Dropped, it ends the stream.
struct Producer {
    gateway: Gateway,
    caller: Caller,
    scope: Scope,
    /// The next revision to look at.
    next: Revision,
    pieces: mpsc::Sender<Bytes>,
    config: StreamsConfig,
    _seat: Seat,
}

impl Producer {
    async fn run(mut self, grown: watch::Receiver<()>, show: impl Fn(&Happened<'_>) -> Shown + Send) {
        let draining = self.gateway.deps().readiness.draining();
        let over = match draining.run_until_cancelled(self.produce(grown, show)).await {
            Some(Err(over)) => over,
            Some(Ok(())) => Over::Shown,
            None => Over::Withdrawn,
        };
        ::metrics::counter!(metrics::STREAMS_ENDED_TOTAL, "reason" => over.label()).increment(1);
    }

    async fn produce(
        &mut self,
        mut grown: watch::Receiver<()>,
        show: impl Fn(&Happened<'_>) -> Shown + Send,
    ) -> Result<(), Over> {
        self.send(frame::OPENING.to_owned()).await?;
        let heartbeat = Duration::from_millis(self.config.heartbeat_ms.max(1));
        let mut beat = tokio::time::interval_at(Instant::now() + heartbeat, heartbeat);
        let mut check = tokio::time::interval(CHECK_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            grown.mark_unchanged();
            while let Some(commits) = self.read().await? {
                let (text, last) = self.written(&commits, &show)?;
                if !text.is_empty() {
                    self.send(text).await?;
                    beat.reset();
                }
                if last {
                    return Ok(());
                }
            }
            loop {
                tokio::select! {
                    changed = grown.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Err(Over::Unreadable),
                    },
                    () = self.pieces.closed() => return Err(Over::Gone),
                    _ = check.tick() => self.require_credential()?,
                    _ = beat.tick() => self.send(frame::HEARTBEAT.to_owned()).await?,
                }
            }
        }
    }

    /// The next commits; `None` at the end of the history.
    async fn read(&self) -> Result<Option<Vec<Arc<Recorded>>>, Over> {
        let read = self.gateway.deps().log.read_stream(self.caller.tenant_id(), self.next, READ).await;
        let commits = read.map_err(|error| {
            tracing::warn!(%error, "a stream ends because the log cannot be read");
            Over::Unreadable
        })?;
        // After the read: what happened after a key was revoked is not told to its holder. The log is ahead of the view of
        // keys; where it says that somebody may have lost access, the view must know, too.
        if let Some(last) = commits.last()
            && commits.iter().any(|recorded| may_withdraw(recorded))
        {
            self.gateway.until_known(last.position).await.map_err(|_| Over::Withdrawn)?;
        }
        self.require_credential()?;
        Ok((!commits.is_empty()).then_some(commits))
    }

    /// What these commits have to be shown, and whether anything follows.
    fn written(
        &mut self,
        commits: &[Arc<Recorded>],
        show: &impl Fn(&Happened<'_>) -> Shown,
    ) -> Result<(String, bool), Over> {
        let mut text = String::new();
        for recorded in commits {
            let unreadable = |error: &dyn std::fmt::Display| {
                tracing::error!(position = %recorded.position, %error, "a stream ends at a commit that cannot be read");
                Over::Unreadable
            };
            let stored: Vec<&RawValue> =
                serde_json::from_slice(recorded.commit.body()).map_err(|error| unreadable(&error))?;
            let events = recorded.commit.events().map_err(|error| unreadable(&error))?;
            for (envelope, stored) in events.iter().zip(stored).filter(|(envelope, _)| envelope.revision >= self.next) {
                let (name, data, last) = match show(&Happened { envelope, stored: stored.get() }) {
                    Shown::Not => continue,
                    Shown::As(name, data) => (name, data, false),
                    Shown::Last(name, data) => (name, data, true),
                };
                frame::write(&mut text, &id_of(recorded.position, envelope), &name, &data);
                if last {
                    return Ok((text, true));
                }
            }
            self.next = recorded.commit.last_revision().next();
        }
        Ok((text, false))
    }

    fn require_credential(&self) -> Result<(), Over> {
        if self.gateway.still_holds(&self.caller, self.scope) { Ok(()) } else { Err(Over::Withdrawn) }
    }

    /// Gives a piece to the connection, which must take it in time.
    async fn send(&self, piece: String) -> Result<(), Over> {
        let stall = Duration::from_millis(self.config.stall_ms);
        match tokio::time::timeout(stall, self.pieces.send(piece.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Over::Gone),
        }
    }
}

/// May a credential of the tenant hold no longer after this commit? When in doubt, yes.
fn may_withdraw(recorded: &Recorded) -> bool {
    let withdraws =
        |event: &Event| matches!(event, Event::KeyRevoked(_) | Event::KeyRotated(_) | Event::TenantSuspended(_));
    recorded.commit.events().map_or(true, |events| events.iter().any(|envelope| withdraws(&envelope.event)))
}

fn id_of(at: Position, envelope: &Envelope) -> String {
    position::event_token(at, envelope.revision)
}
