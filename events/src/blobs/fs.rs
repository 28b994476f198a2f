//! Blobs as files of one directory: `sha256/ab/<64 hexadecimal digits>`, written beside and renamed into place.
//!
//! A file with its final name is complete and synced; what a crash leaves behind lies in `tmp/` and is removed at the
//! next start.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    num::NonZero,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, time::timeout};

use super::{BlobError, Blobs, Pieces, recent::Recent};
use crate::digest::Digest;

/// Small writes are gathered to this many bytes before they go to a blocking thread.
const WRITE_BYTES: usize = 256 * 1_024;

/// Blobs of more than this, in bytes, are put a few at a time, by half of the processors: hashing and syncing more at once is not sooner done,
/// and leaves nothing for other work.
const LARGE_BYTES: usize = 1 << 20;

/// How long one of them waits for that: what takes longer is a disk in trouble, and no reason to keep anything from being tried.
const LARGE_WAIT: Duration = Duration::from_secs(10);

/// Tries to find a free name for a temporary file. Names are counted, so that the second one is free already.
const NAME_TRIES: usize = 16;

/// A store of blobs in a directory.
#[derive(Debug, Clone)]
pub struct FsBlobs {
    dir: Arc<Path>,
    next: Arc<AtomicU64>,
    /// Whose turn it is to put a large one.
    large: Arc<Semaphore>,
    /// What was put or used lately, in a store that is swept; no other one removes anything. Locked while something is removed: whoever
    /// puts the same bytes finds them gone, or they stay.
    recent: Option<Arc<Mutex<Recent>>>,
}

impl FsBlobs {
    /// Opens the store in `dir`, makes its folders, and removes what a crash has left unfinished. Blocks.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub fn open(dir: &Path) -> Result<Self, BlobError> {
        let making = io_error("making its folders");
        let (sha256, tmp) = (dir.join("sha256"), dir.join("tmp"));
        make_dir(&sha256).map_err(making)?;
        make_dir(&tmp).map_err(making)?;
        // All folders at once: then no put has to ask whether its folder is durable.
        for prefix in 0..=u8::MAX {
            make_dir(&sha256.join(hex::encode([prefix]))).map_err(making)?;
        }
        sync_dir(&sha256).map_err(making)?;
        sync_dir(dir).map_err(making)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent).map_err(making)?;
        }
        remove_leftovers(&tmp).map_err(io_error("removing unfinished blobs"))?;
        Ok(Self::at(dir))
    }

    /// The store in `dir`, for reading alone: nothing is made or removed. `None` when there is none.
    pub fn existing(dir: &Path) -> Option<Self> {
        dir.join("sha256").is_dir().then(|| Self::at(dir))
    }

    fn at(dir: &Path) -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let large = Arc::new(Semaphore::new((processors / 2).max(1)));
        Self { dir: dir.into(), next: Arc::default(), large, recent: None }
    }

    /// The same store, of which a sweep removes what nothing names: it notes from here on what is put and used, an hour or two of it.
    #[must_use]
    pub fn swept(self) -> Self {
        Self { recent: Some(Arc::new(Mutex::new(Recent::new()))), ..self }
    }

    /// Begins a blob whose bytes come in pieces and whose digest is not known yet.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub async fn writer(&self) -> Result<BlobWriter, BlobError> {
        let blobs = self.clone();
        let unfinished = blocking("beginning a blob", move || blobs.begin()).await?;
        Ok(BlobWriter { blobs: self.clone(), unfinished: Some(unfinished), buffer: BytesMut::new(), size_bytes: 0 })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        path(&self.dir, digest)
    }

    fn begin(&self) -> io::Result<Unfinished> {
        for _ in 0..NAME_TRIES {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.dir.join("tmp").join(format!("{}-{number}", std::process::id()));
            let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            // Says that somebody is writing it: see `remove_leftovers`.
            match file.try_lock() {
                Ok(()) => return Ok(Unfinished { path, file, hasher: Sha256::new() }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Gives a blob its name and makes bytes and name durable.
    fn finish(&self, mut unfinished: Unfinished) -> io::Result<Digest> {
        let digest = Digest::from_bytes(std::mem::take(&mut unfinished.hasher).finalize().into());
        let size_bytes = unfinished.file.metadata()?.len();
        self.settle(digest, size_bytes, || Ok(unfinished))?;
        Ok(digest)
    }

    /// Keeps bytes that are all there: those that are kept already are not written.
    fn keep(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        self.settle(digest, bytes.len() as u64, || {
            let mut unfinished = self.begin()?;
            unfinished.file.write_all(bytes)?;
            Ok(unfinished)
        })?;
        Ok(digest)
    }

    /// Makes a blob and its name durable; `written` has its bytes in a file, which is wanted where they are not kept already.
    fn settle(
        &self,
        digest: Digest,
        size_bytes: u64,
        written: impl FnOnce() -> io::Result<Unfinished>,
    ) -> io::Result<()> {
        let path = self.path(digest);
        // Before it is looked for: from here on nobody removes it.
        self.note(digest);
        // Reading what is there costs less than the sync that is saved, and a damaged blob is repaired by whoever has it.
        if !is_intact(&path, digest, size_bytes).unwrap_or(false) {
            let unfinished = written()?;
            unfinished.file.sync_all()?;
            fs::rename(&unfinished.path, &path)?;
        }
        // Also when the name was there: whoever made it may not have synced it yet.
        path.parent().map_or(Ok(()), sync_dir)
    }

    fn note(&self, digest: Digest) {
        if let Some(recent) = &self.recent {
            recent.lock().unwrap_or_else(PoisonError::into_inner).note(digest);
        }
    }

    /// The names in one folder, sorted.
    fn names(&self, prefix: u8) -> io::Result<Vec<Digest>> {
        let folder = self.dir.join("sha256").join(hex::encode([prefix]));
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            // Whatever else somebody has put there is left alone.
            found.extend(entry?.file_name().to_str().and_then(digest_of));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn names_behind(&self, after: Option<Digest>, limit: usize) -> io::Result<Vec<Digest>> {
        let first = after.map_or(0, |after| *after.as_bytes().first().unwrap_or(&0));
        let mut found = Vec::new();
        for prefix in first..=u8::MAX {
            found.extend(self.names(prefix)?.into_iter().filter(|digest| after.is_none_or(|after| *digest > after)));
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// A name that is gone after a crash may be back, and is removed by the next sweep: no sync is waited for.
    fn unlink(&self, digest: Digest) -> io::Result<Option<u64>> {
        // Nobody knows what is under way in a store that is not swept.
        let Some(recent) = &self.recent else { return Ok(None) };
        let path = self.path(digest);
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.has(&digest) {
            return Ok(None);
        }
        let removed = fs::metadata(&path).and_then(|found| fs::remove_file(&path).map(|()| found.len()));
        match removed {
            Ok(size_bytes) => Ok(Some(size_bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, digest: Digest) -> Result<Option<Bytes>, BlobError> {
        let reading = io_error("reading a blob");
        let mut bytes = Vec::new();
        match File::open(self.path(digest)) {
            Ok(mut file) => file.read_to_end(&mut bytes).map_err(reading)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(reading(error)),
        };
        if Digest::of(&bytes) == digest { Ok(Some(bytes.into())) } else { Err(BlobError::Damaged(digest)) }
    }
}

#[async_trait]
impl Blobs for FsBlobs {
    async fn put(&self, bytes: Bytes) -> Result<Digest, BlobError> {
        let turn = match bytes.len() > LARGE_BYTES {
            true => timeout(LARGE_WAIT, Arc::clone(&self.large).acquire_owned()).await.ok().and_then(Result::ok),
            false => None,
        };
        let blobs = self.clone();
        // The turn lasts as long as the work, also where nobody waits for that any more.
        blocking("keeping a blob", move || {
            let _turn = turn;
            blobs.keep(&bytes)
        })
        .await
    }

    async fn get(&self, digest: Digest) -> Result<Option<Bytes>, BlobError> {
        let blobs = self.clone();
        let read = tokio::task::spawn_blocking(move || blobs.read(digest));
        read.await.map_err(|error| io_error("reading a blob")(io::Error::other(error)))?
    }

    async fn open_pieces(&self, digest: Digest) -> Result<Option<Pieces>, BlobError> {
        let path = self.path(digest);
        let open = move || match File::open(path) {
            Ok(file) => Pieces::of(file, digest).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        blocking("opening a blob", open).await
    }

    async fn contains(&self, digest: Digest) -> Result<bool, BlobError> {
        let path = self.path(digest);
        blocking("looking for a blob", move || fs::exists(path)).await
    }

    async fn list(&self, after: Option<Digest>, limit: usize) -> Result<Vec<Digest>, BlobError> {
        let blobs = self.clone();
        blocking("listing blobs", move || blobs.names_behind(after, limit)).await
    }

    async fn note_used(&self, digest: Digest) -> Result<(), BlobError> {
        if self.recent.is_none() {
            return Ok(());
        }
        let blobs = self.clone();
        // A file may be removed under the same lock.
        blocking("noting a blob", move || {
            blobs.note(digest);
            Ok(())
        })
        .await
    }

    async fn remove(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        let blobs = self.clone();
        blocking("removing a blob", move || blobs.unlink(digest)).await
    }
}

/// A blob that is being written. Dropping it abandons it.
#[derive(Debug)]
pub struct BlobWriter {
    blobs: FsBlobs,
    /// `None` after an error, or when a write was cancelled: then nobody knows what the file holds.
    unfinished: Option<Unfinished>,
    buffer: BytesMut,
    size_bytes: u64,
}

impl BlobWriter {
    /// Adds `bytes`.
    ///
    /// # Errors
    /// [`BlobError::Io`]; the blob is abandoned then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.size_bytes = self.size_bytes.saturating_add(bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < WRITE_BYTES { Ok(()) } else { self.flush().await }
    }

    /// How many bytes were added.
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Makes the blob durable, and says its name.
    ///
    /// # Errors
    /// [`BlobError::Io`]; the blob is abandoned then.
    pub async fn finish(mut self) -> Result<Digest, BlobError> {
        self.flush().await?;
        let unfinished = self.take()?;
        blocking("finishing a blob", move || self.blobs.finish(unfinished)).await
    }

    async fn flush(&mut self) -> Result<(), BlobError> {
        let (mut unfinished, bytes) = (self.take()?, self.buffer.split().freeze());
        let written = move || unfinished.write(&bytes).map(|()| unfinished);
        self.unfinished = Some(blocking("writing a blob", written).await?);
        Ok(())
    }

    fn take(&mut self) -> Result<Unfinished, BlobError> {
        let abandoned = || io_error("writing a blob")(io::Error::other("an earlier write has failed"));
        self.unfinished.take().ok_or_else(abandoned)
    }
}

/// A file in `tmp/`. Dropping it removes the file, unless it was renamed into place.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    file: File,
    hasher: Sha256,
}

impl Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone already if it was renamed; a leftover is removed at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Digest and size of the bytes that the store in `dir` has under the name `digest`; `None` when it has none. Changes nothing
/// in the store, and holds a part of the blob at a time.
pub(crate) fn hash(dir: &Path, digest: Digest) -> io::Result<Option<(Digest, u64)>> {
    let mut file = match File::open(path(dir, digest)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (mut hasher, mut buffer, mut size_bytes) = (Sha256::new(), vec![0; WRITE_BYTES], 0_u64);
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok(Some((Digest::from_bytes(hasher.finalize().into()), size_bytes))),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(buffer.get(..read).unwrap_or_default());
        size_bytes = size_bytes.saturating_add(read as u64);
    }
}

fn path(dir: &Path, digest: Digest) -> PathBuf {
    let hex = digest.to_hex();
    let (prefix, _) = hex.split_at(2);
    dir.join("sha256").join(prefix).join(&hex)
}

/// The digest that a file is named after.
fn digest_of(name: &str) -> Option<Digest> {
    let bytes: [u8; 32] = hex::decode(name).ok()?.try_into().ok()?;
    Some(Digest::from_bytes(bytes)).filter(|digest| digest.to_hex() == name)
}

/// Removes temporary files that nobody is writing: a file that is being written is locked by its writer.
fn remove_leftovers(tmp: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tmp)? {
        let path = entry?.path();
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Does the file have the bytes that its name promises?
fn is_intact(path: &Path, digest: Digest, size_bytes: u64) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != size_bytes {
        return Ok(false);
    }
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; WRITE_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into()) == digest),
            read => hasher.update(piece.get(..read).unwrap_or_default()),
        }
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> BlobError + Copy {
    move |source| BlobError::Io { doing, source }
}

async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(io_error(doing))
}

#[cfg(test)]
mod tests;
