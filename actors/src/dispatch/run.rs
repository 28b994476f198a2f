//! Admission and the run itself.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::{Accepted, Content},
    id::ModuleName,
    payload::Payload,
};

use super::{Code, DispatchError, Done, Request, Shared, finish::Began};
use crate::{
    aggregate::Authority,
    executor::{Job, PrepareError, Prepared, Ran, Slot},
    handle::Ask,
    tenant::{Command, Execute, ModuleChoice},
};

impl Shared {
    pub(super) async fn execute(&self, request: Request) -> Result<Done, DispatchError> {
        let slot = self.deps.executors.reserve().await;
        let slot = slot.map_err(|busy| DispatchError::Busy { retry_after_ms: busy.retry_after_ms })?;
        let Request { tenant, key, origin, code, stdin, args, timeout_ms } = request;
        let (module, inline) = match code {
            Code::Named { name, version } => (ModuleChoice::Named { name, version }, None),
            Code::Inline(wasm) => {
                self.inspect(&wasm).await?;
                let digest = self.take_in(&wasm).await?;
                (ModuleChoice::Inline { digest, size_bytes: wasm.len() as u64 }, Some(wasm))
            }
        };
        let input = Payload::new(stdin.clone());
        let payloads = self.keep([input.clone()]).await?;
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
        let command = Command::Execute(Box::new(execute));
        let ask = Ask { command, by: Authority::Key(key), origin: origin.clone(), payloads };
        let decided = self.deps.region.ask(&tenant, ask).await?;
        let accepted_at = decided.time;
        let Some(Event::ExecutionAccepted(accepted)) = decided.events.into_iter().next() else {
            return Err(DispatchError::Host("an admission gave no execution".into()));
        };
        let ran = self.run(slot, &accepted, stdin, inline).await;
        let began = Began { tenant, origin, accepted, at: accepted_at, revision: decided.revision };
        self.finish(began, ran).await
    }

    async fn run(&self, slot: Slot, accepted: &Accepted, stdin: Bytes, inline: Option<Bytes>) -> Ran {
        let prepared = match self.prepare(accepted.module.digest, inline).await {
            Ok(prepared) => prepared,
            Err(message) => return Ran::failed(message),
        };
        let job = Job {
            execution_id: accepted.execution_id,
            program: accepted.module.name.as_ref().map_or("module", ModuleName::as_str).to_owned(),
            args: accepted.args.clone(),
            stdin,
            limits: accepted.limits,
            seed: accepted.seed,
            cancel: CancellationToken::new(),
        };
        self.deps.executors.run(slot, &prepared, job).await
    }

    /// The compiled module: from memory, from its artefact, or compiled again from its bytes.
    async fn prepare(&self, digest: Digest, inline: Option<Bytes>) -> Result<Prepared, String> {
        if let Some(prepared) = self.deps.executors.prepared(digest).await {
            return Ok(prepared);
        }
        let wasm = match inline {
            Some(wasm) => wasm,
            None => match self.deps.blobs.get(digest).await {
                Ok(Some(wasm)) => wasm,
                Ok(None) => return Err("the bytes of the module are not kept any more".into()),
                Err(error) => {
                    tracing::error!(%digest, %error, "a module cannot be read");
                    return Err("the bytes of the module cannot be read".into());
                }
            },
        };
        match self.deps.executors.prepare(digest, wasm).await {
            Ok(prepared) => Ok(prepared),
            Err(PrepareError::Rejected(rejection)) => Err(rejection.to_string()),
            Err(PrepareError::Busy) => Err("too many modules were waiting to be compiled".into()),
            Err(PrepareError::Failed(error)) => {
                tracing::error!(%digest, %error, "a module cannot be compiled");
                Err("the host could not compile the module".into())
            }
        }
    }
}
