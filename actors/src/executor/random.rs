//! Random numbers of a guest: from the seed in its record, so that a run from the record draws the same.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng},
};
use sha2::{Digest as _, Sha256};
use wasmtime::{Caller, Linker};
use wasmwiz_events::execution::Seed;

use super::{
    engine::IMPORT_MODULE,
    memory,
    run::{Guest, HostCallError},
};

/// How many bytes are drawn until others of the thread have their turn: some ten microseconds.
const PIECE_BYTES: usize = 8 << 10;

/// A generator for one purpose.
pub(crate) fn generator(seed: Seed, purpose: &[u8]) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(domain(seed, purpose))
}

/// The seed that a guest may ask the library for.
pub(crate) fn insecure_seed(seed: Seed) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(domain(seed, b"insecure seed")).for_each(|(to, from)| *to = from);
    bytes
}

fn domain(seed: Seed, purpose: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix(b"wasmwiz guest random 1 ")
        .chain_update(purpose)
        .chain_update(seed.as_bytes())
        .finalize()
        .into()
}

/// Replaces `random_get`: the original makes all the bytes in the host's memory first, and so has to refuse many. This one
/// draws them in pieces, where they belong. The bytes are the original's, which takes one of each 32 bits that are drawn.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        IMPORT_MODULE,
        "random_get",
        |mut caller: Caller<'_, Guest>, (at, length): (i32, i32)| {
            Box::new(async move {
                let memory = memory::of(&mut caller)?;
                let place = memory::range(memory.data_size(&caller), at, length.cast_unsigned() as usize)?;
                let (mut next, end) = (place.start, place.end);
                while next < end {
                    let to = next.saturating_add(PIECE_BYTES).min(end);
                    let (bytes, guest) = memory.data_and_store_mut(&mut caller);
                    let piece = bytes.get_mut(next..to).ok_or(HostCallError::OutOfBounds)?;
                    for byte in piece {
                        [*byte, ..] = guest.random.next_u32().to_le_bytes();
                    }
                    next = to;
                    if next < end {
                        caller.data().pause.give_way().await;
                    }
                }
                Ok(0_i32)
            })
        },
    )?;
    Ok(())
}
