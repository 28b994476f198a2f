//! A byte of an embedded log that is not what it was.

use std::path::Path;

use anyhow::Context as _;
use rusqlite::{Connection, params};

/// Changes the last byte of the body of a tenant's second commit, or changes it back; a node may run meanwhile. Gives where the
/// log has the commit.
///
/// # Errors
/// When the tenant has no second commit, or the log's file cannot be changed.
pub fn flip(data: &Path, tenant: &str) -> anyhow::Result<i64> {
    let file = Connection::open(data.join("log/events.db"))?;
    let sql = "SELECT position, body FROM commits WHERE tenant = ?1 ORDER BY position LIMIT 1 OFFSET 1";
    let (position, mut body): (i64, Vec<u8>) = file.query_row(sql, [tenant], |row| Ok((row.get(0)?, row.get(1)?)))?;
    *body.last_mut().context("a body has bytes")? ^= 1;
    file.execute("UPDATE commits SET body = ?2 WHERE position = ?1", params![position, body])?;
    Ok(position)
}
