//! Reading: a few connections of their own, used on the runtime's blocking threads, so that readers never meet the writer.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Params, params};
use tokio::sync::Semaphore;

use super::{
    heads,
    row::{self, RowError},
    schema,
};
use crate::{
    commit::Recorded,
    id::TenantId,
    ledger::Head,
    log::{ReadError, ReadLimit},
    payload::{self, Payload},
    revision::{Position, Revision},
};

/// A bounded pool of read-only connections.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    busy_timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// At most `connections` reads at a time; more wait.
    pub(super) fn new(path: PathBuf, connections: usize, busy_timeout: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(connections.max(1)));
        Self { path, busy_timeout, idle: Mutex::new(Vec::new()), permits }
    }

    /// Runs `read` with a connection on a blocking thread.
    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let closed = |error: &dyn std::fmt::Display| ReadError::Unavailable(error.to_string().into());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|error| closed(&error))?;
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => schema::open_reader(&readers.path, readers.busy_timeout).map_err(|error| closed(&error))?,
            };
            let result = read(&connection);
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            result
        });
        done.await.map_err(|error| closed(&error))?
    }

    pub(super) async fn all(
        self: &Arc<Self>,
        after: Position,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let sql = format!("SELECT {} FROM commits WHERE position > ?1 ORDER BY position", row::COLUMNS);
        let span = Span { after, from: Revision::NONE, of: None };
        self.with(move |connection| commits(connection, &sql, params![row::bound(after.get())], limit, span)).await
    }

    pub(super) async fn stream(
        self: &Arc<Self>,
        tenant: TenantId,
        from: Revision,
        after: Position,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        // Begins with the commit that holds `from`, which may have begun before it. The index has the positions too, so that a
        // row which does not lie behind `after` is not looked at.
        let sql = format!(
            "SELECT {} FROM commits WHERE tenant = ?1 AND first_revision >= coalesce((SELECT max(first_revision) \
             FROM commits WHERE tenant = ?1 AND first_revision <= ?2), 0) AND +position > ?3 ORDER BY first_revision",
            row::COLUMNS
        );
        self.with(move |connection| {
            let parameters = params![tenant.as_str(), row::bound(from.get()), row::bound(after.get())];
            commits(connection, &sql, parameters, limit, Span { after, from, of: Some(&tenant) })
        })
        .await
    }

    pub(super) async fn at(self: &Arc<Self>, position: Position) -> Result<Option<Arc<Recorded>>, ReadError> {
        let sql = format!("SELECT {} FROM commits WHERE position = ?1", row::COLUMNS);
        let one = ReadLimit { commits: 1, bytes: usize::MAX };
        let read = move |connection: &Connection| {
            let after = Position::new(position.get().saturating_sub(1));
            let span = Span { after, from: Revision::NONE, of: None };
            commits(connection, &sql, params![row::bound(position.get())], one, span)
        };
        self.with(read).await.map(|commits| commits.into_iter().next())
    }

    /// From the index of the streams, which is not where the commit is: what has damaged the one has not damaged the other.
    pub(super) async fn tenant_at(self: &Arc<Self>, position: Position) -> Result<Option<TenantId>, ReadError> {
        let read = move |connection: &Connection| {
            let sql = format!("SELECT tenant FROM commits INDEXED BY {} WHERE position = ?1", schema::BY_STREAM);
            let mut statement = connection.prepare_cached(&sql).map_err(unavailable)?;
            let named = statement.query_map(params![row::bound(position.get())], |row| {
                Ok(row.get_ref(0)?.as_str().ok().and_then(|tenant| TenantId::new(tenant).ok()))
            });
            match named.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>) {
                // Two that claim the place are none that it can be said of.
                Ok(mut named) if named.len() == 1 => Ok(named.pop().flatten()),
                Ok(_) => Ok(None),
                Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) => Ok(None),
                Err(error) => Err(unavailable(error)),
            }
        };
        self.with(read).await
    }

    pub(super) async fn payloads(self: &Arc<Self>, position: Position) -> Result<Vec<Payload>, ReadError> {
        let packed = self.with(move |connection| packed(connection, position).map_err(|error| at(position, error)));
        let damaged = |what: String| ReadError::Damaged { position, what: what.into() };
        let Some(packed) = packed.await? else { return Ok(Vec::new()) };
        let payloads = payload::unpack(packed).map_err(|error| damaged(error.to_string()))?;
        match payloads.iter().find(|payload| !payload.is_intact()) {
            Some(broken) => Err(damaged(format!("payload {} is not the bytes that its digest names", broken.digest()))),
            None => Ok(payloads),
        }
    }

    pub(super) async fn with_payloads(
        self: &Arc<Self>,
        tenant: TenantId,
        through: Revision,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Position>, ReadError> {
        // The head of a row says whether the column is empty: no payload is read. What lies before `after` is not looked at again: a
        // stream's commits are in the log in their order.
        const SQL: &str = "SELECT position FROM commits WHERE tenant = ?1 AND first_revision <= ?2 AND first_revision > coalesce(\
             (SELECT first_revision FROM commits WHERE position = ?3 AND tenant = ?1), 0) AND +position > ?3 \
             AND payloads IS NOT NULL ORDER BY first_revision LIMIT ?4";
        let read = move |connection: &Connection| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let parameters = params![tenant.as_str(), row::bound(through.get()), row::bound(after.get()), limit];
            let mut statement = connection.prepare_cached(SQL).map_err(unavailable)?;
            let found = statement.query_map(parameters, |row| row.get::<_, i64>(0)).map_err(unavailable)?;
            let found = found.map(|place| place.map(|place| Position::new(place.unsigned_abs())));
            found.collect::<rusqlite::Result<Vec<_>>>().map_err(|error| at(after, error.into()))
        };
        self.with(read).await
    }

    pub(super) async fn head(self: &Arc<Self>, tenant: TenantId) -> Result<Head, ReadError> {
        self.with(move |connection| heads::load(connection, &tenant).map_err(|error| at(Position::START, error))).await
    }
}

/// Where a read begins.
struct Span<'a> {
    /// Behind this place, as far as it is known.
    after: Position,
    /// With this revision of a stream.
    from: Revision,
    /// Whose stream is read; `None`: all of them.
    of: Option<&'a TenantId>,
}

impl Span<'_> {
    /// SQLite cannot step to the row behind `last`. In the order of the log that is the next place. In a stream the places between
    /// are others', so that the index says which it is; if it does not, no commit is named, but the place before.
    fn unreached(&self, connection: &Connection, last: Position, error: rusqlite::Error) -> ReadError {
        let Some(tenant) = self.of else { return at(last.next(), error.into()) };
        let next = next_of(connection, tenant, self.from, last).ok().flatten();
        match (next, at(next.unwrap_or(last), error.into())) {
            (None, ReadError::Damaged { position, what }) => {
                ReadError::Damaged { position, what: format!("{what}, somewhere behind this place").into() }
            }
            (_, error) => error,
        }
    }
}

/// Where the next commit of a stream is, from the index of the streams alone.
fn next_of(
    connection: &Connection,
    tenant: &TenantId,
    from: Revision,
    after: Position,
) -> rusqlite::Result<Option<Position>> {
    let sql = format!(
        "SELECT position FROM commits INDEXED BY {0} WHERE tenant = ?1 AND first_revision >= coalesce((SELECT \
         max(first_revision) FROM commits INDEXED BY {0} WHERE tenant = ?1 AND first_revision <= ?2), 0) \
         AND +position > ?3 ORDER BY first_revision LIMIT 1",
        schema::BY_STREAM
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let parameters = params![tenant.as_str(), row::bound(from.get()), row::bound(after.get())];
    let next = statement.query_row(parameters, |row| row.get::<_, i64>(0)).optional()?;
    Ok(next.and_then(|position| u64::try_from(position).ok()).map(Position::new))
}

fn commits(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    limit: ReadLimit,
    span: Span<'_>,
) -> Result<Vec<Arc<Recorded>>, ReadError> {
    let (mut found, mut bytes, mut last) = (Vec::new(), 0_usize, span.after);
    let mut statement = connection.prepare_cached(sql).map_err(unavailable)?;
    let mut rows = statement.query(parameters).map_err(unavailable)?;
    loop {
        let next = match rows.next() {
            Ok(Some(row)) => row::recorded(row).map_err(|error| at(position(row, last), error)),
            Ok(None) => break,
            Err(error) => Err(span.unreached(connection, last, error)),
        };
        let recorded = match next {
            Ok(recorded) => recorded,
            // The next read begins with it.
            Err(ReadError::Damaged { .. }) if !found.is_empty() => break,
            Err(error) => return Err(error),
        };
        last = recorded.position;
        if recorded.commit.last_revision() < span.from {
            continue;
        }
        bytes = bytes.saturating_add(recorded.commit.body().len());
        if !found.is_empty() && bytes > limit.bytes {
            break;
        }
        found.push(Arc::new(recorded));
        if found.len() >= limit.commits {
            break;
        }
    }
    Ok(found)
}

fn packed(connection: &Connection, position: Position) -> Result<Option<Bytes>, RowError> {
    let mut statement = connection.prepare_cached("SELECT payloads FROM commits WHERE position = ?1")?;
    let mut rows = statement.query(params![row::bound(position.get())])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    if row.get_ref(0)? == rusqlite::types::ValueRef::Null {
        return Ok(None);
    }
    row::blob(row, 0, "payloads").map(Some)
}

/// The row's own position, or the one that follows `last` if it cannot be read.
fn position(row: &rusqlite::Row<'_>, last: Position) -> Position {
    row::unsigned(row, 0, "position").map_or(last.next(), Position::new)
}

fn at(position: Position, error: RowError) -> ReadError {
    match error {
        RowError::Value(what) => ReadError::Damaged { position, what: what.into() },
        RowError::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            ReadError::Damaged { position, what: error.to_string().into() }
        }
        RowError::Sqlite(error) => unavailable(error),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err asks for")]
fn unavailable(error: rusqlite::Error) -> ReadError {
    ReadError::Unavailable(error.to_string().into())
}
