//! Chance that can be repeated: numbers from a seed that is printed, and settings of a run.

use std::{
    hash::{BuildHasher, RandomState},
    ops::Range,
};

use anyhow::Context;

/// Environment variable that repeats a run with the seed it printed.
pub const SEED: &str = "WASMWIZ_TESTS_SEED";

/// Numbers that look random: SplitMix64, by Steele, Lea and Flood (2014).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// Numbers from this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Numbers from the seed of [`SEED`], or from one that is drawn. It is printed, to repeat the run.
    ///
    /// # Errors
    /// When the variable holds no number.
    pub fn printed() -> anyhow::Result<Self> {
        // Hash tables are keyed by the system's randomness: hashing with a fresh key is a way to it.
        let seed = setting(SEED, RandomState::new().hash_one(SEED))?;
        eprintln!("{SEED}={seed}");
        Ok(Self::new(seed))
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of this range, which must not be empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// As many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// A setting of this run from an environment variable.
///
/// # Errors
/// When the variable holds no number.
pub fn setting(variable: &str, default: u64) -> anyhow::Result<u64> {
    Ok(given(variable)?.unwrap_or(default))
}

/// The same, if it was given at all.
///
/// # Errors
/// As [`setting`].
#[expect(clippy::disallowed_methods, reason = "the one place where the tests read their own settings")]
pub fn given(variable: &str) -> anyhow::Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable}={text} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let numbers = |seed| Chance::new(seed).bytes(33);
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
        assert_eq!(numbers(1).len(), 33);
    }

    #[test]
    fn a_number_stays_in_its_range() {
        let mut chance = Chance::new(7);
        assert!((0..1_000).all(|_| (20..200).contains(&chance.within(20..200))));
    }
}
