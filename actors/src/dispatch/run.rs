//! Admission and the run itself.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::{Accepted, Content},
    id::{ModuleName, TenantId},
    payload::{MAX_INLINE_BYTES, Payload},
};

use super::{Code, DispatchError, Done, Request, Shared, finish::Began};
use crate::{
    aggregate::Authority,
    executor::{Asker, Job, PrepareError, Prepared, Ran, Slot},
    handle::{Ask, AskError, Origin},
    tenant::{Command, Execute, ModuleChoice},
};

impl Shared {
    pub(super) async fn execute(&self, request: Request) -> Result<Done, DispatchError> {
        let Request { tenant, key, origin, code, stdin, args, timeout_ms, hold: _hold } = request;
        let (module, inline) = match code {
            Code::Named { name, version } => (ModuleChoice::Named { name, version }, None),
            Code::Inline(wasm) => {
                let (digest, size_bytes) = (Digest::of(&wasm), wasm.len() as u64);
                (ModuleChoice::Inline { digest, size_bytes }, Some((digest, wasm)))
            }
        };
        let input = Payload::new(stdin.clone());
        let execute = Execute {
            execution_id: self.ids.execution(),
            module,
            stdin: Content { digest: input.digest(), size_bytes: stdin.len() as u64 },
            args,
            timeout_ms,
            seed: self.ids.seed(),
            engine: self.deps.executors.fingerprint().to_owned(),
            node: self.deps.node.clone(),
            boot: self.deps.boot,
        };
        let (command, by) = (Command::Execute(Box::new(execute)), Authority::Key(key));
        if inline.is_some() || stdin.len() > MAX_INLINE_BYTES {
            // Bytes are kept before the commit that names them: not for somebody who would be refused anyway.
            self.preview(&tenant, &command, &by, &origin).await?;
        }
        let prepared = match &inline {
            Some((digest, wasm)) => Some(self.compile(&tenant, *digest, wasm).await?),
            None => None,
        };
        let slot = self.deps.executors.reserve().await;
        let slot = slot.map_err(|busy| DispatchError::Busy { retry_after_ms: busy.retry_after_ms })?;
        if let Some((_, wasm)) = &inline {
            self.take_in(wasm).await?;
        }
        let payloads = self.keep([input]).await?;
        let ask = Ask { command, by, origin: origin.clone(), payloads };
        let decided = self.deps.region.ask(&tenant, ask).await?;
        let accepted_at = decided.time;
        let Some(Event::ExecutionAccepted(accepted)) = decided.events.into_iter().next() else {
            return Err(DispatchError::Host("an admission gave no execution".into()));
        };
        let prepared = match prepared {
            Some(prepared) => Ok(prepared),
            None => self.prepare(&tenant, accepted.module.digest).await,
        };
        let ran = match prepared {
            Ok(prepared) => self.run(slot, &prepared, &accepted, stdin).await,
            Err(message) => Ran::failed(message),
        };
        let began = Began { tenant, origin, accepted, at: accepted_at, revision: decided.revision };
        self.finish(began, ran).await
    }

    /// Would the tenant refuse the command now?
    pub(super) async fn preview(
        &self,
        tenant: &TenantId,
        command: &Command,
        by: &Authority,
        origin: &Origin,
    ) -> Result<(), AskError> {
        let command = Command::Preview(Box::new(command.clone()));
        let ask = Ask { command, by: by.clone(), origin: origin.clone(), payloads: vec![] };
        self.deps.region.ask(tenant, ask).await.map(drop)
    }

    async fn run(&self, slot: Slot, prepared: &Prepared, accepted: &Accepted, stdin: Bytes) -> Ran {
        let job = Job {
            execution_id: accepted.execution_id,
            program: accepted.module.name.as_ref().map_or("module", ModuleName::as_str).to_owned(),
            args: accepted.args.clone(),
            stdin,
            limits: accepted.limits,
            seed: accepted.seed,
            cancel: CancellationToken::new(),
        };
        self.deps.executors.run(slot, prepared, job).await
    }

    /// The compiled module of an admitted execution: from memory, from its artefact, or compiled again from its bytes.
    async fn prepare(&self, tenant: &TenantId, digest: Digest) -> Result<Prepared, String> {
        if let Some(prepared) = self.deps.executors.prepared(digest).await {
            return Ok(prepared);
        }
        let wasm = match self.deps.blobs.get(digest).await {
            Ok(Some(wasm)) => wasm,
            Ok(None) => return Err("the bytes of the module are not kept any more".into()),
            Err(error) => {
                tracing::error!(%digest, %error, "a module cannot be read");
                return Err("the bytes of the module cannot be read".into());
            }
        };
        match self.deps.executors.prepare(Asker::Admitted(tenant.clone()), digest, wasm).await {
            Ok(prepared) => Ok(prepared),
            Err(error @ PrepareError::Rejected(_)) => {
                // It compiled when it was published: this machine had less to give now.
                tracing::warn!(%digest, %error, "a published module does not compile any more");
                Err(format!("the host could not compile the published module again: {error}"))
            }
            Err(PrepareError::Busy | PrepareError::OverShare { .. }) => {
                Err("the host could not compile the published module again in time; run it again".into())
            }
            Err(PrepareError::Failed(error)) => {
                tracing::error!(%digest, %error, "a module cannot be compiled");
                Err("the host could not compile the module".into())
            }
        }
    }
}
