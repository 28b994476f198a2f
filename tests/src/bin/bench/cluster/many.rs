//! Many tenants that only the log has made, and a way to wake them: an operator's command that finds everything as it should be writes
//! nothing, and the tenant has to be in memory to say so.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, StatusCode};
use wasmwiz_events::{
    id::TenantId,
    log::jetstream::{JetstreamLog, JetstreamLogConfig},
    nats::NatsConfig,
};
use wasmwiz_tests::{client::Client, past, times::Times, wait};

/// How many are written at the same time.
const WRITERS: usize = 256;

/// How many are asked at the same time.
const ASKED: usize = 128;

/// How long a node is given for one answer.
const TRY_WITHIN: Duration = Duration::from_secs(12);

/// How long is waited before one is asked again.
const PAUSE: Duration = Duration::from_millis(25);

/// How long one may take to answer, and all of them to be seen.
const WITHIN: Duration = Duration::from_secs(900);

/// Writes so many into a log on these servers, and waits until every node shows the last of them.
pub(super) async fn register(
    url: String,
    replicas: usize,
    count: usize,
    operators: &[Client],
) -> anyhow::Result<Vec<TenantId>> {
    let nats = NatsConfig { url, ..Default::default() };
    let log = JetstreamLog::open(JetstreamLogConfig { nats, replicas, ..Default::default() }).await?;
    let tenants = (0..count).map(|n| TenantId::new(&format!("many-{n}"))).collect::<Result<Vec<_>, _>>()?;
    let written = stream::iter(tenants.iter().map(|tenant| past::write(&log, tenant, 1)));
    written.buffer_unordered(WRITERS).try_collect::<()>().await?;
    // Views fold in order, and this is written after all others.
    let last = TenantId::new("many-last")?;
    past::write(&log, &last, 1).await?;
    log.close();
    for operator in operators {
        let seen = wait::until("the last of many tenants to be seen", WITHIN, async || {
            Ok((operator.get(&format!("/v1/tenants/{last}")).await?.status == StatusCode::OK).then_some(()))
        });
        seen.await?;
    }
    Ok(tenants)
}

/// Asks each of them, at one node after the other, until it answers. Gives how long after `since` each did.
pub(super) async fn wake(operators: &[Client], tenants: &[TenantId], since: Instant) -> anyhow::Result<Times> {
    ensure!(!operators.is_empty(), "there is no node to ask");
    let asked = tenants.iter().enumerate().map(|(turn, tenant)| until_awake(operators, turn, tenant, since));
    let mut answers = stream::iter(asked).buffer_unordered(ASKED);
    let mut times = Times::default();
    while let Some(took) = answers.try_next().await? {
        times.push(took);
    }
    Ok(times)
}

async fn until_awake(
    operators: &[Client],
    mut turn: usize,
    tenant: &TenantId,
    since: Instant,
) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    loop {
        let operator = &operators[turn % operators.len()];
        let request = operator.request(Method::POST, &format!("/v1/tenants/{tenant}/resume"));
        let said = match tokio::time::timeout(TRY_WITHIN, operator.send(request)).await {
            Ok(Ok(answer)) if answer.status == StatusCode::OK => return Ok(since.elapsed()),
            Ok(Ok(answer)) if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS => {
                answer.text()
            }
            Ok(Ok(answer)) => bail!("{tenant}: {} {}", answer.status, answer.text()),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no answer in time".to_owned(),
        };
        ensure!(begun.elapsed() < WITHIN, "{tenant} did not answer within {WITHIN:?}; the last was {said}");
        turn += 1;
        tokio::time::sleep(PAUSE).await;
    }
}
