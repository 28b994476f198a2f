//! Taking a module in: validated, compiled, kept, and then published.

use bytes::Bytes;
use wasmwiz_events::{digest::Digest, event::Event, id::TenantId, module::Kind};

use super::{
    DispatchError, Shared, Upload,
    keeping::{Kept, Turn},
};
use crate::{
    aggregate::Authority,
    executor::{Asker, CodeId, Inspected, PrepareError, Prepared, Profile},
    handle::{Ask, Decided, Origin},
    tenant::{Command, NewVersion},
};

/// Modules up to this size, in bytes, are validated where they are: it takes less than a millisecond.
const INSPECT_HERE_BYTES: usize = 64 * 1_024;

/// When to try again while too many modules wait to be compiled, in milliseconds: most take less.
const COMPILE_RETRY_MS: u64 = 1_000;

/// The command that publishes: the older one where there is nothing that it could not say.
fn publication(version: NewVersion) -> Command {
    if !version.settings.is_default() {
        return Command::PublishVersion(version);
    }
    let NewVersion { name, digest, size_bytes, kind, imports, exports, settings: _ } = version;
    Command::PublishModule { name, digest, size_bytes, kind, imports, exports }
}

impl Shared {
    pub(super) async fn publish(&self, upload: Upload) -> Result<Decided, DispatchError> {
        let Upload { tenant, by, origin, name, wasm, settings, hold: _hold } = upload;
        let size_bytes = wasm.len() as u64;
        let (digest, kind) = (Digest::of(&wasm), Kind::Core);
        let (imports, exports) = (vec![], vec![]);
        let version = NewVersion { name: name.clone(), digest, size_bytes, kind, imports, exports, settings };
        let command = publication(version);
        // It is compiled as its executions run.
        let code = CodeId { digest, profile: Profile::of(settings.fuel) };
        // Compiling and keeping cost something: not for somebody who would be refused anyway.
        self.preview(&tenant, &command, &by, &origin).await?;
        let inspected = match self.inspect(&wasm).await {
            Ok(inspected) => self.compile(&tenant, code, &wasm).await.map(|_| inspected),
            Err(error) => Err(error),
        };
        let rejection = match inspected {
            Ok(Inspected { kind, imports, exports, .. }) => {
                // Until it is decided what becomes of it.
                let (_turn, kept) = self.take_in(&tenant, (digest, &wasm), (&command, &by, &origin)).await?;
                let command = publication(NewVersion { name, digest, size_bytes, kind, imports, exports, settings });
                let ask = Ask { command, by, origin, payloads: vec![] };
                let asked = self.deps.bus.ask(&tenant, ask).await;
                kept.is_answered(&asked);
                let decided = asked?;
                // Its first execution is prepared for them.
                for event in &decided.events {
                    if let Event::ModulePublished(published) = event {
                        self.known.published(&tenant, published);
                    }
                }
                return Ok(decided);
            }
            Err(DispatchError::Rejected(rejection)) => rejection,
            Err(error) => return Err(error),
        };
        let reason = rejection.to_string();
        let command = Command::RejectModule { name, digest, size_bytes, reason };
        self.deps.bus.ask(&tenant, Ask { command, by, origin, payloads: vec![] }).await?;
        Err(rejection.into())
    }

    /// Compiles a module that came with a request, within its tenant's share, before anything is accepted or charged.
    pub(super) async fn compile(
        &self,
        tenant: &TenantId,
        code: CodeId,
        wasm: &Bytes,
    ) -> Result<Prepared, DispatchError> {
        let prepared = self.deps.executors.prepare(Asker::Tenant(tenant.clone()), code, wasm.clone()).await;
        prepared.map_err(|error| match error {
            PrepareError::Rejected(rejection) => rejection.into(),
            PrepareError::Busy => DispatchError::Busy { retry_after_ms: COMPILE_RETRY_MS },
            PrepareError::OverShare { limit } => {
                DispatchError::TooManyCompilations { limit, retry_after_ms: COMPILE_RETRY_MS }
            }
            PrepareError::OverAllowance { ms_per_minute, retry_after_ms } => {
                DispatchError::CompiledTooMuch { ms_per_minute, retry_after_ms }
            }
            error @ PrepareError::HostShort { .. } => DispatchError::NotNow(error.to_string()),
            PrepareError::Failed(error) => DispatchError::Host(error),
        })
    }

    /// Keeps the bytes of a module, durably. Its tenant waits for itself first, and then for one of the node's places, so that
    /// nobody is turned away for what another uploads. Whoever would be refused by then has nothing kept: others of its tenant may
    /// have had the last room, or the last token, while it was compiled and waited.
    async fn take_in(
        &self,
        tenant: &TenantId,
        (digest, wasm): (Digest, &Bytes),
        (command, by, origin): (&Command, &Authority, &Origin),
    ) -> Result<(Turn, Kept), DispatchError> {
        let turn = self.keeping.turn_of_module(tenant).await?;
        Box::pin(self.preview(tenant, command, by, origin)).await?;
        let mut kept = self.keeping.begin(tenant);
        self.keep_for(&mut kept, digest, wasm).await?;
        Ok((turn, kept))
    }

    /// Validates a module, on a thread that may be busy when it is large.
    async fn inspect(&self, wasm: &Bytes) -> Result<Inspected, DispatchError> {
        if wasm.len() <= INSPECT_HERE_BYTES {
            return Ok(self.deps.executors.inspect(wasm)?);
        }
        let (executors, wasm) = (self.deps.executors.clone(), wasm.clone());
        let inspected = tokio::task::spawn_blocking(move || executors.inspect(&wasm)).await;
        Ok(inspected.map_err(|error| DispatchError::Host(error.to_string()))??)
    }
}
