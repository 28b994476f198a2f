//! The wall clock steps under load: no execution is lost by that, or ends twice.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::time::sleep;
use wasmwiz_tests::{
    chance::Chance,
    harness::Launch,
    wall_clock::{self, WallClock},
};

use crate::{
    Size,
    evidence::{Evidence, LATER, clients_of},
    judge::judge,
    scenario::Done,
};

/// How often the clock is set to each of its times.
const ROUNDS: (u64, u64) = (1, 12);

/// From the right time, as the library writes it.
const STEPS: [&str; 8] = ["-1s", "+10m", "-10m", "+1d", "-1d", "+30d", "-30d", "+0"];

/// What recorded times must span at least when the clock did step, in milliseconds: the two steps of a day.
const SPAN_MS: i64 = 2 * 86_400_000 - 600_000;

pub(crate) async fn run(size: Size, mut chance: Chance, given: Option<&Path>) -> anyhow::Result<Done> {
    let Some(library) = given.map(Path::to_owned).or_else(wall_clock::library) else {
        return Ok(Done::Skipped("libfaketime is not installed on this machine; `--faketime FILE` names it elsewhere"));
    };
    ensure!(library.is_file(), "{} is not there", library.display());
    let (rounds, clock) = (size.of(ROUNDS.0, ROUNDS.1), WallClock::right(&library)?);
    let (node, mut evidence) = (clock.shown_to(Launch::dev()?).start().await?, Evidence::default());
    for _ in 0..rounds {
        let load = clients_of(&node, &mut chance)?;
        for step in STEPS {
            sleep(Duration::from_millis(chance.within(100..600))).await;
            clock.step_to(step)?;
        }
        sleep(Duration::from_millis(chance.within(100..600))).await;
        evidence.take(load.end().await?, &LATER)?;
    }
    let steps = rounds * STEPS.len() as u64;
    evidence.at_least(5 * steps)?;
    ensure!(evidence.unanswered == 0, "{} requests had no answer, and nothing was killed", evidence.unanswered);
    let (judged, history) = judge(node, evidence, format!("{steps} steps of up to 60 days")).await?;
    let times = || history.executions.values().flat_map(|one| &one.accepted).map(|one| one.start_time.unix_ms());
    let (first, last) = (times().min().context("nothing ran")?, times().max().context("nothing ran")?);
    ensure!(last - first > SPAN_MS, "the recorded times span {} ms only: the clock did not step", last - first);
    ensure!(judged.lost == 0, "{} executions were lost, and nothing was killed", judged.lost);
    Ok(Done::Judged(judged))
}
