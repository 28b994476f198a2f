//! Compiled modules on disk: written by this node, and loaded only when they are exactly what it wrote.
//!
//! Machine code from a file runs with the rights of this process, so a file is believed only with a valid
//! HMAC-SHA256 under a random key of this node, over the module's digest, the engine's fingerprint and the code. Anything
//! else is deleted and compiled again. It is a cache: nothing here needs to survive.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    CodeId, ExecutorConfig, metrics,
    profile::{Each, Profile},
};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use wasmtime::{Engine, Module};

/// What every file begins with: the format and its version.
const MAGIC: &[u8; 4] = b"WWA1";
/// Bytes of the authentication tag, after the magic.
const TAG_BYTES: usize = 32;
/// Bytes of the node's key: one block of the hash, the longest key that is used as it is.
const KEY_BYTES: usize = 64;
/// The file that holds the node's key.
const KEY_FILE: &str = "artefacts.key";
/// The name every artefact ends with.
const SUFFIX: &str = ".artefact";
/// The name every half-written artefact begins with.
const TEMPORARY: &str = "writing-";

/// Machine code that our compiler made: just now, or before and authenticated since.
pub(crate) struct Code(Vec<u8>);

impl Code {
    /// What the compiler has just answered.
    pub(crate) fn compiled(code: Vec<u8>) -> Self {
        Self(code)
    }

    /// How many bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    /// Loads the code. Fails when it was made by another version of the engine or for another processor.
    pub(crate) fn load(&self, engine: &Engine) -> wasmtime::Result<Module> {
        #[expect(
            unsafe_code,
            reason = "a `Code` comes from our compiler: directly, or through a file whose tag was checked"
        )]
        // SAFETY: `deserialize` asks for bytes that `precompile_module` wrote; `Code` is built from nothing else.
        unsafe {
            Module::deserialize(engine, &self.0)
        }
    }
}

/// The folder of compiled modules; without one it keeps nothing.
pub(crate) struct Artefacts {
    folder: Option<PathBuf>,
    key: [u8; KEY_BYTES],
    fingerprints: Each<String>,
    max_bytes: u64,
    writes: AtomicU64,
}

impl Artefacts {
    /// Opens the folder, makes its key if there is none, and clears away what other versions of the engine left.
    pub(crate) fn open(config: &ExecutorConfig, fingerprints: Each<String>) -> io::Result<Self> {
        let folder = config.artefacts_dir.clone();
        let key = match &folder {
            None => [0; KEY_BYTES],
            Some(folder) => {
                fs::create_dir_all(folder)?;
                key(&folder.join(KEY_FILE))?
            }
        };
        let artefacts =
            Self { folder, key, fingerprints, max_bytes: config.artefacts_max_bytes, writes: AtomicU64::new(0) };
        artefacts.clear_foreign()?;
        Ok(artefacts)
    }

    /// The code of a module, if this node has compiled it with the engine of its profile.
    pub(crate) fn read(&self, id: CodeId) -> Option<Code> {
        let path = self.path(id)?;
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        let size_bytes = file.metadata().ok()?.len();
        let whole = size_bytes <= self.max_bytes && file.read_to_end(&mut bytes).is_ok();
        let code = bytes.split_off((MAGIC.len() + TAG_BYTES).min(bytes.len()));
        let authentic =
            whole && bytes.strip_prefix(MAGIC).is_some_and(|tag| self.mac(id, &code).verify_slice(tag).is_ok());
        if !authentic {
            tracing::warn!(module.digest = %id.digest, "a compiled module on disk is not what this node wrote; deleted");
            ::metrics::counter!(metrics::ARTEFACTS_REFUSED_TOTAL).increment(1);
            self.forget(id);
            return None;
        }
        // The newest use decides who stays; a clock that cannot be written changes only that.
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let _ = rustix::fs::futimens(&file, &rustix::fs::Timestamps { last_access: now, last_modification: now });
        Some(Code(code))
    }

    /// Keeps the code of a module. A disk that is full or broken costs a compilation later, nothing else.
    pub(crate) fn write(&self, id: CodeId, code: &Code) {
        let Some(path) = self.path(id) else { return };
        if let Err(error) = self.write_to(&path, id, code) {
            tracing::warn!(%error, module.digest = %id.digest, "a compiled module could not be kept on disk");
        }
        if let Err(error) = self.shrink() {
            tracing::warn!(%error, "old compiled modules could not be removed");
        }
    }

    /// Deletes the file of a module: it could not be loaded.
    pub(crate) fn forget(&self, id: CodeId) {
        if let Some(path) = self.path(id) {
            // Gone already is as good.
            let _ = fs::remove_file(path);
        }
    }

    fn write_to(&self, path: &Path, id: CodeId, code: &Code) -> io::Result<()> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!("{TEMPORARY}{}-{number}", id.digest.to_hex()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(MAGIC)?;
            file.write_all(&self.mac(id, &code.0).finalize().into_bytes())?;
            file.write_all(&code.0)?;
            fs::rename(&temporary, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn path(&self, id: CodeId) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.join(format!("{}.{}{SUFFIX}", id.digest.to_hex(), self.fingerprints.of(id.profile))))
    }

    fn mac(&self, id: CodeId, code: &[u8]) -> Hmac<Sha256> {
        // Of fixed length are digest and fingerprint, so no two inputs give the same bytes.
        let mut mac = <Hmac<Sha256> as hmac::digest::KeyInit>::new((&self.key).into());
        mac.update(b"wasmwiz artefact 1");
        mac.update(id.digest.as_bytes());
        mac.update(self.fingerprints.of(id.profile).as_bytes());
        mac.update(code);
        mac
    }

    fn clear_foreign(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let ours = Profile::ALL.map(|profile| format!(".{}{SUFFIX}", self.fingerprints.of(profile)));
        let is_ours = |name: &str| ours.iter().any(|ours| name.ends_with(ours));
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(TEMPORARY) || (name.ends_with(SUFFIX) && !is_ours(&name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Deletes the files that were not used for longest, until the rest fits.
    fn shrink(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
                let metadata = entry.metadata()?;
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut total_bytes: u64 = files.iter().map(|(_, size_bytes, _)| size_bytes).sum();
        for (_, size_bytes, path) in files {
            if total_bytes <= self.max_bytes {
                break;
            }
            fs::remove_file(path)?;
            total_bytes -= size_bytes;
        }
        Ok(())
    }
}

/// The node's key: random bytes that only this user can read. Any other file is replaced, which refuses all artefacts.
fn key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    if let Ok(mut file) = File::open(path) {
        let private = file.metadata()?.permissions().mode() & 0o077 == 0;
        let mut key = [0; KEY_BYTES];
        if private && file.metadata()?.len() == KEY_BYTES as u64 && file.read_exact(&mut key).is_ok() {
            return Ok(key);
        }
        tracing::warn!("the key of the compiled modules was not a private file of the right size; made a new one");
        fs::remove_file(path)?;
    }
    let mut key = [0; KEY_BYTES];
    let mut filled = 0;
    while let Some(rest) = key.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(key)
}
