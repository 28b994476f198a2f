//! Two programs in turns, round after round: what a change costs is told apart from what the machine does meanwhile.
//!
//! What counts is the ratio of the two within a round, in which both had the same machine, and of these ratios the median
//! with its interval of confidence by order statistics: it asks nothing of how they are distributed (David and Nagaraja,
//! Order Statistics, 7.1).

use serde::Serialize;

/// How probable it is at most that the median lies outside of its interval: what is called an interval of 95 %.
const OUTSIDE: f64 = 0.05;

/// Does the other program begin this round? It changes from round to round, so that each of the two comes as often after
/// what a program leaves behind: pages to be written, files to be closed.
pub fn other_begins(round: usize) -> bool {
    round.is_multiple_of(2)
}

/// The median of what was measured in several rounds, and where that of all possible rounds lies with a probability of 95 %
/// or a little more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Where the interval begins: one of the figures.
    pub begin: f64,
    /// The median of the figures.
    pub median: f64,
    /// Where the interval ends: one of the figures.
    pub end: f64,
}

impl Interval {
    /// Of these figures. Fewer than six are too few for any interval.
    pub fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let count = figures.len();
        let place = place(count);
        let at = |index: usize| figures.get(index).copied();
        Some(Self {
            begin: at(place.checked_sub(1)?)?,
            median: f64::midpoint(at((count - 1) / 2)?, at(count / 2)?),
            end: at(count - place)?,
        })
    }
}

/// The place of the interval's beginning among so many sorted figures, from 1; its end is as far from the last. 0 when even
/// the first and the last are too close to each other.
///
/// As many figures are below the median as so many fair coins show heads: the interval from the k-th on misses it when fewer
/// than k do, or fewer than k show tails.
fn place(figures: usize) -> usize {
    let count = figures as f64;
    let (mut exactly, mut at_most) = (0.5_f64.powf(count), 0.0);
    for heads in 0..figures {
        at_most += exactly;
        if 2.0 * at_most > OUTSIDE {
            return heads;
        }
        exactly *= (count - heads as f64) / (heads as f64 + 1.0);
    }
    // There are none, or so many that a chance is no number any more.
    0
}

/// The median, of an even number the upper one; of none it is no number.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_its_places_from_the_chances_of_coins() {
        // 6 rounds: 1 to 6, 96.9 %; 9: 2 to 8, 96.1 %; 10: 2 to 9, 97.9 %; 20: 6 to 15, 95.9 %.
        assert_eq!([6, 9, 10, 20].map(place), [1, 2, 2, 6]);
        assert_eq!([0, 1, 5].map(place), [0, 0, 0]);
    }

    #[test]
    fn the_interval_of_twenty_rounds_is_from_the_sixth_to_the_fifteenth() {
        let figures = (1..=20).rev().map(f64::from).collect();
        assert_eq!(Interval::of(figures), Some(Interval { begin: 6.0, median: 10.5, end: 15.0 }));
    }

    #[test]
    fn one_round_that_was_disturbed_moves_no_interval_of_nine() {
        let figures = vec![1.0, 1.0, 1.0, 1.0, 40.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(Interval::of(figures), Some(Interval { begin: 1.0, median: 1.0, end: 1.0 }));
    }

    #[test]
    fn too_few_rounds_have_no_interval() {
        assert_eq!(Interval::of(vec![1.0; 5]), None);
        assert_eq!(Interval::of(vec![]), None);
    }

    #[test]
    fn each_program_begins_every_second_round() {
        assert_eq!([0, 1, 2, 3].map(other_begins), [true, false, true, false]);
    }

    #[test]
    fn the_median_of_nothing_is_no_number() {
        assert!(median(vec![]).is_nan());
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
