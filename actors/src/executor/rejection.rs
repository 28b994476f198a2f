//! Why an upload is no module that this platform runs. Said to the tenant who uploaded it, so it names no host detail.

use std::fmt;

/// Why a module was refused. Always the module's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The bytes do not begin like a WebAssembly binary.
    #[error("this is not a WebAssembly binary")]
    NotWasm,
    /// The text format.
    #[error("this is WebAssembly text, not a binary")]
    Text,
    /// Machine code that an engine has compiled. It is never loaded from an upload.
    #[error("this is a compiled artefact, not a WebAssembly binary")]
    Precompiled,
    /// The binary ends early.
    #[error("the binary ends too early, at byte {offset}")]
    Truncated {
        /// Where.
        offset: u64,
    },
    /// The binary breaks the rules of WebAssembly, or uses a proposal that is switched off.
    #[error("the binary is not valid: {message} (at byte {offset})")]
    Invalid {
        /// Which rule.
        message: String,
        /// Where.
        offset: u64,
    },
    /// A component instead of a core module.
    #[error("this is a component; core modules are supported")]
    Component,
    /// Nothing to run.
    #[error("the module exports no function _start without parameters and results")]
    NoStart,
    /// An import that nobody provides.
    #[error("the module imports {module}.{name}, which does not exist here")]
    UnknownImport {
        /// From which module.
        module: String,
        /// What.
        name: String,
    },
    /// An import that has another type.
    #[error("the module imports {module}.{name} with the type {found}; it has the type {expected}")]
    WrongImportType {
        /// From which module.
        module: String,
        /// What.
        name: String,
        /// The type it has.
        expected: String,
        /// The type the module wants.
        found: String,
    },
    /// More of something than a module may have.
    #[error("the module has {found} {what}; at most {limit} are allowed")]
    OverLimit {
        /// What is counted.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
        /// How much there is, or how much had been seen when counting stopped.
        found: u64,
    },
    /// Compiling used up what one compilation may use.
    #[error("compiling the module takes more {which} than one compilation may use")]
    CompileLimit {
        /// Which limit.
        which: CompileResource,
    },
}

/// What a compilation can run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompileResource {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Wall-clock time.
    Wall,
}

impl fmt::Display for CompileResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "CPU time",
            Self::Memory => "memory",
            Self::Wall => "time",
        })
    }
}

impl Rejection {
    /// A stable name, for the API and for metrics.
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::NotWasm => "not-wasm",
            Self::Text => "text-format",
            Self::Precompiled => "precompiled",
            Self::Truncated { .. } => "truncated",
            Self::Invalid { .. } => "invalid",
            Self::Component => "component",
            Self::NoStart => "no-start",
            Self::UnknownImport { .. } => "unknown-import",
            Self::WrongImportType { .. } => "wrong-import-type",
            Self::OverLimit { .. } => "over-limit",
            Self::CompileLimit { .. } => "compile-limit",
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotWasm => {
                "Upload the .wasm file that your compiler writes; it begins with the bytes 00 61 73 6d.".into()
            }
            Self::Text => "Convert it first: wat2wasm module.wat, or wasm-tools parse module.wat.".into(),
            Self::Precompiled => "Upload the .wasm file itself; it is compiled here.".into(),
            Self::Truncated { .. } => "Upload the whole file; compare its size with the original.".into(),
            Self::Invalid { .. } => {
                "Check it with wasm-tools validate. Threads, garbage collection, exceptions, 64-bit and \
                                     several memories, and relaxed SIMD are switched off."
                    .into()
            }
            Self::Component => "Build a core module for WASI preview 1: rustc --target wasm32-wasip1, \
                                zig cc -target wasm32-wasi, or tinygo -target wasip1."
                .into(),
            Self::NoStart => "Build a command, not a library: a program with a main function.".into(),
            Self::UnknownImport { .. } => "Import only functions of wasi_snapshot_preview1.".into(),
            Self::WrongImportType { expected, .. } => format!("Import it with the type {expected}."),
            Self::OverLimit { what, limit, .. } => format!("Bring the number of {what} down to {limit} or fewer."),
            Self::CompileLimit { .. } => "Split the module's largest functions, or build it with optimisation.".into(),
        }
    }
}
