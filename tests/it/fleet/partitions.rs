//! Ways between hosts are cut and nodes stand still: no stale owner ever appends, and each tenant has one history.

use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use wasmwiz_tests::{
    chance::{Chance, setting},
    fleet::Fleet,
    hosts::Hosts,
};

use super::Scene;

/// How many disturbances there are, if the variable does not say otherwise.
const RUNS: (&str, u64) = ("WASMWIZ_TESTS_PARTITION_RUNS", 20);

/// Longer than a lease of 3 s with its margin, so that what is cut off is replaced.
const LONG_MS: std::ops::Range<u64> = 4_000..6_000;

/// What is done to a fleet.
#[derive(Debug, Clone, Copy)]
enum Disturbance {
    /// A host reaches nobody, and nobody reaches it.
    Full,
    /// Two hosts do not reach each other; the third reaches both.
    Half,
    /// What one host sends reaches nobody; what others send reaches it.
    Asymmetric,
    /// A host comes and goes.
    Flapping,
    /// A node stands still past its lease (SIGSTOP), and goes on as if nothing had been.
    Stopped,
}

const ALL: [Disturbance; 5] =
    [Disturbance::Full, Disturbance::Half, Disturbance::Asymmetric, Disturbance::Flapping, Disturbance::Stopped];

impl Disturbance {
    /// Does it, and undoes it.
    async fn happen(self, fleet: &mut Fleet, chance: &mut Chance) -> anyhow::Result<()> {
        let victim = u8::try_from(chance.within(1..4))?;
        let long = Duration::from_millis(chance.within(LONG_MS));
        if let Self::Stopped = self {
            let node = fleet.node(usize::from(victim) - 1)?;
            node.signal(Signal::STOP)?;
            sleep(long).await;
            return node.signal(Signal::CONT);
        }
        let hosts = fleet.hosts.as_ref().context("the fleet has no hosts")?;
        let others: Vec<u8> = (1..=3).filter(|other| *other != victim).collect();
        match self {
            Self::Full => {
                hosts.isolate(victim)?;
                sleep(long).await;
                hosts.rejoin(victim)
            }
            Self::Half => {
                let other = *others.first().context("no other host")?;
                hosts.cut(victim, other).and_then(|()| hosts.cut(other, victim))?;
                sleep(long).await;
                hosts.mend(victim, other).and_then(|()| hosts.mend(other, victim))
            }
            Self::Asymmetric => {
                others.iter().try_for_each(|other| hosts.cut(victim, *other))?;
                sleep(long).await;
                others.iter().try_for_each(|other| hosts.mend(victim, *other))
            }
            Self::Flapping => {
                for _ in 0..5 {
                    hosts.isolate(victim)?;
                    sleep(Duration::from_millis(chance.within(200..1_500))).await;
                    hosts.rejoin(victim)?;
                    sleep(Duration::from_millis(chance.within(50..500))).await;
                }
                Ok(())
            }
            Self::Stopped => Ok(()),
        }
    }
}

async fn run(fleet: Fleet, disturbances: &[Disturbance]) -> anyhow::Result<()> {
    let (mut chance, runs) = (Chance::printed()?, setting(RUNS.0, RUNS.1)?);
    let mut scene = Scene::begun(fleet).await?;
    for run in 0..runs {
        let disturbance = *disturbances.get(usize::try_from(run)? % disturbances.len()).context("no disturbance")?;
        let begun = Instant::now();
        disturbance.happen(&mut scene.fleet, &mut chance).await.with_context(|| format!("{disturbance:?}"))?;
        let undone = Instant::now();
        let (served, recovered) = (scene.callers.each_answered(2).await, undone.elapsed());
        if let Err(waited) = served {
            // A history that is broken says more than that somebody waits.
            let history = scene.fleet.history().await.map(drop);
            return history.and(Err(waited)).with_context(|| format!("run {run}, after {disturbance:?}"));
        }
        let disturbed = undone.duration_since(begun);
        eprintln!("run {run}: {disturbance:?} for {disturbed:.1?}, all served {recovered:.1?} after it");
    }
    let told = scene.ended().await?;
    eprintln!("{runs} runs, {} answers, {} commits: one history each", told.calls.len(), told.history.commits);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_cut_off_or_stands_still_each_tenant_has_one_history() -> anyhow::Result<()> {
    if !Hosts::possible() {
        eprintln!("there are no network namespaces here: only nodes that stand still are shown");
        return run(Fleet::started(super::THREE).await?, &[Disturbance::Stopped]).await;
    }
    run(Fleet::on_hosts(3, 12).await?, &ALL).await
}
