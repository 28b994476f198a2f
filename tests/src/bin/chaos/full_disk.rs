//! No room left, from one moment to the next: the node says so or ends, never forgets, starts on the full disk, and goes on
//! when there is room again.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::sleep;
use wasmwiz_tests::{
    chance::Chance,
    disk::SmallDisk,
    harness::{Launch, NodeProcess},
    wait::{self, SOON},
};

use crate::{
    Size,
    evidence::{Evidence, clients_of},
    judge::judge,
    scenario::Done,
};

/// How often the disk is full.
const CYCLES: (u64, u64) = (3, 30);

/// Size of the disk, in MiB: what all cycles write, and the room that is taken away.
const DISK_MIB: (u64, u64) = (256, 2_048);

/// Room that is left when the load begins, in bytes.
const LEFT_BYTES: std::ops::Range<u64> = (64 << 10)..(2 << 20);

/// The node's bounds, in bytes: small ones, for a small disk.
const BOUNDS: [(&str, u64); 3] = [
    ("WASMWIZ_DISK__LOW_BYTES", 24 << 20),
    ("WASMWIZ_DISK__LEAST_BYTES", 12 << 20),
    ("WASMWIZ_DISK__RESERVE_BYTES", 8 << 20),
];

/// How long the load goes on without room, in milliseconds: some looks of the node at its disk.
const WITHOUT_ROOM_MS: std::ops::Range<u64> = 1_000..2_000;

/// What a node says of its end when its log could not be written: `EX_IOERR` of sysexits.h.
const IO_ERROR: i32 = 74;

/// What a node may answer that cannot write.
const CANNOT: [u16; 4] = [429, 500, 503, 507];

pub(crate) async fn run(size: Size, mut chance: Chance) -> anyhow::Result<Done> {
    let mebibytes = u32::try_from(size.of(DISK_MIB.0, DISK_MIB.1))?;
    let Some(disk) = SmallDisk::mounted(mebibytes)? else {
        return Ok(Done::Skipped("a file system in memory may not be mounted here"));
    };
    let cycles = size.of(CYCLES.0, CYCLES.1);
    let launch = Launch::dev_on(&disk.path().join("data"))?;
    let launch = BOUNDS.iter().fold(launch, |launch, (name, bytes)| launch.variable(*name, bytes.to_string()));
    let mut node = launch.start().await?;
    let (mut evidence, mut ends) = (Evidence::default(), 0);
    for cycle in 1..=cycles {
        let load = clients_of(&node, &mut chance)?;
        sleep(Duration::from_millis(chance.within(50..300))).await;
        disk.fill_but(chance.within(LEFT_BYTES))?;
        sleep(Duration::from_millis(chance.within(WITHOUT_ROOM_MS))).await;
        evidence.take(load.end_with_failures().await?, &CANNOT)?;
        while executed(&node).await != Some(507) {
            // The log was written to before the reserve was given up, or what was given up was not enough.
            let ended = node.ended().await.with_context(|| format!("cycle {cycle}: neither refused nor ended"))?;
            ensure!(ended.code() == Some(IO_ERROR), "cycle {cycle}: without room the node ended with {ended}");
            ends += 1;
            ensure!(ends <= 2 * cycle, "cycle {cycle}: the node ended {ends} times");
            node.restart().await.with_context(|| format!("cycle {cycle}: the disk is still full"))?;
        }
        disk.make_room()?;
        wait::until("executions are run again", SOON, async || Ok((executed(&node).await == Some(200)).then_some(())))
            .await?;
    }
    evidence.at_least(5 * cycles)?;
    let (judged, _) =
        judge(node, evidence, format!("{cycles} times no room, which ended the node {ends} times")).await?;
    Ok(Done::Judged(judged))
}

/// How an execution is answered; not at all by a node that has ended.
async fn executed(node: &NodeProcess) -> Option<u16> {
    let answer = node.client().ok()?.post_bytes("/v1/modules/echo/executions", "room?").await.ok()?;
    Some(answer.status.as_u16())
}
