//! The ends of the streams that are written to, so that an append reads nothing.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::row::{self, RowError};
use crate::{id::TenantId, ledger::Head};

/// A bounded cache in two generations: what is used moves to the young one; when that is full, it becomes the old one
/// and the old one is forgotten. Constant time, and no list to maintain.
#[derive(Debug)]
pub(super) struct Heads {
    young: HashMap<TenantId, Head>,
    old: HashMap<TenantId, Head>,
    /// Of each generation.
    capacity: usize,
}

impl Heads {
    /// Keeps at most `capacity` heads.
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity: (capacity / 2).max(1) }
    }

    /// The end of a stream. The inner error says that its last commit is damaged.
    pub(super) fn of(&mut self, connection: &Connection, tenant: &TenantId) -> rusqlite::Result<Result<Head, String>> {
        if let Some(head) = self.young.get(tenant) {
            return Ok(Ok(*head));
        }
        let head = match self.old.get(tenant) {
            Some(head) => *head,
            None => match load(connection, tenant) {
                Ok(head) => head,
                Err(RowError::Sqlite(error)) => return Err(error),
                Err(RowError::Value(what)) => {
                    return Ok(Err(format!("the last commit of the stream is damaged: {what}")));
                }
            },
        };
        self.set(tenant, head);
        Ok(Ok(head))
    }

    /// A commit was stored.
    pub(super) fn set(&mut self, tenant: &TenantId, head: Head) {
        if let Some(known) = self.young.get_mut(tenant) {
            *known = head;
            return;
        }
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(tenant.clone(), head);
    }
}

/// Reads the end of a stream through the index.
pub(super) fn load(connection: &Connection, tenant: &TenantId) -> Result<Head, RowError> {
    let sql = "SELECT position, tenant, first_revision, count, commit_id, owner_epoch, recorded_at, prev_hash, hash, \
               body FROM commits WHERE tenant = ?1 ORDER BY first_revision DESC LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![tenant.as_str()])?;
    match rows.next()? {
        Some(row) => Ok(row::recorded(row)?.commit.head()),
        None => Ok(Head::genesis(tenant)),
    }
}
