//! What may be asked of a tenant.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    digest::Digest,
    execution,
    id::{BootId, ExecutionId, KeyId, ModuleName, NodeId},
    key::Scope,
    module, requests,
    skip::Skipped,
    tenant::Tier,
    verification::Verified,
};

use super::{
    NewKey,
    admission::{Configured, Execute, Metered, Rerun},
    modules::NewVersion,
};

/// What may be asked of a tenant. It may be refused.
///
/// Its serialised form is that of frames between nodes (`codec`): a change of it is a new version of the frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Register the tenant, and issue its first key with it.
    Register {
        /// Its name, for people.
        name: String,
        /// Its tier.
        tier: Tier,
        /// Its first key, if it is to have one at once.
        first_key: Option<NewKey>,
    },
    /// Give it another name, another tier, or both at once.
    Change {
        /// The name from now on.
        name: Option<String>,
        /// The tier from now on.
        tier: Option<Tier>,
    },
    /// Stop it from acting.
    Suspend {
        /// Why.
        reason: Option<String>,
    },
    /// Let it act again.
    Resume,
    /// Issue a key.
    IssueKey(NewKey),
    /// Revoke a key.
    RevokeKey {
        /// Which.
        key_id: KeyId,
    },
    /// Give a key a new secret. The old one works too until the grace has passed.
    RotateKey {
        /// Which.
        key_id: KeyId,
        /// Hash of the new secret, which stays with whoever drew it.
        hash: Digest,
        /// How long the old secret still works, in milliseconds; 0: not at all.
        grace_ms: u64,
    },
    /// Publish a module as the next version of its name. The bytes are in the blob store already.
    PublishModule {
        /// The name.
        name: ModuleName,
        /// SHA-256 of the bytes.
        digest: Digest,
        /// How many.
        size_bytes: u64,
        /// What it is.
        kind: module::Kind,
        /// Its imports.
        imports: Vec<String>,
        /// Its exports.
        exports: Vec<String>,
    },
    /// Record that an upload was no module that this platform runs.
    RejectModule {
        /// The name it was to have.
        name: ModuleName,
        /// SHA-256 of the bytes.
        digest: Digest,
        /// How many.
        size_bytes: u64,
        /// What was wrong.
        reason: String,
    },
    /// Delete all versions of a module.
    DeleteModule {
        /// Which.
        name: ModuleName,
    },
    /// Admit an execution.
    Execute(Box<Execute>),
    /// Ask whether another command would be refused now, before bytes are kept for it. Nothing follows from it.
    Preview(#[serde(with = "crate::codec::never")] Box<Self>),
    /// Ask whether a key may act under a scope now: for what its tenant's own commands do not cover, such as an
    /// operator's commands to other tenants. Nothing follows from it.
    Authorise(#[serde(with = "crate::codec::scope")] Scope),
    /// Write down requests that were denied.
    RecordDenials(requests::Denied),
    /// Begin the next attempt at an asynchronous execution. One that is too old, or was tried too often, ends by it.
    Start {
        /// Which.
        execution_id: ExecutionId,
        /// The node that is to run it.
        node: NodeId,
        /// The life of that node.
        boot: BootId,
    },
    /// Cancel an execution. One that waits ends by it; for one that runs nothing follows: who runs it ends it, and reports.
    Cancel {
        /// Which.
        execution_id: ExecutionId,
    },
    /// Record how an execution ended.
    Finish(#[serde(with = "crate::codec::json")] Box<execution::Finished>),
    /// Declare lost what was begun in a life of a node that has ended. Which have, the decision is told.
    Reap,
    /// Declare lost an execution that this life of `node` asked to have admitted and does not run any more: it never learnt that it
    /// was admitted, or could not have its end recorded.
    Lose {
        /// Which.
        execution_id: ExecutionId,
        /// The node that asked.
        node: NodeId,
        /// The life of that node.
        boot: BootId,
    },
    /// Declare lost what is past its deadline and its grace.
    Expire,
    /// Record what came of running an execution again from its record. It costs what an execution costs.
    RecordVerification(#[serde(with = "crate::codec::json")] Box<Verified>),
    /// Admit another execution, made of the record of an earlier one.
    Rerun(Rerun),
    /// Admit an execution that is metered. A command of its own, so that an owner of before, which could not meter it, refuses
    /// what it does not know.
    Metered(Metered),
    /// Publish a module as a version that has settings. A command of its own, so that an owner of before, which would forget them,
    /// refuses what it does not know.
    PublishVersion(NewVersion),
    /// Admit an execution of a version that has settings. A command of its own for the same reason.
    Configured(Configured),
    /// Let views and entities pass over a commit of another tenant's stream that cannot be folded. Asked of the operators' own
    /// tenant.
    SkipCommit(#[serde(with = "crate::codec::json")] Skipped),
    /// Release the payloads that are older than they are to be kept. Nothing follows where none is. Asked by the platform itself; an
    /// owner of before, which knows nothing of it, refuses what it does not know.
    ReleasePayloads,
}

impl Command {
    /// What is to be admitted, if that is what is asked for.
    pub(crate) fn execute(&self) -> Option<&Execute> {
        match self {
            Self::Execute(execute)
            | Self::Rerun(Rerun { execute, .. })
            | Self::Metered(Metered { execute, .. })
            | Self::Configured(Configured { execute, .. }) => Some(execute),
            _ => None,
        }
    }

    /// A second scope that a key needs for it: what a rerun gives shows what was recorded.
    pub(super) fn also(&self) -> Option<Scope> {
        match self {
            Self::Preview(command) => command.also(),
            Self::Rerun(_)
            | Self::Metered(Metered { of: Some(_), .. })
            | Self::Configured(Configured { of: Some(_), .. }) => Some(Scope::ExecutionsRead),
            _ => None,
        }
    }

    /// The scope that a key needs for it; `None`: not for keys at all.
    pub(super) fn scope(&self) -> Option<Scope> {
        match self {
            Self::Preview(command) => command.scope(),
            Self::Authorise(scope) => Some(*scope),
            Self::Register { .. }
            | Self::Change { .. }
            | Self::Suspend { .. }
            | Self::Resume
            | Self::RecordDenials(_)
            | Self::Start { .. }
            | Self::Finish(_)
            | Self::Reap
            | Self::Lose { .. }
            | Self::Expire
            | Self::SkipCommit(_)
            | Self::ReleasePayloads => None,
            Self::IssueKey(_) | Self::RevokeKey { .. } | Self::RotateKey { .. } => Some(Scope::KeysManage),
            Self::PublishModule { .. }
            | Self::PublishVersion(_)
            | Self::RejectModule { .. }
            | Self::DeleteModule { .. } => Some(Scope::ModulesWrite),
            Self::Execute(_) | Self::Rerun(_) | Self::Metered(_) | Self::Configured(_) | Self::Cancel { .. } => {
                Some(Scope::ExecutionsRun)
            }
            Self::RecordVerification(_) => Some(Scope::ExecutionsRead),
        }
    }

    /// Does it record what has happened already? Then a suspension does not stop it.
    pub(crate) const fn is_report(&self) -> bool {
        matches!(self, Self::Finish(_) | Self::Reap | Self::Lose { .. } | Self::Expire)
    }

    /// Its name, for traces and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Change { .. } => "change",
            Self::Suspend { .. } => "suspend",
            Self::Resume => "resume",
            Self::IssueKey(_) => "issue_key",
            Self::RevokeKey { .. } => "revoke_key",
            Self::RotateKey { .. } => "rotate_key",
            Self::PublishModule { .. } => "publish_module",
            Self::RejectModule { .. } => "reject_module",
            Self::DeleteModule { .. } => "delete_module",
            Self::Execute(_) => "execute",
            Self::Preview(_) => "preview",
            Self::Authorise(_) => "authorise",
            Self::RecordDenials(_) => "record_denials",
            Self::Start { .. } => "start",
            Self::Cancel { .. } => "cancel",
            Self::Finish(_) => "finish",
            Self::Reap => "reap",
            Self::Lose { .. } => "lose",
            Self::Expire => "expire",
            Self::RecordVerification(_) => "record_verification",
            Self::Rerun(_) => "rerun",
            Self::Metered(_) => "metered",
            Self::PublishVersion(_) => "publish_version",
            Self::Configured(_) => "configured",
            Self::SkipCommit(_) => "skip_commit",
            Self::ReleasePayloads => "release_payloads",
        }
    }
}
