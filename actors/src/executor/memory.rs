//! Places in a guest's memory, as the guest names them. Its addresses are unsigned, and nothing it says of them is trusted.

use std::ops::Range;

use wasmtime::{Caller, Extern, Memory};

use super::run::{Guest, HostCallError};

/// The guest's memory.
pub(crate) fn of(caller: &mut Caller<'_, Guest>) -> Result<Memory, HostCallError> {
    caller.get_export("memory").and_then(Extern::into_memory).ok_or(HostCallError::NoMemory)
}

/// Where `length` bytes are that begin at `at`, if all of them are within `bytes` of memory.
pub(crate) fn range(bytes: usize, at: i32, length: usize) -> Result<Range<usize>, HostCallError> {
    let at = at.cast_unsigned() as usize;
    let end = at.checked_add(length).filter(|end| *end <= bytes).ok_or(HostCallError::OutOfBounds)?;
    Ok(at..end)
}

/// The bytes of a number that begin at `at`.
pub(crate) fn read<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], HostCallError> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(HostCallError::OutOfBounds)
}

/// Writes `value` at `at`.
pub(crate) fn write(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<(), HostCallError> {
    let place = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len()));
    place.ok_or(HostCallError::OutOfBounds)?.copy_from_slice(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_all_within_memory_is_refused() {
        assert_eq!(range(100, 90, 10), Ok(90..100));
        assert_eq!(range(100, 100, 0), Ok(100..100));
        assert_eq!(range(100, 91, 10), Err(HostCallError::OutOfBounds));
        assert_eq!(range(100, -1, 1), Err(HostCallError::OutOfBounds));
        assert_eq!(range(usize::MAX, -1, usize::MAX), Err(HostCallError::OutOfBounds));
        let mut bytes = [0; 10];
        assert_eq!(write(&mut bytes, 2, &7_u64.to_le_bytes()), Ok(()));
        assert_eq!(read(&bytes, 2), Ok(7_u64.to_le_bytes()));
        assert_eq!(write(&mut bytes, 3, &[0; 8]), Err(HostCallError::OutOfBounds));
        assert_eq!(read::<8>(&bytes, 3), Err(HostCallError::OutOfBounds));
    }
}
