//! A tenant without an entity and without a log: what it decides is what happened.

use wasmwiz_events::{
    envelope::{Cause, Envelope},
    event::Event,
    id::{CommandId, EventId, TenantId},
    revision::Revision,
    time::{Moment, Timestamp},
};

use super::Asked;
use crate::{
    aggregate::{Authority, Context},
    limits::Policy,
    tenant::{Command, Refusal, Tenant, scenario::*},
};

#[derive(Debug)]
pub(super) struct Model {
    tenant: Tenant,
    history: Vec<Envelope>,
    policy: Policy,
    now: Timestamp,
}

pub(super) fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

impl Model {
    pub(super) fn new(policy: Policy) -> Self {
        Self { tenant: Tenant::new(acme()), history: vec![], policy, now: NOON }
    }

    fn remember(&mut self, event: Event, by: &Authority) {
        let revision = Revision::default().plus(self.history.len() as u64 + 1);
        let id = uuid::Uuid::from_u128(revision.get().into());
        let command = CommandId::new(id);
        let cause = Cause { command, correlation: None, actor: by.actor(), traceparent: None, idempotency: None };
        let envelope = Envelope { id: EventId::new(id), tenant: acme(), revision, time: self.now, cause, event };
        self.tenant.fold(&envelope, even(self.now).steady);
        self.history.push(envelope);
    }
}

impl Asked for Model {
    async fn ask(&mut self, by: &Authority, command: Command) -> Result<Vec<Event>, Refusal> {
        let (policy, Moment { wall: now, steady }) = (&self.policy, even(self.now));
        let context = Context { now, steady, policy, by, once: None, expected: None, ended: &[] };
        let events = self.tenant.decide(command, &context)?;
        events.iter().for_each(|event| self.remember(event.clone(), by));
        Ok(events)
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    fn counted(&self) -> Option<u64> {
        Some(self.tenant.stored_bytes())
    }

    fn folded_from_zero(&self) -> Tenant {
        let mut fresh = Tenant::new(acme());
        self.history.iter().for_each(|envelope| fresh.fold(envelope, even(envelope.time).steady));
        // Not the count alone: all of it.
        assert!(format!("{fresh:?}") == format!("{:?}", self.tenant), "another tenant is read than the one that wrote");
        fresh
    }
}
