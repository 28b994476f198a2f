//! What is read of this machine to be sent: files and standard input, up to a bound.

use std::{
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, ensure};

/// The longest input that is read, in bytes: more than any tier takes.
const INPUT_BYTES: u64 = 64 << 20;

/// The largest module that is read, in bytes: four times what the largest tier takes by default.
const MODULE_BYTES: u64 = 256 << 20;

/// Reads an input from a file, or from standard input when the file is `-`.
pub(super) fn input(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file != Path::new("-") {
        return read(file, INPUT_BYTES);
    }
    bounded(io::stdin().lock(), INPUT_BYTES, "standard input")
}

/// Reads a module.
pub(super) fn module(file: &Path) -> anyhow::Result<Vec<u8>> {
    read(file, MODULE_BYTES)
}

fn read(file: &Path, most_bytes: u64) -> anyhow::Result<Vec<u8>> {
    let name = file.display().to_string();
    let opened = std::fs::File::open(file).with_context(|| format!("{name} cannot be read"))?;
    bounded(opened, most_bytes, &name)
}

/// A device or a pipe may have no end.
fn bounded(from: impl io::Read, most_bytes: u64, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most_bytes + 1).read_to_end(&mut bytes).with_context(|| format!("{name} cannot be read"))?;
    ensure!(bytes.len() as u64 <= most_bytes, "{name} is larger than {most_bytes} bytes, more than any tier takes");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_read_up_to_the_bound_and_refused() {
        assert_eq!(bounded(&b"abc"[..], 3, "x").unwrap(), b"abc");
        let error = bounded(io::repeat(0), 1 << 20, "/dev/zero").unwrap_err().to_string();
        assert!(error.starts_with("/dev/zero is larger than 1048576 bytes"), "{error}");
        assert!(module(Path::new("/")).is_err() && input(Path::new("/absent")).is_err());
    }
}
