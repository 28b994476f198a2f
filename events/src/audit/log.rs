//! An audit of a log that is no file: through the same interface by which a node reads it, commit after commit.

use super::{
    Audit, FileCheck, Heads, Report, StoredRow,
    contents::{self, Kept},
    heads::Expected,
};
use crate::{
    blobs::{BlobError, Blobs},
    commit::Recorded,
    digest::Digest,
    log::{EventLog, ReadError, ReadLimit},
    payload,
    revision::Position,
};

/// The walk could not be finished. It says nothing of the history.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// The log cannot be read now.
    #[error("the log cannot be read: {0}")]
    Log(#[from] ReadError),
    /// A blob cannot be read now.
    #[error("blob {digest} cannot be read: {error}")]
    Blob {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        error: BlobError,
    },
}

/// Walks a whole log up to the end that it has now, beside the nodes that write to it, and the blobs that its events name, if
/// they are given, and against `expected`, heads that were kept elsewhere. `progress` is shown how far it is after each commit.
///
/// # Errors
/// [`Unfinished`]: what is in the way. Whatever is wrong with the history itself is a finding.
pub async fn verify_log(
    log: &dyn EventLog,
    blobs: Option<&dyn Blobs>,
    expected: Option<&Heads>,
    mut progress: impl FnMut(&Report),
) -> Result<Report, Unfinished> {
    let looked_at = blobs.map(|_| contents::Blobs::default());
    let mut audit = Audit { next: 1, blobs: looked_at, expected: expected.map(Expected::new), ..Audit::default() };
    audit.report.file = FileCheck::None;
    let (end, mut after) = (log.tail().await?, Position::START);
    while after < end {
        let page = match log.read_all(after, ReadLimit::default()).await {
            Ok(page) if !page.is_empty() => page,
            // Something in it cannot be read: the next one alone, and what can be read behind it.
            Ok(_) | Err(_) => match log.read_at(after.next()).await {
                Ok(Some(recorded)) => vec![recorded],
                Ok(None) => {
                    after = audit.unread(after.next(), "there is no commit here, and there are later ones");
                    continue;
                }
                Err(ReadError::Damaged { what, .. }) => {
                    after = audit.unread(after.next(), &what);
                    continue;
                }
                Err(error) => return Err(error.into()),
            },
        };
        for recorded in page {
            after = recorded.position;
            let row = row(log, &recorded).await?;
            if let Some(blobs) = blobs {
                audit.look(blobs, &row).await?;
            }
            audit.row(row);
            audit.report.blobs = audit.blobs.as_ref().map(|blobs| blobs.intact);
            progress(&audit.report);
        }
    }
    Ok(audit.finish())
}

/// A commit as the walk takes it, with what rides with it.
async fn row(log: &dyn EventLog, recorded: &Recorded) -> Result<StoredRow, Unfinished> {
    let payloads = match log.payloads(recorded.position).await {
        Ok(payloads) => Ok((!payloads.is_empty()).then(|| payload::pack(&payloads))),
        Err(ReadError::Damaged { what, .. }) => Err(what.to_string()),
        Err(error) => return Err(error.into()),
    };
    Ok(StoredRow {
        position: i64::try_from(recorded.position.get()).unwrap_or(i64::MAX),
        tenant: Some(recorded.commit.tenant().clone()),
        commit: Ok(recorded.commit.clone()),
        body: None,
        payloads,
    })
}

impl Audit<'_> {
    /// A place whose commit cannot be read. Gives the place.
    fn unread(&mut self, position: Position, what: &str) -> Position {
        let at = i64::try_from(position.get()).unwrap_or(i64::MAX);
        self.next = at.saturating_add(1);
        self.unreadable(None, Some(at), what.to_owned());
        position
    }

    /// Reads the blobs that a commit names and that were not looked at yet.
    async fn look(&mut self, store: &dyn Blobs, row: &StoredRow) -> Result<(), Unfinished> {
        let (Some(seen), Ok(commit)) = (&mut self.blobs, &row.commit) else { return Ok(()) };
        let riding = super::unpacked(row.payloads.clone()).unwrap_or_default();
        let events = commit.events().map_or(&[][..], |events| events);
        let named = events.iter().filter_map(|event| contents::named(&event.event)).flatten().filter(|it| it.kept);
        for digest in named.map(|named| named.digest) {
            if seen.knows(digest) || riding.iter().any(|payload| payload.digest() == digest) {
                continue;
            }
            let kept = match store.get(digest).await {
                Ok(Some(bytes)) => Kept::Intact(bytes.len() as u64),
                Ok(None) => Kept::Missing,
                Err(BlobError::Damaged(_)) => Kept::other_bytes(),
                Err(error) => return Err(Unfinished::Blob { digest, error }),
            };
            seen.saw(digest, kept);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::{
        blobs::fs::FsBlobs,
        event::Event,
        id::ModuleName,
        log::{Append, conformance::Stream, memory::MemoryLog},
        module,
        payload::Payload,
    };

    fn published(digest: Digest, name: &str) -> Event {
        Event::ModulePublished(module::Published {
            name: ModuleName::new(name).unwrap(),
            version: 1,
            digest,
            size_bytes: 4,
            kind: module::Kind::Core,
            imports: vec![],
            exports: vec![],
            settings: Default::default(),
            writes_full_at: None,
        })
    }

    #[tokio::test]
    async fn an_intact_log_is_walked_to_its_end_with_its_blobs() {
        let (log, folder) = (Arc::new(MemoryLog::new()), tempfile::tempdir().unwrap());
        let blobs = FsBlobs::open(folder.path()).unwrap();
        let stream = Stream::fresh();
        let digest = blobs.put(Bytes::from_static(b"kept")).await.unwrap();
        let events = vec![published(digest, "a"), published(Digest::of(b"gone"), "b")];
        log.append(Append { commit: stream.seal_events(events), payloads: vec![] }).await.unwrap();
        let mut other = Stream::fresh();
        let shared: Arc<dyn EventLog> = log.clone();
        other.append(&shared, 3).await;
        let report = verify_log(&*log, Some(&blobs), None, |_| ()).await.unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!((report.tenants, report.commits, report.events), (2, 2, 5));
        assert_eq!((report.blobs, report.missing(), report.file), (Some(1), 1, FileCheck::None));
        assert_eq!(verify_log(&*log, None, None, |_| ()).await.unwrap().blobs, None);
    }

    #[tokio::test]
    async fn a_blob_of_other_bytes_and_a_changed_commit_are_found() {
        let (log, folder) = (Arc::new(MemoryLog::new()), tempfile::tempdir().unwrap());
        let blobs = FsBlobs::open(folder.path()).unwrap();
        let stream = Stream::fresh();
        let payload = Payload::new(Bytes::from_static(b"nobody names it"));
        log.append(Append { commit: stream.seal(1), payloads: vec![payload] }).await.unwrap();
        let report = verify_log(&*log, Some(&blobs), None, |_| ()).await.unwrap();
        assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        log.damage_last_body();
        let report = verify_log(&*log, Some(&blobs), None, |_| ()).await.unwrap();
        assert_eq!((report.commits, report.findings.first().unwrap().tenant.as_ref()), (0, Some(&stream.tenant)));
    }
}
