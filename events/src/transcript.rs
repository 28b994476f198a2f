//! What a guest was told by the host's clocks, written down so that it can be told the same again.
//!
//! ```text
//! wall clock, ns since 1970, u64 │ monotonic clock, ns since the guest began, u64      little-endian, one after the other
//! ```
//! Each reading has both clocks, whichever of them was asked for. The bytes are a payload of the commit with the execution's end.

/// What one reading takes, in bytes.
pub const READING_BYTES: usize = 16;

/// The most bytes of one transcript: 65,536 readings. A guest that looks at the clock more often than that measures itself, and its
/// record would outgrow what it did.
pub const MAX_BYTES: usize = 1 << 20;

/// The most bytes of the transcript of a guest that may write so many to its standard output: whoever may have a little kept does not have
/// more kept by asking for the time.
pub fn max_bytes(stdout_bytes: u64) -> u64 {
    stdout_bytes.min(MAX_BYTES as u64)
}

/// What both clocks of the host showed at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Nanoseconds since 1970.
    pub wall_ns: u64,
    /// Nanoseconds since the guest began.
    pub elapsed_ns: u64,
}

impl Reading {
    /// As it is kept.
    pub fn to_bytes(self) -> [u8; READING_BYTES] {
        let mut bytes = [0; READING_BYTES];
        let (wall, elapsed) = bytes.split_at_mut(8);
        wall.copy_from_slice(&self.wall_ns.to_le_bytes());
        elapsed.copy_from_slice(&self.elapsed_ns.to_le_bytes());
        bytes
    }

    /// The reading of this number, from 0, in a transcript; `None` when it has no more.
    pub fn of(transcript: &[u8], number: usize) -> Option<Self> {
        let rest = transcript.get(number.checked_mul(READING_BYTES)?..)?;
        let (wall, rest) = rest.split_first_chunk()?;
        let elapsed = rest.first_chunk()?;
        Some(Self { wall_ns: u64::from_le_bytes(*wall), elapsed_ns: u64::from_le_bytes(*elapsed) })
    }
}

/// How many readings a transcript of so many bytes has.
pub const fn readings(bytes: usize) -> u64 {
    (bytes / READING_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_read_as_they_were_written_and_no_part_of_one_is() {
        let two = [(u64::MAX, 1), (7, 0)].map(|(wall_ns, elapsed_ns)| Reading { wall_ns, elapsed_ns });
        let kept = two.map(Reading::to_bytes).concat();
        assert_eq!(kept[..9], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!([0, 1, 2].map(|number| Reading::of(&kept, number)), [Some(two[0]), Some(two[1]), None]);
        assert_eq!(Reading::of(&kept[..31], 1), None);
        assert_eq!(Reading::of(&kept, usize::MAX), None);
        assert_eq!((readings(kept.len()), readings(31), readings(MAX_BYTES)), (2, 1, 65_536));
        assert_eq!((max_bytes(5), max_bytes(u64::MAX)), (5, 1 << 20));
    }
}
