//! No room left: the node ends rather than forget, and goes on where it was when there is room again.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::sleep;
use wasmwiz_tests::{chance::Chance, disk::SmallDisk, harness::Launch};

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
    let mut node = Launch::dev_on(&disk.path().join("data"))?.start().await?;
    let mut evidence = Evidence::default();
    for cycle in 1..=cycles {
        let load = clients_of(&node, &mut chance)?;
        sleep(Duration::from_millis(chance.within(50..300))).await;
        disk.fill_but(chance.within(LEFT_BYTES))?;
        let ended = node.ended().await.with_context(|| format!("cycle {cycle}: the disk is full"))?;
        evidence.take(load.end_with_failures().await?, &CANNOT)?;
        ensure!(ended.code() == Some(IO_ERROR), "cycle {cycle}: without room the node ended with {ended}");
        disk.make_room()?;
        node.restart().await.with_context(|| format!("cycle {cycle}: there is room again"))?;
    }
    evidence.at_least(5 * cycles)?;
    let (judged, _) = judge(node, evidence, format!("{cycles} times no room")).await?;
    Ok(Done::Judged(judged))
}
