//! How long executions took: counts in bins, which can be added up over any rows.
//!
//! The bins are log-linear, as in HdrHistogram (Tene, hdrhistogram.org) and Circllhist (Hartmann and Schlossnagle, 2020,
//! arXiv:2001.06561): every octave `[2^e, 2^(e+1))` of microseconds is cut into 32 bins of equal width, and below 64 a bin
//! is one value. A quantile is answered with the middle of the bin that holds the exact nearest-rank one, so it lies within
//! 1/64 (1.6 %) of it, and is exact below 64 µs. Bins are integers and their counts are added, so that the result does not
//! depend on the order in which rows are merged, nor on the machine.

use std::collections::BTreeMap;

/// Each octave has 2^5 bins.
const BITS: u32 = 5;
const PER_OCTAVE: u64 = 1 << BITS;

/// Below this, in microseconds, a bin is one value.
const EXACT: u64 = 2 * PER_OCTAVE;

/// Counts by bin. Empty bins are not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Histogram(BTreeMap<u16, u64>);

/// The bytes are no histogram.
#[derive(Debug, thiserror::Error)]
#[error("a histogram of usage cannot be read")]
pub(super) struct NotAHistogram;

impl Histogram {
    /// One execution that took so long.
    pub(super) fn of(micros: u64) -> Self {
        Self(BTreeMap::from([(bin_of(micros), 1)]))
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (bin, count) in &other.0 {
            let here = self.0.entry(*bin).or_default();
            *here = here.saturating_add(*count);
        }
    }

    /// The nearest-rank quantile in microseconds, to within 1/64; `None` of nothing.
    pub(super) fn quantile(&self, percent: u64) -> Option<u64> {
        let total = self.0.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let rank = total.saturating_mul(percent).div_ceil(100).max(1);
        let mut passed = 0_u64;
        let found = self.0.iter().find(|(_, count)| {
            passed = passed.saturating_add(**count);
            passed >= rank
        });
        found.map(|(bin, _)| {
            let (lower, width) = bounds(*bin);
            lower.saturating_add(width / 2)
        })
    }

    /// The bins as their smallest value, in microseconds, and their count.
    pub(super) fn bins(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(bin, count)| (bounds(*bin).0, *count))
    }

    /// Pairs of the distance to the bin before and the count, each in 7 bits a byte, the lowest first.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let (mut bytes, mut before) = (Vec::with_capacity(3 * self.0.len()), 0);
        for (bin, count) in &self.0 {
            write(&mut bytes, u64::from(*bin - before));
            write(&mut bytes, *count);
            before = *bin;
        }
        bytes
    }

    pub(super) fn from_bytes(mut bytes: &[u8]) -> Result<Self, NotAHistogram> {
        let (mut bins, mut before) = (BTreeMap::new(), 0_u64);
        while !bytes.is_empty() {
            let (distance, count) = (read(&mut bytes)?, read(&mut bytes)?);
            before = before.checked_add(distance).ok_or(NotAHistogram)?;
            bins.insert(u16::try_from(before).map_err(|_| NotAHistogram)?, count);
        }
        Ok(Self(bins))
    }
}

fn bin_of(micros: u64) -> u16 {
    if micros < EXACT {
        return u16::try_from(micros).unwrap_or(u16::MAX);
    }
    let octave = micros.ilog2() - BITS;
    let within = micros >> octave;
    // At most 58 * 32 + 63, for the largest number there is.
    u16::try_from(u64::from(octave) * PER_OCTAVE + within).unwrap_or(u16::MAX)
}

/// The smallest value of a bin, and how many values it has.
fn bounds(bin: u16) -> (u64, u64) {
    let bin = u64::from(bin);
    if bin < EXACT {
        return (bin, 1);
    }
    let octave = bin / PER_OCTAVE - 1;
    let within = bin % PER_OCTAVE + PER_OCTAVE;
    let shift = |number: u64| u32::try_from(octave).ok().and_then(|octave| number.checked_shl(octave));
    (shift(within).unwrap_or(u64::MAX), shift(1).unwrap_or(1))
}

fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

fn read(bytes: &mut &[u8]) -> Result<u64, NotAHistogram> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(NotAHistogram)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(NotAHistogram)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram(values: &[u64]) -> Histogram {
        let mut all = Histogram::default();
        values.iter().for_each(|value| all.merge(&Histogram::of(*value)));
        all
    }

    #[test]
    fn bins_follow_each_other_without_gap_up_to_the_largest_number() {
        let mut next = 0_u64;
        for bin in 0..=bin_of(u64::MAX) {
            let (lower, width) = bounds(bin);
            assert_eq!((lower, bin_of(lower), bin_of(lower + (width - 1))), (next, bin, bin));
            next = lower.wrapping_add(width);
        }
        assert_eq!(next, 0, "the last bin ends with the numbers");
    }

    #[test]
    fn nothing_has_no_quantile_and_no_bytes() {
        assert_eq!(Histogram::default().quantile(50), None);
        assert_eq!(Histogram::default().to_bytes(), [0; 0]);
        assert!(Histogram::from_bytes(&[0x80]).is_err() && Histogram::from_bytes(&[1]).is_err());
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_sixty_fourth_of_the_exact_one(
            mut values in prop::collection::vec(prop_oneof![0..200_u64, 0..400_000_000_u64, 0..1_u64 << 60], 1..200),
            percent in 1..=100_u64,
        ) {
            let answered = histogram(&values).quantile(percent).unwrap();
            values.sort_unstable();
            let rank = (values.len() as u64 * percent).div_ceil(100).max(1);
            let exact = values[usize::try_from(rank).unwrap() - 1];
            prop_assert!(answered.abs_diff(exact) <= exact / 64, "{answered} for {exact}");
        }

        #[test]
        fn a_histogram_survives_its_bytes_and_merges_in_any_order(
            left in prop::collection::vec(any::<u64>(), 0..50),
            right in prop::collection::vec(any::<u64>(), 0..50),
        ) {
            let (mut one, mut other) = (histogram(&left), histogram(&right));
            prop_assert_eq!(&Histogram::from_bytes(&one.to_bytes()).unwrap(), &one);
            let (was, wise) = (one.clone(), other.clone());
            one.merge(&wise);
            other.merge(&was);
            prop_assert_eq!(one, other);
        }
    }
}
