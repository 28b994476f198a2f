//! How many files and connections this process may have open: as many as the system lets it, not as few as it begins with.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most that is asked for: what Linux allows one process unless it is told otherwise.
const WANTED: u64 = 1 << 20;

/// What the log, the views, the blobs and the executors may need beside the connections.
const BESIDE_CONNECTIONS: u64 = 512;

/// With fewer no node can start: its log, its views, its threads and a child have as many.
const FEWEST: u64 = 256;

/// Raises the limit of this process as far as it may, and says so when that is not enough for `connections`.
///
/// # Errors
/// When it is not enough to start.
pub(crate) fn raise(connections: usize) -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }) {
        tracing::warn!(%error, current, "the limit of open files cannot be raised");
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    enough(allowed)?;
    let needed = (connections as u64).saturating_add(BESIDE_CONNECTIONS);
    if allowed < needed {
        tracing::warn!(
            allowed,
            needed,
            "this process may not open as many files as gateway.server.connections_max needs; raise its hard limit \
             (ulimit -Hn), or lower that setting"
        );
    }
    Ok(())
}

fn enough(allowed: u64) -> anyhow::Result<()> {
    anyhow::ensure!(
        allowed >= FEWEST,
        "this process may have {allowed} files open, and a node needs {FEWEST} at least; raise the hard limit of open files \
         (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of a container)"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        raise(1).unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let maximum = maximum.unwrap_or(WANTED).min(WANTED);
        assert!(current.is_none_or(|current| current >= maximum), "{current:?} of {maximum}");
    }

    #[test]
    fn too_few_to_start_are_refused_with_the_number_and_the_remedy() {
        let error = enough(24).unwrap_err().to_string();
        assert!(error.starts_with("this process may have 24 files open") && error.contains("ulimit -Hn"), "{error}");
        enough(1_024).unwrap();
    }
}
