//! One append on its way to the log, retried while nothing is lost by it.

use std::{sync::Arc, time::Duration};

use ractor::ActorRef;
use wasmwiz_events::log::{Append, AppendError, EventLog};

use super::Message;

/// How often the same commit is offered again after `Busy` or `Unknown`. The log knows a commit by its id, so offering
/// it again is safe; with the pauses below this gives up after about two seconds.
const ATTEMPTS: u32 = 8;

/// The first pause; each further one is twice as long.
const FIRST_PAUSE_MS: u64 = 8;

/// Appends in a task of its own, so that the entity goes on gathering, and reports to `entity`.
pub(super) fn begin(log: Arc<dyn EventLog>, append: Append, entity: ActorRef<Message>) {
    tokio::spawn(async move {
        let mut pause_ms = FIRST_PAUSE_MS;
        for attempt in 1.. {
            let result = log.append(append.clone()).await;
            let again = matches!(result, Err(AppendError::Busy | AppendError::Unknown(_)));
            if !again || attempt == ATTEMPTS {
                // An entity that has gone needs no report.
                let _ = entity.send_message(Message::Appended(result));
                return;
            }
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            pause_ms *= 2;
        }
    });
}
