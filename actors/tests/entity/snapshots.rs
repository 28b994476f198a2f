//! States that are kept: a tenant wakes from one as from its whole past, and one that is off costs time alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, mpsc},
};

use wasmwiz_actors::snapshots::{FileSnapshots, SnapshotConfig, Snapshots};
use wasmwiz_events::revision::Revision;

use super::*;

/// A state is kept after every ten events.
fn config() -> RegionConfig {
    let snapshots = SnapshotConfig { every_events: 10, at_rest_events: 1, keep: 2 };
    RegionConfig { snapshots, ..RegionConfig::default() }
}

async fn start(log: &Arc<MemoryLog>, folder: &Path) -> Node {
    Node::keeping(log, config(), Some(Arc::new(FileSnapshots::new(folder)))).await
}

pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder.join("acme")) else { return vec![] };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "snap"));
    files.sort();
    files
}

/// Waits until there are files of these revisions.
async fn kept(folder: &Path, revisions: &[u64]) {
    let names: Vec<_> = revisions.iter().map(|at| folder.join(format!("acme/{at:020}.snap"))).collect();
    tokio::time::timeout(Duration::from_secs(20), async {
        while files(folder) != names {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{:?} instead of {names:?}", files(folder)));
}

/// A tenant with 33 events, of which the kept states are at 20 and 30. Its past is damaged at 5, if it is said so: who wakes it
/// all the same has not read that.
async fn with_history(folder: &Path, damaged: bool) -> Node {
    let node = start(&Arc::new(MemoryLog::new()), folder).await;
    node.ask(register()).await.unwrap();
    node.ask(publish()).await.unwrap();
    for n in node.revision() + 1..=33 {
        node.ask(rename(&format!("name {n}"))).await.unwrap();
        match n {
            5 if damaged => node.log.damage_last_body(),
            10 => kept(folder, &[10]).await,
            20 | 30 => kept(folder, &[n - 10, n]).await,
            _ => {}
        }
    }
    node
}

/// Of a tenant that is read back it is known that its name is the last one.
async fn is_as_it_was(node: &Node) {
    assert!(node.ask(rename("name 33")).await.unwrap().events.is_empty(), "it has another name");
    assert!(matches!(node.ask(register()).await, Err(AskError::Refused(Refusal::AlreadyRegistered))));
    node.ask(rename("and on")).await.unwrap();
}

#[tokio::test]
async fn a_tenant_wakes_from_its_newest_state_and_reads_only_what_came_after() {
    let folder = tempfile::tempdir().unwrap();
    let before = with_history(folder.path(), true).await;
    is_as_it_was(&start(&before.log, folder.path()).await).await;
    let without = Node::start(&before.log, config()).await;
    assert!(matches!(without.ask(rename("x")).await, Err(AskError::Unavailable { .. })));
}

#[tokio::test]
async fn a_state_that_is_damaged_is_passed_over_for_the_one_before_it_and_then_for_the_whole_past() {
    let folder = tempfile::tempdir().unwrap();
    let before = with_history(folder.path(), true).await;
    let flip = |file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file, bytes).unwrap();
    };
    let [_, newer] = &files(folder.path())[..] else { panic!("not two states") };
    flip(newer);
    is_as_it_was(&start(&before.log, folder.path()).await).await;
    // The damaged one is out of the way of those that come after.
    kept(folder.path(), &[20, 33]).await;

    let whole = tempfile::tempdir().unwrap();
    let before = with_history(whole.path(), false).await;
    for file in files(whole.path()) {
        flip(&file);
    }
    is_as_it_was(&start(&before.log, whole.path()).await).await;
}

#[tokio::test]
async fn a_state_of_another_history_is_passed_over() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let before = with_history(ours.path(), false).await;
    let _other = with_history(theirs.path(), false).await;
    // The log was brought back from a backup, say, and went on differently.
    is_as_it_was(&start(&before.log, theirs.path()).await).await;
}

#[tokio::test]
async fn who_leaves_memory_is_kept_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let before = with_history(folder.path(), false).await;
    before.region.shutdown(Duration::from_secs(5)).await;
    kept(folder.path(), &[30, 33]).await;
    is_as_it_was(&start(&before.log, folder.path()).await).await;
}

/// Files that are not written before the gate is open.
struct Held {
    files: FileSnapshots,
    gate: Mutex<mpsc::Receiver<()>>,
}

impl Snapshots for Held {
    fn revisions(&self, tenant: &TenantId) -> io::Result<Vec<Revision>> {
        self.files.revisions(tenant)
    }

    fn read(&self, tenant: &TenantId, revision: Revision) -> io::Result<Vec<u8>> {
        self.files.read(tenant, revision)
    }

    fn remove(&self, tenant: &TenantId, revision: Revision) -> io::Result<()> {
        self.files.remove(tenant, revision)
    }

    fn write(&self, tenant: &TenantId, revision: Revision, bytes: &[u8], keep: usize) -> io::Result<()> {
        // Open is whom nobody holds any more.
        let _ = self.gate.lock().unwrap().recv();
        self.files.write(tenant, revision, bytes, keep)
    }
}

#[tokio::test]
async fn who_leaves_memory_while_a_state_of_it_is_being_written_has_its_last_one_written_next() {
    let folder = tempfile::tempdir().unwrap();
    let (gate, held) = mpsc::sync_channel(1);
    let held = Held { files: FileSnapshots::new(folder.path()), gate: Mutex::new(held) };
    // Given a tenant of which the first state is on its way to its file, and that has gone on meanwhile.
    let snapshots = SnapshotConfig { every_events: 1, ..config().snapshots };
    let config = RegionConfig { snapshots, ..RegionConfig::default() };
    let node = Node::keeping(&Arc::new(MemoryLog::new()), config, Some(Arc::new(held))).await;
    node.ask(register()).await.unwrap();
    let first = node.revision();
    for name in ["second", "third"] {
        node.ask(rename(name)).await.unwrap();
    }
    // When it leaves memory, then the state that it had is written behind that one, and none of those between.
    node.region.shutdown(Duration::from_secs(5)).await;
    drop(gate);
    kept(folder.path(), &[first, node.revision()]).await;
}

#[tokio::test]
async fn where_no_state_can_be_kept_the_tenant_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder of the tenant would be.
    fs::write(folder.path().join("acme"), "in the way").unwrap();
    let node = start(&Arc::new(MemoryLog::new()), folder.path()).await;
    node.ask(register()).await.unwrap();
    for n in 0..30 {
        node.ask(rename(&format!("name {n}"))).await.unwrap();
    }
    let again = start(&node.log, folder.path()).await;
    assert!(again.ask(rename("name 29")).await.unwrap().events.is_empty());
}
