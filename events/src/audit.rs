//! The proof: a walk over everything that is stored, which finds whatever was changed, lost or moved.
//!
//! Each tenant's chain is walked on its own. After a finding the walk goes on: with the other tenants, and with the
//! same one at its next commit, so that one broken commit is one finding and not the end of the audit.
//!
//! Contents are checked where they are: what rides with a commit must be named by one of its events, and a blob must be
//! the bytes that its digest names. A content that is gone is no break of the history: it is counted apart.
//!
//! What chains alone cannot show, heads do that were kept elsewhere ([`Heads`]): that the newest commits, or whole tenants, are
//! gone, that all of it was hashed anew, or that tenants' commits stand in another order.

use std::{collections::HashMap, fmt, path::Path};

use contents::{Blobs, Kept, Named};
use executions::Executions;
use heads::{Expected, Order};
use skips::Skips;

use crate::{
    commit::{Commit, Header},
    envelope,
    id::TenantId,
    ledger::{self, Broken, Fault, Head, Verifier},
    log::sqlite::{Found, SqliteAudit, StoredRow},
    payload::{self, Payload},
    revision::{Position, Revision},
};

pub(crate) mod contents;
mod executions;
mod heads;
mod log;
mod skips;

pub use heads::{Heads, KeptHead};
pub use log::{Unfinished, verify_log};
pub use skips::Skip;

/// The most findings that a report lists; more are counted. So with contents that are gone.
const MAX_FINDINGS: usize = 1_000;

/// What an audit found.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// Commits that are as they should be.
    pub commits: u64,
    /// Events in them.
    pub events: u64,
    /// Tenants that have at least one.
    pub tenants: u64,
    /// Executions that have no end yet, of tenants of which that can be told.
    pub open: u64,
    /// Heads that were kept elsewhere and were met again; absent when none were given.
    pub expected: Option<u64>,
    /// What is wrong, in the order of the walk.
    pub findings: Vec<Finding>,
    /// Findings beyond the thousand that are listed.
    pub more_findings: u64,
    /// Blobs that are the bytes that their digests name; absent when they were not checked.
    pub blobs: Option<u64>,
    /// Was the file itself checked, with its pages and its index?
    pub file: FileCheck,
    /// Contents that events name and that are neither beside their commit nor a blob: removed, or lost. The chain does not
    /// need them. Each is told once a tenant.
    pub missing: Vec<Finding>,
    /// Such contents beyond the thousand that are listed.
    pub more_missing: u64,
    /// Commits that operators have let be passed over; the first thousand. A broken one is a finding all the same.
    pub skipped: Vec<Skip>,
    /// Where the streams end, to be kept elsewhere. Of a history that is broken it says nothing.
    #[serde(skip)]
    pub heads: Option<Heads>,
}

/// Was the file itself checked?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileCheck {
    /// No: a node holds the log, which could not reuse its WAL meanwhile.
    #[default]
    Skipped,
    /// Yes.
    Checked,
    /// The log is no file.
    None,
}

/// What is checked beside the chains.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checks<'a> {
    /// The folder of the blobs; without one they are not checked.
    pub blobs: Option<&'a Path>,
    /// Check the file also while a node holds the log?
    pub held_file: bool,
    /// Heads that were kept elsewhere, to be met again.
    pub expected: Option<&'a Heads>,
}

impl Report {
    /// Is everything as it should be?
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// How many contents are gone.
    pub fn missing(&self) -> u64 {
        self.missing.len() as u64 + self.more_missing
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Whose stream, where that can be told.
    pub tenant: Option<TenantId>,
    /// The revision that the faulty commit has, or should have.
    pub revision: Option<Revision>,
    /// Where in the log.
    pub position: Option<Position>,
    /// What is wrong.
    pub what: String,
    /// The operator's word that the commit may be passed over; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Skip>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tenant {
            Some(tenant) => write!(f, "tenant {tenant}")?,
            None => f.write_str("unknown tenant")?,
        }
        if let Some(revision) = self.revision {
            write!(f, ", revision {revision}")?;
        }
        if let Some(position) = self.position {
            write!(f, ", position {position}")?;
        }
        write!(f, ": {}", self.what)?;
        self.skipped.as_ref().map_or(Ok(()), |skip| write!(f, "; {skip}"))
    }
}

/// Walks a whole log, offline or beside a running node. Blocks for as long as reading and hashing all of it takes, and shows
/// `progress` how far it is after each commit.
pub fn verify(log: &SqliteAudit, checks: Checks<'_>, mut progress: impl FnMut(&Report)) -> Report {
    let blobs = checks.blobs.map(|folder| Blobs::of(folder.to_owned()));
    let mut audit = Audit { next: 1, blobs, expected: checks.expected.map(Expected::new), ..Audit::default() };
    for found in log.rows() {
        match found {
            Found::Row(row) => audit.row(*row),
            Found::Damage { position, indexed, what } => audit.damage(position, indexed, &what),
        }
        audit.report.blobs = audit.blobs.as_ref().map(|blobs| blobs.intact);
        progress(&audit.report);
    }
    if checks.held_file || !log.is_held() {
        audit.report.file = FileCheck::Checked;
        for line in log.check_file() {
            audit.found(None, None, None, format!("the file: {line}"));
        }
    }
    audit.finish()
}

/// How far the walk has come.
#[derive(Debug, Default)]
struct Audit<'a> {
    report: Report,
    streams: HashMap<TenantId, Stream>,
    /// The position that follows.
    next: i64,
    /// `None` when blobs are not checked.
    blobs: Option<Blobs>,
    order: Order,
    expected: Option<Expected<'a>>,
    skips: Skips,
}

/// How far the walk has come in one stream.
#[derive(Debug)]
struct Stream {
    verifier: Verifier,
    /// Was the last commit faulty? Then the next one is taken from where it says that it begins.
    astray: bool,
    /// Was there a commit without fault?
    good: bool,
    /// Was every commit without fault? Otherwise what is open is not known.
    whole: bool,
    executions: Executions,
}

impl Stream {
    fn new(tenant: TenantId) -> Self {
        let (verifier, executions) = (Verifier::new(tenant), Executions::default());
        Self { verifier, astray: false, good: false, whole: true, executions }
    }

    /// The revision that follows the last good commit.
    fn next(&self) -> Revision {
        self.verifier.head().revision.next()
    }

    fn step(&mut self, commit: &Commit) -> Result<(), Broken> {
        let header = commit.header();
        // The walk as it would be if everything before this commit were as the commit says.
        let trusting = || {
            let (revision, hash) = (header.first_revision.previous(), header.prev_hash);
            let epoch = self.verifier.head().epoch;
            Verifier::resume(header.tenant.clone(), Head { revision, hash, epoch })
        };
        let mut walk =
            if self.astray && header.first_revision >= self.next() { trusting() } else { self.verifier.clone() };
        let stepped = walk.step(commit);
        if let Err(Broken { fault: Fault::Gap { .. } | Fault::Unchained, .. }) = &stepped
            && header.first_revision >= self.next()
        {
            // Something before it is missing or replaced; the commit itself may be sound.
            walk = trusting();
            self.astray = walk.step(commit).is_err();
        } else {
            self.astray = stepped.is_err();
        }
        if !self.astray {
            self.verifier = walk;
        }
        self.good |= stepped.is_ok();
        self.whole &= stepped.is_ok();
        stepped
    }
}

impl Audit<'_> {
    fn found(&mut self, tenant: Option<TenantId>, revision: Option<Revision>, at: Option<i64>, what: String) {
        if self.report.findings.len() >= MAX_FINDINGS {
            self.report.more_findings += 1;
            return;
        }
        let position = at.and_then(|position| u64::try_from(position).ok()).map(Position::new);
        self.report.findings.push(Finding { tenant, revision, position, what, skipped: None });
    }

    fn stream(&mut self, tenant: &TenantId) -> &mut Stream {
        self.streams.entry(tenant.clone()).or_insert_with(|| Stream::new(tenant.clone()))
    }

    fn row(&mut self, row: StoredRow) {
        let found = |audit: &Self| audit.report.findings.len() as u64 + audit.report.more_findings;
        let (position, before) = (u64::try_from(row.position), found(self));
        self.check(row);
        if let Ok(position) = position
            && found(self) == before
        {
            self.skips.verified(position);
        }
    }

    fn check(&mut self, row: StoredRow) {
        let at = Some(row.position);
        let commit = match row.commit {
            Ok(commit) => owned(commit, self, at),
            Err(what) => {
                let tenant = row.tenant.or_else(|| row.body.as_deref().and_then(source));
                self.contiguous(row.position, tenant.clone(), None);
                return self.unreadable(tenant, at, what);
            }
        };
        let (tenant, first) = (commit.tenant().clone(), commit.header().first_revision);
        self.contiguous(row.position, Some(tenant.clone()), Some(first));
        let stepped = self.stream(&tenant).step(&commit);
        let sound = stepped.is_ok();
        self.order.step(Position::new(u64::try_from(row.position).unwrap_or_default()), commit.hash());
        match stepped {
            Ok(()) => {
                self.report.commits += 1;
                self.report.events += u64::from(commit.header().count);
            }
            Err(broken) => self.found(Some(tenant.clone()), Some(broken.revision), at, broken.fault.to_string()),
        }
        if sound {
            self.promises(&commit, at);
            self.skips.note(&commit);
        }
        self.meets(&commit, at);
        match unpacked(row.payloads) {
            Ok(payloads) => {
                for payload in payloads.iter().filter(|payload| !payload.is_intact()) {
                    let what = format!("payload {} is not the bytes that its digest names", payload.digest());
                    self.found(Some(tenant.clone()), Some(first), at, what);
                }
                // What a commit names that is not as it was sealed says nothing.
                if sound {
                    self.contents(&commit, &payloads, row.position);
                }
            }
            Err(what) => self.found(Some(tenant), Some(first), at, what),
        }
    }

    /// Holds the events of a commit against what every history promises.
    fn promises(&mut self, commit: &Commit, at: Option<i64>) {
        let events = commit.events().map_or(&[][..], |events| events);
        for event in events {
            let stream = self.stream(commit.tenant());
            if !stream.whole {
                return;
            }
            if let Some(what) = stream.executions.step(&event.event) {
                self.found(Some(commit.tenant().clone()), Some(event.revision), at, what);
            }
        }
    }

    /// Holds a commit against the heads that were kept.
    fn meets(&mut self, commit: &Commit, at: Option<i64>) {
        let Some(expected) = &mut self.expected else { return };
        let (tenant, revision) = (commit.tenant(), commit.last_revision());
        let (of_head, of_order) = (expected.meets(tenant, revision, commit.hash()), expected.passes(&self.order));
        if let Some(what) = of_head {
            self.found(Some(tenant.clone()), Some(revision), at, what);
        }
        if let Some(what) = of_order {
            self.found(None, None, at, what);
        }
    }

    /// The report, once everything was walked.
    fn finish(mut self) -> Report {
        let Order { commits, position, .. } = self.order;
        if let Some(expected) = self.expected.take() {
            let (met, left, shorter) = expected.left();
            self.report.expected = Some(met);
            for (tenant, KeptHead { revision, .. }) in left {
                let end = self.streams.get(&tenant).map(|stream| stream.verifier.head().revision);
                let what = match end {
                    Some(end) => format!("it ends at revision {end}; what is behind it up to the kept head is gone"),
                    None => "it is gone, and its head was kept".to_owned(),
                };
                self.found(Some(tenant), Some(revision), None, what);
            }
            if let Some(kept) = shorter {
                let what = format!("the log has {commits} commits, and had {kept} when its heads were kept");
                self.found(None, None, None, what);
            }
        }
        self.report.tenants = self.streams.values().filter(|stream| stream.good).count() as u64;
        let whole = self.streams.values().filter(|stream| stream.whole);
        self.report.open = whole.map(|stream| stream.executions.open()).sum();
        let heads = self.streams.into_iter().map(|(tenant, stream)| {
            let head = stream.verifier.head();
            (tenant, KeptHead::new(head.revision, head.hash))
        });
        self.report.skipped = self.skips.mark(&mut self.report.findings);
        self.report.heads = Some(Heads { position, commits, order: self.order.digest(), heads: heads.collect() });
        self.report
    }

    /// Compares what the events of a commit name with what rides with it, and with the blobs.
    fn contents(&mut self, commit: &Commit, payloads: &[Payload], position: i64) {
        let (tenant, at) = (commit.tenant(), Some(position));
        // A commit whose events can be sealed and not be read does not exist; it would have been a finding.
        let events = commit.events().map_or(&[][..], |events| events);
        let named: Vec<_> = events.iter().map(|event| (event.revision, contents::named(&event.event))).collect();
        // An event of a later version may name whatever it likes.
        let all_known = named.iter().all(|(_, contents)| contents.is_some());
        let named: Vec<(Revision, Named)> = named
            .into_iter()
            .flat_map(|(revision, contents)| {
                contents.unwrap_or_default().into_iter().map(move |named| (revision, named))
            })
            .collect();
        for payload in payloads.iter().filter(|_| all_known) {
            if !named.iter().any(|(_, named)| named.digest == payload.digest()) {
                let what = format!("payload {} is named by no event of its commit", payload.digest());
                self.found(Some(tenant.clone()), Some(commit.header().first_revision), at, what);
            }
        }
        for (revision, named) in named {
            let inline = payloads.iter().find(|payload| payload.digest() == named.digest);
            let size_bytes = match (inline, &mut self.blobs) {
                (Some(payload), _) => payload.bytes().len() as u64,
                (None, Some(blobs)) if named.kept => match blobs.look(named.digest) {
                    Kept::Intact(size_bytes) => size_bytes,
                    bad => {
                        self.blob(tenant, revision, position, &named, bad);
                        continue;
                    }
                },
                (None, _) => continue,
            };
            if let Some(said) = named.size_bytes.filter(|said| *said != size_bytes) {
                let what = format!("{} {} has {size_bytes} bytes where an event says {said}", named.what, named.digest);
                self.found(Some(tenant.clone()), Some(revision), at, what);
            }
        }
    }

    /// A blob that is not there, or not what it should be.
    fn blob(&mut self, tenant: &TenantId, revision: Revision, position: i64, named: &Named, kept: Kept) {
        if !self.blobs.as_mut().is_some_and(|blobs| blobs.tell(tenant, named.digest)) {
            return;
        }
        let Named { what, digest, .. } = named;
        match kept {
            Kept::Intact(_) => {}
            Kept::Damaged(how) => {
                self.found(
                    Some(tenant.clone()),
                    Some(revision),
                    Some(position),
                    format!("{what} {digest}: the blob {how}"),
                );
            }
            Kept::Missing if self.report.missing.len() >= MAX_FINDINGS => self.report.more_missing += 1,
            Kept::Missing => self.report.missing.push(Finding {
                tenant: Some(tenant.clone()),
                revision: Some(revision),
                position: u64::try_from(position).ok().map(Position::new),
                what: format!("{what} {digest} is gone"),
                skipped: None,
            }),
        }
    }

    /// Positions are 1, 2, 3 …; they are not hashed, so only their order shows that one was changed.
    fn contiguous(&mut self, position: i64, tenant: Option<TenantId>, revision: Option<Revision>) {
        if position != self.next {
            let what = format!("it stands at position {position} where {} follows", self.next);
            let revision = revision.or_else(|| tenant.as_ref().map(|tenant| self.stream(tenant).next()));
            self.found(tenant, revision, Some(self.next), what);
        }
        self.next = position.saturating_add(1);
    }

    /// A row whose commit cannot be read.
    fn unreadable(&mut self, tenant: Option<TenantId>, at: Option<i64>, what: String) {
        let next = tenant.as_ref().map(|tenant| {
            let stream = self.stream(tenant);
            (stream.astray, stream.whole) = (true, false);
            stream.next()
        });
        self.found(tenant, next, at, what);
    }

    /// A row that SQLite cannot read.
    fn damage(&mut self, position: i64, indexed: Option<(TenantId, Revision)>, what: &str) {
        self.next = position.saturating_add(1);
        let Some((tenant, revision)) = indexed else {
            return self.found(None, None, Some(position), format!("the file is damaged: {what}"));
        };
        let stream = self.stream(&tenant);
        (stream.astray, stream.whole) = (true, false);
        let (good, next) = (stream.verifier.head().revision, stream.next());
        let what = format!("the file is damaged: {what}; revision {good} is the last good one, {next} follows");
        self.found(Some(tenant), Some(revision), Some(position), what);
    }
}

/// The commit as its tenant's: if the row names another tenant than the one for whom the commit was sealed, that is a
/// finding, and the commit counts as the true owner's.
fn owned(commit: Commit, audit: &mut Audit<'_>, at: Option<i64>) -> Commit {
    let first = commit.events().ok().and_then(|events| events.first().map(|first| first.tenant.clone()));
    let Some(owner) = first.filter(|owner| owner != commit.tenant()) else { return commit };
    let header = Header { tenant: owner.clone(), ..commit.header().clone() };
    if ledger::chain_hash(&header, commit.body()) != commit.hash() {
        return commit;
    }
    let what = format!("its row says that it belongs to {}", commit.tenant());
    audit.found(Some(owner), Some(header.first_revision), at, what);
    Commit::from_stored(header, commit.hash(), commit.body().clone())
}

/// The tenant that the envelopes of a body name.
fn source(body: &[u8]) -> Option<TenantId> {
    envelope::decode(body).ok()?.first().map(|first| first.tenant.clone())
}

fn unpacked(packed: Result<Option<bytes::Bytes>, String>) -> Result<Vec<Payload>, String> {
    packed?.map_or(Ok(Vec::new()), |packed| payload::unpack(packed).map_err(|torn| torn.to_string()))
}

#[cfg(test)]
mod tests;
