//! One log copied into another: the same commits in the same order, so the same revisions, hashes and proofs.
//!
//! ```text
//! source ─ read in order ─► chain checked ─► blobs that its events name ─► the target's next? ─► ends compared
//!                                                                           │ it has none: append
//! ```
//! - **Nothing is sealed again.** A commit is appended as it is stored, with the payloads that ride with it; the target
//!   refuses one that does not chain.
//! - **Commits of different tenants stand in the target as they do in the source**, unless that is not asked for
//!   ([`Order`]): what was kept of their order, and what is before what, stays true. Into a log that keeps the order of
//!   offers many are under way; into another each waits for the one before.
//! - **A blob is there before the commit that names it**, as for every commit.
//! - **It may be run again.** What the target has is compared with the source, commit by commit, and the copy goes on behind it.
//! - **Nobody writes meanwhile**: the caller holds both. A target that has other commits than the source is refused.
//! - **A target on SQLite waits for its file** ([`SqliteLogConfig::held`](crate::log::sqlite::SqliteLogConfig::held)): a batch that
//!   was given up while another program had the file, with the next one stored, would be a gap in the order for good.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use tokio::task::JoinSet;

use crate::{
    audit::contents,
    blobs::{BlobError, Blobs},
    commit::{Header, Recorded},
    digest::Digest,
    id::TenantId,
    ledger::{Broken, Head, Verifier},
    log::{Append, AppendError, Appended, EventLog, ReadError, ReadLimit},
    revision::{Position, Revision},
};

/// Tenants whose commits are appended at the same time, where their order does not matter: enough to fill a group commit.
const AT_ONCE: usize = 32;

/// Commits under way into a log that keeps their order: fewer than such a log lets wait, and enough to fill a group commit.
const UNDER_WAY_MAX: usize = 256;

/// Bytes of them, beyond which the oldest is waited for.
const UNDER_WAY_BYTES: usize = 8 << 20;

/// Commits whose payloads are read at the same time.
const READ_AHEAD: usize = 16;

/// How often a commit is offered to a target that is busy or does not answer.
const TRIES: u32 = 10;

/// The pause before the second try; it doubles with every further one, so that all of them last about 50 s.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// In which order commits of different tenants are appended. Those of one tenant always are in theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// In that of the source.
    #[default]
    Kept,
    /// In any: tenants beside each other, which is faster into a log that takes one commit after the other.
    Any,
}

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
    /// The target has its commits in another order.
    #[error(
        "the target does not have revision {revision} of tenant {tenant} where the source has it: it was copied in another order, or \
         written to; copy into an empty log, or go on in any order with --unordered"
    )]
    Disordered {
        /// Whose commit the source has there.
        tenant: TenantId,
        /// Its first revision.
        revision: Revision,
    },
    /// The target has a commit that the source does not have.
    #[error(
        "the target has revision {revision} of tenant {tenant}, which the source does not: somebody has written there; copy into an \
         empty log"
    )]
    Beyond {
        /// Whose.
        tenant: TenantId,
        /// Its first revision.
        revision: Revision,
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
pub async fn copy(
    from: &Store,
    to: &Store,
    order: Order,
    mut progress: impl FnMut(&Copied),
) -> Result<Copied, CopyError> {
    let there = There::of(to).await?;
    let (chains, blobs) = (BTreeMap::new(), HashSet::new());
    let mut copying = Copying { from, to, copied: Copied::default(), chains, blobs, there };
    let tail = from.log.tail().await.map_err(CopyError::Source)?;
    while copying.copied.position < tail {
        let batch = from.log.read_all(copying.copied.position, ReadLimit::default()).await;
        let batch = batch.map_err(CopyError::Source)?;
        let Some(last) = batch.last() else { break };
        let position = last.position;
        copying.check(&batch).await?;
        match order {
            Order::Kept => copying.in_order(batch).await?,
            Order::Any => copying.by_tenants(batch).await?,
        }
        copying.copied.position = position;
        progress(&copying.copied);
    }
    copying.nothing_beyond(order).await?;
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
    there: There,
}

impl Copying<'_> {
    /// Walks the chains of these commits, and brings what their events name.
    async fn check(&mut self, batch: &[Arc<Recorded>]) -> Result<(), CopyError> {
        for recorded in batch {
            let tenant = recorded.commit.tenant();
            let chain = self.chains.entry(tenant.clone()).or_insert_with(|| Verifier::new(tenant.clone()));
            chain.step(&recorded.commit)?;
            self.copied.events += u64::from(recorded.commit.header().count);
            self.blobs_of(recorded).await?;
        }
        self.copied.tenants = self.chains.len() as u64;
        Ok(())
    }

    /// Appends commits in their order, behind those that the target has.
    async fn in_order(&mut self, mut batch: Vec<Arc<Recorded>>) -> Result<(), CopyError> {
        let mut known = 0;
        for recorded in &batch {
            let Some(there) = self.there.next().await? else { break };
            if there.commit.hash() != recorded.commit.hash() {
                return Err(disordered(recorded.commit.header()));
            }
            known += 1;
        }
        self.copied.commits += known as u64;
        self.copied.present += known as u64;
        let log = Arc::clone(&self.from.log);
        let reading = stream::iter(batch.split_off(known)).map(move |recorded| {
            let log = Arc::clone(&log);
            async move {
                let payloads = log.payloads(recorded.position).await.map_err(CopyError::Source)?;
                Ok::<_, CopyError>(Append { commit: recorded.commit.clone(), payloads })
            }
        });
        let mut reading = std::pin::pin!(reading.buffered(READ_AHEAD));
        let most = if self.to.log.keeps_order() { UNDER_WAY_MAX } else { 1 };
        let (mut under_way, mut bytes) = (VecDeque::new(), 0);
        while let Some(append) = reading.next().await {
            let offered = Offered::begin(&self.to.log, append?);
            // Nothing is offered behind one that was not taken in.
            let left = if offered.is_taken_in() { most.saturating_sub(1) } else { 0 };
            bytes += offered.bytes;
            under_way.push_back(offered);
            while under_way.len() > left || bytes > UNDER_WAY_BYTES {
                let Some(oldest) = under_way.pop_front() else { break };
                bytes -= oldest.bytes;
                self.settle(oldest, under_way.is_empty()).await?;
            }
        }
        while let Some(oldest) = under_way.pop_front() {
            self.settle(oldest, under_way.is_empty()).await?;
        }
        Ok(())
    }

    /// Waits until the target has a commit, behind the one before. One that it did not take in is offered again if it is the
    /// last: it would come behind others otherwise.
    async fn settle(&mut self, offered: Offered, is_last: bool) -> Result<(), CopyError> {
        let Offered { append, appending, at_once, .. } = offered;
        let appended = match at_once {
            Some(appended) => appended,
            None => appending.await,
        };
        let appended = match appended {
            Ok(appended) => appended,
            Err(AppendError::Busy | AppendError::Unknown(_)) if is_last => {
                offer(self.to.log.as_ref(), append.clone()).await?
            }
            Err(error) => return Err(refused(&append, error)),
        };
        if appended.position <= self.there.after {
            return Err(disordered(append.commit.header()));
        }
        self.there.after = appended.position;
        self.copied.commits += 1;
        Ok(())
    }

    /// Appends commits of tenants beside each other.
    async fn by_tenants(&mut self, batch: Vec<Arc<Recorded>>) -> Result<(), CopyError> {
        let mut lanes: BTreeMap<TenantId, Vec<Arc<Recorded>>> = BTreeMap::new();
        for recorded in batch {
            lanes.entry(recorded.commit.tenant().clone()).or_default().push(recorded);
        }
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

    /// The target must have no commit behind those of the source, and no tenant that the source does not have.
    async fn nothing_beyond(&mut self, order: Order) -> Result<(), CopyError> {
        if order == Order::Kept {
            // All of them are behind each other: what was written meanwhile is behind them too.
            self.there.end = self.to.log.tail().await.map_err(CopyError::Compare)?;
        }
        while let Some(more) = self.there.next().await? {
            let header = more.commit.header();
            if order == Order::Kept || !self.chains.contains_key(&header.tenant) {
                return Err(CopyError::Beyond { tenant: header.tenant.clone(), revision: header.first_revision });
            }
        }
        Ok(())
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

/// What the target had when the copy began, in its order.
struct There {
    log: Arc<dyn EventLog>,
    /// Everything up to here has been read, or was appended since.
    after: Position,
    end: Position,
    read: VecDeque<Arc<Recorded>>,
}

impl There {
    async fn of(to: &Store) -> Result<Self, CopyError> {
        let end = to.log.tail().await.map_err(CopyError::Compare)?;
        Ok(Self { log: Arc::clone(&to.log), after: Position::START, end, read: VecDeque::new() })
    }

    /// The next of its commits.
    async fn next(&mut self) -> Result<Option<Arc<Recorded>>, CopyError> {
        if self.read.is_empty() && self.after < self.end {
            self.read = self.log.read_all(self.after, ReadLimit::default()).await.map_err(CopyError::Compare)?.into();
            self.after = self.read.back().map_or(self.end, |last| last.position);
        }
        Ok(self.read.pop_front())
    }
}

/// A commit that was offered to the target.
struct Offered {
    append: Append,
    bytes: usize,
    appending: BoxFuture<'static, Result<Appended, AppendError>>,
    /// What the target said at once.
    at_once: Option<Result<Appended, AppendError>>,
}

impl Offered {
    /// Offers it before this returns, so that the next one is not offered earlier.
    fn begin(log: &Arc<dyn EventLog>, append: Append) -> Self {
        let (log, first) = (Arc::clone(log), append.clone());
        let payloads: usize = append.payloads.iter().map(|payload| payload.bytes().len()).sum();
        let bytes = append.commit.body().len() + payloads;
        let mut appending = async move { log.append(first).await }.boxed();
        let at_once = (&mut appending).now_or_never();
        Self { append, bytes, appending, at_once }
    }

    const fn is_taken_in(&self) -> bool {
        !matches!(self.at_once, Some(Err(_)))
    }
}

/// Appends commits of one tenant in their order. Gives how many, and how many the target had.
async fn append_all(from: Store, to: Store, lane: Vec<Arc<Recorded>>) -> Result<(u64, u64), CopyError> {
    let (mut commits, mut present) = (0, 0);
    for recorded in lane {
        let payloads = from.log.payloads(recorded.position).await.map_err(CopyError::Source)?;
        let append = Append { commit: recorded.commit.clone(), payloads };
        commits += 1;
        present += u64::from(offer(to.log.as_ref(), append).await?.repeated);
    }
    Ok((commits, present))
}

/// Appends one commit, again and again while that may help.
async fn offer(log: &dyn EventLog, append: Append) -> Result<Appended, CopyError> {
    let (mut pause, mut tries) = (FIRST_PAUSE, 1);
    loop {
        match log.append(append.clone()).await {
            Ok(appended) => return Ok(appended),
            // The same commit again is one commit, whatever became of it.
            Err(AppendError::Busy | AppendError::Unknown(_)) if tries < TRIES => tries += 1,
            Err(error) => return Err(refused(&append, error)),
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2);
    }
}

fn refused(append: &Append, error: AppendError) -> CopyError {
    let header = append.commit.header();
    CopyError::Target { tenant: header.tenant.clone(), revision: header.first_revision, error }
}

fn disordered(header: &Header) -> CopyError {
    CopyError::Disordered { tenant: header.tenant.clone(), revision: header.first_revision }
}

#[cfg(test)]
mod tests;
