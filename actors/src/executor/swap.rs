//! Can pages of this process be swapped out? If so, the engine must not reset memory by asking the kernel which pages were
//! written: wasmtime 48 asks for those that are present, and a page that was written and then swapped out is not. The slot's
//! next guest could read it (wasmtime issue 14357, mended in 50.0.1).

use std::{fs, path::Path};

/// Where the kernel lists what it swaps to: a heading, then a line for each.
const SWAPS: &str = "/proc/swaps";

/// Where control groups of version 2 are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Is swapping impossible, as far as can be known? What cannot be read may be anything.
pub(crate) fn is_impossible() -> bool {
    no_swap_in(&read(SWAPS)) || group_forbids(&read("/proc/self/cgroup"), Path::new(CGROUPS))
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn no_swap_in(swaps: &Option<String>) -> bool {
    swaps.as_ref().is_some_and(|swaps| swaps.starts_with("Filename") && swaps.lines().count() == 1)
}

/// Does a group of this process, or one above it, allow no byte of swap?
fn group_forbids(own: &Option<String>, root: &Path) -> bool {
    let path = own.as_ref().and_then(|own| own.lines().find_map(|line| line.strip_prefix("0::/")));
    let Some(path) = path else { return false };
    let group = root.join(path);
    let groups = group.ancestors().take_while(|group| group.starts_with(root));
    groups.into_iter().any(|group| read(group.join("memory.swap.max")).is_some_and(|max| max.trim() == "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_that_is_known_to_be_empty_means_no_swap() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(no_swap_in(&Some(heading.to_owned())));
        assert!(!no_swap_in(&Some(format!("{heading}/swapfile file 8388604 0 -2\n"))));
        assert!(!no_swap_in(&Some(String::new())));
        assert!(!no_swap_in(&None));
    }

    #[test]
    fn a_group_without_swap_forbids_it_for_all_below() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("pod/node");
        fs::create_dir_all(&below).unwrap();
        let own = Some("1:name=systemd:/\n0::/pod/node\n".to_owned());
        assert!(!group_forbids(&own, root.path()));
        fs::write(below.join("memory.swap.max"), "max\n").unwrap();
        fs::write(root.path().join("pod/memory.swap.max"), "4096\n").unwrap();
        assert!(!group_forbids(&own, root.path()));
        fs::write(root.path().join("pod/memory.swap.max"), "0\n").unwrap();
        assert!(group_forbids(&own, root.path()));
        assert!(!group_forbids(&Some("4:memory:/pod/node\n".to_owned()), root.path()));
        assert!(!group_forbids(&None, root.path()));
    }
}
