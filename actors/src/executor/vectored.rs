//! `fd_read`, `fd_pread`, `fd_write` and `fd_pwrite`: a call of the guest with many buffers, or with a large one, gives way to others.
//!
//! The library reads or writes the first buffer that is not empty, and looks for it, and copies what is written, in one go. A call can name
//! as many buffers as the guest's memory holds descriptions of, hundreds of millions of empty ones, and nothing can stop it before its end. Here the buffer is
//! looked for in pieces, and the library is given what was found, or pieces of it. What a guest sees is the same; a test compares both.

use wasmtime::{AsContextMut as _, Caller, Linker, Memory};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as library, WasiSnapshotPreview1 as _};
use wiggle::GuestMemory;

use super::{
    engine::IMPORT_MODULE,
    memory,
    poll::Refused,
    run::{Guest, HostCallError},
    time::errno,
};

/// The layout of WASI preview 1, in bytes: the description of a buffer is its address and its length.
const DESCRIPTION_BYTES: usize = 8;
/// How descriptions are aligned, in bytes. Those that are not end the guest.
const DESCRIPTION_ALIGN: usize = 4;
/// How many bytes of descriptions are looked at until others of the thread have their turn: 4,096 of them, some ten microseconds.
const LOOKED_AT_BYTES: usize = 4_096 * DESCRIPTION_BYTES;
/// How many bytes are written until others of the thread have their turn: some ten microseconds.
const WRITTEN_BYTES: usize = 64 << 10;

/// A buffer of the guest that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Buffer {
    /// Where it is described.
    described_at: usize,
    /// Where it begins, as the guest says.
    at: i32,
    length: usize,
}

impl Buffer {
    /// The first one that is not empty of `count` that are described from `at` on, if there is one. A guest may name as many bytes in one call, of
    /// descriptions and of a buffer, as `allowed`.
    async fn first(
        caller: &mut Caller<'_, Guest>,
        memory: Memory,
        at: i32,
        count: i32,
        allowed: usize,
    ) -> Result<Option<Self>, Refused> {
        let described = (count.cast_unsigned() as usize).saturating_mul(DESCRIPTION_BYTES);
        let allowed = allowed.checked_sub(described).ok_or(Refused::Errno(errno::NOMEM))?;
        let mut next = at.cast_unsigned() as usize;
        let end = next.saturating_add(described);
        if described > 0 && !next.is_multiple_of(DESCRIPTION_ALIGN) {
            return Err(HostCallError::OutOfBounds.into());
        }
        while next < end {
            let to = next.saturating_add(LOOKED_AT_BYTES).min(end);
            let bytes = memory.data(&*caller);
            // Some of them may lie beyond the end of memory: that matters once all before are empty.
            let piece = bytes.get(next..to.min(bytes.len())).unwrap_or_default();
            let (descriptions, _) = piece.as_chunks::<DESCRIPTION_BYTES>();
            for (index, [a, b, c, d, length @ ..]) in descriptions.iter().enumerate() {
                let length = u32::from_le_bytes(*length) as usize;
                if length > allowed {
                    return Err(Refused::Errno(errno::NOMEM));
                }
                if length > 0 {
                    let described_at = next.saturating_add(index.saturating_mul(DESCRIPTION_BYTES));
                    return Ok(Some(Self { described_at, at: i32::from_le_bytes([*a, *b, *c, *d]), length }));
                }
            }
            if piece.len() < to - next {
                return Err(HostCallError::OutOfBounds.into());
            }
            next = to;
            if next < end {
                caller.data().pause.give_way().await;
            }
        }
        Ok(None)
    }
}

/// What the library is asked about: one buffer, or none where all are empty.
#[derive(Debug, Clone, Copy)]
struct Asked {
    memory: Memory,
    buffer: Option<Buffer>,
}

impl Asked {
    async fn of(caller: &mut Caller<'_, Guest>, at: i32, count: i32) -> Result<Self, Refused> {
        let memory = memory::of(caller)?;
        let allowed = caller.as_context_mut().hostcall_fuel();
        caller.data_mut().wasi.set_hostcall_fuel(allowed);
        Ok(Self { memory, buffer: Buffer::first(caller, memory, at, count, allowed).await? })
    }

    /// Address and number of the descriptions, as they are passed to the library.
    fn described(self) -> (i32, i32) {
        match self.buffer {
            // It lies within a memory of 32 bit addresses.
            Some(buffer) => (u32::try_from(buffer.described_at).unwrap_or(u32::MAX).cast_signed(), 1),
            None => (0, 0),
        }
    }
}

/// Writes `buffer` in pieces, each from a copy, and tells the guest at `told` how much it was: all of it, for the guest's
/// outputs take everything. Of one that is stopped within it, what was written until then stays, as of one that is stopped between two writes.
async fn write_in_pieces(
    caller: &mut Caller<'_, Guest>,
    memory: Memory,
    fd: i32,
    buffer: Buffer,
    told: i32,
) -> wasmtime::Result<i32> {
    /// Where in the copy the library finds the description of the piece, is told how much it wrote, and finds the piece.
    const DESCRIBED: i32 = 0;
    const TOLD: i32 = 8;
    const PIECE: usize = 16;
    let mut room = vec![0_u8; PIECE + WRITTEN_BYTES + DESCRIPTION_ALIGN];
    let skipped = room.as_ptr().align_offset(DESCRIPTION_ALIGN);
    let copy = room.get_mut(skipped..).unwrap_or_default();
    memory::write(copy, 0, &u32::try_from(PIECE)?.to_le_bytes())?;
    let mut place = memory::range(memory.data_size(&*caller), buffer.at, buffer.length)?;
    while !place.is_empty() {
        let to = place.start.saturating_add(WRITTEN_BYTES).min(place.end);
        let (bytes, guest) = memory.data_and_store_mut(&mut *caller);
        let piece = bytes.get(place.start..to).ok_or(HostCallError::OutOfBounds)?;
        memory::write(copy, 4, &u32::try_from(piece.len())?.to_le_bytes())?;
        memory::write(copy, PIECE, piece)?;
        guest.wasi.set_hostcall_fuel(DESCRIPTION_BYTES + WRITTEN_BYTES);
        let mut copied = GuestMemory::Unshared(&mut *copy);
        let answer = library::fd_write(&mut guest.wasi, &mut copied, fd, DESCRIBED, 1, TOLD).await?;
        if answer != errno::SUCCESS {
            return Ok(answer);
        }
        place.start = to;
        if !place.is_empty() {
            caller.data().pause.give_way().await;
        }
    }
    let (bytes, guest) = memory.data_and_store_mut(&mut *caller);
    // The library looks at where it is to be told before the number is put there.
    let answer = library::fd_write(&mut guest.wasi, &mut GuestMemory::Unshared(bytes), fd, 0, 0, told).await?;
    let (bytes, _) = memory.data_and_store_mut(&mut *caller);
    memory::write(bytes, told.cast_unsigned() as usize, &u32::try_from(buffer.length)?.to_le_bytes())?;
    Ok(answer)
}

/// The answer of a call that the library is not asked: a number that the guest goes on with, or its end.
fn answer(refused: Refused) -> wasmtime::Result<i32> {
    match refused {
        Refused::Errno(answer) => Ok(answer),
        Refused::Call(error) => Err(error.into()),
    }
}

/// Replaces a function that takes an offset: outputs and inputs have none, so that nothing is read or written by it.
macro_rules! with_offset {
    ($linker:ident, $name:literal, $function:path) => {
        $linker.func_wrap_async(
            IMPORT_MODULE,
            $name,
            |mut caller: Caller<'_, Guest>, (fd, at, count, offset, told): (i32, i32, i32, i64, i32)| {
                Box::new(async move {
                    let asked = match Asked::of(&mut caller, at, count).await {
                        Ok(asked) => asked,
                        Err(refused) => return answer(refused),
                    };
                    let (at, count) = asked.described();
                    let (bytes, guest) = asked.memory.data_and_store_mut(&mut caller);
                    $function(&mut guest.wasi, &mut GuestMemory::Unshared(bytes), fd, at, count, offset, told).await
                })
            },
        )?
    };
}

/// Replaces the four functions.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        IMPORT_MODULE,
        "fd_write",
        |mut caller: Caller<'_, Guest>, (fd, at, count, told): (i32, i32, i32, i32)| {
            Box::new(async move {
                let asked = match Asked::of(&mut caller, at, count).await {
                    Ok(asked) => asked,
                    Err(refused) => return answer(refused),
                };
                let memory = asked.memory;
                let size = memory.data_size(&caller);
                // One that is not all within memory is the library's: it ends the guest before anything is written.
                let is_within = |buffer: &Buffer| memory::range(size, buffer.at, buffer.length).is_ok();
                let large = asked.buffer.filter(|buffer| buffer.length > WRITTEN_BYTES && is_within(buffer));
                if let Some(buffer) = large {
                    return write_in_pieces(&mut caller, memory, fd, buffer, told).await;
                }
                let (at, count) = asked.described();
                let (bytes, guest) = memory.data_and_store_mut(&mut caller);
                library::fd_write(&mut guest.wasi, &mut GuestMemory::Unshared(bytes), fd, at, count, told).await
            })
        },
    )?;
    linker.func_wrap_async(
        IMPORT_MODULE,
        "fd_read",
        |mut caller: Caller<'_, Guest>, (fd, at, count, told): (i32, i32, i32, i32)| {
            Box::new(async move {
                let asked = match Asked::of(&mut caller, at, count).await {
                    Ok(asked) => asked,
                    Err(refused) => return answer(refused),
                };
                let (at, count) = asked.described();
                let (bytes, guest) = asked.memory.data_and_store_mut(&mut caller);
                library::fd_read(&mut guest.wasi, &mut GuestMemory::Unshared(bytes), fd, at, count, told).await
            })
        },
    )?;
    with_offset!(linker, "fd_pread", library::fd_pread);
    with_offset!(linker, "fd_pwrite", library::fd_pwrite);
    Ok(())
}

#[cfg(test)]
mod tests;
