//! `--against`: this program's node and that of another program, in turns, on one machine.
//!
//! Both are started once and stay, so that each round only moves the load from one to the other. No sync is measured beside
//! them: both have the same disk, and what disturbs one half of a round disturbs the other as often.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use wasmwiz_tests::{harness::Launch, turns};

use crate::{
    Args, Size,
    comparison::{Compared, Pair, Seen},
    handicap::Handicap,
    measure::{Plan, RATES},
    open_loop::Rate,
    servers::{self, Target},
};

/// Nine rounds are the fewest whose interval does not end at the two most extreme of them: it leaves one out at each side.
const CI: Plan = Plan { rounds: 9, lasts: Duration::from_millis(2_500) };

/// Twenty, as in the benchmark: the interval leaves out five at each side.
const NIGHTLY: Plan = Plan { rounds: 20, lasts: Duration::from_secs(4) };

/// Measures both at every rate.
///
/// # Errors
/// When a node does not start, or takes no connections.
pub(crate) async fn compared(args: &Args, other: &Path) -> anyhow::Result<Vec<Compared>> {
    let plan = match args.size {
        Size::Ci => CI,
        Size::Nightly => NIGHTLY,
    };
    // A node is started in a folder of its own, from which a relative path leads elsewhere.
    let program = other.canonicalize().with_context(|| format!("no program {}", other.display()))?;
    let folder = servers::empty_folder(&args.data)?;
    let other = Launch::dev_on(&folder.join("other"))?.program(program).start().await.context("the other program")?;
    let this = Launch::dev_on(&folder.join("this"))?.start().await.context("this program")?;
    let targets = Pair { other: Target::of(&other)?, this: Target::of(&this)? };
    let _held_up = Handicap::of(args.handicap, this.ready().pid)?;
    let mut compared = Vec::new();
    for per_second in RATES {
        let rate = Rate { per_second, lasts: plan.lasts };
        let mut rounds = Vec::with_capacity(plan.rounds);
        for round in 0..plan.rounds {
            eprintln!("load: {per_second}/s, in turns, round {} of {}", round + 1, plan.rounds);
            rounds.push(one_round(round, &targets, rate).await?);
        }
        compared.push(Compared::of(per_second, &rounds).context("too few rounds for an interval")?);
    }
    Ok(compared)
}

async fn one_round(round: usize, targets: &Pair<Target>, rate: Rate) -> anyhow::Result<Pair<Seen>> {
    let other = async || targets.other.loaded(rate).await.context("the other program's node").map(|its| Seen::of(&its));
    let this = async || targets.this.loaded(rate).await.context("this program's node").map(|its| Seen::of(&its));
    Ok(if turns::other_begins(round) {
        let other = other().await?;
        Pair { other, this: this().await? }
    } else {
        let this = this().await?;
        Pair { other: other().await?, this }
    })
}
