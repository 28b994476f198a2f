//! The proof: a walk over everything that is stored, which finds whatever was changed, lost or moved.
//!
//! Each tenant's chain is walked on its own. After a finding the walk goes on: with the other tenants, and with the
//! same one at its next commit, so that one broken commit is one finding and not the end of the audit.
//!
//! What a chain alone cannot show is that its newest commits are missing: compare the heads with those that were
//! published elsewhere (the feed, a backup).

use std::{collections::HashMap, fmt};

use crate::{
    commit::{Commit, Header},
    digest::Digest,
    envelope,
    event::Event,
    execution::Finished,
    id::TenantId,
    ledger::{self, Broken, Fault, Head, Verifier},
    log::sqlite::{Found, SqliteAudit, StoredRow},
    module, payload,
    revision::{Position, Revision},
};

/// The most findings that a report lists; more are counted.
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
    /// What is wrong, in the order of the walk.
    pub findings: Vec<Finding>,
    /// Findings beyond the thousand that are listed.
    pub more_findings: u64,
}

impl Report {
    /// Is everything as it should be?
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
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
        write!(f, ": {}", self.what)
    }
}

/// Walks a whole log, offline or beside a running node. Blocks for as long as reading and hashing all of it takes.
pub fn verify(log: &SqliteAudit) -> Report {
    let mut audit = Audit { next: 1, ..Audit::default() };
    for found in log.rows() {
        match found {
            Found::Row(row) => audit.row(*row),
            Found::Damage { position, indexed, what } => audit.damage(position, indexed, &what),
        }
    }
    for line in log.check_file() {
        audit.found(None, None, None, format!("the file: {line}"));
    }
    audit.report.tenants = audit.streams.values().filter(|stream| stream.good).count() as u64;
    audit.report
}

/// How far the walk has come.
#[derive(Debug, Default)]
struct Audit {
    report: Report,
    streams: HashMap<TenantId, Stream>,
    /// The position that follows.
    next: i64,
}

/// How far the walk has come in one stream.
#[derive(Debug)]
struct Stream {
    verifier: Verifier,
    /// Was the last commit faulty? Then the next one is taken from where it says that it begins.
    astray: bool,
    /// Was there a commit without fault?
    good: bool,
}

impl Stream {
    fn new(tenant: TenantId) -> Self {
        Self { verifier: Verifier::new(tenant), astray: false, good: false }
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
        stepped
    }
}

impl Audit {
    fn found(&mut self, tenant: Option<TenantId>, revision: Option<Revision>, at: Option<i64>, what: String) {
        if self.report.findings.len() >= MAX_FINDINGS {
            self.report.more_findings += 1;
            return;
        }
        let position = at.and_then(|position| u64::try_from(position).ok()).map(Position::new);
        self.report.findings.push(Finding { tenant, revision, position, what });
    }

    fn stream(&mut self, tenant: &TenantId) -> &mut Stream {
        self.streams.entry(tenant.clone()).or_insert_with(|| Stream::new(tenant.clone()))
    }

    fn row(&mut self, row: StoredRow) {
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
        match self.stream(&tenant).step(&commit) {
            Ok(()) => {
                self.report.commits += 1;
                self.report.events += u64::from(commit.header().count);
            }
            Err(broken) => self.found(Some(tenant.clone()), Some(broken.revision), at, broken.fault.to_string()),
        }
        for what in payload_faults(&commit, row.payloads) {
            self.found(Some(tenant.clone()), Some(first), at, what);
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
            stream.astray = true;
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
        stream.astray = true;
        let (good, next) = (stream.verifier.head().revision, stream.next());
        let what = format!("the file is damaged: {what}; revision {good} is the last good one, {next} follows");
        self.found(Some(tenant), Some(revision), Some(position), what);
    }
}

/// The commit as its tenant's: if the row names another tenant than the one for whom the commit was sealed, that is a
/// finding, and the commit counts as the true owner's.
fn owned(commit: Commit, audit: &mut Audit, at: Option<i64>) -> Commit {
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

/// What is wrong with the payloads of a commit.
fn payload_faults(commit: &Commit, packed: Result<Option<bytes::Bytes>, String>) -> Vec<String> {
    let payloads = match packed.map(|packed| packed.map(payload::unpack)) {
        Ok(None) => return Vec::new(),
        Ok(Some(Ok(payloads))) => payloads,
        Ok(Some(Err(torn))) => return vec![torn.to_string()],
        Err(what) => return vec![what],
    };
    // A body that cannot be read is a finding of its own.
    let events = commit.events().map_or(&[][..], |events| events);
    let named: Vec<(Digest, u64)> = events.iter().flat_map(|envelope| contents(&envelope.event)).collect();
    let mut faults = Vec::new();
    for payload in payloads {
        let (digest, size) = (payload.digest(), payload.bytes().len() as u64);
        if !payload.is_intact() {
            faults.push(format!("payload {digest} is not the bytes that its digest names"));
        } else if let Some((_, said)) = named.iter().find(|(named, said)| *named == digest && *said != size) {
            faults.push(format!("payload {digest} has {size} bytes where an event says {said}"));
        }
    }
    faults
}

/// Digests and sizes that an event names.
fn contents(event: &Event) -> Vec<(Digest, u64)> {
    match event {
        Event::ExecutionAccepted(accepted) => vec![(accepted.stdin.digest, accepted.stdin.size_bytes)],
        Event::ExecutionFinished(finished) => {
            let Finished { stdout, stderr, .. } = &**finished;
            vec![(stdout.digest, stdout.size_bytes), (stderr.digest, stderr.size_bytes)]
        }
        Event::ModulePublished(module::Published { digest, size_bytes, .. })
        | Event::ModuleRejected(module::Rejected { digest, size_bytes, .. }) => vec![(*digest, *size_bytes)],
        Event::TenantRegistered(_)
        | Event::TenantRenamed(_)
        | Event::TenantTierChanged(_)
        | Event::TenantSuspended(_)
        | Event::TenantResumed(_)
        | Event::KeyIssued(_)
        | Event::KeyRotated(_)
        | Event::KeyRevoked(_)
        | Event::ModuleDeleted(_)
        | Event::ExecutionLost(_)
        | Event::RequestsDenied(_)
        | Event::Unknown(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
