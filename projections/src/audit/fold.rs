//! How the index follows from commits.

use std::sync::Arc;

use rusqlite::Transaction;
use wasmwiz_events::{commit::Recorded, envelope::Envelope, ledger::ChainHash, revision::Position, time::Timestamp};

use super::{
    fingerprint::{self, Entry},
    rows,
};
use crate::{
    dictionary::{Local, Texts},
    projection::{Fault, Projection},
};

/// One commit, before its labels have numbers.
#[derive(Debug)]
pub(super) struct Indexed {
    tenant: Local,
    pub(super) position: Position,
    pub(super) first_revision: u64,
    pub(super) recorded_at: Timestamp,
    pub(super) hash: ChainHash,
    events: Vec<(Local, u32, u64)>,
}

/// The fold of the view.
#[derive(Debug, Default)]
pub(crate) struct AuditProjection {
    tenants: Texts,
    types: Texts,
    commits: Vec<Indexed>,
}

impl Projection for AuditProjection {
    const NAME: &'static str = "audit";
    const VERSION: u32 = 2;
    const SCHEMA: &'static str = rows::SCHEMA;

    fn fold(&mut self, recorded: &Recorded, events: &[Envelope]) -> Result<(), Fault> {
        let header = recorded.commit.header();
        // The events of one commit have few actors, often one.
        let mut last_actor: Option<(Arc<str>, u32)> = None;
        let mut entries = Vec::with_capacity(events.len());
        for event in events {
            let actor = match &last_actor {
                Some((actor, fingerprint)) if **actor == *event.cause.actor.as_str() => *fingerprint,
                _ => {
                    let actor = event.cause.actor.as_str();
                    last_actor.insert((actor.into(), fingerprint::of_actor(actor))).1
                }
            };
            entries.push((self.types.text(event.event.type_name()), actor, fingerprint::of(event.subject())));
        }
        self.commits.push(Indexed {
            tenant: self.tenants.text(header.tenant.as_str()),
            position: recorded.position,
            first_revision: header.first_revision.get(),
            recorded_at: header.recorded_at,
            hash: recorded.commit.hash(),
            events: entries,
        });
        Ok(())
    }

    fn flush(&mut self, transaction: &Transaction<'_>) -> Result<(), Fault> {
        self.tenants.resolve_in(transaction, "tenants")?;
        self.types.resolve_in(transaction, "types")?;
        let mut heads = rows::Heads::default();
        let mut insertion = rows::Insertion::prepare(transaction)?;
        let mut packed = Vec::new();
        for commit in &self.commits {
            let tenant = self.tenants.number(commit.tenant)?;
            packed.clear();
            for (type_index, actor, subject) in &commit.events {
                // Types are as many as versions of this program have named: far below 2^16.
                let type_code = u16::try_from(self.types.number(*type_index)?).unwrap_or(u16::MAX);
                Entry { type_code, actor: *actor, subject: *subject }.pack_into(&mut packed);
            }
            let latest_at = heads.advance(transaction, tenant, commit, commit.events.len())?;
            insertion.insert(tenant, commit, latest_at, &packed)?;
        }
        heads.write(transaction)?;
        Ok(())
    }

    fn committed(&mut self) {
        self.tenants.committed();
        self.types.committed();
        self.commits.clear();
    }

    fn discard(&mut self) {
        self.tenants.discard();
        self.types.discard();
        self.commits.clear();
    }
}
