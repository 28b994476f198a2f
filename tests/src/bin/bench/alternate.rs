//! Two programs, one after the other, again and again: what a change costs is told apart from what the machine does meanwhile.
//!
//! In each round both start on an empty folder and have the same load; who begins changes from round to round. What counts is the ratio of
//! the two within a round, and of these the median with its interval of confidence, by order statistics: it asks nothing of how they are
//! distributed (David and Nagaraja, Order Statistics, 7.1).

use std::path::Path;

use anyhow::ensure;
use wasmwiz_tests::wire;

use crate::{load, node::Node};

/// How often both are measured.
const ROUNDS: usize = 20;

/// The places of the interval among the sorted ratios of [`ROUNDS`] rounds, from 1: the median lies between the 6th and the 15th with a
/// probability of 95.9 % (20 fair coins show between 6 and 14 heads).
const INTERVAL: [usize; 2] = [6, 15];

/// Connections that ask at the same time.
const CONNECTIONS: usize = 16;

/// Seconds of load for each program in each round, after a warm-up of a tenth of that.
const SECONDS: u64 = 4;

/// The payload of one execution, in bytes.
const BODY_BYTES: usize = 1_024;

/// At most this many times as long as the other one may the program take, also at the end of the interval.
const AT_MOST: f64 = 1.05;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Alternation {
    /// Executions a second of the other program, and of this one, in each round.
    rounds: Vec<[f64; 2]>,
}

impl Alternation {
    /// Measures `other`, a program of an earlier commit, and the one that lies beside this program.
    pub(crate) fn measure(data: &Path, other: &Path) -> anyhow::Result<Self> {
        let programs = [other.to_path_buf(), Node::program()?];
        let _ = std::fs::remove_dir_all(data);
        let mut rounds = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let mut seen = [0.0; 2];
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for which in order {
                seen[which] = executions_per_second(data, &programs[which])?;
            }
            eprintln!("round {} of {ROUNDS}: {:.0}/s, and this one {:.0}/s", round + 1, seen[0], seen[1]);
            rounds.push(seen);
        }
        Ok(Self { rounds })
    }

    /// How many times as long this program takes for the same: the beginning of the interval, the median, the end.
    fn ratio(&self) -> [f64; 3] {
        let mut ratios: Vec<_> = self.rounds.iter().map(|[other, this]| other / this).collect();
        ratios.sort_by(f64::total_cmp);
        let [begin, end] = INTERVAL.map(|place| ratios[place - 1]);
        [begin, f64::midpoint(ratios[ROUNDS / 2 - 1], ratios[ROUNDS / 2]), end]
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        let [begin, median, end] = self.ratio();
        println!("\n1 KiB echo, {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS} s each");
        println!("  this program takes {median:.3} times as long (95 % interval {begin:.3} to {end:.3})");
        println!("  {} at most {AT_MOST} times", if self.target_met() { "met   " } else { "MISSED" });
    }

    /// Is it fast enough?
    pub(crate) fn target_met(&self) -> bool {
        self.ratio()[2] < AT_MOST
    }
}

fn executions_per_second(data: &Path, program: &Path) -> anyhow::Result<f64> {
    std::fs::create_dir_all(data)?;
    let seen = {
        let node = Node::start_of(program, &data.join("node"))?;
        let body = vec![b'a'; BODY_BYTES];
        let echo = wire::echo_request("/v1/modules/echo/executions", Some(&node.key), &body);
        load::run(node.api, &echo, CONNECTIONS, SECONDS)?.per_second()
    };
    std::fs::remove_dir_all(data)?;
    ensure!(seen > 0.0, "{} answered nothing", program.display());
    Ok(seen)
}
