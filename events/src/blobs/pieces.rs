//! A blob that is read piece by piece: as large as it may be, only a few pieces of it are in memory.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::BlobError;
use crate::digest::Digest;

/// The most that is read at a time, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// The bytes of a blob, in order. The last piece is given only once all were compared with the digest: who has all pieces
/// has the bytes that the digest names.
#[derive(Debug)]
pub struct Pieces {
    size_bytes: u64,
    digest: Digest,
    /// `None` at the end, after an error, or when a read was cancelled.
    unread: Option<Unread>,
}

#[derive(Debug)]
struct Unread {
    source: Source,
    hasher: Sha256,
    /// Read and hashed, and not given yet.
    held: Bytes,
}

/// Where bytes come from.
pub(super) enum Source {
    /// A file, read on a blocking thread.
    File(File),
    /// A connection, and how long one piece may take.
    Remote(Pin<Box<dyn AsyncRead + Send>>, Duration),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::Remote(_, within) => f.debug_tuple("Remote").field(within).finish(),
        }
    }
}

impl Pieces {
    /// The pieces of `file`, which should hold the bytes that `digest` names.
    pub(super) fn of(file: File, digest: Digest) -> io::Result<Self> {
        let size_bytes = file.metadata()?.len();
        Ok(Self::from_source(Source::File(file), size_bytes, digest))
    }

    /// The pieces of what comes over a connection, each within a time.
    pub(crate) fn over(
        reader: Pin<Box<dyn AsyncRead + Send>>,
        size_bytes: u64,
        digest: Digest,
        within: Duration,
    ) -> Self {
        Self::from_source(Source::Remote(reader, within), size_bytes, digest)
    }

    fn from_source(source: Source, size_bytes: u64, digest: Digest) -> Self {
        Self { size_bytes, digest, unread: Some(Unread { source, hasher: Sha256::new(), held: Bytes::new() }) }
    }

    /// How many bytes all of them have.
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// How many bytes are in memory at most: a piece that is held, one that is read, and one that was given.
    pub fn in_memory_bytes(&self) -> u64 {
        self.size_bytes.min(3 * PIECE_BYTES as u64)
    }

    /// The next piece; `None` after the last.
    ///
    /// # Errors
    /// [`BlobError::Damaged`] in place of the last piece, when the bytes are not those that were asked for.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        let Some(mut unread) = self.unread.take() else { return Ok(None) };
        let step = unread.step().await;
        let (piece, goes_on) = step.map_err(|source| BlobError::Io { doing: "reading a blob", source })?;
        if goes_on {
            self.unread = Some(unread);
        } else if Digest::from_bytes(unread.hasher.finalize().into()) != self.digest {
            return Err(BlobError::Damaged(self.digest));
        }
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

impl Unread {
    /// The piece that is held, and whether there is another after it.
    async fn step(&mut self) -> io::Result<(Bytes, bool)> {
        if self.held.is_empty() && !self.read().await? {
            return Ok((Bytes::new(), false));
        }
        let piece = self.held.clone();
        Ok((piece, self.read().await?))
    }

    /// Reads a piece in place of the one that is held. False at the end.
    async fn read(&mut self) -> io::Result<bool> {
        let mut hasher = std::mem::take(&mut self.hasher);
        (self.hasher, self.held) = match &mut self.source {
            Source::File(file) => {
                let file = file.try_clone()?;
                let read = move || -> io::Result<(Sha256, Vec<u8>)> {
                    let mut piece = Vec::with_capacity(PIECE_BYTES);
                    (&file).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
                    hasher.update(&piece);
                    Ok((hasher, piece))
                };
                let (hasher, piece) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other).flatten()?;
                (hasher, piece.into())
            }
            Source::Remote(reader, within) => {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                let mut part = reader.as_mut().take(PIECE_BYTES as u64);
                tokio::time::timeout(*within, part.read_to_end(&mut piece)).await??;
                hasher.update(&piece);
                (hasher, piece.into())
            }
        };
        Ok(!self.held.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::{Blobs as _, fs::FsBlobs};

    /// Bytes of a length, no two pieces of which are alike.
    fn bytes(len: usize) -> Bytes {
        (0..len).map(|place| u8::try_from(place % 251).unwrap_or(0)).collect()
    }

    #[tokio::test]
    async fn the_pieces_are_the_blob_whatever_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = FsBlobs::open(dir.path()).unwrap();
        for len in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let digest = blobs.put(bytes(len)).await.unwrap();
            let mut pieces = blobs.open_pieces(digest).await.unwrap().unwrap();
            assert_eq!(pieces.size_bytes(), len as u64);
            let mut whole = Vec::new();
            while let Some(piece) = pieces.next().await.unwrap() {
                assert!((1..=PIECE_BYTES).contains(&piece.len()));
                whole.extend_from_slice(&piece);
            }
            assert_eq!(whole, bytes(len));
            assert!(pieces.next().await.unwrap().is_none());
        }
        assert!(blobs.open_pieces(Digest::of(b"other")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_last_piece_of_a_damaged_blob_is_never_given() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = FsBlobs::open(dir.path()).unwrap();
        let digest = blobs.put(bytes(2 * PIECE_BYTES)).await.unwrap();
        let hex = digest.to_hex();
        let path = dir.path().join("sha256").join(&hex[..2]).join(&hex);
        let mut damaged = bytes(2 * PIECE_BYTES).to_vec();
        damaged[0] ^= 1;
        std::fs::write(path, damaged).unwrap();
        let mut pieces = blobs.open_pieces(digest).await.unwrap().unwrap();
        assert!(pieces.next().await.unwrap().is_some());
        assert!(matches!(pieces.next().await, Err(BlobError::Damaged(damaged)) if damaged == digest));
        assert!(pieces.next().await.unwrap().is_none());
    }
}
