//! How many files and connections this process may have open: as many as the system lets it, not as few as it begins with.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most that is asked for: what Linux allows one process unless it is told otherwise.
const WANTED: u64 = 1 << 20;

/// What the log, the views, the blobs and the executors may need beside the connections.
const BESIDE_CONNECTIONS: u64 = 512;

/// Raises the limit of this process as far as it may, and says so when that is not enough for `connections`.
pub(crate) fn raise(connections: usize) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }) {
        tracing::warn!(%error, current, "the limit of open files cannot be raised");
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = (connections as u64).saturating_add(BESIDE_CONNECTIONS);
    if allowed < needed {
        tracing::warn!(
            allowed,
            needed,
            "this process may not open as many files as gateway.server.connections_max needs; raise its hard limit \
             (ulimit -Hn), or lower that setting"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        raise(1);
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let maximum = maximum.unwrap_or(WANTED).min(WANTED);
        assert!(current.is_none_or(|current| current >= maximum), "{current:?} of {maximum}");
    }
}
