//! The settings of the executors, with their units and their reasons.

use std::{ffi::OsString, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Settings of the executors of one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecutorConfig {
    /// Executor threads. Default: one for each core this process may use.
    pub threads: usize,
    /// Guests that may run at the same time on this node. Each reserves 8 GiB of address space, half of it to
    /// be metered, and none of memory.
    pub guests_max: u32,
    /// Requests that may wait for one of them.
    pub waiting_max: u32,
    /// How long a request may wait, in milliseconds: longer than a burst, shorter than a client's patience.
    pub wait_ms: u64,
    /// The largest linear memory of any guest, in bytes. The tenant's limit may be smaller.
    pub memory_max_bytes: u64,
    /// Linear memory and kept outputs of all guests of this node together, in bytes. Set it below the memory of the machine.
    pub memory_budget_bytes: u64,
    /// How the memory of a place for guests is made empty between two of them.
    pub memory_reset: MemoryReset,
    /// How often a running guest makes room for the others of its thread, in milliseconds.
    pub tick_ms: u64,
    /// CPU time after which a guest takes turns with the other long ones, in milliseconds.
    pub heavy_after_ms: u64,
    /// How often each executor is asked whether it lives, in milliseconds.
    pub watch_ms: u64,
    /// Where compiled modules are kept. Without a folder they are kept in memory alone.
    pub artefacts_dir: Option<PathBuf>,
    /// Size of that folder, in bytes. The oldest files go first.
    pub artefacts_max_bytes: u64,
    /// Compiled modules kept in memory.
    pub cached_modules_max: usize,
    /// Their size together, in bytes of machine code.
    pub cached_bytes_max: u64,
    /// How modules are compiled.
    pub compile: CompileConfig,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self {
            threads: cores(),
            guests_max: 512,
            waiting_max: 1_024,
            wait_ms: 1_000,
            memory_max_bytes: 1 << 30,
            memory_budget_bytes: 4 << 30,
            memory_reset: MemoryReset::Auto,
            tick_ms: 2,
            heavy_after_ms: 10,
            watch_ms: 500,
            artefacts_dir: None,
            artefacts_max_bytes: 1 << 30,
            cached_modules_max: 256,
            cached_bytes_max: 512 << 20,
            compile: CompileConfig::default(),
        }
    }
}

/// How the memory of a place for guests is made empty between two of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryReset {
    /// `scan` where no page of this process can be swapped out, `zero` elsewhere. Should swap appear while the node runs,
    /// its health check fails until it is started again.
    #[default]
    Auto,
    /// Asks the kernel which pages were written, and resets those alone (Linux 6.7). It does not see pages that were swapped
    /// out: only for machines where that is impossible, whatever the node can see of it.
    Scan,
    /// Zeroes what stays mapped and gives the rest back to the kernel. Safe everywhere, and slower.
    Zero,
}

/// How modules are compiled, and what one compilation may use.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompileConfig {
    /// Absolute path and arguments of the program that compiles as a child process (it calls [`worker_main`](super::compile::worker_main)).
    /// `None` compiles in this process without the limits below: for tests alone.
    #[serde(skip)]
    pub worker: Option<Vec<OsString>>,
    /// Compilations at the same time: fewer than cores, so that a burst of uploads leaves one to serve.
    pub permits: usize,
    /// Compilations that may wait for one of these.
    pub waiting_max: usize,
    /// Compilations of one tenant at the same time, those included that wait for a permit: the line of the node is first
    /// come, first served, and one tenant must not fill it.
    pub permits_per_tenant: usize,
    /// Compilations of one tenant that may wait for one of these: a deployment of a few modules at once.
    pub waiting_per_tenant_max: usize,
    /// Time one compilation may take, in milliseconds; waiting for its turn and a permit may take as long again.
    pub wall_ms: u64,
    /// CPU time one compilation may take, in seconds.
    pub cpu_s: u64,
    /// Address space of one compilation, in bytes.
    pub memory_bytes: u64,
}

impl Default for CompileConfig {
    fn default() -> Self {
        Self {
            worker: None,
            permits: cores().saturating_sub(1).max(1),
            waiting_max: 64,
            permits_per_tenant: 1,
            waiting_per_tenant_max: 4,
            wall_ms: 10_000,
            cpu_s: 10,
            memory_bytes: 2 << 30,
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
