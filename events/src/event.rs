//! All events there are, and their names in the log.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{execution, id::TenantId, key, module, requests, retention, skip, tenant, upcast, verification};

/// Everything that can happen in a tenant's stream.
#[derive(Debug, Clone)]
pub enum Event {
    /// See [`tenant::Registered`].
    TenantRegistered(tenant::Registered),
    /// See [`tenant::Renamed`].
    TenantRenamed(tenant::Renamed),
    /// See [`tenant::TierChanged`].
    TenantTierChanged(tenant::TierChanged),
    /// See [`tenant::Suspended`].
    TenantSuspended(tenant::Suspended),
    /// See [`tenant::Resumed`].
    TenantResumed(tenant::Resumed),
    /// See [`key::Issued`].
    KeyIssued(key::Issued),
    /// See [`key::Rotated`].
    KeyRotated(key::Rotated),
    /// See [`key::Revoked`].
    KeyRevoked(key::Revoked),
    /// See [`module::Published`].
    ModulePublished(module::Published),
    /// See [`module::Rejected`].
    ModuleRejected(module::Rejected),
    /// See [`module::Deleted`].
    ModuleDeleted(module::Deleted),
    /// See [`execution::Accepted`].
    ExecutionAccepted(Box<execution::Accepted>),
    /// See [`execution::Started`].
    ExecutionStarted(execution::Started),
    /// See [`execution::Finished`].
    ExecutionFinished(Box<execution::Finished>),
    /// See [`execution::Lost`].
    ExecutionLost(execution::Lost),
    /// See [`verification::Verified`].
    ExecutionVerified(verification::Verified),
    /// See [`requests::Denied`].
    RequestsDenied(requests::Denied),
    /// See [`skip::Skipped`].
    CommitSkipped(skip::Skipped),
    /// See [`retention::Released`].
    PayloadsReleased(retention::Released),
    /// An event of a type that this version does not know. It is kept, shown and hashed, and changes no state.
    Unknown(Unknown),
}

/// An event of a type that this version does not know.
#[derive(Debug, Clone)]
pub struct Unknown {
    /// Its type, as stored.
    pub type_name: String,
    /// Its data, as stored.
    pub data: Box<RawValue>,
}

/// The data of an event is not of the shape that its type promises.
#[derive(Debug, thiserror::Error)]
#[error("data of {type_name} is not of its shape")]
pub struct BadData {
    /// The type.
    pub type_name: String,
    /// What serde found.
    #[source]
    pub source: serde_json::Error,
}

macro_rules! known_events {
    ($($variant:ident = $name:literal;)*) => {
        /// The type names that this version writes, one golden file each.
        pub const TYPE_NAMES: &[&str] = &[$($name),*];

        impl Event {
            /// The event's type, for instance `dev.wasmwiz.execution.finished.v1`.
            pub fn type_name(&self) -> &str {
                match self {
                    $(Self::$variant(_) => $name,)*
                    Self::Unknown(unknown) => &unknown.type_name,
                }
            }

            /// Reads an event of type `type_name`, after upcasting its data to the current version.
            ///
            /// # Errors
            /// [`BadData`] when the type is known and the data is not of its shape.
            pub fn decode(type_name: &str, data: &RawValue) -> Result<Self, BadData> {
                let upcasted = upcast::to_current(type_name, data)
                    .map_err(|source| BadData { type_name: type_name.to_owned(), source })?;
                let (type_name, data) = match &upcasted {
                    Some((name, data)) => (*name, data.as_ref()),
                    None => (type_name, data),
                };
                let bad = |source| BadData { type_name: type_name.to_owned(), source };
                match type_name {
                    $($name => serde_json::from_str(data.get()).map(Self::$variant).map_err(bad),)*
                    _ => Ok(Self::Unknown(Unknown { type_name: type_name.to_owned(), data: data.to_owned() })),
                }
            }
        }

        impl Serialize for Event {
            /// Writes the event's data, without its type.
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$variant(data) => data.serialize(serializer),)*
                    Self::Unknown(unknown) => unknown.data.serialize(serializer),
                }
            }
        }
    };
}

known_events! {
    TenantRegistered = "dev.wasmwiz.tenant.registered.v1";
    TenantRenamed = "dev.wasmwiz.tenant.renamed.v1";
    TenantTierChanged = "dev.wasmwiz.tenant.tier-changed.v1";
    TenantSuspended = "dev.wasmwiz.tenant.suspended.v1";
    TenantResumed = "dev.wasmwiz.tenant.resumed.v1";
    KeyIssued = "dev.wasmwiz.key.issued.v1";
    KeyRotated = "dev.wasmwiz.key.rotated.v1";
    KeyRevoked = "dev.wasmwiz.key.revoked.v1";
    ModulePublished = "dev.wasmwiz.module.published.v1";
    ModuleRejected = "dev.wasmwiz.module.rejected.v1";
    ModuleDeleted = "dev.wasmwiz.module.deleted.v1";
    ExecutionAccepted = "dev.wasmwiz.execution.accepted.v1";
    ExecutionStarted = "dev.wasmwiz.execution.started.v1";
    ExecutionFinished = "dev.wasmwiz.execution.finished.v1";
    ExecutionLost = "dev.wasmwiz.execution.lost.v1";
    ExecutionVerified = "dev.wasmwiz.execution.verified.v1";
    RequestsDenied = "dev.wasmwiz.requests.denied.v1";
    CommitSkipped = "dev.wasmwiz.commit.skipped.v1";
    PayloadsReleased = "dev.wasmwiz.payloads.released.v1";
}

impl Event {
    /// What the event is about: `<kind>/<id>`, the CloudEvents `subject`.
    pub fn subject(&self, tenant: &TenantId) -> String {
        match self {
            Self::TenantRegistered(_)
            | Self::TenantRenamed(_)
            | Self::TenantTierChanged(_)
            | Self::TenantSuspended(_)
            | Self::TenantResumed(_)
            | Self::Unknown(_) => format!("tenants/{tenant}"),
            Self::KeyIssued(key::Issued { key_id, .. })
            | Self::KeyRotated(key::Rotated { key_id, .. })
            | Self::KeyRevoked(key::Revoked { key_id, .. }) => format!("keys/{key_id}"),
            Self::ModulePublished(module::Published { name, .. })
            | Self::ModuleRejected(module::Rejected { name, .. })
            | Self::ModuleDeleted(module::Deleted { name, .. }) => format!("modules/{name}"),
            Self::ExecutionAccepted(accepted) => format!("executions/{}", accepted.execution_id),
            Self::ExecutionStarted(started) => format!("executions/{}", started.execution_id),
            Self::ExecutionFinished(finished) => format!("executions/{}", finished.execution_id),
            Self::ExecutionLost(lost) => format!("executions/{}", lost.execution_id),
            Self::ExecutionVerified(verified) => format!("executions/{}", verified.execution_id),
            Self::RequestsDenied(_) => format!("requests/{tenant}"),
            Self::CommitSkipped(skipped) => format!("commits/{}", skipped.position),
            Self::PayloadsReleased(released) => format!("payloads/{}", released.class),
        }
    }
}

impl PartialEq for Event {
    /// Events are equal when the log would write them alike.
    fn eq(&self, other: &Self) -> bool {
        let written = |event: &Self| serde_json::to_string(event).ok();
        self.type_name() == other.type_name() && written(self) == written(other)
    }
}
