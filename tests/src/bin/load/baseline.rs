//! The ratios that a node had, and how far from them it may be.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::measure::Step;

/// The profile that this program and its node were built with.
const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };

/// Tolerances of a baseline that is new: twice the median, three times the tail, which one slow sync decides.
const TOLERANCE: Tolerance = Tolerance { p50: 2.0, p99: 3.0, served: 0.98 };

/// What is kept in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Baseline {
    /// How the node was built.
    profile: String,
    tolerance: Tolerance,
    steps: Vec<Known>,
}

/// What times the baseline's ratio is still taken. The first two are above 1, the last is below.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tolerance {
    p50: f64,
    p99: f64,
    served: f64,
}

/// One rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    per_second: u32,
    p50_ratio: f64,
    p99_ratio: f64,
    served_ratio: f64,
}

/// Why a baseline cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// It cannot be read, or not be written.
    #[error("the baseline {file}: {source}")]
    File { file: String, source: io::Error },
    /// It is of another shape.
    #[error("the baseline {file}: {source}")]
    Shape { file: String, source: serde_json::Error },
    /// It says nothing of this build.
    #[error("the baseline {file} is of a {its} build, and this is a {PROFILE} build: name another with `--baseline`")]
    Profile { file: String, its: String },
}

/// A figure that is worse than the baseline and its tolerance allow.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Slower {
    /// A latency.
    #[error("{per_second}/s: the ratio of {figure} is {found:.2}, and may be {most:.2} ({known:.2} times {tolerance})")]
    Latency { per_second: u32, figure: &'static str, found: f64, most: f64, known: f64, tolerance: f64 },
    /// Requests that were not served.
    #[error("{per_second}/s: {found:.3} of what the bare server serves was served, and {least:.3} must be")]
    Served { per_second: u32, found: f64, least: f64 },
    /// Nothing is known of this rate.
    #[error("{per_second}/s: the baseline does not have this rate: write it with `--write-baseline`")]
    Unknown { per_second: u32 },
}

impl Baseline {
    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be, or is of another build.
    pub(crate) fn read(path: &Path) -> Result<Self, Unusable> {
        let file = path.display().to_string();
        let bytes = fs::read(path).map_err(|source| Unusable::File { file: file.clone(), source })?;
        let read: Self =
            serde_json::from_slice(&bytes).map_err(|source| Unusable::Shape { file: file.clone(), source })?;
        if read.profile != PROFILE {
            return Err(Unusable::Profile { file, its: read.profile });
        }
        Ok(read)
    }

    /// Reads it, or begins a new one.
    ///
    /// # Errors
    /// As [`Self::read`], but for a file that is not there.
    pub(crate) fn read_or_new(path: &Path) -> Result<Self, Unusable> {
        match Self::read(path) {
            Err(Unusable::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self { profile: PROFILE.to_owned(), tolerance: TOLERANCE, steps: Vec::new() })
            }
            read => read,
        }
    }

    /// With what was measured in place of the same rates.
    pub(crate) fn with(mut self, measured: &[Step]) -> Self {
        let rounded = |ratio: f64| (ratio * 1_000.0).round() / 1_000.0;
        for step in measured {
            self.steps.retain(|known| known.per_second != step.per_second);
            self.steps.push(Known {
                per_second: step.per_second,
                p50_ratio: rounded(step.p50.ratio),
                p99_ratio: rounded(step.p99.ratio),
                served_ratio: rounded(step.served_ratio()),
            });
        }
        self.steps.sort_by_key(|known| known.per_second);
        self
    }

    /// Writes it.
    ///
    /// # Errors
    /// When it cannot be.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Unusable> {
        let file = || path.display().to_string();
        let text = serde_json::to_string_pretty(self).map_err(|source| Unusable::Shape { file: file(), source })?;
        fs::write(path, text + "\n").map_err(|source| Unusable::File { file: file(), source })
    }

    /// Every figure that is worse than it may be.
    pub(crate) fn slower(&self, measured: &[Step]) -> Vec<Slower> {
        measured.iter().flat_map(|step| self.slower_at(step)).collect()
    }

    fn slower_at(&self, step: &Step) -> Vec<Slower> {
        let per_second = step.per_second;
        let Some(known) = self.steps.iter().find(|known| known.per_second == per_second) else {
            return vec![Slower::Unknown { per_second }];
        };
        let figures = [
            ("p50", step.p50.ratio, known.p50_ratio, self.tolerance.p50),
            ("p99", step.p99.ratio, known.p99_ratio, self.tolerance.p99),
        ];
        let latencies = figures.into_iter().filter_map(|(figure, found, known, tolerance)| {
            let most = known * tolerance;
            // A figure that is no number is not within any bound.
            let within = found <= most;
            (!within).then_some(Slower::Latency { per_second, figure, found, most, known, tolerance })
        });
        let (found, least) = (step.served_ratio(), known.served_ratio * self.tolerance.served);
        let served = found >= least;
        latencies.chain((!served).then_some(Slower::Served { per_second, found, least })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Latency;

    fn step(per_second: u32, p50: f64, p99: f64, node_served: f64) -> Step {
        let latency = |ratio| Latency { bare_ms: 1.0, sync_ms: 0.5, node_ms: 2.0 * ratio, ratio };
        Step { per_second, p50: latency(p50), p99: latency(p99), bare_served: 1.0, node_served }
    }

    fn known() -> Baseline {
        let new = Baseline { profile: PROFILE.to_owned(), tolerance: TOLERANCE, steps: vec![] };
        new.with(&[step(100, 1.5, 2.0, 1.0), step(400, 2.0, 4.0, 1.0)])
    }

    #[test]
    fn a_node_as_fast_as_it_was_passes_and_so_does_a_faster_one() {
        assert_eq!(known().slower(&[step(100, 1.5, 2.0, 1.0), step(400, 0.5, 1.0, 1.0)]), []);
    }

    #[test]
    fn a_node_that_was_slowed_is_told_each_figure_that_is_too_much() {
        let slower = known().slower(&[step(100, 3.1, 2.0, 1.0), step(400, 2.0, 12.5, 0.9)]);
        let said: Vec<_> = slower.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "100/s: the ratio of p50 is 3.10, and may be 3.00 (1.50 times 2)",
                "400/s: the ratio of p99 is 12.50, and may be 12.00 (4.00 times 3)",
                "400/s: 0.900 of what the bare server serves was served, and 0.980 must be",
            ]
        );
    }

    #[test]
    fn a_figure_that_is_no_number_does_not_pass() {
        assert_eq!(known().slower(&[step(100, f64::NAN, 2.0, f64::NAN)]).len(), 2);
    }

    #[test]
    fn a_rate_that_is_not_in_the_baseline_does_not_pass() {
        assert_eq!(known().slower(&[step(700, 1.0, 1.0, 1.0)]), [Slower::Unknown { per_second: 700 }]);
    }

    #[test]
    fn what_is_written_is_read_again_and_of_another_build_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("baseline.json");
        known().write(&file).unwrap();
        assert_eq!(Baseline::read(&file).unwrap(), known());
        Baseline { profile: "other".into(), ..known() }.write(&file).unwrap();
        assert!(matches!(Baseline::read(&file), Err(Unusable::Profile { .. })));
        assert!(matches!(Baseline::read_or_new(&file), Err(Unusable::Profile { .. })));
    }
}
