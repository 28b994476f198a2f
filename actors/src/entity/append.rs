//! One append on its way to the log, retried while nothing is lost by it.
//!
//! A log that is busy, or of which nobody knows, is offered the same sealed commit again: it knows a commit by its id. The entity
//! keeps its state meanwhile, so that a log that stalls for a while costs its callers an answer and not everybody a fold.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use ractor::ActorRef;
use tokio::{sync::watch, time::Instant};
use wasmwiz_events::log::{Append, AppendError, EventLog};

use super::Message;
use crate::{
    handle::{Answer, Pending},
    trace,
};

/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(8);

/// The longest of those.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long a commit is offered in any case: a shard that is given up waits for what is in flight, so that nobody is told that it is
/// not known what a moment later would be. Shorter than the 5 s of `cluster.drain_ms`, after which the shard goes all the same.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(4);

/// A commit on its way.
pub(super) struct Begun {
    /// Has the log taken it in? Otherwise it is offered again, and nothing may be offered on top of it.
    pub(super) taken_in: bool,
    /// Told when the log has said what became of it, and it is not offered again.
    pub(super) settled: watch::Receiver<bool>,
}

/// How long a commit is offered, and behind which.
pub(super) struct Terms<F> {
    /// For so long.
    pub(super) within: Duration,
    /// No longer than this holds, beyond the moment that a handover waits: the next owner is not kept waiting.
    pub(super) is_ours: F,
    /// Again only behind this one, which it stands on.
    pub(super) behind: Option<watch::Receiver<bool>>,
}

/// Offers a commit to the log and reports to `entity`. Offered is it before this returns, so that a later commit is not
/// offered earlier; what the log says comes from a task of its own, so that the entity goes on gathering.
pub(super) fn begin<F: Fn() -> bool + Send + 'static>(
    log: Arc<dyn EventLog>,
    append: Append,
    entity: ActorRef<Message>,
    terms: Terms<F>,
) -> Begun {
    let commit_id = append.commit.header().commit_id;
    let first = append.clone();
    let mut first = Box::pin({
        let log = Arc::clone(&log);
        async move { log.append(first).await }
    });
    let at_once = (&mut first).now_or_never();
    let taken_in = !matches!(at_once, Some(Err(_)));
    let (settle, settled) = watch::channel(false);
    tokio::spawn(async move {
        let Terms { within, is_ours, mut behind } = terms;
        let (begun, deadline) = (Instant::now(), Instant::now() + within);
        let mut result = match at_once {
            Some(result) => result,
            None => first.await,
        };
        let mut pause = FIRST_PAUSE;
        while matches!(result, Err(AppendError::Busy | AppendError::Unknown(_)))
            && Instant::now() + pause < deadline
            && (is_ours() || begun.elapsed() < HANDED_OVER_WITHIN)
        {
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            if let Some(before) = &mut behind {
                // Whoever offered it may have gone; then it was settled.
                let _ = before.wait_for(|settled| *settled).await;
            }
            result = log.append(append.clone()).await;
        }
        // An entity that has gone needs no report.
        let _ = entity.send_message(Message::Appended(commit_id, result));
        settle.send_replace(true);
    });
    Begun { taken_in, settled }
}

/// The span of the commit that these decisions are: it belongs to the trace of the first of them that has events, and has a
/// link to each of the others.
pub(super) fn span(decided: &[(Pending, Answer)]) -> tracing::Span {
    let has_events = |given: &Answer| matches!(given, Answer::Decided(decided) if !decided.events.is_empty());
    let mut spans = decided.iter().filter(|(_, given)| has_events(given)).map(|(pending, _)| &pending.span);
    let Some(first) = spans.find(|span| !span.is_disabled()) else { return tracing::Span::none() };
    let span = tracing::debug_span!(target: trace::TARGET, parent: first, "log.append", commands = decided.len());
    spans.for_each(|other| {
        span.follows_from(other);
    });
    span
}
