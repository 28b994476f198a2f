//! A tenant with a long past, in a log on disk: how long it takes to wake it with a state that was kept, and without.
//!
//! `WASMWIZ_TESTS_PAST_EVENTS` says how long: the default suits every run, and 5,000,000 is what a year of a busy tenant may be.

use wasmwiz_actors::snapshots::{FileSnapshots, SnapshotConfig, Snapshots as _};
use wasmwiz_events::{
    commit::Commit,
    envelope::{self, Envelope},
    ledger::Head,
    log::{
        Append,
        sqlite::{SqliteLog, SqliteLogConfig},
    },
    time::SystemClock,
};

use super::*;

const PAST: (&str, u64) = ("WASMWIZ_TESTS_PAST_EVENTS", 20_000);

/// What waking from a state that was kept may take, however long the past. A build without optimisation takes some times longer. Held
/// against a long past alone, which runs by itself: beside other tests it would say how busy they are.
const AWAKE_WITHIN: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_000 } else { 200 });

/// Executions of one commit: each has two events.
const EXECUTIONS: u64 = 200;

fn golden(text: &str) -> Envelope {
    envelope::decode(format!("[{text}]").as_bytes()).unwrap().remove(0)
}

/// Writes a past of registered, published, and then executions that were accepted and have ended.
async fn write_past(log: &SqliteLog, events: u64) {
    let mut head = Head::genesis(&acme());
    let accepted = golden(include_str!("../../../events/golden/dev.wasmwiz.execution.accepted.v1.json"));
    let finished = golden(include_str!("../../../events/golden/dev.wasmwiz.execution.finished.v1.json"));
    let registered = golden(include_str!("../../../events/golden/dev.wasmwiz.tenant.registered.v1.json"));
    let mut envelopes = vec![registered];
    while head.revision.get() < events {
        for (envelope, n) in envelopes.iter_mut().zip(1..) {
            (envelope.tenant, envelope.revision, envelope.id) = (acme(), head.revision.plus(n), Ids.event());
        }
        let commit = Commit::seal(&head, acme(), Ids.commit(), Epoch::FIRST, NOON, std::mem::take(&mut envelopes));
        let commit = commit.unwrap();
        head = commit.head();
        log.append(Append { commit, payloads: vec![] }).await.unwrap();
        for _ in 0..EXECUTIONS {
            let (mut begun, mut ended) = (accepted.clone(), finished.clone());
            let id = Ids.execution();
            match (&mut begun.event, &mut ended.event) {
                (Event::ExecutionAccepted(accepted), Event::ExecutionFinished(finished)) => {
                    (accepted.execution_id, finished.execution_id) = (id, id);
                    accepted.bucket_full_at = None;
                }
                _ => panic!("other events"),
            }
            envelopes.extend([begun, ended]);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the size of a test is no setting of a node")]
fn past() -> u64 {
    std::env::var(PAST.0).map_or(PAST.1, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_long_its_past_a_tenant_wakes_from_what_was_kept() {
    let events = past();
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = Arc::new(SqliteLog::open(data.path(), SqliteLogConfig::default()).unwrap());
    write_past(&log, events).await;
    // A caller may wait for as long as the longest past takes.
    let config = RegionConfig {
        answer_within_ms: 600_000,
        snapshots: SnapshotConfig { every_events: 10_000, ..SnapshotConfig::default() },
        ..RegionConfig::default()
    };
    let wake = async |what: &str| {
        let deps = RegionDeps {
            log: Arc::clone(&log) as Arc<dyn EventLog>,
            clock: Arc::new(SystemClock),
            policy: Policy::default(),
            ownership: Arc::new(Alone { node: NodeId::new("node-1").unwrap(), boot: Ids.boot() }),
            snapshots: Some(Arc::new(FileSnapshots::new(folder.path()))),
        };
        let region = Region::start(config, deps).await.unwrap();
        let (before, origin) = (tokio::time::Instant::now(), Origin::internal(Ids.command()));
        let ask = Ask { command: rename("awake"), by: Authority::System, origin, payloads: vec![] };
        region.ask(&acme(), ask).await.unwrap();
        let took = before.elapsed();
        println!("{events} events: awake {what} after {} ms", took.as_millis());
        region.shutdown(Duration::from_secs(60)).await;
        took
    };
    let whole = wake("from its whole past").await;
    tokio::time::timeout(Duration::from_secs(60), async {
        while FileSnapshots::new(folder.path()).revisions(&acme()).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let kept = wake("from what was kept").await;
    // With a short past the one sync of the answer is as long.
    if events >= 1_000_000 {
        assert!(kept < AWAKE_WITHIN, "{kept:?} with a state that was kept");
        assert!(kept * 10 < whole, "{kept:?} with a state that was kept, {whole:?} without");
    }
}
