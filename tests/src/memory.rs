//! How much memory a process takes.

use std::fs;

use anyhow::Context;

/// What a process has in memory (its resident set), in bytes.
///
/// # Errors
/// When it is gone, or the system does not say.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
    Ok(kib.saturating_mul(1_024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_memory() {
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
    }
}
