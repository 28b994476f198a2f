//! How much CPU time a process has taken.

use std::{fs, time::Duration};

use anyhow::Context;

/// What a process has spent on CPUs so far, in user and in kernel mode. Counted in hundredths of a second.
///
/// # Errors
/// When it is gone, or the system does not say.
pub fn spent(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The name before it, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no fields")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>().context("the times are no numbers")?;
    Ok(Duration::from_millis(ticks.saturating_mul(10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_spends_time() {
        let before = spent(std::process::id()).unwrap();
        let mut number = 1_u64;
        while spent(std::process::id()).unwrap() < before + Duration::from_millis(20) {
            number = (0..100_000).fold(number, |number, step| number.wrapping_mul(31).wrapping_add(step));
        }
        assert_ne!(number, 0);
    }
}
