//! Taking a module in: validated, compiled, kept, and then published.

use bytes::Bytes;
use wasmwiz_events::{digest::Digest, module::Kind};

use super::{DispatchError, Shared, Upload};
use crate::{
    executor::{Inspected, PrepareError},
    handle::{Ask, Decided},
    tenant::Command,
};

/// Modules up to this size, in bytes, are validated where they are: it takes less than a millisecond.
const INSPECT_HERE_BYTES: usize = 64 * 1_024;

impl Shared {
    pub(super) async fn publish(&self, upload: Upload) -> Result<Decided, DispatchError> {
        let Upload { tenant, by, origin, name, wasm, hold: _hold } = upload;
        let size_bytes = wasm.len() as u64;
        let (digest, kind) = (Digest::of(&wasm), Kind::Core);
        let (imports, exports) = (vec![], vec![]);
        let command = Command::PublishModule { name: name.clone(), digest, size_bytes, kind, imports, exports };
        // Compiling and keeping cost something: not for somebody who would be refused anyway.
        self.preview(&tenant, &command, &by, &origin).await?;
        let inspected = match self.inspect(&wasm).await {
            Ok(inspected) => self.compile(&wasm).await.map(|()| inspected),
            Err(error) => Err(error),
        };
        let rejection = match inspected {
            Ok(Inspected { kind, imports, exports }) => {
                self.take_in(&wasm).await?;
                let command = Command::PublishModule { name, digest, size_bytes, kind, imports, exports };
                let ask = Ask { command, by, origin, payloads: vec![] };
                return Ok(self.deps.region.ask(&tenant, ask).await?);
            }
            Err(DispatchError::Rejected(rejection)) => rejection,
            Err(error) => return Err(error),
        };
        let reason = rejection.to_string();
        let command = Command::RejectModule { name, digest, size_bytes, reason };
        self.deps.region.ask(&tenant, Ask { command, by, origin, payloads: vec![] }).await?;
        Err(rejection.into())
    }

    async fn compile(&self, wasm: &Bytes) -> Result<(), DispatchError> {
        match self.deps.executors.prepare(Digest::of(wasm), wasm.clone()).await {
            Ok(_) => Ok(()),
            Err(PrepareError::Rejected(rejection)) => Err(rejection.into()),
            Err(PrepareError::Busy) => Err(DispatchError::Busy { retry_after_ms: 1_000 }),
            Err(PrepareError::Failed(error)) => Err(DispatchError::Host(error)),
        }
    }

    /// Keeps the bytes of a module, durably.
    pub(super) async fn take_in(&self, wasm: &Bytes) -> Result<(), DispatchError> {
        let Ok(_permit) = self.uploads.try_acquire() else {
            return Err(DispatchError::Busy { retry_after_ms: 1_000 });
        };
        self.deps.blobs.put(wasm.clone()).await?;
        Ok(())
    }

    /// Validates a module, on a thread that may be busy when it is large.
    pub(super) async fn inspect(&self, wasm: &Bytes) -> Result<Inspected, DispatchError> {
        if wasm.len() <= INSPECT_HERE_BYTES {
            return Ok(self.deps.executors.inspect(wasm)?);
        }
        let (executors, wasm) = (self.deps.executors.clone(), wasm.clone());
        let inspected = tokio::task::spawn_blocking(move || executors.inspect(&wasm)).await;
        Ok(inspected.map_err(|error| DispatchError::Host(error.to_string()))??)
    }
}
