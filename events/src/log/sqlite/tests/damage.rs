//! Bytes and pages that are damaged: what is served all the same, and whose and where the rest is said to be.

use super::*;

#[tokio::test]
async fn damaged_bytes_are_never_served() {
    let (log, dir) = fresh();
    let mut stream = Stream::fresh();
    for _ in 0..3 {
        stream.append(&(Arc::clone(&log) as Log), 1).await;
    }
    log.close();
    drop(log);
    let connection = rusqlite::Connection::open(dir.path().join("events.db")).unwrap();
    connection.execute_batch("UPDATE commits SET hash = zeroblob(32) WHERE position = 2").unwrap();
    connection.execute_batch("UPDATE commits SET payloads = zeroblob(36) WHERE position = 1").unwrap();
    drop(connection);
    let log = open(dir.path());
    let damaged_at = |error: ReadError| match error {
        ReadError::Damaged { position, .. } => position.get(),
        ReadError::Unavailable(reason) => panic!("{reason}"),
    };
    let all = ReadLimit::default();
    assert_eq!(log.read_all(Position::START, all).await.unwrap().len(), 1, "what comes before the damage is served");
    assert_eq!(log.read_stream(&stream.tenant, Revision::new(1), all).await.unwrap().len(), 1);
    assert_eq!(damaged_at(log.read_all(Position::new(1), all).await.unwrap_err()), 2);
    assert_eq!(damaged_at(log.read_at(Position::new(2)).await.unwrap_err()), 2);
    assert_eq!(damaged_at(log.read_stream(&stream.tenant, Revision::new(2), all).await.unwrap_err()), 2);
    for from in [1, 2, 3].map(Revision::new) {
        let behind = log.read_stream_behind(&stream.tenant, from, Position::new(2), all).await.unwrap();
        assert_eq!(behind.iter().map(|it| it.position.get()).collect::<Vec<_>>(), [3], "what lies behind is served");
    }
    assert_eq!(damaged_at(log.payloads(Position::new(1)).await.unwrap_err()), 1);
    assert_eq!(log.read_all(Position::new(2), all).await.unwrap().len(), 1, "what is not damaged is served");
}

#[tokio::test]
async fn whose_a_damaged_commit_is_the_index_tells() {
    let (log, dir) = fresh();
    let (mut one, mut other) = (Stream::fresh(), Stream::fresh());
    let writer = Arc::clone(&log) as Log;
    one.append(&writer, 2).await;
    other.append(&writer, 2).await;
    one.append(&writer, 2).await;
    drop(writer);
    log.close();
    drop(log);
    let path = dir.path().join("events.db");
    let bytes = fs::read(&path).unwrap();
    let name = one.tenant.as_str().as_bytes();
    // Each place of the name: in rows, in the index of streams, in the table of heads, in bodies.
    for at in (0..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(name)) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let log = SqliteLog::open(dir.path(), SqliteLogConfig::default()).unwrap();
        let mut unread = 0;
        for (position, stream) in [(1, &one), (2, &other), (3, &one)] {
            let position = Position::new(position);
            if log.read_at(position).await.is_err() {
                unread += 1;
                assert_eq!(log.tenant_at(position).await.unwrap().as_ref(), Some(&stream.tenant));
            }
        }
        assert!(unread <= 1, "one byte damages one commit");
        log.close();
    }
    fs::write(&path, &bytes).unwrap();
    let log = open(dir.path());
    assert_eq!(log.tenant_at(Position::new(4)).await.unwrap(), None);
}

/// Breaks the chain of pages on which a body lies that is `byte` throughout. Every page but the last of such a chain begins with the
/// number of the next one.
fn break_pages_of(path: &Path, byte: u8) {
    let mut file = fs::read(path).unwrap();
    let page_bytes = match u16::from_be_bytes([file[16], file[17]]) {
        1 => 65_536,
        bytes => usize::from(bytes),
    };
    let mut broken = 0;
    for page in file.chunks_exact_mut(page_bytes).filter(|page| page[4..].iter().all(|it| *it == byte)) {
        page[..4].copy_from_slice(&[0xff; 4]);
        broken += 1;
    }
    assert!(broken > 0, "the body lies on no pages of its own");
    fs::write(path, &file).unwrap();
}

#[tokio::test]
async fn a_page_that_is_damaged_is_said_to_be_where_its_commit_is_and_not_where_the_stream_was_left() {
    let (log, dir) = fresh();
    let (mut one, mut other) = (Stream::fresh(), Stream::fresh());
    let writer = Arc::clone(&log) as Log;
    // `one` has the positions 1, 4 and 6, `other` the others.
    one.append(&writer, 1).await;
    other.append(&writer, 1).await;
    other.append(&writer, 1).await;
    one.append(&writer, 1).await;
    other.append(&writer, 1).await;
    one.append(&writer, 1).await;
    drop(writer);
    log.close();
    drop(log);
    let path = dir.path().join("events.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    let body = vec![0xa7_u8; 200_000];
    connection.execute("UPDATE commits SET body = ?1 WHERE position = 4", [body]).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    break_pages_of(&path, 0xa7);

    let log = open(dir.path());
    let all = ReadLimit::default();
    let damaged_at = |read: Result<Vec<Arc<Recorded>>, ReadError>| match read {
        Err(ReadError::Damaged { position, what }) => {
            assert!(what.contains("malformed"), "SQLite could not step to it: {what}");
            position.get()
        }
        other => panic!("{other:?}"),
    };
    for after in [0, 1, 2, 3].map(Position::new) {
        let read = log.read_stream_behind(&one.tenant, Revision::new(2), after, all).await;
        assert_eq!(damaged_at(read), 4, "behind {after}");
    }
    assert_eq!(damaged_at(log.read_stream(&one.tenant, Revision::new(2), all).await), 4);
    assert_eq!(damaged_at(log.read_all(Position::new(3), all).await), 4);
    assert_eq!(log.tenant_at(Position::new(4)).await.unwrap().as_ref(), Some(&one.tenant));
    let behind = log.read_stream_behind(&one.tenant, Revision::NONE, Position::new(4), all).await.unwrap();
    assert_eq!(behind.iter().map(|it| it.position.get()).collect::<Vec<_>>(), [6]);
}
