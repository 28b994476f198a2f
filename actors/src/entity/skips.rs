//! The commits that operators have let be passed over, as the operators' own stream says. It is looked at when a stream cannot be
//! folded, and never before.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::Mutex;
use wasmwiz_events::{
    event::Event,
    id::TenantId,
    ledger::Verifier,
    log::{EventLog, ReadLimit},
    revision::Position,
};

use crate::tenant::SYSTEM;

/// What was read of that stream so far. It is read from there on each time, as far as it goes by then.
pub(crate) struct Skips(Mutex<Option<Read>>);

struct Read {
    verifier: Verifier,
    position: Position,
    places: BTreeSet<(TenantId, Position)>,
}

impl Skips {
    /// Nothing was read.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// May this commit of the tenant's be passed over? A skip is never taken back.
    ///
    /// # Errors
    /// Why the operators' stream cannot be read: then nobody knows, and nothing may.
    pub(super) async fn hold(&self, log: &dyn EventLog, tenant: &TenantId, at: Position) -> Result<bool, Arc<str>> {
        let mut held = self.0.lock().await;
        let system = TenantId::new(SYSTEM).map_err(unread)?;
        let read = held.get_or_insert_with(|| Read {
            verifier: Verifier::new(system.clone()),
            position: Position::START,
            places: BTreeSet::new(),
        });
        let place = (tenant.clone(), at);
        while !read.places.contains(&place) {
            let from = read.verifier.head().revision.next();
            let page = log.read_stream_behind(&system, from, read.position, ReadLimit::default()).await;
            let page = page.map_err(unread)?;
            if page.is_empty() {
                return Ok(false);
            }
            for recorded in page {
                read.verifier.step(&recorded.commit).map_err(unread)?;
                read.position = recorded.position;
                for envelope in recorded.commit.events().map_err(unread)?.iter() {
                    if let Event::CommitSkipped(skipped) = &envelope.event {
                        read.places.insert((skipped.tenant.clone(), skipped.position));
                    }
                }
            }
        }
        Ok(true)
    }
}

fn unread(error: impl std::fmt::Display) -> Arc<str> {
    format!("it cannot be told whether it was skipped: {error}").into()
}
