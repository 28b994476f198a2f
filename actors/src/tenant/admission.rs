//! Admission: what a request to run something must fulfil before it is accepted.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution,
    id::{BootId, ExecutionId, ModuleName, NodeId},
    settings::{Clock, Settings},
    time::Timestamp,
};

use super::{Refusal, Tenant, executions, modules, storage};
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

/// A request for another execution, made of the record of an earlier one. Whether that is in the log, whoever made it has seen there:
/// what has ended is no longer part of a tenant's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rerun {
    /// The earlier one.
    pub of: ExecutionId,
    /// Where the guest's clocks are to begin; `None`: at its acceptance, as in any other.
    #[serde(with = "crate::codec::moment::optional")]
    pub start_time: Option<Timestamp>,
    /// What is to run.
    pub execute: Box<Execute>,
}

/// A request for an execution that is metered. Its guest ends when it has used up its fuel, at the same instruction in every run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metered {
    /// How much it is given, in units of the engine, about one for each instruction.
    pub fuel: u64,
    /// Of which record it is made, if it is, and where its guest's clocks are to begin then, as in [`Rerun`].
    pub of: Option<Again>,
    /// What is to run.
    pub execute: Box<Execute>,
}

/// What makes an execution a rerun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// The earlier execution.
    pub id: ExecutionId,
    /// Where the guest's clocks are to begin; `None`: at its acceptance.
    #[serde(with = "crate::codec::moment::optional")]
    pub start_time: Option<Timestamp>,
}

/// The least fuel that may be asked for. No guest gets far with it.
pub const FUEL_MIN: u64 = 1;
/// The most. A guest that uses up a thousand million a second meets every tier's wall time before, and the figures of an hour can be added
/// up.
pub const FUEL_MAX: u64 = 1_000_000_000_000;
/// What a version has that is metered and does not say how much: about a second of computing, so that, usually and on a node with time for it,
/// its end by it comes before the end by the time of any tier. Nothing is built on that: beside others a guest may meet its deadline first.
pub const FUEL_DEFAULT: u64 = 1_000_000_000;

/// A request for an execution of a version that has settings. Whoever is to run it prepares for them before it is admitted, and names
/// them here: another version may be the latest by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// What the version's settings are believed to be.
    #[serde(with = "crate::codec::json")]
    pub settings: Settings,
    /// How much fuel the request itself gives it, if it does.
    pub fuel: Option<u64>,
    /// Of which record it is made, if it is.
    pub of: Option<Again>,
    /// What is to run. Its engine is the metered one if it is metered, by its version or by the request.
    pub execute: Box<Execute>,
}

impl From<Execute> for Configured {
    fn from(execute: Execute) -> Self {
        Self { settings: Settings::default(), fuel: None, of: None, execute: Box::new(execute) }
    }
}

impl From<Rerun> for Configured {
    fn from(Rerun { of, start_time, execute }: Rerun) -> Self {
        Self { of: Some(Again { id: of, start_time }), ..Self::from(*execute) }
    }
}

impl From<Metered> for Configured {
    fn from(Metered { fuel, of, execute }: Metered) -> Self {
        Self { fuel: Some(fuel), of, ..Self::from(*execute) }
    }
}

/// How much fuel an execution has. Its version's is what it has without a word about it, and the most that it may have.
pub(crate) fn granted(asked: Option<u64>, of_version: Option<u64>) -> Option<u64> {
    let granted = match (asked, of_version) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    };
    granted.map(|fuel| fuel.clamp(FUEL_MIN, FUEL_MAX))
}

impl Tenant {
    /// Admits an execution, or says why not.
    pub(super) fn admit(&self, wanted: Configured, context: &Context<'_>) -> Result<Vec<Event>, Refusal> {
        let Configured { settings: expected, fuel, of, execute } = wanted;
        let key_id = context.by.credential().ok_or(Refusal::NotAKey)?;
        let limits = self.limits(context);
        if execute.deadline.is_some_and(|deadline| deadline <= context.now) {
            return Err(Refusal::DeadlinePassed);
        }
        let (module, settings, uploaded_bytes) = match execute.module {
            ModuleChoice::Named { name, version } => {
                let (module, settings) = self.modules.resolve(&name, version)?;
                (module, settings, None)
            }
            ModuleChoice::Inline { digest, size_bytes } => {
                modules::check_size(size_bytes, limits)?;
                // What a record is made of again came along then.
                let is_stored = of.is_some() || self.modules.have(&digest) || self.storage.has_upload(&digest);
                let module = execution::ModuleRef { name: None, version: None, digest };
                (module, Settings::default(), (!is_stored).then_some(size_bytes))
            }
        };
        modules::check_clock(settings.clock, limits)?;
        if settings != expected {
            return Err(Refusal::OtherSettings(settings));
        }
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
        let (rerun_of, recorded_start) = of.map(|Again { id, start_time }| (id, start_time)).unzip();
        // The host's clocks begin nowhere else than now, and the record must not say that they did.
        let recorded_start = recorded_start.flatten().filter(|_| settings.clock == Clock::Virtual);
        let accepted = execution::Accepted {
            execution_id: execute.execution_id,
            attempt: 1,
            module,
            key_id: key_id.clone(),
            stdin: execute.stdin,
            args: execute.args,
            limits: limits.grant(execute.timeout_ms),
            seed: execute.seed,
            start_time: recorded_start.unwrap_or(context.now),
            engine: execute.engine,
            node: execute.node,
            boot: execute.boot,
            bucket_full_at,
            start_by,
            rerun_of,
            fuel: granted(fuel, settings.fuel),
            sleep: settings.sleep,
            clock: settings.clock,
            uploaded_bytes,
        };
        self.require_room(storage::at_most_bytes(&accepted), limits)?;
        Ok(vec![Event::ExecutionAccepted(Box::new(accepted))])
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{key::Scope, settings::Sleep, tenant::Tier};

    use super::{super::scenario::*, *};
    use crate::{aggregate::Authority, tenant::Command};

    fn rerun(start_time: Option<Timestamp>) -> Command {
        let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
        Command::Rerun(Rerun { of: execution_id(1), start_time, execute })
    }

    #[test]
    fn a_rerun_names_the_earlier_one_and_begins_at_its_own_time_or_at_the_recorded_one() {
        let history = || ready().into_iter().chain([accepted(1), finished(1)]);
        let accepted = given(history()).by(K1).when(rerun(None)).accepted();
        assert_eq!((accepted.rerun_of, accepted.start_time), (Some(execution_id(1)), NOON));
        let before = Timestamp::from_unix_ms(NOON.unix_ms() - 86_400_000 * 3);
        let accepted = given(history()).by(K1).when(rerun(Some(before))).accepted();
        assert_eq!((accepted.rerun_of, accepted.start_time), (Some(execution_id(1)), before));
        assert_eq!(given(history()).by(K1).when(execute(HELLO)).accepted().rerun_of, None);
    }

    #[test]
    fn a_rerun_counts_in_the_day_of_its_acceptance() {
        let as_recorded = |n| {
            let Event::ExecutionAccepted(mut accepted) = accepted(n) else { unreachable!() };
            accepted.start_time = Timestamp::from_unix_ms(NOON.unix_ms() - 86_400_000);
            [Event::ExecutionAccepted(accepted), finished(n)]
        };
        let day = (1..=100).flat_map(as_recorded);
        let history = [registered("Acme", Tier::Free), key_issued(K1), published(HELLO)].into_iter().chain(day);
        let refused = Refusal::DailyQuotaUsed { per_day: 100, retry_after_ms: 12 * 3_600_000 };
        given(history).by(K1).when(execute(HELLO)).then_refused(refused);
    }

    fn metered(of: Option<Again>) -> Command {
        let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
        Command::Metered(Metered { fuel: 7, of, execute })
    }

    #[test]
    fn one_that_is_metered_says_how_much_fuel_it_has_also_if_it_is_a_rerun() {
        let accepted = given(ready()).by(K1).when(metered(None)).accepted();
        assert_eq!((accepted.fuel, accepted.rerun_of), (Some(7), None));
        let again = Again { id: execution_id(1), start_time: None };
        let accepted = given(ready()).by(K1).when(metered(Some(again.clone()))).accepted();
        assert_eq!((accepted.fuel, accepted.rerun_of), (Some(7), Some(execution_id(1))));
        assert_eq!(given(ready()).by(K1).when(execute(HELLO)).accepted().fuel, None);
        // What a rerun needs, this one needs, and no more than an execution does if it is none.
        let runs = Authority::Token { key: key_id(K1), scopes: [Scope::ExecutionsRun].into_iter().collect() };
        given(ready()).on(runs.clone()).when(metered(None)).then_accepted();
        given(ready()).on(runs).when(metered(Some(again))).then_refused(Refusal::MissingScope(Scope::ExecutionsRead));
    }

    /// An execution that was prepared for these settings.
    fn configured(settings: Settings, fuel: Option<u64>) -> Command {
        let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
        Command::Configured(Configured { settings, fuel, of: None, execute })
    }

    #[test]
    fn an_execution_runs_as_its_version_says_and_its_record_says_so() {
        let skips = Settings { sleep: Sleep::Skip, ..Settings::default() };
        let host = Settings { clock: Clock::Host, fuel: Some(100), ..Settings::default() };
        let history = || ready().into_iter().chain([published_with(HELLO, 2, skips), published_with(HELLO, 3, host)]);
        // Whoever was going to run it otherwise is told how, and nothing happens.
        for command in [execute(HELLO), rerun(None), metered(None), configured(skips, None)] {
            given(history()).by(K1).when(command).then_refused(Refusal::OtherSettings(host));
        }
        let accepted = given(history()).by(K1).when(configured(host, None)).accepted();
        assert_eq!((accepted.module.version, accepted.sleep, accepted.clock), (Some(3), Sleep::Wait, Clock::Host));
        assert_eq!(accepted.fuel, Some(100));
        // Of a version that is named, its own.
        let version = |version, settings| {
            let Command::Configured(mut wanted) = configured(settings, None) else { unreachable!() };
            wanted.execute.module = ModuleChoice::Named { name: module_name(HELLO), version: Some(version) };
            Command::Configured(wanted)
        };
        let accepted = given(history()).by(K1).when(version(2, skips)).accepted();
        assert_eq!((accepted.sleep, accepted.clock, accepted.fuel), (Sleep::Skip, Clock::Virtual, None));
        let refused = Refusal::OtherSettings(Settings::default());
        given(history()).by(K1).when(version(1, skips)).then_refused(refused);
    }

    #[test]
    fn a_rerun_that_reads_the_hosts_clocks_begins_at_its_own_time() {
        let before = Timestamp::from_unix_ms(NOON.unix_ms() - 86_400_000);
        let again = |settings| {
            let Command::Configured(wanted) = configured(settings, None) else { unreachable!() };
            let of = Some(Again { id: execution_id(1), start_time: Some(before) });
            let history = ready().into_iter().chain([published_with(HELLO, 2, settings)]);
            given(history).by(K1).when(Command::Configured(Configured { of, ..wanted })).accepted()
        };
        let host = again(Settings { clock: Clock::Host, ..Settings::default() });
        assert_eq!((host.rerun_of, host.start_time), (Some(execution_id(1)), NOON));
        assert_eq!(again(Settings { sleep: Sleep::Skip, ..Settings::default() }).start_time, before);
    }

    #[test]
    fn fuel_of_the_request_counts_up_to_that_of_the_version() {
        let given = |asked, of_version| granted(asked, of_version);
        assert_eq!([given(None, None), given(None, Some(9)), given(Some(7), None)], [None, Some(9), Some(7)]);
        assert_eq!([given(Some(7), Some(9)), given(Some(11), Some(9))], [Some(7), Some(9)]);
        assert_eq!([given(Some(0), None), given(Some(u64::MAX), None)], [Some(FUEL_MIN), Some(FUEL_MAX)]);
    }

    #[test]
    fn a_rerun_needs_to_run_and_to_read() {
        let with = |scopes: &[Scope]| Authority::Token { key: key_id(K1), scopes: scopes.iter().copied().collect() };
        for (scopes, missing) in
            [(&[Scope::ExecutionsRun][..], Scope::ExecutionsRead), (&[Scope::ExecutionsRead], Scope::ExecutionsRun)]
        {
            given(ready()).on(with(scopes)).when(rerun(None)).then_refused(Refusal::MissingScope(missing));
        }
        given(ready()).on(with(&[Scope::ExecutionsRun, Scope::ExecutionsRead])).when(rerun(None)).then_accepted();
    }
}
