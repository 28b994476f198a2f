//! The owner of a stream, as tests need one.

use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use super::{Log, append};
use crate::{
    commit::Commit,
    envelope::{Actor, Cause, Envelope},
    event::Event,
    id::{CommandId, CommitId, EventId, TenantId},
    ledger::Head,
    revision::{Epoch, Position, Revision},
    tenant,
    time::Timestamp,
};

/// A stream to write to, by the one who owns it: knows its end and numbers its events.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Whose.
    pub tenant: TenantId,
    /// Its end, as far as the owner knows.
    pub head: Head,
    /// The owner's epoch.
    pub epoch: Epoch,
}

static IDS: AtomicU64 = AtomicU64::new(1);

fn uuid() -> Uuid {
    Uuid::from_u64_pair(0x0192_f0c1_7a2b_7c3d, 0x8000_0000_0000_0000 | IDS.fetch_add(1, Ordering::Relaxed))
}

impl Stream {
    /// An empty stream of a tenant that no other test has.
    #[expect(clippy::disallowed_methods, reason = "a server may keep the tenants of earlier runs")]
    pub fn fresh() -> Self {
        Self::of(TenantId::new(&format!("c-{}", Uuid::now_v7().simple())).unwrap())
    }

    /// An empty stream of `tenant`.
    pub fn of(tenant: TenantId) -> Self {
        let head = Head::genesis(&tenant);
        Self { tenant, head, epoch: Epoch::FIRST }
    }

    /// Seals a commit of `events` small events onto the end. The end stays where it is.
    pub fn seal(&self, events: usize) -> Commit {
        self.seal_named(events, "a name")
    }

    /// The same, with a name of any length in each event.
    pub fn seal_named(&self, events: usize, name: &str) -> Commit {
        let renamed = || Event::TenantRenamed(tenant::Renamed { name: name.to_owned() });
        self.seal_events((0..events).map(|_| renamed()).collect())
    }

    /// Seals a commit of these events onto the end.
    pub fn seal_events(&self, events: Vec<Event>) -> Commit {
        let now = Timestamp::from_unix_ms(1_795_466_491_250);
        let envelope = |(revision, event)| Envelope {
            id: EventId::new(uuid()),
            tenant: self.tenant.clone(),
            revision: Revision::new(revision),
            time: now,
            cause: Cause {
                command: CommandId::new(uuid()),
                correlation: None,
                actor: Actor::system(),
                traceparent: None,
                idempotency: None,
            },
            event,
        };
        let first = self.head.revision.next().get();
        let (id, events) = (CommitId::new(uuid()), (first..).zip(events).map(envelope).collect());
        Commit::seal(&self.head, self.tenant.clone(), id, self.epoch, now, events).unwrap()
    }

    /// Appends a commit of `events` events and moves the end on.
    pub async fn append(&mut self, log: &Log, events: usize) -> (Position, Commit) {
        let commit = self.seal(events);
        let appended = append(log, &commit).await.unwrap();
        assert!(!appended.repeated);
        self.head = commit.head();
        (appended.position, commit)
    }
}
