//! What the jobs of a run have left, put together.

use serde::{Deserialize, Serialize};

use super::{deployments::Deployments, scan::Findings};

/// All of it. What was not given is not there.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// When it was put together, in seconds since 1970.
    pub(super) at: i64,
    /// How many days back deployments are counted.
    pub(super) days: u32,
    pub(super) jobs: Vec<Job>,
    pub(super) suites: Vec<Suite>,
    pub(super) steps: Vec<Step>,
    pub(super) scans: Option<Findings>,
    pub(super) deployments: Option<Deployments>,
}

impl Gathered {
    /// Is anything of a run there?
    pub(super) const fn has_run(&self) -> bool {
        !(self.jobs.is_empty() && self.suites.is_empty() && self.steps.is_empty() && self.scans.is_none())
    }
}

/// A job of the workflow.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) name: String,
    /// `success`, `failure`, `cancelled` or `skipped`.
    pub(super) result: String,
}

/// The tests of one program.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) tests: Vec<Test>,
}

/// A test that ran.
#[derive(Debug, PartialEq)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) seconds: f64,
    pub(super) failed: bool,
}

/// A check of `cargo xtask ci`, as it keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Its name.
    pub(crate) name: String,
    /// How long it took.
    pub(crate) seconds: f64,
    /// `passed`, `skipped` or `failed`.
    pub(crate) outcome: String,
}

impl Suite {
    pub(super) fn seconds(&self) -> f64 {
        self.tests.iter().map(|test| test.seconds).sum()
    }

    pub(super) fn failed(&self) -> usize {
        self.tests.iter().filter(|test| test.failed).count()
    }
}
