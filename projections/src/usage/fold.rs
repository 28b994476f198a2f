//! How counters follow from events.
//!
//! An execution is counted when it ends, but its key, module and input are named when it is accepted. Those facts wait in
//! memory for the end, and go to the table of open executions only when the batch is written before it comes.

use std::collections::HashMap;

use rusqlite::Transaction;
use wasmwiz_events::{
    commit::Recorded,
    envelope::Envelope,
    event::Event,
    execution::{Accepted, Finished, Outcome},
    id::ExecutionId,
    time::Timestamp,
};

use super::{
    histogram::Histogram,
    rows::{self, Counters, Place},
    storage::Gathered,
};
use crate::{
    dictionary::{Local, Texts},
    executions::outcome_code,
    projection::{Fault, Projection},
};

/// Milliseconds of an hour.
pub(super) const HOUR_MS: i64 = 3_600_000;

/// What the acceptance says and the counters need.
#[derive(Debug, Clone, Copy)]
struct Open {
    key: Local,
    module: Local,
    stdin_bytes: u64,
    /// A further attempt may take the place of one whose row is still in the table.
    further: bool,
}

/// What the end says, of an execution that was accepted in an earlier batch.
#[derive(Debug)]
struct Ended {
    tenant: Local,
    id: ExecutionId,
    hour: i64,
    outcome: Outcome,
    counters: Counters,
}

/// The fold of the view.
#[derive(Debug, Default)]
pub(crate) struct UsageProjection {
    tenants: Texts,
    keys: Texts,
    modules: Texts,
    opened: HashMap<(Local, ExecutionId), Open>,
    counted: HashMap<Place<Local>, Counters>,
    ended: Vec<Ended>,
    replaced: Vec<(Local, ExecutionId)>,
    storage: Gathered,
}

impl UsageProjection {
    fn accept(&mut self, tenant: Local, accepted: &Accepted) {
        let module = match &accepted.module.name {
            Some(name) => self.modules.text(name.as_str()),
            None => self.modules.text(&accepted.module.digest.to_string()),
        };
        let key = self.keys.text(accepted.key_id.as_str());
        let open = Open { key, module, stdin_bytes: accepted.stdin.size_bytes, further: accepted.attempt > 1 };
        self.opened.insert((tenant, accepted.execution_id), open);
    }

    fn end(&mut self, tenant: Local, id: ExecutionId, at: Timestamp, outcome: Outcome, mut counters: Counters) {
        let hour = at.unix_ms().div_euclid(HOUR_MS);
        match self.opened.remove(&(tenant, id)) {
            Some(Open { key, module, stdin_bytes, further }) => {
                if further {
                    self.replaced.push((tenant, id));
                }
                counters.stdin_bytes = stdin_bytes;
                let place = Place { tenant, hour, key, module, outcome: outcome_code(outcome) };
                self.counted.entry(place).or_default().add(&counters);
            }
            None => self.ended.push(Ended { tenant, id, hour, outcome, counters }),
        }
    }

    fn clear(&mut self) {
        self.opened.clear();
        self.counted.clear();
        self.ended.clear();
        self.replaced.clear();
        self.storage.clear();
    }
}

fn finished_counters(finished: &Finished) -> Counters {
    Counters {
        executions: 1,
        fuel: finished.fuel.unwrap_or_default(),
        cpu_us: finished.cpu_ms.as_micros(),
        wall_us: finished.wall_ms.as_micros(),
        peak_memory_bytes: finished.peak_memory_bytes,
        stdin_bytes: 0,
        stdout_bytes: finished.stdout.size_bytes,
        stderr_bytes: finished.stderr.size_bytes,
        transcript_bytes: finished.transcript().map_or(0, |kept| kept.size_bytes),
        walls: finished.ran_for().map_or_else(Histogram::default, |wall| Histogram::of(wall.as_micros())),
    }
}

impl Projection for UsageProjection {
    const NAME: &'static str = "usage";
    const VERSION: u32 = 6;
    const SCHEMA: &'static str = rows::SCHEMA;

    fn fold(&mut self, recorded: &Recorded, events: &[Envelope]) -> Result<(), Fault> {
        let mut tenant = None;
        for Envelope { time, event, .. } in events {
            let mut local = || *tenant.get_or_insert_with(|| self.tenants.text(recorded.commit.tenant().as_str()));
            match event {
                Event::ExecutionAccepted(accepted) => {
                    let tenant = local();
                    self.storage.accepted(tenant, accepted);
                    self.accept(tenant, accepted);
                }
                Event::ExecutionFinished(finished) => {
                    let tenant = local();
                    self.storage.finished(tenant, finished);
                    let counters = finished_counters(finished);
                    self.end(tenant, finished.execution_id, *time, finished.outcome, counters);
                }
                Event::ExecutionLost(lost) => {
                    let tenant = local();
                    // Nobody measured it: it is counted, and takes no part in the times.
                    let counters = Counters { executions: 1, ..Counters::default() };
                    self.end(tenant, lost.execution_id, *time, Outcome::Lost, counters);
                }
                Event::ModulePublished(published) => {
                    let tenant = local();
                    self.storage.published(tenant, published);
                }
                Event::ModuleDeleted(deleted) => {
                    let tenant = local();
                    self.storage.deleted(tenant, &deleted.name);
                }
                Event::PayloadsReleased(released) => {
                    let tenant = local();
                    self.storage.released(tenant, released);
                }
                Event::TenantRegistered(_)
                | Event::TenantRenamed(_)
                | Event::TenantTierChanged(_)
                | Event::TenantSuspended(_)
                | Event::TenantResumed(_)
                | Event::KeyIssued(_)
                | Event::KeyRotated(_)
                | Event::KeyRevoked(_)
                | Event::ModuleRejected(_)
                | Event::ExecutionStarted(_)
                // It is no execution of its own; what it took is in its event.
                | Event::ExecutionVerified(_)
                | Event::RequestsDenied(_)
                | Event::CommitSkipped(_)
                | Event::Unknown(_) => {}
            }
        }
        Ok(())
    }

    fn flush(&mut self, transaction: &Transaction<'_>) -> Result<(), Fault> {
        self.tenants.resolve_in(transaction, "tenants")?;
        self.keys.resolve_in(transaction, "keys")?;
        self.modules.resolve_in(transaction, "modules")?;
        let mut sums: HashMap<Place<i64>, Counters> = HashMap::with_capacity(self.counted.len());
        for (place, counters) in &self.counted {
            let place = Place {
                tenant: self.tenants.number(place.tenant)?,
                hour: place.hour,
                key: self.keys.number(place.key)?,
                module: self.modules.number(place.module)?,
                outcome: place.outcome,
            };
            sums.insert(place, counters.clone());
        }
        // Ends first: an execution that ended and was accepted again in this batch is open in its further attempt.
        for ended in &self.ended {
            let tenant = self.tenants.number(ended.tenant)?;
            let opened = rows::close(transaction, tenant, ended.id)?.ok_or(Fault::NotOpen(ended.id))?;
            let (key, module) = (opened.key, opened.module);
            let place = Place { tenant, hour: ended.hour, key, module, outcome: outcome_code(ended.outcome) };
            let counters = Counters { stdin_bytes: opened.stdin_bytes, ..ended.counters.clone() };
            sums.entry(place).or_default().add(&counters);
        }
        for (tenant, id) in &self.replaced {
            rows::close(transaction, self.tenants.number(*tenant)?, *id)?;
        }
        for ((tenant, id), open) in &self.opened {
            let tenant = self.tenants.number(*tenant)?;
            let (key, module) = (self.keys.number(open.key)?, self.modules.number(open.module)?);
            rows::open(transaction, tenant, *id, &rows::Opened { key, module, stdin_bytes: open.stdin_bytes })?;
        }
        for (place, counters) in &sums {
            rows::add(transaction, place, counters)?;
        }
        self.storage.flush(transaction, &self.tenants)
    }

    fn committed(&mut self) {
        self.tenants.committed();
        self.keys.committed();
        self.modules.committed();
        self.clear();
    }

    fn discard(&mut self) {
        self.tenants.discard();
        self.keys.discard();
        self.modules.discard();
        self.clear();
    }
}
