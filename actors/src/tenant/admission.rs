//! Admission: what a request to run something must fulfil before it is accepted.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution,
    id::{BootId, ExecutionId, ModuleName, NodeId},
    time::Timestamp,
};

use super::{Refusal, Tenant, executions, modules};
use crate::aggregate::Context;

/// Which code an execution is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleChoice {
    /// A published module; the latest version when none is named.
    Named {
        /// Its name.
        name: ModuleName,
        /// Its version.
        version: Option<u32>,
    },
    /// A module that came with the request.
    Inline {
        /// SHA-256 of its bytes.
        digest: Digest,
        /// How many they are.
        size_bytes: u64,
    },
}

/// A request to run a module once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execute {
    /// The id that the execution will have.
    pub execution_id: ExecutionId,
    /// What to run.
    pub module: ModuleChoice,
    /// Its input.
    pub stdin: execution::Content,
    /// Its arguments.
    pub args: Vec<String>,
    /// The most wall-clock time the caller wants to wait, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Where its random numbers come from.
    pub seed: execution::Seed,
    /// Fingerprint of the engine that will run it.
    pub engine: String,
    /// The node that will run it.
    pub node: NodeId,
    /// The life of that node.
    pub boot: BootId,
    /// Does nobody wait for its end? Then it may wait for its turn, and outlives the node's life.
    pub asynchronous: bool,
    /// When its caller stops waiting: it is not admitted after that.
    #[serde(with = "crate::codec::moment::optional")]
    pub deadline: Option<Timestamp>,
}

impl Tenant {
    /// Admits an execution, or says why not.
    pub(super) fn admit(&self, execute: Execute, context: &Context<'_>) -> Result<Vec<Event>, Refusal> {
        let key_id = context.by.credential().ok_or(Refusal::NotAKey)?;
        let limits = self.limits(context);
        if execute.deadline.is_some_and(|deadline| deadline <= context.now) {
            return Err(Refusal::DeadlinePassed);
        }
        let module = match execute.module {
            ModuleChoice::Named { name, version } => self.modules.resolve(&name, version)?,
            ModuleChoice::Inline { digest, size_bytes } => {
                modules::check_size(size_bytes, limits)?;
                execution::ModuleRef { name: None, version: None, digest }
            }
        };
        executions::check_input(&execute.stdin, &execute.args, limits)?;
        let start_by = if execute.asynchronous {
            self.executions.check_queue(limits)?;
            let within_ms = context.policy.start_within_ms;
            Some(context.now.plus_ms(execute.timeout_ms.map_or(within_ms, |asked| asked.min(within_ms))))
        } else {
            self.executions.check_concurrency(context.ended, limits)?;
            None
        };
        let bucket_full_at = self.quota.admit(limits, context)?;
        let accepted = execution::Accepted {
            execution_id: execute.execution_id,
            attempt: 1,
            module,
            key_id: key_id.clone(),
            stdin: execute.stdin,
            args: execute.args,
            limits: limits.grant(execute.timeout_ms),
            seed: execute.seed,
            start_time: context.now,
            engine: execute.engine,
            node: execute.node,
            boot: execute.boot,
            bucket_full_at,
            start_by,
        };
        Ok(vec![Event::ExecutionAccepted(Box::new(accepted))])
    }
}
