//! What happens to modules: published, rejected, deleted.

use serde::{Deserialize, Serialize};

use crate::{digest::Digest, id::ModuleName, settings::Settings, time::Timestamp};

/// What kind of WebAssembly binary a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A core module that speaks WASI preview 1.
    Core,
    /// A component.
    Component,
}

impl Kind {
    /// The kind's name in the API and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Component => "component",
        }
    }
}

/// A version of a module was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The tenant's name for it.
    pub name: ModuleName,
    /// 1 for the first version of a name; it only grows, also after a deletion.
    pub version: u32,
    /// SHA-256 of the bytes as uploaded.
    pub digest: Digest,
    /// How many bytes were uploaded.
    pub size_bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// Its imports as `module.name`.
    pub imports: Vec<String>,
    /// Its exports.
    #[serde(default)]
    pub exports: Vec<String>,
    /// How its executions run. Absent: as those of all versions did before there were settings.
    #[serde(default, skip_serializing_if = "Settings::is_default")]
    pub settings: Settings,
    /// When the tenant's write bucket is full again, if a key asked and its tier limits what keys write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_full_at: Option<Timestamp>,
}

/// An upload was refused after it had been read: it is no module that this platform runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The name it was to have.
    pub name: ModuleName,
    /// SHA-256 of the bytes as uploaded.
    pub digest: Digest,
    /// How many bytes were uploaded.
    pub size_bytes: u64,
    /// Which rule or limit it broke.
    pub reason: String,
    /// When it was decided: the next minute's rejections are answered and not recorded.
    pub at: Timestamp,
    /// When the tenant's write bucket is full again, if a key asked and its tier limits what keys write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_full_at: Option<Timestamp>,
}

/// All versions of a name were deleted. Executions that ran them stay in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Which module.
    pub name: ModuleName,
    /// When the tenant's write bucket is full again, if a key asked and its tier limits what keys write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_full_at: Option<Timestamp>,
}
