//! One append on its way to the log, retried while nothing is lost by it.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use ractor::ActorRef;
use wasmwiz_events::log::{Append, AppendError, EventLog};

use super::Message;

/// How often the same commit is offered again after `Busy` or `Unknown`. The log knows a commit by its id, so offering
/// it again is safe; with the pauses below this gives up after about two seconds.
const ATTEMPTS: u32 = 8;

/// The first pause; each further one is twice as long.
const FIRST_PAUSE_MS: u64 = 8;

/// Offers a commit to the log and reports to `entity`. Offered is it before this returns, so that a later commit is not
/// offered earlier; what the log says comes from a task of its own, so that the entity goes on gathering.
///
/// Says whether the log has taken it in: otherwise it is offered again later, and nothing may be offered on top of it.
pub(super) fn begin(log: Arc<dyn EventLog>, append: Append, entity: ActorRef<Message>) -> bool {
    let commit_id = append.commit.header().commit_id;
    let first = append.clone();
    let mut first = Box::pin({
        let log = Arc::clone(&log);
        async move { log.append(first).await }
    });
    let at_once = (&mut first).now_or_never();
    let taken_in = !matches!(at_once, Some(Err(_)));
    tokio::spawn(async move {
        let mut result = match at_once {
            Some(result) => result,
            None => first.await,
        };
        let mut pause_ms = FIRST_PAUSE_MS;
        for _ in 1..ATTEMPTS {
            if !matches!(result, Err(AppendError::Busy | AppendError::Unknown(_))) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            pause_ms *= 2;
            result = log.append(append.clone()).await;
        }
        // An entity that has gone needs no report.
        let _ = entity.send_message(Message::Appended(commit_id, result));
    });
    taken_in
}
