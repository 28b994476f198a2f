//! One log copied into another: the same commits, so the same revisions, hashes and proofs, at other positions.
//!
//! ```text
//! source ─ read in order ─► chain checked ─► blobs that its events name ─► append ─► ends compared
//!                                              tenants beside each other, a tenant's commits in order
//! ```
//! - **Nothing is sealed again.** A commit is appended as it is stored, with the payloads that ride with it; the target
//!   refuses one that does not chain.
//! - **A blob is there before the commit that names it**, as for every commit.
//! - **It may be run again.** Whatever was copied before is found, not doubled, so a copy that broke off goes on.
//! - **Nobody writes meanwhile**: the caller holds the source. A target that has other commits of a tenant is refused.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;

use crate::{
    audit::contents,
    blobs::{BlobError, Blobs},
    commit::Recorded,
    digest::Digest,
    id::TenantId,
    ledger::{Broken, Head, Verifier},
    log::{Append, AppendError, EventLog, ReadError, ReadLimit},
    revision::{Position, Revision},
};

/// Tenants whose commits are appended at the same time: enough to fill a group commit.
const AT_ONCE: usize = 32;

/// How often a commit is offered to a target that is busy or does not answer.
const TRIES: u32 = 10;

/// The pause before the second try; it doubles with every further one, so that all of them last about 50 s.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// A log and the blobs that its events name.
#[derive(Clone)]
pub struct Store {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// Its blobs.
    pub blobs: Arc<dyn Blobs>,
}

/// What has been copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// Commits of the source that the target has now.
    pub commits: u64,
    /// Those of them that it had before.
    pub present: u64,
    /// Events in all of them.
    pub events: u64,
    /// Tenants they belong to.
    pub tenants: u64,
    /// Blobs that the target has now.
    pub blobs: u64,
    /// Contents that events name and the source does not keep any more. The chain does not need them.
    pub missing: u64,
    /// The commit of the source that was copied last.
    pub position: Position,
}

/// The copy has stopped. What was copied so far stays, and the copy may be run again.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source cannot be read.
    #[error("the source: {0}")]
    Source(#[source] ReadError),
    /// The source is not intact; what is broken is not carried on.
    #[error("the source is not intact, so nothing more is copied; look at it with `wasmwiz audit verify`: {0}")]
    Broken(#[from] Broken),
    /// The target has not taken a commit.
    #[error("the target did not take revision {revision} of tenant {tenant}: {error}")]
    Target {
        /// Whose.
        tenant: TenantId,
        /// The first revision of the commit.
        revision: Revision,
        /// Why.
        #[source]
        error: AppendError,
    },
    /// The target has another history of a tenant.
    #[error(
        "tenant {tenant} ends at revision {} in the source and at revision {} in the target, or with another hash; copy into \
         an empty log, or find out who has written there", here.revision, there.revision
    )]
    Differs {
        /// Whose.
        tenant: TenantId,
        /// Its end in the source.
        here: Box<Head>,
        /// Its end in the target.
        there: Box<Head>,
    },
    /// The target cannot be read.
    #[error("the target cannot be read: {0}")]
    Compare(#[source] ReadError),
    /// A blob cannot be read or kept.
    #[error("blob {digest} cannot be copied: {error}")]
    Blob {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        error: BlobError,
    },
    /// A part of the copy has panicked.
    #[error("a part of the copy failed: {0}")]
    Failed(String),
}

/// Copies everything that `from` holds now, and compares the end of every tenant. `progress` is told after each batch.
///
/// # Errors
/// [`CopyError`]: what stands in the way. A copy that is run again goes on where it stopped.
pub async fn copy(from: &Store, to: &Store, mut progress: impl FnMut(&Copied)) -> Result<Copied, CopyError> {
    let mut copying = Copying { from, to, copied: Copied::default(), chains: BTreeMap::new(), blobs: HashSet::new() };
    let tail = from.log.tail().await.map_err(CopyError::Source)?;
    while copying.copied.position < tail {
        let batch = from.log.read_all(copying.copied.position, ReadLimit::default()).await;
        let batch = batch.map_err(CopyError::Source)?;
        let Some(last) = batch.last() else { break };
        let position = last.position;
        copying.batch(batch).await?;
        copying.copied.position = position;
        progress(&copying.copied);
    }
    copying.compare().await?;
    Ok(copying.copied)
}

struct Copying<'a> {
    from: &'a Store,
    to: &'a Store,
    copied: Copied,
    /// How far each tenant's chain has been walked.
    chains: BTreeMap<TenantId, Verifier>,
    /// Contents that have been looked for.
    blobs: HashSet<Digest>,
}

impl Copying<'_> {
    async fn batch(&mut self, batch: Vec<Arc<Recorded>>) -> Result<(), CopyError> {
        let mut lanes: BTreeMap<TenantId, Vec<Arc<Recorded>>> = BTreeMap::new();
        for recorded in batch {
            let tenant = recorded.commit.tenant();
            let chain = self.chains.entry(tenant.clone()).or_insert_with(|| Verifier::new(tenant.clone()));
            chain.step(&recorded.commit)?;
            self.copied.events += u64::from(recorded.commit.header().count);
            self.blobs_of(&recorded).await?;
            lanes.entry(tenant.clone()).or_default().push(recorded);
        }
        self.copied.tenants = self.chains.len() as u64;
        let (mut lanes, mut under_way) = (lanes.into_values(), JoinSet::new());
        loop {
            while under_way.len() < AT_ONCE {
                let Some(lane) = lanes.next() else { break };
                under_way.spawn(append_all(self.from.clone(), self.to.clone(), lane));
            }
            let Some(lane) = under_way.join_next().await else { return Ok(()) };
            let (commits, present) = lane.map_err(|error| CopyError::Failed(error.to_string()))??;
            self.copied.commits += commits;
            self.copied.present += present;
        }
    }

    /// Copies the blobs that the events of a commit name. What rides with the commit is no blob.
    async fn blobs_of(&mut self, recorded: &Recorded) -> Result<(), CopyError> {
        let Ok(events) = recorded.commit.events() else { return Ok(()) };
        let named = events.iter().filter_map(|envelope| contents::named(&envelope.event)).flatten();
        let named: Vec<Digest> = named.filter(|named| named.kept).map(|named| named.digest).collect();
        let mut riding = None;
        for digest in named {
            if self.blobs.contains(&digest) {
                continue;
            }
            let riding = match &mut riding {
                Some(riding) => riding,
                none => none.insert(self.riding(recorded.position).await?),
            };
            if riding.contains(&digest) {
                continue;
            }
            self.blobs.insert(digest);
            match self.blob(digest).await.map_err(|error| CopyError::Blob { digest, error })? {
                true => self.copied.blobs += 1,
                false => self.copied.missing += 1,
            }
        }
        Ok(())
    }

    async fn riding(&self, position: Position) -> Result<HashSet<Digest>, CopyError> {
        let payloads = self.from.log.payloads(position).await.map_err(CopyError::Source)?;
        Ok(payloads.iter().map(crate::payload::Payload::digest).collect())
    }

    /// Is it kept in the target now?
    async fn blob(&self, digest: Digest) -> Result<bool, BlobError> {
        if self.to.blobs.contains(digest).await? {
            return Ok(true);
        }
        match self.from.blobs.get(digest).await? {
            Some(bytes) => self.to.blobs.put(bytes).await.map(|_| true),
            None => Ok(false),
        }
    }

    /// Every tenant must end in the target as it does in the source.
    async fn compare(&self) -> Result<(), CopyError> {
        for (tenant, chain) in &self.chains {
            let there = self.to.log.head(tenant).await.map_err(CopyError::Compare)?;
            if there != *chain.head() {
                let (here, there) = (Box::new(*chain.head()), Box::new(there));
                return Err(CopyError::Differs { tenant: tenant.clone(), here, there });
            }
        }
        Ok(())
    }
}

/// Appends commits of one tenant in their order. Gives how many, and how many the target had.
async fn append_all(from: Store, to: Store, lane: Vec<Arc<Recorded>>) -> Result<(u64, u64), CopyError> {
    let (mut commits, mut present) = (0, 0);
    for recorded in lane {
        let payloads = from.log.payloads(recorded.position).await.map_err(CopyError::Source)?;
        let append = Append { commit: recorded.commit.clone(), payloads };
        commits += 1;
        present += u64::from(offer(to.log.as_ref(), append).await?);
    }
    Ok((commits, present))
}

/// Appends one commit, again and again while that may help. Was it there?
async fn offer(log: &dyn EventLog, append: Append) -> Result<bool, CopyError> {
    let (mut pause, mut tries) = (FIRST_PAUSE, 1);
    loop {
        match log.append(append.clone()).await {
            Ok(appended) => return Ok(appended.repeated),
            // The same commit again is one commit, whatever became of it.
            Err(AppendError::Busy | AppendError::Unknown(_)) if tries < TRIES => tries += 1,
            Err(error) => {
                let header = append.commit.header();
                return Err(CopyError::Target {
                    tenant: header.tenant.clone(),
                    revision: header.first_revision,
                    error,
                });
            }
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        blobs::fs::FsBlobs,
        event::Event,
        id::ModuleName,
        log::{conformance::Stream, memory::MemoryLog},
        module,
        payload::Payload,
    };

    struct Place {
        log: Arc<MemoryLog>,
        store: Store,
        _folder: tempfile::TempDir,
    }

    fn place() -> Place {
        let (log, folder) = (Arc::new(MemoryLog::new()), tempfile::tempdir().unwrap());
        let blobs = Arc::new(FsBlobs::open(folder.path()).unwrap());
        let store = Store { log: Arc::clone(&log) as Arc<dyn EventLog>, blobs };
        Place { log, store, _folder: folder }
    }

    async fn written(place: &Place, tenants: usize, commits: usize) -> Vec<Stream> {
        let log = Arc::clone(&place.store.log);
        let mut streams: Vec<Stream> = (0..tenants).map(|_| Stream::fresh()).collect();
        for _ in 0..commits {
            for stream in &mut streams {
                stream.append(&log, 2).await;
            }
        }
        streams
    }

    async fn done(from: &Place, to: &Place) -> Result<Copied, CopyError> {
        copy(&from.store, &to.store, |_| ()).await
    }

    #[tokio::test]
    async fn every_stream_has_the_same_commits_in_the_target() {
        let (from, to) = (place(), place());
        let streams = written(&from, 40, 3).await;
        let copied = done(&from, &to).await.unwrap();
        assert_eq!((copied.tenants, copied.commits, copied.present, copied.events), (40, 120, 0, 240));
        for stream in &streams {
            let of = |place: &Place| {
                let commits = place.log.commits().into_iter().filter(|it| *it.commit.tenant() == stream.tenant);
                commits.map(|it| (it.commit.hash(), it.commit.body().clone())).collect::<Vec<_>>()
            };
            assert_eq!(of(&from), of(&to));
            assert_eq!(to.log.head(&stream.tenant).await.unwrap(), stream.head);
        }
    }

    #[tokio::test]
    async fn a_copy_that_broke_off_goes_on() {
        let (from, to) = (place(), place());
        written(&from, 3, 4).await;
        to.log.fail_next_append(AppendError::TooLarge);
        assert!(matches!(done(&from, &to).await, Err(CopyError::Target { .. })));
        let before = to.log.commits().len() as u64;
        let copied = done(&from, &to).await.unwrap();
        assert_eq!((copied.commits, copied.present), (12, before));
        assert_eq!(to.log.commits().len(), 12);
        assert_eq!(done(&from, &to).await.unwrap().present, 12, "a third copy found something to do");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_lost_is_asked_for_again() {
        let (from, to) = (place(), place());
        written(&from, 1, 3).await;
        to.log.fail_next_append(AppendError::Busy);
        to.log.lose_next_answer();
        let copied = done(&from, &to).await.unwrap();
        assert_eq!((copied.commits, to.log.commits().len()), (3, 3));
    }

    #[tokio::test]
    async fn payloads_ride_along() {
        let (from, to) = (place(), place());
        let (mut stream, payload) = (Stream::fresh(), Payload::new(Bytes::from_static(b"input")));
        let append = Append { commit: stream.seal(1), payloads: vec![payload.clone()] };
        from.store.log.append(append).await.unwrap();
        stream.head = from.log.head(&stream.tenant).await.unwrap();
        done(&from, &to).await.unwrap();
        let position = to.log.tail().await.unwrap();
        assert_eq!(to.log.payloads(position).await.unwrap(), [payload]);
    }

    #[tokio::test]
    async fn blobs_that_events_name_are_there_before_their_commit() {
        let (from, to, stream) = (place(), place(), Stream::fresh());
        let module = |digest, name: &str| {
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
        };
        let (kept, gone) = (Bytes::from_static(b"kept"), Bytes::from_static(b"gone"));
        let digest = from.store.blobs.put(kept.clone()).await.unwrap();
        let events = vec![module(digest, "a"), module(digest, "b"), module(Digest::of(&gone), "c")];
        from.store.log.append(Append { commit: stream.seal_events(events), payloads: vec![] }).await.unwrap();
        // A target that takes no commit has the blobs all the same.
        to.log.fail_next_append(AppendError::TooLarge);
        assert!(done(&from, &to).await.is_err());
        assert_eq!(to.store.blobs.get(digest).await.unwrap(), Some(kept));
        let copied = done(&from, &to).await.unwrap();
        assert_eq!((copied.blobs, copied.missing), (1, 1));
    }

    #[tokio::test]
    async fn a_source_that_was_changed_is_not_carried_on() {
        let (from, to) = (place(), place());
        written(&from, 1, 2).await;
        from.log.damage_last_body();
        assert!(matches!(done(&from, &to).await, Err(CopyError::Broken(_))));
        assert!(to.log.commits().is_empty());
    }

    #[tokio::test]
    async fn a_target_that_has_gone_another_way_is_refused() {
        let (from, to) = (place(), place());
        let mut stream = written(&from, 1, 2).await.remove(0);
        done(&from, &to).await.unwrap();
        let log = Arc::clone(&to.store.log);
        stream.append(&log, 1).await;
        assert!(matches!(done(&from, &to).await, Err(CopyError::Differs { .. })));
        let elsewhere = place();
        let mut other = Stream::of(stream.tenant.clone());
        other.append(&(Arc::clone(&elsewhere.store.log)), 1).await;
        assert!(matches!(done(&from, &elsewhere).await, Err(CopyError::Target { .. })));
    }
}
