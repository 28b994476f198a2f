//! The ratios that a node had, and how far from them it may be.

use std::{fmt, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::measure::{Latency, Step};

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
    /// What the ratio was made of; a baseline of before milliseconds were kept has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    p50_ms: Option<Milliseconds>,
    p99_ratio: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    p99_ms: Option<Milliseconds>,
    served_ratio: f64,
}

/// What a ratio was made of. Nothing is judged by it: it is there for people, who see by it whether the machine is another
/// or the node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Milliseconds {
    /// Of the bare server.
    bare: f64,
    /// Of one sync.
    sync: f64,
    /// Of the node.
    node: f64,
}

impl Milliseconds {
    fn of(latency: Latency) -> Self {
        let Latency { bare_ms, sync_ms, node_ms, ratio: _ } = latency;
        Self { bare: rounded(bare_ms), sync: rounded(sync_ms), node: rounded(node_ms) }
    }
}

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bare, sync, node } = self;
        write!(f, "bare {bare:.2} ms, sync {sync:.2} ms, node {node:.2} ms")
    }
}

/// What a ratio was made of when the baseline was written, and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moved {
    then: Option<Milliseconds>,
    now: Milliseconds,
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.then {
            Some(then) => write!(f, "then {then}")?,
            None => f.write_str("then unknown")?,
        }
        write!(f, "; now {}", self.now)
    }
}

/// To three digits after the point: two runs have fewer in common.
fn rounded(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
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
    #[error(
        "{per_second}/s: the ratio of {figure} is {found:.2}, and may be {most:.2} ({known:.2} times {tolerance}): {moved}"
    )]
    Latency { per_second: u32, figure: &'static str, found: f64, most: f64, known: f64, tolerance: f64, moved: Moved },
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
        for step in measured {
            self.steps.retain(|known| known.per_second != step.per_second);
            self.steps.push(Known {
                per_second: step.per_second,
                p50_ratio: rounded(step.p50.ratio),
                p50_ms: Some(Milliseconds::of(step.p50)),
                p99_ratio: rounded(step.p99.ratio),
                p99_ms: Some(Milliseconds::of(step.p99)),
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
            ("p50", step.p50, known.p50_ratio, known.p50_ms, self.tolerance.p50),
            ("p99", step.p99, known.p99_ratio, known.p99_ms, self.tolerance.p99),
        ];
        let latencies = figures.into_iter().filter_map(|(figure, latency, known, then, tolerance)| {
            let (found, most) = (latency.ratio, known * tolerance);
            // A figure that is no number is not within any bound.
            let within = found <= most;
            let moved = Moved { then, now: Milliseconds::of(latency) };
            (!within).then_some(Slower::Latency { per_second, figure, found, most, known, tolerance, moved })
        });
        let (found, least) = (step.served_ratio(), known.served_ratio * self.tolerance.served);
        let served = found >= least;
        latencies.chain((!served).then_some(Slower::Served { per_second, found, least })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                "100/s: the ratio of p50 is 3.10, and may be 3.00 (1.50 times 2): \
                 then bare 1.00 ms, sync 0.50 ms, node 3.00 ms; now bare 1.00 ms, sync 0.50 ms, node 6.20 ms",
                "400/s: the ratio of p99 is 12.50, and may be 12.00 (4.00 times 3): \
                 then bare 1.00 ms, sync 0.50 ms, node 8.00 ms; now bare 1.00 ms, sync 0.50 ms, node 25.00 ms",
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
    fn a_baseline_of_before_milliseconds_were_kept_is_read_and_judges_by_its_ratios() {
        let mut before: serde_json::Value = serde_json::to_value(known()).unwrap();
        for step in before["steps"].as_array_mut().unwrap() {
            step.as_object_mut().unwrap().retain(|name, _| !name.ends_with("_ms"));
        }
        let before: Baseline = serde_json::from_value(before).unwrap();
        assert_eq!(before.slower(&[step(100, 1.5, 2.0, 1.0)]), []);
        let said: Vec<_> = before.slower(&[step(100, 3.1, 2.0, 1.0)]).iter().map(ToString::to_string).collect();
        let [said] = &said[..] else { panic!("{said:?}") };
        assert!(said.ends_with("then unknown; now bare 1.00 ms, sync 0.50 ms, node 6.20 ms"), "{said}");
    }

    #[test]
    fn the_baseline_of_the_repository_is_read() {
        let kept: Baseline = serde_json::from_str(include_str!("../../../load-baseline.json")).unwrap();
        let rates: Vec<_> = kept.steps.iter().map(|known| known.per_second).collect();
        assert_eq!((kept.profile.as_str(), &rates[..]), ("release", &crate::measure::RATES[..]));
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
