//! A tenant as it is in a node: an entity of a region, which writes commits into a log.

use std::{sync::Arc, time::Duration};

use wasmwiz_events::{
    envelope,
    event::Event,
    ledger::Verifier,
    log::{EventLog, memory::MemoryLog},
    time::{Clock as _, ManualClock, Timestamp},
};

use super::{Asked, model::acme};
use crate::{
    aggregate::Authority,
    handle::{Ask, AskError, Origin},
    ids::Ids,
    limits::Policy,
    ownership::Alone,
    region::{Region, RegionConfig, RegionDeps},
    tenant::{Command, Refusal, Tenant, scenario::*},
};

pub(super) struct WithLog {
    log: Arc<MemoryLog>,
    clock: Arc<ManualClock>,
    region: Region,
}

impl WithLog {
    pub(super) async fn start(policy: Policy) -> Self {
        let (log, clock) = (Arc::new(MemoryLog::new()), Arc::new(ManualClock::at(NOON)));
        let deps = RegionDeps {
            log: Arc::clone(&log) as Arc<dyn EventLog>,
            clock: Arc::clone(&clock) as _,
            policy,
            // The life that the executions of scenarios run in.
            ownership: Arc::new(Alone { node: node(), boot: boot(1) }),
            snapshots: None,
        };
        let region = Region::start(RegionConfig::default(), deps).await.unwrap();
        Self { log, clock, region }
    }

    pub(super) async fn stop(self) {
        self.region.shutdown(Duration::from_secs(10)).await;
    }
}

impl Asked for WithLog {
    async fn ask(&mut self, by: &Authority, command: Command) -> Result<Vec<Event>, Refusal> {
        let ask = Ask { command, by: by.clone(), origin: Origin::internal(Ids.command()), payloads: vec![] };
        match self.region.ask(&acme(), ask).await {
            Ok(decided) => Ok(decided.events),
            Err(AskError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn wait(&mut self, ms: u64) {
        self.clock.advance_ms(ms);
    }

    /// Its refusals say what is left.
    fn counted(&self) -> Option<u64> {
        None
    }

    /// What it has written down, and as it is stored: the chain must be whole.
    fn folded_from_zero(&self) -> Tenant {
        let (mut fresh, mut verifier) = (Tenant::new(acme()), Verifier::new(acme()));
        for recorded in self.log.commits() {
            verifier.step(&recorded.commit).unwrap();
            for envelope in envelope::decode(recorded.commit.body()).unwrap() {
                fresh.fold(&envelope, even(envelope.time).steady);
            }
        }
        fresh
    }
}
