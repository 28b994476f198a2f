//! Two programs, one after the other, again and again: what a change costs is told apart from what the machine does meanwhile.
//!
//! In each round both start on an empty folder and have the same load; who begins changes from round to round. `wasmwiz_tests::turns` says
//! what is made of the rounds.

use std::path::Path;

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

/// Seconds of load for each program in each round, after a warm-up of a tenth of that.
const SECONDS: u64 = 4;

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
            let mut seen = [0.0; 2];
            let order = if other_begins(round) { [0, 1] } else { [1, 0] };
            for which in order {
                seen[which] = executions_per_second(data, &programs[which])?;
            }
            eprintln!("round {} of {ROUNDS}: {:.0}/s, and this one {:.0}/s", round + 1, seen[0], seen[1]);
            ratios.push(seen[0] / seen[1]);
        }
        Ok(Self { ratio: Interval::of(ratios).context("too few rounds")? })
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        let Interval { begin, median, end } = self.ratio;
        println!("\n1 KiB echo, {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS} s each");
        println!("  this program takes {median:.3} times as long (95 % interval {begin:.3} to {end:.3})");
        println!("  {} at most {AT_MOST} times", if self.target_met() { "met   " } else { "MISSED" });
    }

    /// Is it fast enough?
    pub(crate) fn target_met(&self) -> bool {
        self.ratio.end < AT_MOST
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
