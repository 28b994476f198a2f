//! One row of the table as a commit, and a commit as the values of a row.

use bytes::Bytes;
use rusqlite::{Row, types::ValueRef};
use uuid::Uuid;

use crate::{
    commit::{Commit, Header, Recorded},
    id::{CommitId, TenantId},
    ledger::{self, ChainHash},
    revision::{Epoch, Position, Revision},
    time::Timestamp,
};

/// The columns that [`recorded`] and [`commit`] read, in their order.
pub(super) const COLUMNS: &str =
    "position, tenant, first_revision, count, commit_id, owner_epoch, recorded_at, prev_hash, hash, body";

/// Why a row is no commit.
#[derive(Debug)]
pub(super) enum RowError {
    /// SQLite cannot read it.
    Sqlite(rusqlite::Error),
    /// A value is not what a log stores; the text names the column.
    Value(String),
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// A row that must be right: its values, and its hash. Damaged bytes are never served.
pub(super) fn recorded(row: &Row<'_>) -> Result<Recorded, RowError> {
    let commit = commit(row)?;
    if ledger::chain_hash(commit.header(), commit.body()) != commit.hash() {
        return Err(RowError::Value("its hash is not the hash of its content".to_owned()));
    }
    Ok(Recorded { position: Position::new(unsigned(row, 0, "position")?), commit })
}

/// The commit of a row whose values can be read, right or wrong.
pub(super) fn commit(row: &Row<'_>) -> Result<Commit, RowError> {
    let header = Header {
        tenant: tenant(row)?,
        first_revision: Revision::new(unsigned(row, 2, "first_revision")?),
        count: u32::try_from(unsigned(row, 3, "count")?).map_err(|_| bad("count", "is out of range"))?,
        commit_id: CommitId::new(Uuid::from_bytes(array(row, 4, "commit_id")?)),
        owner_epoch: Epoch::new(unsigned(row, 5, "owner_epoch")?),
        recorded_at: Timestamp::from_unix_ms(integer(row, 6, "recorded_at")?),
        prev_hash: ChainHash::from_bytes(array(row, 7, "prev_hash")?),
    };
    let hash = ChainHash::from_bytes(array(row, 8, "hash")?);
    Ok(Commit::from_stored(header, hash, blob(row, 9, "body")?))
}

/// A number as SQLite binds it. The bounds of an append keep every stored number below the largest.
pub(super) fn bound(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The tenant of a row.
pub(super) fn tenant(row: &Row<'_>) -> Result<TenantId, RowError> {
    let ValueRef::Text(text) = row.get_ref(1)? else { return Err(bad("tenant", "is no text")) };
    let text = std::str::from_utf8(text).map_err(|_| bad("tenant", "is no UTF-8"))?;
    TenantId::new(text).map_err(|error| bad("tenant", &error.to_string()))
}

/// An integer that is not negative.
pub(super) fn unsigned(row: &Row<'_>, index: usize, column: &str) -> Result<u64, RowError> {
    u64::try_from(integer(row, index, column)?).map_err(|_| bad(column, "is negative"))
}

/// Bytes of any length.
pub(super) fn blob(row: &Row<'_>, index: usize, column: &str) -> Result<Bytes, RowError> {
    match row.get_ref(index)? {
        ValueRef::Blob(bytes) => Ok(Bytes::copy_from_slice(bytes)),
        _ => Err(bad(column, "is no blob")),
    }
}

/// Bytes of one length.
pub(super) fn array<const N: usize>(row: &Row<'_>, index: usize, column: &str) -> Result<[u8; N], RowError> {
    let ValueRef::Blob(bytes) = row.get_ref(index)? else { return Err(bad(column, "is no blob")) };
    <[u8; N]>::try_from(bytes).map_err(|_| bad(column, "has the wrong length"))
}

fn integer(row: &Row<'_>, index: usize, column: &str) -> Result<i64, RowError> {
    match row.get_ref(index)? {
        ValueRef::Integer(number) => Ok(number),
        _ => Err(bad(column, "is no integer")),
    }
}

fn bad(column: &str, what: &str) -> RowError {
    RowError::Value(format!("column {column} {what}"))
}
