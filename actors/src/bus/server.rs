//! The other end: what comes from other nodes, decided here.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::Instrument as _;

use super::BusConfig;
use crate::{
    codec::{self, Control, FrameError, Kind, Question, Reply},
    dispatch::Dispatch,
    handle::AskError,
    metrics,
    region::{Asked, ENTITIES_TRIED, Region, contended},
    trace,
};

/// When to try again while this node answers as many others as it may, in milliseconds.
const BUSY_RETRY_MS: u64 = 100;

/// Answers other nodes. Clones share their bounds.
#[derive(Clone)]
pub struct Server {
    region: Region,
    dispatch: Dispatch,
    asks: Arc<Semaphore>,
    reports: Arc<Semaphore>,
}

impl Server {
    /// A server that decides in `region` and stops what runs in `dispatch`.
    pub fn new(region: Region, dispatch: Dispatch, config: BusConfig) -> Self {
        let places = || Arc::new(Semaphore::new(config.serving_max));
        Self { region, dispatch, asks: places(), reports: places() }
    }

    /// Answers a frame, whatever is in it.
    pub async fn serve(&self, frame: Bytes) -> Bytes {
        let reply = match codec::open(&frame) {
            Ok((kind @ (Kind::Ask | Kind::Report), body)) => self.decide(kind, body).await,
            Ok((Kind::Unreadable | Kind::Reply | Kind::Control, _)) => unread(&FrameError::Kind),
            Err(FrameError::Version(version)) => {
                tracing::warn!(version, "a node of another version asks; bring all nodes to one version");
                return codec::unreadable();
            }
            Err(error) => unread(&error),
        };
        reply.encode().unwrap_or_else(|error| {
            tracing::error!(%error, "an answer to another node cannot be written");
            let reason = format!("the command was dealt with, but its answer does not reach this node: {error}");
            let reply = Reply::Unavailable { reason: reason.into(), retry_after_ms: 1_000 };
            // This one is small. An empty frame is none, and then whoever asked knows no more than it does.
            reply.encode().unwrap_or_default()
        })
    }

    /// Does what a frame tells, if it can be read.
    pub fn hear(&self, frame: &[u8]) {
        match Control::decode(frame) {
            Ok(Control::Cancel { execution_id }) => self.dispatch.stop(execution_id),
            Err(error) => tracing::warn!(%error, "what another node tells cannot be read"),
        }
    }

    async fn decide(&self, kind: Kind, body: &[u8]) -> Reply {
        let Some(_place) = self.place(kind) else { return Reply::Busy { retry_after_ms: BUSY_RETRY_MS } };
        let question = match Question::decode(body) {
            Ok(question) => question,
            Err(error) => return unread(&error),
        };
        let span = tracing::info_span!(
            "bus.serve",
            tenant.id = %question.tenant,
            command.id = %question.ask.origin.command,
            traceparent = question.ask.origin.traceparent.as_deref(),
        );
        let traced = tracing::debug_span!(target: trace::TARGET, "bus.serve", otel.kind = "server");
        trace::adopt(&traced, question.ask.origin.traceparent.as_deref());
        let within = question.within;
        let asked = self.ask(question).instrument(traced).instrument(span);
        match tokio::time::timeout(within, asked).await {
            Ok(Ok(Asked::Decided(decided))) => Reply::Decided(decided),
            Ok(Ok(Asked::NotHere | Asked::Moved)) => Reply::NotHere,
            Ok(Err(AskError::Refused(refusal))) => Reply::Refused(refusal),
            Ok(Err(AskError::Busy { retry_after_ms })) => Reply::Busy { retry_after_ms },
            Ok(Err(AskError::Unavailable { reason, retry_after_ms })) => Reply::Unavailable { reason, retry_after_ms },
            Err(_) => Reply::TooLate,
        }
    }

    async fn ask(&self, Question { tenant, ask, within }: Question) -> Result<Asked, AskError> {
        if self.region.is_closing() {
            // Whoever owns it next decides.
            return Ok(Asked::NotHere);
        }
        // What is accepted here waits in the line of this node.
        let _entering = match ask.command.execute() {
            Some(execute) if execute.asynchronous && self.region.is_here(&tenant) => {
                Some(self.region.enter_queue().ok_or(AskError::Busy { retry_after_ms: 1_000 })?)
            }
            _ => None,
        };
        // The bound around this is the time that the other node still waits. Callers of this node may wait less.
        let within = within.saturating_mul(2);
        for _ in 0..ENTITIES_TRIED {
            match self.region.ask_one(&tenant, ask.clone(), None, within).await? {
                Asked::Moved => {}
                asked => return Ok(asked),
            }
        }
        Err(contended())
    }

    /// A place for one more. Reports have their own: they end what others have begun.
    fn place(&self, kind: Kind) -> Option<SemaphorePermit<'_>> {
        let places = if kind == Kind::Report { &self.reports } else { &self.asks };
        let place = places.try_acquire().ok();
        if place.is_none() {
            ::metrics::counter!(metrics::SHED_TOTAL, "bound" => "bus_serving").increment(1);
        }
        place
    }
}

fn unread(error: &FrameError) -> Reply {
    tracing::warn!(%error, "a frame of another node cannot be read");
    Reply::Unread { reason: error.to_string().into() }
}
