//! The health check: a real module, compiled, started and asked to copy its input to its output.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wasmwiz_events::{
    digest::Digest,
    execution::{Limits, Outcome, Seed},
    id::ExecutionId,
    settings::Sleep,
    time::Timestamp,
};

use super::{Asker, Clocks, CodeId, Executors, Job, Profile};

/// How long the check may take, compilation included: less than the period of the probes that ask for it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The module, in the binary format: reads up to 64 bytes from standard input and writes what it got to standard output.
const ECHO: &[u8] = include_bytes!("check.wasm");

/// What it is given.
const INPUT: &[u8] = b"are you well?";

/// More than it uses.
const FUEL: u64 = 1_000_000;

/// What it takes, its memory and both outputs, in bytes. It is beside what guests share: readiness does not depend on
/// tenants.
pub(super) const MEMORY_BYTES: u64 = LIMITS.memory_bytes + LIMITS.stdout_bytes + LIMITS.stderr_bytes;

const LIMITS: Limits =
    Limits { wall_ms: 2_000, memory_bytes: 64 << 10, stdin_bytes: 64, stdout_bytes: 64, stderr_bytes: 64 };

pub(crate) async fn check(executors: &Executors) -> Result<(), String> {
    let checked = tokio::time::timeout(TIMEOUT, Box::pin(run(executors))).await;
    checked.unwrap_or_else(|_| Err("the executors did not answer in time".into()))
}

async fn run(executors: &Executors) -> Result<(), String> {
    let stalled = executors.0.pool.stalled();
    if stalled > 0 {
        return Err(format!("{stalled} executors do not answer"));
    }
    for profile in Profile::ALL {
        echoes(executors, profile).await?;
    }
    Ok(())
}

async fn echoes(executors: &Executors, profile: Profile) -> Result<(), String> {
    let code = CodeId { digest: Digest::of(ECHO), profile };
    let prepared = match executors.prepared(code).await {
        Some(prepared) => prepared,
        None => {
            let prepared = executors.prepare(Asker::Platform, code, Bytes::from_static(ECHO)).await;
            prepared.map_err(|error| format!("compiling: {error}"))?
        }
    };
    let slot = executors.0.slots.spare().await.ok_or("the executors are shut down")?;
    let job = Job {
        execution_id: ExecutionId::new(uuid::Uuid::nil()),
        program: "check".into(),
        args: Vec::new(),
        stdin: Bytes::from_static(INPUT),
        limits: LIMITS,
        fuel: (profile == Profile::Metered).then_some(FUEL),
        seed: Seed::new([0; 16]),
        start_time: Timestamp::from_unix_ms(0),
        clocks: Clocks::Virtual,
        sleep: Sleep::Wait,
        cancel: CancellationToken::new(),
    };
    let ran = executors.run(slot, &prepared, job).await;
    if ran.outcome == Outcome::Succeeded && ran.stdout.bytes == INPUT {
        return Ok(());
    }
    let why = ran.message.unwrap_or_default();
    Err(format!("a small module should have copied its input; it {} {why}", ran.outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_module_is_what_its_source_says() {
        assert_eq!(wat::parse_str(include_str!("check.wat")).unwrap(), ECHO);
    }
}
