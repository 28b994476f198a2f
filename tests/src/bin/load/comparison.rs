//! What two programs had in the same rounds, and whether one of them is slower.

use serde::Serialize;
use wasmwiz_tests::turns::{Interval, median};

use crate::open_loop::Served;

/// How many times the other program's median latency this one's may surely be. Programs that do the same differ by a few
/// percent, by where the linker and the allocator put things; what users would call slower is more.
const P50_AT_MOST: f64 = 1.10;

/// The same of the tail. At the lowest rate that is the third slowest of 250 requests, so it differs more between rounds of
/// one program, and a single sync that the disk held up moves it.
const P99_AT_MOST: f64 = 1.25;

/// Which part of what the other program serves this one must be able to serve. One request in two hundred: fewer than one in
/// a hundred that are lost do not show in the 99th percentile, and must not go unseen.
const SERVED_AT_LEAST: f64 = 0.995;

/// What there is of both programs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Pair<T> {
    /// Of the program that was named.
    pub(crate) other: T,
    /// Of the program that is judged.
    pub(crate) this: T,
}

/// What was seen of a node in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    p50_ms: f64,
    p99_ms: f64,
    /// The part of all requests that was served.
    served: f64,
}

impl Seen {
    /// Of what became of its requests.
    pub(crate) fn of(served: &Served) -> Self {
        Self { p50_ms: served.ms(50.0), p99_ms: served.ms(99.0), served: served.share }
    }
}

/// One figure: of each program the median over all rounds, and of their ratio within a round the median and its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Figure {
    #[serde(flatten)]
    pub(crate) medians: Pair<f64>,
    /// This program's to the other's.
    pub(crate) ratio: Interval,
}

impl Figure {
    fn of(rounds: &[Pair<Seen>], figure: impl Fn(&Seen) -> f64) -> Option<Self> {
        let other: Vec<_> = rounds.iter().map(|round| figure(&round.other)).collect();
        let this: Vec<_> = rounds.iter().map(|round| figure(&round.this)).collect();
        // What served nothing at all is still to be divided by.
        let ratios = this.iter().zip(&other).map(|(this, other)| this / other.max(f64::MIN_POSITIVE));
        Some(Self {
            ratio: Interval::of(ratios.collect())?,
            medians: Pair { other: median(other), this: median(this) },
        })
    }
}

/// One rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Compared {
    pub(crate) per_second: u32,
    pub(crate) p50_ms: Figure,
    pub(crate) p99_ms: Figure,
    pub(crate) served: Figure,
}

/// A figure by which this program is surely worse than it may be: its whole interval is beyond the bound.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Worse {
    /// A latency.
    #[error("{per_second}/s: {figure} is {least:.2} times the other program's or more, and may be {most:.2} times")]
    Latency { per_second: u32, figure: &'static str, least: f64, most: f64 },
    /// Requests that were not served.
    #[error("{per_second}/s: {most:.3} of what the other program serves was served or less, and {least:.3} must be")]
    Served { per_second: u32, most: f64, least: f64 },
}

impl Compared {
    /// From all rounds of one rate. Nothing, when they are too few for an interval.
    pub(crate) fn of(per_second: u32, rounds: &[Pair<Seen>]) -> Option<Self> {
        Some(Self {
            per_second,
            p50_ms: Figure::of(rounds, |seen| seen.p50_ms)?,
            p99_ms: Figure::of(rounds, |seen| seen.p99_ms)?,
            served: Figure::of(rounds, |seen| seen.served)?,
        })
    }

    /// Every figure that is worse than it may be.
    pub(crate) fn worse(&self) -> Vec<Worse> {
        let per_second = self.per_second;
        let figures = [("p50", self.p50_ms, P50_AT_MOST), ("p99", self.p99_ms, P99_AT_MOST)];
        let latencies = figures.into_iter().filter_map(|(figure, Figure { ratio, .. }, most)| {
            // A figure that is no number is not within any bound.
            let within = ratio.begin <= most;
            (!within).then_some(Worse::Latency { per_second, figure, least: ratio.begin, most })
        });
        let most = self.served.ratio.end;
        let served = most >= SERVED_AT_LEAST;
        let unserved = (!served).then_some(Worse::Served { per_second, most, least: SERVED_AT_LEAST });
        latencies.chain(unserved).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: usize = 9;

    /// A node of 2 ms at the median and 8 ms at the tail that serves everything.
    const NODE: Seen = Seen { p50_ms: 2.0, p99_ms: 8.0, served: 1.0 };

    /// Nine rounds of this node beside [`NODE`].
    fn beside(this: Seen) -> Vec<Pair<Seen>> {
        vec![Pair { other: NODE, this }; ROUNDS]
    }

    fn worse(rounds: &[Pair<Seen>]) -> Vec<String> {
        Compared::of(100, rounds).unwrap().worse().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_program_beside_itself_passes_and_so_does_a_faster_one() {
        assert_eq!(worse(&beside(NODE)), [""; 0]);
        assert_eq!(worse(&beside(Seen { p50_ms: 1.0, p99_ms: 1.0, ..NODE })), [""; 0]);
    }

    #[test]
    fn a_program_beside_itself_passes_on_a_machine_whose_mood_changes_between_rounds() {
        // Each half as often disturbed as the other, and rounds ten times apart.
        let rounds: Vec<_> = (0..ROUNDS)
            .map(|round| {
                let mood = if round % 3 == 0 { 10.0 } else { 1.0 };
                let slow = Seen { p50_ms: 3.0 * mood, p99_ms: 40.0 * mood, served: 1.0 };
                let fast = Seen { p50_ms: 2.0 * mood, p99_ms: 8.0 * mood, served: 1.0 };
                if round % 2 == 0 { Pair { other: slow, this: fast } } else { Pair { other: fast, this: slow } }
            })
            .collect();
        assert_eq!(worse(&rounds), [""; 0]);
    }

    #[test]
    fn a_program_that_is_slower_in_every_round_is_told_each_figure() {
        assert_eq!(
            worse(&beside(Seen { p50_ms: 2.4, p99_ms: 12.0, served: 0.99 })),
            [
                "100/s: p50 is 1.20 times the other program's or more, and may be 1.10 times",
                "100/s: p99 is 1.50 times the other program's or more, and may be 1.25 times",
                "100/s: 0.990 of what the other program serves was served or less, and 0.995 must be",
            ]
        );
    }

    #[test]
    fn a_program_that_is_slower_by_less_than_the_bounds_passes() {
        assert_eq!(worse(&beside(Seen { p50_ms: 2.15, p99_ms: 9.5, served: 0.996 })), [""; 0]);
    }

    #[test]
    fn a_figure_that_is_no_number_does_not_pass() {
        assert_eq!(worse(&beside(Seen { p50_ms: f64::NAN, p99_ms: 8.0, served: f64::NAN })).len(), 2);
    }

    #[test]
    fn a_rate_shows_the_medians_of_both_and_of_their_ratio() {
        let mut rounds = beside(Seen { p50_ms: 3.0, ..NODE });
        rounds[0] = Pair { other: Seen { p50_ms: 50.0, ..NODE }, this: Seen { p50_ms: 25.0, ..NODE } };
        let compared = Compared::of(400, &rounds).unwrap();
        assert_eq!(compared.p50_ms.medians, Pair { other: 2.0, this: 3.0 });
        assert_eq!(compared.p50_ms.ratio, Interval { begin: 1.5, median: 1.5, end: 1.5 });
    }

    #[test]
    fn five_rounds_are_too_few() {
        assert_eq!(Compared::of(100, &beside(NODE)[..5]), None);
    }
}
