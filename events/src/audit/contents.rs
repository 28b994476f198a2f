//! The contents that events name: standard input and output, what clocks said, and modules. Each rides with the commit that
//! names it, or is a blob, or is gone.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use crate::{
    blobs::fs,
    digest::Digest,
    event::Event,
    execution::{Content, Finished, Output},
    id::TenantId,
    module,
};

/// A content that an event names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    /// What it is to the event.
    pub(super) what: &'static str,
    pub(crate) digest: Digest,
    /// How many bytes the event says that it has, if it says so.
    pub(super) size_bytes: Option<u64>,
    /// Was it kept? What was rejected was not, and nothing is kept of no bytes.
    pub(crate) kept: bool,
}

impl Named {
    const fn bytes(what: &'static str, digest: Digest, size_bytes: u64) -> Self {
        Self { what, digest, size_bytes: Some(size_bytes), kept: size_bytes > 0 }
    }
}

/// The contents that an event names; `None` when the event is of a type that is not known here.
pub(crate) fn named(event: &Event) -> Option<Vec<Named>> {
    Some(match event {
        Event::ExecutionAccepted(accepted) => {
            let Content { digest, size_bytes } = accepted.stdin;
            let module = Named { what: "module", digest: accepted.module.digest, size_bytes: None, kept: true };
            vec![Named::bytes("standard input", digest, size_bytes), module]
        }
        Event::ExecutionFinished(finished) => {
            let Finished { stdout, stderr, .. } = &**finished;
            let output = |what, output: &Output| Named::bytes(what, output.digest, output.size_bytes);
            let mut named = vec![output("standard output", stdout), output("standard error", stderr)];
            named.extend(
                finished
                    .transcript()
                    .map(|Content { digest, size_bytes }| Named::bytes("transcript", digest, size_bytes)),
            );
            named
        }
        Event::ModulePublished(module::Published { digest, size_bytes, .. }) => {
            vec![Named::bytes("module", *digest, *size_bytes)]
        }
        Event::ModuleRejected(module::Rejected { digest, size_bytes, .. }) => {
            vec![Named { kept: false, ..Named::bytes("rejected module", *digest, *size_bytes) }]
        }
        Event::TenantRegistered(_)
        | Event::TenantRenamed(_)
        | Event::TenantTierChanged(_)
        | Event::TenantSuspended(_)
        | Event::TenantResumed(_)
        | Event::KeyIssued(_)
        | Event::KeyRotated(_)
        | Event::KeyRevoked(_)
        | Event::ModuleDeleted(_)
        | Event::ExecutionStarted(_)
        | Event::ExecutionLost(_)
        | Event::ExecutionVerified(_)
        | Event::RequestsDenied(_)
        | Event::CommitSkipped(_)
        | Event::PayloadsReleased(_) => Vec::new(),
        Event::Unknown(_) => return None,
    })
}

/// What became of a content that does not ride with its commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is a blob of this many bytes, and they are the ones that the digest names.
    Intact(u64),
    /// There is no such blob.
    Missing,
    /// There is one, of other bytes or unreadable.
    Damaged(String),
}

impl Kept {
    pub(super) fn other_bytes() -> Self {
        Self::Damaged("is not the bytes that its digest names".into())
    }
}

/// The blobs that were looked at. Each is read and hashed once, however many events name it.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    /// Where they are; without one, [`Blobs::saw`] says what they are.
    folder: Option<PathBuf>,
    seen: HashMap<Digest, Kept>,
    told: HashSet<(TenantId, Digest)>,
    /// How many are intact.
    pub(super) intact: u64,
}

impl Blobs {
    /// The blobs in `folder`.
    pub(super) fn of(folder: PathBuf) -> Self {
        Self { folder: Some(folder), ..Self::default() }
    }

    pub(super) fn look(&mut self, digest: Digest) -> Kept {
        if let Some(seen) = self.seen.get(&digest) {
            return seen.clone();
        }
        let hash = |folder: &PathBuf| fs::hash(folder, digest);
        let kept = match self.folder.as_ref().map_or(Ok(None), hash) {
            Ok(Some((found, size_bytes))) if found == digest => Kept::Intact(size_bytes),
            Ok(Some(_)) => Kept::other_bytes(),
            Ok(None) => Kept::Missing,
            Err(error) => Kept::Damaged(format!("cannot be read: {error}")),
        };
        self.saw(digest, kept.clone());
        kept
    }

    /// Was it looked at?
    pub(super) fn knows(&self, digest: Digest) -> bool {
        self.seen.contains_key(&digest)
    }

    /// It was looked at.
    pub(super) fn saw(&mut self, digest: Digest, kept: Kept) {
        self.intact += u64::from(matches!(kept, Kept::Intact(_)));
        self.seen.insert(digest, kept);
    }

    /// Is it the first time that something is told of this content to this tenant? Thousands of executions may name one
    /// module.
    pub(super) fn tell(&mut self, tenant: &TenantId, digest: Digest) -> bool {
        self.told.insert((tenant.clone(), digest))
    }
}
