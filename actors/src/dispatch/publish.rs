//! Taking a module in: validated, compiled, kept, and then published.

use bytes::Bytes;
use wasmwiz_events::digest::Digest;

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
        let Upload { tenant, by, origin, name, wasm } = upload;
        let size_bytes = wasm.len() as u64;
        let inspected = match self.inspect(&wasm).await {
            Ok(inspected) => self.compile(&wasm).await.map(|()| inspected),
            Err(error) => Err(error),
        };
        let rejection = match inspected {
            Ok(Inspected { kind, imports, exports }) => {
                let digest = self.take_in(&wasm).await?;
                let command = Command::PublishModule { name, digest, size_bytes, kind, imports, exports };
                let ask = Ask { command, by, origin, payloads: vec![] };
                return Ok(self.deps.region.ask(&tenant, ask).await?);
            }
            Err(DispatchError::Rejected(rejection)) => rejection,
            Err(error) => return Err(error),
        };
        let (digest, reason) = (Digest::of(&wasm), rejection.to_string());
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
    pub(super) async fn take_in(&self, wasm: &Bytes) -> Result<Digest, DispatchError> {
        let Ok(_permit) = self.uploads.try_acquire() else {
            return Err(DispatchError::Busy { retry_after_ms: 1_000 });
        };
        Ok(self.deps.blobs.put(wasm.clone()).await?)
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
