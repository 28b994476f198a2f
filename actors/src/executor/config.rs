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
    /// The guests of one tenant have 5/8 of it at most.
    pub memory_budget_bytes: u64,
    /// How long a guest may have run and waited for memory that others hold, in milliseconds, to be run again with
    /// that: longer than most guests run, and shorter than `tiers.lost_grace_ms` by what a compilation takes.
    pub memory_wait_ms: u64,
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
            memory_wait_ms: 5_000,
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

impl ExecutorConfig {
    /// What the guests of one tenant may have of `memory_budget_bytes` at most, in bytes: 5/8. One guest never has
    /// more.
    pub const fn most_bytes_per_tenant(&self) -> u64 {
        super::budget::most_per_tenant(self.memory_budget_bytes)
    }

    /// Is every value in its range, where an execution is declared lost so long after its deadline, in milliseconds?
    ///
    /// # Errors
    /// The first setting that is not, and what is wrong with it.
    pub fn check(&self, lost_grace_ms: u64) -> Result<(), (&'static str, &'static str)> {
        if self.threads == 0 || self.guests_max == 0 {
            return Err(("threads and executor.guests_max", "must not be 0"));
        }
        let CompileConfig { wait_ms, wall_ms, small_cpu_s, cpu_s, .. } = self.compile;
        if small_cpu_s == 0 || small_cpu_s > cpu_s {
            return Err(("compile.small_cpu_s", "is 0, or more than executor.compile.cpu_s; it is a part of that"));
        }
        // A child on one of several processors takes no more of one than the clock says.
        if wall_ms < cpu_s.saturating_mul(1_000) {
            return Err((
                "compile.wall_ms",
                "is less than executor.compile.cpu_s; no module would be refused for its own time",
            ));
        }
        if self.memory_wait_ms.saturating_add(wait_ms).saturating_add(wall_ms) >= lost_grace_ms {
            return Err((
                "memory_wait_ms",
                "with compile.wait_ms and compile.wall_ms is not less than tiers.lost_grace_ms; lower them or raise it",
            ));
        }
        Ok(())
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
    /// Compilations at the same time: fewer than cores, so that a burst of uploads leaves one to serve. One more is for
    /// small modules.
    pub permits: usize,
    /// Compilations that may wait for one of these.
    pub waiting_max: usize,
    /// Compilations of one tenant at the same time, those included that wait for a permit: the line of the node is first
    /// come, first served, and one tenant must not fill it.
    pub permits_per_tenant: usize,
    /// Compilations of one tenant that may wait for one of these: a deployment of a few modules at once.
    pub waiting_per_tenant_max: usize,
    /// How long a compilation may wait for its turn and a permit, in milliseconds.
    pub wait_ms: u64,
    /// Time one compilation may take, in milliseconds: longer than its CPU time, because others have the processor too.
    /// A module is not refused for it: it was the host that was slow. One that only looked small has no more than
    /// `wait_ms` and this together, for both.
    pub wall_ms: u64,
    /// CPU time one compilation may take, in seconds. A module that takes more is refused.
    pub cpu_s: u64,
    /// CPU time a module may take that looked small, in seconds, before it waits for one of the other permits.
    pub small_cpu_s: u64,
    /// CPU time that compiling the modules of one tenant may take in a minute, on average, in milliseconds, whether or
    /// not they compile; 0 means without limit.
    pub cpu_ms_per_minute_per_tenant: u64,
    /// Such time at once after a pause, in milliseconds: a deployment of some large modules.
    pub cpu_ms_burst_per_tenant: u64,
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
            wait_ms: 10_000,
            wall_ms: 20_000,
            cpu_s: 10,
            small_cpu_s: 1,
            cpu_ms_per_minute_per_tenant: 10_000,
            cpu_ms_burst_per_tenant: 120_000,
            memory_bytes: 2 << 30,
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
