//! `wasmwiz audit re-run`: every recorded execution run again, from a data folder and without a node, and compared with its record.

use std::{collections::HashMap, fmt, process::ExitCode, time::Duration};

use anyhow::{anyhow, bail};
use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::{
    executor::{Asker, CodeId, Executors, PrepareError, Prepared, Profile},
    verify::{self, Inconclusive, NotVerifiable},
};
use wasmwiz_events::{
    blobs::{BlobError, Blobs, fs::FsBlobs},
    commit::Commit,
    digest::Digest,
    event::Event,
    execution::{Accepted, Content, Finished},
    id::{ExecutionId, TenantId},
    log::{
        EventLog as _, ReadLimit,
        jetstream::JetstreamLog,
        sqlite::{Found, SqliteAudit},
    },
    payload::{self, Payload},
    revision::Position,
    verification::Difference,
};

use super::{
    output::{self, Output},
    place::{Opened, Place},
};
use crate::{app, config::Config, image};

/// Executions that are read before they are run again: so many records are in memory.
const BATCH: usize = 64;

/// How often it says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The most executions that are named; more are counted.
const LISTED_MAX: usize = 1_000;

/// Tries to compile a module, or to run a guest, that the host had too little for.
const TRIES: u32 = 3;

/// The pause between those.
const PAUSE: Duration = Duration::from_secs(1);

/// How many times as long as at a node a compilation may take.
const COMPILE_LONGER: u64 = 10;

/// Run every recorded execution again from a data folder, without a node, and compare how it ended with what is recorded: outcome,
/// exit code, outputs, traps and peak memory. Only executions whose end their record decides are run (`pure`, `virtual-time` and `transcript`), and
/// only those of this program's engine on this kind of processor; the others are counted. Exit code 0: all that were run gave what is
/// recorded; 1: one did not, or bytes that are kept of it are not what its record names; 3: none could be run. A node may run
/// meanwhile.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wasmwiz audit re-run --data .wasmwiz\n  wasmwiz audit re-run --data COPY --tenant dev --output json"
)]
pub struct Rerun {
    #[command(flatten)]
    place: Place,
    /// Only this tenant.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// An execution with both halves of its record.
struct Case {
    tenant: TenantId,
    accepted: Box<Accepted>,
    finished: Box<Finished>,
    /// Payloads that ride with the two commits.
    riding: Vec<Payload>,
    /// Are there others that cannot be told apart any more?
    is_torn: bool,
}

/// The first half of a record.
struct Opening {
    accepted: Box<Accepted>,
    /// Its input, if that rides with its commit.
    riding: Vec<Payload>,
    /// Are there payloads with its commit that cannot be told apart any more?
    is_torn: bool,
}

/// What came of one.
enum Came {
    Reproduced,
    Differs(Vec<Difference>),
    /// Something that the record names is not there as it names it.
    Changed(String),
    /// It cannot be run again, or not here: in one word.
    Left(&'static str),
}

/// The exit code when there are executions and none could be run again.
const NONE_RUN: u8 = 3;

/// The one word for what this machine could not bring to an end that says something.
const INCONCLUSIVE: &str = "inconclusive";

/// An execution that did not give what is recorded.
#[derive(Debug, Serialize)]
struct Named {
    tenant: TenantId,
    execution_id: ExecutionId,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<String>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.tenant, self.execution_id)?;
        if let Some(changed) = &self.changed {
            return f.write_str(changed);
        }
        for (n, Difference { what, recorded, found }) in self.differences.iter().enumerate() {
            let between = if n == 0 { "" } else { "; " };
            write!(f, "{between}{} is recorded as {recorded}, and was {found}", what.as_str())?;
        }
        Ok(())
    }
}

/// What came of all.
#[derive(Debug, Default, Serialize)]
struct Report {
    engine: String,
    /// That of executions with fuel.
    metered_engine: String,
    executions: u64,
    reproduced: u64,
    /// Not run again, by why.
    left: HashMap<&'static str, u64>,
    /// That have no end, or were lost.
    without_end: u64,
    wrong: u64,
    named: Vec<Named>,
    seconds: f64,
}

impl Report {
    fn note(&mut self, case: &Case, came: Came) {
        self.executions += 1;
        let (differences, changed) = match came {
            Came::Reproduced => return self.reproduced += 1,
            Came::Left(why) => return *self.left.entry(why).or_default() += 1,
            Came::Differs(differences) => (differences, None),
            Came::Changed(what) => (vec![], Some(what)),
        };
        self.wrong += 1;
        if self.named.len() < LISTED_MAX {
            let (tenant, execution_id) = (case.tenant.clone(), case.accepted.execution_id);
            self.named.push(Named { tenant, execution_id, differences, changed });
        }
    }

    fn print(&self) {
        self.named.iter().for_each(output::line);
        let mut left: Vec<_> = self.left.iter().collect();
        left.sort_unstable();
        for (why, count) in left {
            output::line(format_args!("{count} were not run again: {why}"));
        }
        if self.without_end > 0 {
            output::line(format_args!("{} have no end to compare with", self.without_end));
        }
        let ran = self.reproduced + self.wrong;
        let rate = ran as f64 / self.seconds.max(0.001);
        let verdict = match (self.wrong, ran) {
            (0, 0) => "NONE COULD BE RUN AGAIN HERE".to_owned(),
            (0, _) => "each of these gave what is recorded".to_owned(),
            (wrong, _) => format!("{wrong} DID NOT GIVE WHAT IS RECORDED"),
        };
        output::line(format_args!(
            "{} executions, {ran} run again by engine {}, {rate:.0} a second: {verdict}",
            self.executions, self.engine
        ));
    }
}

/// Walks the log and runs what it finds, a batch at a time.
struct Walk<'a> {
    only: Option<&'a TenantId>,
    runner: &'a Runner,
    open: HashMap<(TenantId, ExecutionId), Opening>,
    batch: Vec<Case>,
    report: Report,
    said: Instant,
}

/// What runs guests.
struct Runner {
    executors: Executors,
    blobs: Option<Box<dyn Blobs>>,
    /// How many it runs at the same time.
    at_once: usize,
    /// The most memory that it has for one.
    memory_max_bytes: u64,
}

impl Rerun {
    /// Runs it.
    ///
    /// # Errors
    /// When the log cannot be read, or no guests can be run here.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (data, opened) = self.place.open()?;
        // What it compiles is not kept: a copy that is audited stays as it is.
        let mut config = Config::default().executor;
        config.compile.worker = Some(vec![image::path()?.into(), "__compile".into()]);
        config.artefacts_dir = None;
        // As many at a time as there are threads, and memory for each: what a guest is given must not depend on the others.
        let at_once = config.threads.max(1);
        // A module that compiled where it was published is given more here, if it needs it.
        config.compile.wait_ms = config.compile.wait_ms.saturating_mul(COMPILE_LONGER);
        config.compile.wall_ms = config.compile.wall_ms.saturating_mul(COMPILE_LONGER);
        config.compile.cpu_s = config.compile.cpu_s.saturating_mul(COMPILE_LONGER);
        let memory_max_bytes = config.memory_max_bytes;
        config.memory_budget_bytes = config.memory_max_bytes.saturating_mul(at_once as u64 + 1);
        let runtime = app::runtime()?;
        let _guard = runtime.enter();
        let executors = Executors::start(config)?;
        let blobs: Option<Box<dyn Blobs>> = match &opened {
            Opened::Sqlite(_) => FsBlobs::existing(&data.join("blobs")).map(|blobs| Box::new(blobs) as _),
            Opened::Jetstream(log, _) => Some(Box::new(log.blobs())),
        };
        let (runner, begun) = (Runner { executors, blobs, at_once, memory_max_bytes }, Instant::now());
        let of = |profile| runner.executors.fingerprint(profile).to_owned();
        let (engine, metered_engine) = (of(Profile::Plain), of(Profile::Metered));
        let report = Report { engine, metered_engine, ..Report::default() };
        let mut walk = Walk {
            only: self.tenant.as_ref(),
            runner: &runner,
            open: HashMap::new(),
            batch: Vec::new(),
            report,
            said: begun,
        };
        match &opened {
            Opened::Sqlite(rows) => {
                walk.rows(rows, |walk| runtime.block_on(Box::pin(walk.settle())))?;
            }
            // Its connection lives on the runtime that opened it.
            Opened::Jetstream(log, of_log) => of_log.block_on(Box::pin(walk.log(log)))?,
        }
        let mut report = walk.report;
        report.without_end += walk.open.len() as u64;
        report.seconds = begun.elapsed().as_secs_f64();
        match self.output {
            Output::Table => report.print(),
            Output::Json => output::line(serde_json::to_string_pretty(&report)?),
        }
        Ok(match report {
            Report { wrong: 0, reproduced: 0, executions: 1.., .. } => ExitCode::from(NONE_RUN),
            Report { wrong: 0, .. } => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

impl Walk<'_> {
    fn rows(&mut self, log: &SqliteAudit, settle: impl Fn(&mut Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        for found in log.rows() {
            let row = match found {
                Found::Row(row) => row,
                Found::Damage { position, what, .. } => {
                    bail!("the log is damaged at position {position}: {what}; run `wasmwiz audit verify`")
                }
            };
            if self.only.is_some() && row.tenant.as_ref() != self.only {
                continue;
            }
            let what = |what| anyhow!("the commit at position {}: {what}; run `wasmwiz audit verify`", row.position);
            let commit = row.commit.map_err(what)?;
            // Payloads that cannot be read are named with the first execution that needs one.
            let riding = row.payloads.map(|packed| packed.map_or(Ok(vec![]), payload::unpack));
            self.step(&commit, riding.ok().and_then(Result::ok))?;
            if self.batch.len() >= BATCH {
                settle(self)?;
            }
        }
        settle(self)
    }

    async fn log(&mut self, log: &JetstreamLog) -> anyhow::Result<()> {
        let (mut after, tail) = (Position::START, log.tail().await?);
        while after < tail {
            let page = log.read_all(after, ReadLimit::default()).await?;
            for recorded in page.iter().take_while(|recorded| recorded.position <= tail) {
                if self.only.is_none_or(|only| only == recorded.commit.tenant()) {
                    let riding = log.payloads(recorded.position).await?;
                    self.step(&recorded.commit, Some(riding))?;
                }
                if self.batch.len() >= BATCH {
                    self.settle().await?;
                }
            }
            let Some(last) = page.last() else { break };
            after = last.position;
        }
        self.settle().await
    }

    /// `riding`: `None` when there are some that cannot be read.
    fn step(&mut self, commit: &Commit, riding: Option<Vec<Payload>>) -> anyhow::Result<()> {
        let (tenant, is_torn, riding) = (commit.tenant(), riding.is_none(), riding.unwrap_or_default());
        for envelope in commit.events()?.iter() {
            match &envelope.event {
                Event::ExecutionAccepted(accepted) => {
                    let input = riding.iter().filter(|payload| payload.digest() == accepted.stdin.digest).cloned();
                    let kept = Opening { accepted: accepted.clone(), riding: input.collect(), is_torn };
                    self.open.insert((tenant.clone(), accepted.execution_id), kept);
                }
                Event::ExecutionLost(lost) => {
                    self.report.without_end += 1;
                    self.open.remove(&(tenant.clone(), lost.execution_id));
                }
                Event::ExecutionFinished(finished) => {
                    let opening = self.open.remove(&(tenant.clone(), finished.execution_id));
                    // That something ends which never began is for `audit verify` to say.
                    let Some(Opening { accepted, riding: mut input, is_torn: was_torn }) = opening else { continue };
                    let outputs = [finished.stdout.digest, finished.stderr.digest];
                    let is_named = |digest| outputs.contains(&digest) || finished.trace_digest == Some(digest);
                    input.extend(riding.iter().filter(|payload| is_named(payload.digest())).cloned());
                    let (tenant, finished) = (tenant.clone(), finished.clone());
                    let is_torn = is_torn || was_torn;
                    self.batch.push(Case { tenant, accepted, finished, riding: input, is_torn });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Runs the batch.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let (runner, batch) = (self.runner, std::mem::take(&mut self.batch));
        let running = stream::iter(batch).map(|case| async move {
            let came = runner.again(&case).await;
            came.map(|came| (case, came))
        });
        let all: Vec<_> = running.buffered(runner.at_once).collect().await;
        for came in all {
            let (case, came) = came?;
            self.report.note(&case, came);
        }
        if self.said.elapsed() >= PROGRESS_EVERY {
            let Report { executions, reproduced, wrong, .. } = &self.report;
            output::progress(format_args!("{executions} executions, {reproduced} reproduced, {wrong} not, so far"));
            self.said = Instant::now();
        }
        Ok(())
    }
}

impl Runner {
    /// Runs one again. An error is the host's, and ends all of it.
    async fn again(&self, case: &Case) -> anyhow::Result<Came> {
        let Case { accepted, finished, .. } = case;
        if let Err(why) = verify::check(accepted, finished, self.executors.fingerprint(Profile::of(accepted.fuel))) {
            return Ok(Came::Left(why.slug()));
        }
        if accepted.limits.memory_bytes > self.memory_max_bytes {
            return Ok(Came::Left(INCONCLUSIVE));
        }
        let kept = |digest, size_bytes, what: &'static str| self.kept(case, digest, size_bytes, what);
        let stdin = match kept(accepted.stdin.digest, accepted.stdin.size_bytes, "standard input").await? {
            Ok(stdin) => stdin,
            Err(came) => return Ok(came),
        };
        for (output, what) in [(&finished.stdout, "standard output"), (&finished.stderr, "standard error")] {
            if let Err(came) = kept(output.digest, output.size_bytes, what).await? {
                return Ok(came);
            }
        }
        let transcript = match finished.transcript() {
            Some(Content { digest, size_bytes }) => match kept(digest, size_bytes, "transcript").await? {
                Ok(transcript) => transcript,
                Err(came) => return Ok(came),
            },
            None => Bytes::new(),
        };
        let prepared = match self.prepared(CodeId::of(accepted)).await? {
            Ok(prepared) => prepared,
            Err(came) => return Ok(came),
        };
        for _ in 0..TRIES {
            let slot = loop {
                match self.executors.reserve().await {
                    Ok(slot) => break slot,
                    Err(busy) => tokio::time::sleep(Duration::from_millis(busy.retry_after_ms)).await,
                }
            };
            let job = verify::job(accepted, stdin.clone(), transcript.clone(), CancellationToken::new());
            match verify::compare(accepted, finished, &self.executors.run_again(slot, &prepared, job).await) {
                Ok(compared) if compared.differences.is_empty() => return Ok(Came::Reproduced),
                Ok(compared) => return Ok(Came::Differs(compared.differences)),
                Err(Inconclusive(_)) => {}
            }
        }
        Ok(Came::Left(INCONCLUSIVE))
    }

    async fn prepared(&self, code: CodeId) -> anyhow::Result<Result<Prepared, Came>> {
        if let Some(prepared) = self.executors.prepared(code).await {
            return Ok(Ok(prepared));
        }
        let wasm = match self.blob(code.digest, "module").await? {
            Ok(wasm) => wasm,
            Err(came) => return Ok(Err(came)),
        };
        for _ in 0..TRIES {
            match self.executors.prepare(Asker::Platform, code, wasm.clone()).await {
                Ok(prepared) => return Ok(Ok(prepared)),
                // It was compiled where it was published: this machine has less to give.
                Err(PrepareError::Rejected(_)) => break,
                Err(
                    PrepareError::Busy
                    | PrepareError::OverShare { .. }
                    | PrepareError::OverAllowance { .. }
                    | PrepareError::HostShort { .. },
                ) => tokio::time::sleep(PAUSE).await,
                Err(error @ PrepareError::Failed(_)) => {
                    bail!("module {} cannot be compiled here: {error}", code.digest)
                }
            }
        }
        Ok(Err(Came::Left(INCONCLUSIVE)))
    }

    /// Bytes that the record names: they ride with its commits, or are a blob. `Err`: what that comes to, where they are not.
    async fn kept(
        &self,
        case: &Case,
        digest: Digest,
        size_bytes: u64,
        what: &str,
    ) -> anyhow::Result<Result<Bytes, Came>> {
        let other = || Came::Changed(format!("the bytes of its {what} are not the {size_bytes} of {digest}"));
        let bytes = if size_bytes == 0 {
            Bytes::new()
        } else if let Some(payload) = case.riding.iter().find(|payload| payload.digest() == digest) {
            payload.bytes().clone()
        } else {
            match self.blob(digest, what).await? {
                Ok(bytes) => bytes,
                Err(Came::Left(_)) if case.is_torn => return Ok(Err(other())),
                Err(came) => return Ok(Err(came)),
            }
        };
        // What is stored beside the bytes is not believed.
        Ok(if Content::of(&bytes) == (Content { digest, size_bytes }) { Ok(bytes) } else { Err(other()) })
    }

    async fn blob(&self, digest: Digest, what: &str) -> anyhow::Result<Result<Bytes, Came>> {
        let gone = Err(Came::Left(NotVerifiable::Gone("").slug()));
        let Some(blobs) = &self.blobs else { return Ok(gone) };
        match blobs.get(digest).await {
            Ok(Some(bytes)) => Ok(Ok(bytes)),
            Ok(None) => Ok(gone),
            Err(BlobError::Damaged(_)) => {
                Ok(Err(Came::Changed(format!("the bytes of its {what} are not those of {digest}"))))
            }
            Err(error) => Err(error.into()),
        }
    }
}
