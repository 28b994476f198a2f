//! Pasts of tenants, written into a log as their owner would have: registered, and then executions that were accepted and have ended.

use anyhow::{Context as _, bail};
use wasmwiz_actors::ids::Ids;
use wasmwiz_events::{
    envelope,
    event::Event,
    id::TenantId,
    log::{Append, EventLog, conformance::Stream},
};

/// The most events of one commit: some hundred KiB.
const COMMIT_EVENTS: u64 = 400;

/// What a past is made of: events as they are stored.
#[derive(Debug)]
struct Past {
    registered: Event,
    accepted: Event,
    finished: Event,
}

fn golden(text: &str) -> anyhow::Result<Event> {
    let read = envelope::decode(format!("[{text}]").as_bytes())?;
    Ok(read.into_iter().next().context("there is no event")?.event)
}

impl Past {
    fn read() -> anyhow::Result<Self> {
        Ok(Self {
            registered: golden(include_str!("../../events/golden/dev.wasmwiz.tenant.registered.v1.json"))?,
            accepted: golden(include_str!("../../events/golden/dev.wasmwiz.execution.accepted.v1.json"))?,
            finished: golden(include_str!("../../events/golden/dev.wasmwiz.execution.finished.v1.json"))?,
        })
    }

    /// One more execution, from its acceptance to its end.
    fn execution(&self) -> anyhow::Result<[Event; 2]> {
        let (mut begun, mut ended, id) = (self.accepted.clone(), self.finished.clone(), Ids.execution());
        match (&mut begun, &mut ended) {
            (Event::ExecutionAccepted(accepted), Event::ExecutionFinished(finished)) => {
                (accepted.execution_id, finished.execution_id) = (id, id);
                accepted.bucket_full_at = None;
            }
            other => bail!("these are other events: {other:?}"),
        }
        Ok([begun, ended])
    }
}

/// Writes the past of a tenant that is not there yet: at least so many events, and at most one more.
///
/// # Errors
/// When the log does not take it.
pub async fn write(log: &dyn EventLog, tenant: &TenantId, events: u64) -> anyhow::Result<()> {
    let (past, mut stream) = (Past::read()?, Stream::of(tenant.clone()));
    let mut next = vec![past.registered.clone()];
    while stream.head.revision.get() < events {
        let wanted = (events - stream.head.revision.get()).min(COMMIT_EVENTS);
        while (next.len() as u64) < wanted {
            next.extend(past.execution()?);
        }
        let append = Append { commit: stream.seal_events(std::mem::take(&mut next)), payloads: Vec::new() };
        let head = append.commit.head();
        log.append(append).await?;
        stream.head = head;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::log::memory::MemoryLog;

    use super::*;
    use crate::history::History;

    #[tokio::test]
    async fn a_past_is_a_sound_history_of_that_length() {
        let log = MemoryLog::new();
        for (name, events) in [("one", 1), ("two", 22), ("three", 1_001)] {
            write(&log, &TenantId::new(name).unwrap(), events).await.unwrap();
        }
        let history = History::of(&log).await.unwrap();
        history.each_ended_once().unwrap();
        let lengths: Vec<_> = ["one", "two", "three"].map(|tenant| history.ids[tenant].len()).into();
        assert_eq!(lengths, [1, 23, 1_001]);
    }
}
