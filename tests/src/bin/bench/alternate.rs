//! Two programs, one after the other, again and again: what a change costs is told apart from what the machine does meanwhile.
//!
//! In each round both start on an empty folder and have the same load in slices, in turns: what the machine does for some seconds, it does to
//! both. Who begins changes from slice to slice and from round to round. `wasmwiz_tests::turns` says what is made of the rounds.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use wasmwiz_tests::{
    turns::{Interval, other_begins},
    wire,
};

use crate::{load, node::Node};

/// How often both are measured.
const ROUNDS: usize = 20;

/// Connections that ask at the same time.
const CONNECTIONS: usize = 16;

/// Slices of load for each program in each round.
const SLICES: usize = 4;

/// Seconds of one, after a warm-up of a tenth of that.
const SLICE_SECONDS: u64 = 1;

/// The payload of one execution, in bytes.
const BODY_BYTES: usize = 1_024;

/// At most this many times as long as the other one may the program take, also at the end of the interval.
const AT_MOST: f64 = 1.05;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Alternation {
    /// How many times as long this program takes for the same.
    ratio: Interval,
}

impl Alternation {
    /// Measures `other`, a program of an earlier commit, and the one that lies beside this program.
    pub(crate) fn measure(data: &Path, other: &Path) -> anyhow::Result<Self> {
        let programs = [other.to_path_buf(), Node::program()?];
        let _ = std::fs::remove_dir_all(data);
        let mut ratios = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let seen = executions_per_second(data, &programs, round)?;
            eprintln!("round {} of {ROUNDS}: {:.0}/s, and this one {:.0}/s", round + 1, seen[0], seen[1]);
            ratios.push(seen[0] / seen[1]);
        }
        Ok(Self { ratio: Interval::of(ratios).context("too few rounds")? })
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        let Interval { begin, median, end } = self.ratio;
        println!(
            "\n1 KiB echo, {CONNECTIONS} connections, {ROUNDS} rounds of {SLICES} slices of {SLICE_SECONDS} s each"
        );
        println!("  this program takes {median:.3} times as long (95 % interval {begin:.3} to {end:.3})");
        println!("  {} at most {AT_MOST} times", if self.target_met() { "met   " } else { "MISSED" });
    }

    /// Is it fast enough?
    pub(crate) fn target_met(&self) -> bool {
        self.ratio.end < AT_MOST
    }
}

/// What each of the programs does in a round.
fn executions_per_second(data: &Path, programs: &[PathBuf; 2], round: usize) -> anyhow::Result<[f64; 2]> {
    std::fs::create_dir_all(data)?;
    let [other, own] = programs;
    let mut seen = [0.0; 2];
    {
        let nodes = [Node::start_of(other, &data.join("other"))?, Node::start_of(own, &data.join("own"))?];
        let body = vec![b'a'; BODY_BYTES];
        for slice in 0..SLICES {
            let order = if other_begins(round + slice) { [0, 1] } else { [1, 0] };
            for which in order {
                let node = &nodes[which];
                let echo = wire::echo_request("/v1/modules/echo/executions", Some(&node.key), &body);
                seen[which] += load::run(node.api, &echo, CONNECTIONS, SLICE_SECONDS)?.per_second();
            }
        }
    }
    std::fs::remove_dir_all(data)?;
    for (program, seen) in programs.iter().zip(seen) {
        ensure!(seen > 0.0, "{} answered nothing", program.display());
    }
    Ok(seen.map(|sum| sum / SLICES as f64))
}
