//! How rows of executions follow from events.
//!
//! Most executions are accepted and end within one batch: those are one insertion, and never a row of the index of open
//! ones.

use std::collections::HashMap;

use rusqlite::Transaction;
use wasmwiz_events::{
    commit::Recorded,
    envelope::Envelope,
    event::Event,
    execution::{Accepted, Content, Finished, Lost, ModuleRef, Outcome, Started},
    id::ExecutionId,
    reproducibility::Reproducibility,
    revision::{Position, Revision},
    time::{Millis, Timestamp},
};

use super::{ExecutionEnd, rows};
use crate::{
    dictionary::{Dictionary, Local, Texts},
    projection::{Fault, Projection},
};

/// The accepted half of a row.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) attempt: u32,
    pub(super) module: Local,
    pub(super) key: Local,
    pub(super) stdin: Content,
    pub(super) at: Timestamp,
    pub(super) started_at: Option<Timestamp>,
    pub(super) position: Position,
    pub(super) revision: Revision,
    pub(super) rerun_of: Option<ExecutionId>,
    pub(super) fuel: Option<u64>,
}

/// What one batch knows of one execution.
#[derive(Debug, Default)]
struct Change {
    opening: Option<Opening>,
    /// The last attempt that began after the opening's batch.
    started: Option<(u32, Timestamp)>,
    end: Option<ExecutionEnd>,
}

/// The fold of the view.
#[derive(Debug, Default)]
pub(crate) struct ExecutionsProjection {
    tenants: Texts,
    keys: Texts,
    modules: Dictionary<ModuleRef>,
    places: HashMap<(Local, ExecutionId), usize>,
    /// In the order of their first event: almost the order of the rows.
    changes: Vec<(Local, ExecutionId, Change)>,
}

impl ExecutionsProjection {
    fn accept(&mut self, tenant: Local, event: &Envelope, position: Position, accepted: &Accepted) {
        let at = event.time;
        let opening = Opening {
            attempt: accepted.attempt,
            module: self.modules.local(&accepted.module, Clone::clone),
            key: self.keys.text(accepted.key_id.as_str()),
            stdin: accepted.stdin,
            at,
            // One that somebody waits for begins at once.
            started_at: accepted.start_by.is_none().then_some(at),
            position,
            revision: event.revision,
            rerun_of: accepted.rerun_of,
            fuel: accepted.fuel,
        };
        let change = Change { opening: Some(opening), ..Change::default() };
        let place = *self.places.entry((tenant, accepted.execution_id)).or_insert(self.changes.len());
        match self.changes.get_mut(place) {
            // A further attempt begins the row anew.
            Some((_, _, before)) => *before = change,
            None => self.changes.push((tenant, accepted.execution_id, change)),
        }
    }

    fn start(&mut self, tenant: Local, at: Timestamp, started: &Started) -> Result<(), Fault> {
        let id = started.execution_id;
        let place = *self.places.entry((tenant, id)).or_insert(self.changes.len());
        match self.changes.get_mut(place) {
            Some((_, _, Change { end: Some(_), .. })) => return Err(Fault::NotOpen(id)),
            Some((_, _, Change { opening: Some(opening), .. })) => {
                (opening.attempt, opening.started_at) = (started.attempt, Some(at));
            }
            Some((_, _, change)) => change.started = Some((started.attempt, at)),
            None => {
                let change = Change { started: Some((started.attempt, at)), ..Change::default() };
                self.changes.push((tenant, id, change));
            }
        }
        Ok(())
    }

    fn end(&mut self, tenant: Local, id: ExecutionId, end: ExecutionEnd) -> Result<(), Fault> {
        let place = *self.places.entry((tenant, id)).or_insert(self.changes.len());
        match self.changes.get_mut(place) {
            Some((_, _, Change { end: Some(_), .. })) => return Err(Fault::NotOpen(id)),
            Some((_, _, change)) => change.end = Some(end),
            None => self.changes.push((tenant, id, Change { end: Some(end), ..Change::default() })),
        }
        Ok(())
    }
}

fn finished_end(finished: &Finished, finished_at: Timestamp, finished_position: Position) -> ExecutionEnd {
    ExecutionEnd {
        outcome: finished.outcome,
        exit_code: finished.exit_code,
        stdout: Some(finished.stdout),
        stderr: Some(finished.stderr),
        fuel: finished.fuel,
        cpu: finished.cpu_ms,
        wall: finished.wall_ms,
        peak_memory_bytes: finished.peak_memory_bytes,
        reproducibility: finished.class(),
        message: finished.message.clone(),
        finished_at,
        finished_position,
    }
}

fn lost_end(lost: &Lost, finished_at: Timestamp, finished_position: Position) -> ExecutionEnd {
    ExecutionEnd {
        outcome: Outcome::Lost,
        exit_code: None,
        stdout: None,
        stderr: None,
        fuel: None,
        cpu: Millis::default(),
        wall: Millis::default(),
        peak_memory_bytes: 0,
        reproducibility: Reproducibility::Unverifiable,
        message: Some(lost.reason.clone()),
        finished_at,
        finished_position,
    }
}

impl Projection for ExecutionsProjection {
    const NAME: &'static str = "executions";
    const VERSION: u32 = 7;
    const SCHEMA: &'static str = rows::SCHEMA;

    fn fold(&mut self, recorded: &Recorded, events: &[Envelope]) -> Result<(), Fault> {
        let position = recorded.position;
        let mut tenant = None;
        for envelope in events {
            let Envelope { time, event, .. } = envelope;
            let mut local = || *tenant.get_or_insert_with(|| self.tenants.text(recorded.commit.tenant().as_str()));
            match event {
                Event::ExecutionAccepted(accepted) => {
                    let tenant = local();
                    self.accept(tenant, envelope, position, accepted);
                }
                Event::ExecutionStarted(started) => {
                    let tenant = local();
                    self.start(tenant, *time, started)?;
                }
                Event::ExecutionFinished(finished) => {
                    let tenant = local();
                    self.end(tenant, finished.execution_id, finished_end(finished, *time, position))?;
                }
                Event::ExecutionLost(lost) => {
                    let tenant = local();
                    self.end(tenant, lost.execution_id, lost_end(lost, *time, position))?;
                }
                Event::TenantRegistered(_)
                | Event::TenantRenamed(_)
                | Event::TenantTierChanged(_)
                | Event::TenantSuspended(_)
                | Event::TenantResumed(_)
                | Event::KeyIssued(_)
                | Event::KeyRotated(_)
                | Event::KeyRevoked(_)
                | Event::ModulePublished(_)
                | Event::ModuleRejected(_)
                | Event::ModuleDeleted(_)
                | Event::ExecutionVerified(_)
                | Event::RequestsDenied(_)
                | Event::CommitSkipped(_)
                | Event::PayloadsReleased(_)
                | Event::Unknown(_) => {}
            }
        }
        Ok(())
    }

    fn flush(&mut self, transaction: &Transaction<'_>) -> Result<(), Fault> {
        self.tenants.resolve_in(transaction, "tenants")?;
        self.keys.resolve_in(transaction, "keys")?;
        self.modules.resolve(|module| rows::module_number(transaction, module))?;
        let mut insertion = rows::Insertion::prepare(transaction)?;
        let mut starting = rows::Starting::prepare(transaction)?;
        let mut ending = rows::Ending::prepare(transaction)?;
        let mut spans = rows::Spans::default();
        for (tenant, id, change) in &self.changes {
            let tenant = self.tenants.number(*tenant)?;
            match (&change.opening, &change.end) {
                (Some(opening), end) => {
                    let (module, key) = (self.modules.number(opening.module)?, self.keys.number(opening.key)?);
                    insertion.insert(tenant, *id, module, key, opening, end.as_ref())?;
                    spans.note(tenant, opening);
                }
                (None, end) => {
                    if let Some((attempt, at)) = change.started
                        && !starting.start(tenant, *id, attempt, at)?
                    {
                        return Err(Fault::NotOpen(*id));
                    }
                    let Some(end) = end else { continue };
                    if !ending.end(tenant, *id, end)? {
                        return Err(Fault::NotOpen(*id));
                    }
                }
            }
        }
        spans.write(transaction)?;
        Ok(())
    }

    fn committed(&mut self) {
        self.tenants.committed();
        self.keys.committed();
        self.modules.committed();
        self.places.clear();
        self.changes.clear();
    }

    fn discard(&mut self) {
        self.tenants.discard();
        self.keys.discard();
        self.modules.discard();
        self.places.clear();
        self.changes.clear();
    }
}
