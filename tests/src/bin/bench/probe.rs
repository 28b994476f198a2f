//! What the machine and the processes say of themselves.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// Clock ticks a second in `/proc`: the kernel's `USER_HZ`, 100 on every Linux.
const TICKS: f64 = 100.0;

/// The median time of an append of 4 KiB and its fdatasync, in the folder of the log.
pub(crate) fn fdatasync(folder: &Path) -> anyhow::Result<Duration> {
    const ROUNDS: usize = 300;
    let path = folder.join("fdatasync.probe");
    let mut file = File::create(&path)?;
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        file.write_all(&[0x5a; 4_096])?;
        file.sync_data()?;
        took.push(begin.elapsed());
    }
    fs::remove_file(&path)?;
    took.sort();
    Ok(took[ROUNDS / 2])
}

/// CPU seconds that a process has used.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    ticks(&format!("/proc/{pid}/stat"))
}

/// CPU seconds by the name of a thread, the digits at its end left out.
pub(crate) fn cpu_by_thread(pid: u32) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut by_name = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
        let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
        *by_name.entry(name).or_default() += ticks(&path.join("stat").to_string_lossy()).unwrap_or_default();
    }
    Ok(by_name)
}

fn ticks(path: &str) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(path)?;
    // The name in brackets may hold spaces; the fields after it are the 3rd and on.
    let (_, rest) = stat.rsplit_once(')').context("a stat line")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let (user, system): (f64, f64) = (fields[11].parse()?, fields[12].parse()?);
    Ok((user + system) / TICKS)
}

/// Resident memory of a process, in MiB.
pub(crate) fn rss_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1_024.0)
}

/// Kernel, cores and file system, so that a figure can be read later.
pub(crate) fn machine(folder: &Path) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let folder = folder.canonicalize().unwrap_or_default();
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let file_system = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(mount, _)| folder.starts_with(mount))
        .max_by_key(|(mount, _)| mount.len())
        .map_or("?", |(_, kind)| kind);
    format!("Linux {}, {cores} cores, {file_system}", kernel.trim())
}
