//! Greedy tenants beside nine light ones: whatever the greedy ones do, no echo of the others is refused, none waits for long, the node
//! takes no more memory than the pool that is attacked has, and the greedy ones are told what they ran into.
//!
//! Each kind of attack is a file. The default size suits every change; `WASMWIZ_TESTS_NEIGHBOURS_SECONDS` says how long an attack lasts and
//! `WASMWIZ_TESTS_NEIGHBOURS_RATE` how often each light tenant asks in a second: `cargo xtask campaign neighbours`.

use std::{fmt, time::Duration};

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use wasmwiz_tests::{
    chance::setting,
    client::{Client, send},
    echoes::{Echoes, Heard},
    guests::{self, Guest},
    harness::{Launch, NodeProcess},
    memory::resident_bytes,
    metrics::metric,
    tenants::{Tenant, register},
    told::Told,
    wait::{self, SOON},
};

mod announced;
mod bulk;
mod compiler;
mod fair;
mod floods;
mod frames;
mod growers;
mod lists;
mod outputs;
mod sleepers;
mod storage;
mod uploads;

/// How long an attack lasts, in seconds, if the variable does not say otherwise. The look at the quiet node before takes half of it.
const SECONDS: (&str, u64) = ("WASMWIZ_TESTS_NEIGHBOURS_SECONDS", 2);

/// Echoes a second of each light tenant, if the variable does not say otherwise.
const RATE: (&str, u64) = ("WASMWIZ_TESTS_NEIGHBOURS_RATE", 5);

/// From so many seconds on there are enough echoes for their 99th percentile to be compared, and enough turns for shares to be
/// even.
const MEASURED_FROM_SECONDS: u64 = 20;

/// Tenants that want little.
const LIGHT: usize = 9;

/// By how much the 99th percentile may grow where it is measured.
const SLOWER: Duration = Duration::from_millis(50);

/// What it may be everywhere: a ceiling for a machine that others use too. Behind what a greedy tenant holds an echo would wait for as
/// long as that is held.
const CEILING: Duration = Duration::from_secs(2);

/// The most that a node may grow beside the attacked pool, in bytes.
const BESIDE_BYTES: u64 = 64 << 20;

/// What guests may have of the node's memory, in bytes, where it is not they that are attacked with.
const GUESTS_BYTES: u64 = 256 << 20;

/// What all bodies and answers may take, in bytes, and those of one tenant: as the defaults are, smaller.
const BODIES_BYTES: u64 = 128 << 20;
const BODIES_OF_TENANT_BYTES: u64 = 32 << 20;

/// How long a client may take nothing of its answer, in milliseconds.
const STALL_MS: u64 = 1_000;

/// What a guest is given that goes on until it is stopped, in milliseconds.
const TIMEOUT_MS: u64 = 1_000;

/// By how much such a guest, and its answer, may pass its deadline, in milliseconds: a ceiling for a machine that others use too.
const GRACE_MS: u64 = 5_000;

/// How long a light tenant rests between two modules.
const BETWEEN_MODULES: Duration = Duration::from_millis(500);

/// The name of the metric of connections that were ended.
const CUT_OFF: &str = "wasmwiz_http_connections_cut_off_total";

/// A node whose pools are small.
fn launch() -> anyhow::Result<Launch> {
    Ok(Launch::dev()?
        .variable("WASMWIZ_EXECUTOR__MEMORY_BUDGET_BYTES", GUESTS_BYTES.to_string())
        .variable("WASMWIZ_GATEWAY__BODIES_BYTES_MAX", BODIES_BYTES.to_string())
        .variable("WASMWIZ_GATEWAY__BODIES_BYTES_PER_TENANT_MAX", BODIES_OF_TENANT_BYTES.to_string())
        .variable("WASMWIZ_GATEWAY__SERVER__WRITE_STALL_MS", STALL_MS.to_string()))
}

/// Registers greedy tenants, which have these modules, and connections that are none of the light ones'.
async fn greedy(node: &NodeProcess, tenants: usize, modules: &[Guest]) -> anyhow::Result<Vec<Tenant>> {
    let (operator, mut greedy) = (node.operator()?, Vec::new());
    for number in 0..tenants {
        let tenant = register(&operator, &format!("Greedy {number}"), "enterprise").await?;
        for module in modules {
            tenant.client.put_module(module.name, module.wasm()?).await?.is(201)?;
        }
        greedy.push(tenant);
    }
    Ok(greedy)
}

/// How much of it there is.
#[derive(Debug, Clone, Copy)]
struct Size {
    attacked: Duration,
    per_second: u32,
    is_measured: bool,
}

impl Size {
    fn of_this_run() -> anyhow::Result<Self> {
        let (seconds, per_second) = (setting(SECONDS.0, SECONDS.1)?, setting(RATE.0, RATE.1)?);
        Ok(Self {
            attacked: Duration::from_secs(seconds),
            per_second: u32::try_from(per_second)?,
            is_measured: seconds >= MEASURED_FROM_SECONDS,
        })
    }
}

/// One kind of attack.
#[derive(Debug, Clone, Copy)]
struct Attack {
    /// What it is called in the table.
    name: &'static str,
    /// The bound of what it is after, in bytes.
    pool_bytes: u64,
    /// How what the attacker must be told begins.
    told: &'static str,
}

/// A node with light tenants that have a module `echo`.
struct Scenario {
    node: NodeProcess,
    admin: Client,
    light: Vec<Client>,
    told: Told,
    size: Size,
}

impl Scenario {
    async fn begin(launch: Launch) -> anyhow::Result<Self> {
        let (size, node) = (Size::of_this_run()?, launch.start().await?);
        let (admin, operator) = (node.admin()?, node.operator()?);
        let mut light = Vec::new();
        for number in 0..LIGHT {
            let tenant = register(&operator, &format!("Light {number}"), "enterprise").await?;
            // With connections of its own: what becomes of others' is nothing to it.
            let client = Client::new(&node.ready().url, Some(&tenant.key.secret))?;
            client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
            client.execute("echo", "to warm up").await?;
            light.push(client);
        }
        Ok(Self { node, admin, light, told: Told::default(), size })
    }

    /// How many connections were cut off so far for this reason.
    async fn cut_off(&self, reason: &str) -> anyhow::Result<f64> {
        metric(&self.admin, CUT_OFF, &format!("\"{reason}\"")).await
    }

    /// Waits until so many more connections are cut off than `before`, and counts that as what the attacker is told.
    async fn until_cut_off(&self, reason: &str, before: f64, more: usize) -> anyhow::Result<()> {
        let what = format!("{more} more connections to be cut off for {reason}");
        wait::until(&what, SOON, async || Ok((self.cut_off(reason).await? >= before + more as f64).then_some(())))
            .await?;
        self.told.note(&format!("cut off: {reason}"));
        Ok(())
    }

    /// Runs so many guests at once that go on until they are stopped, and sees that they are in time.
    async fn runs_until_stopped(&self, client: &Client, guest: Guest, at_once: usize) -> anyhow::Result<()> {
        let most_ms = (TIMEOUT_MS + GRACE_MS) as f64;
        let (asked, running) = (Instant::now(), (0..at_once).map(|_| send(client.run_for(guest.name, TIMEOUT_MS))));
        for answer in join_all(running).await {
            let answer = answer?;
            self.told.answer(&answer);
            let ended: Value = answer.json()?;
            let wall_ms = ended["usage"]["wall_ms"].as_f64().unwrap_or_default();
            ensure!(wall_ms <= most_ms, "{} went on for {wall_ms} ms", guest.name);
        }
        let took_ms = asked.elapsed().as_secs_f64() * 1_000.0;
        ensure!(took_ms <= most_ms, "{} was answered after {took_ms} ms", guest.name);
        Ok(())
    }

    /// Lets one of the light tenants publish modules, one after the other, each of which has to be taken. `module` makes them.
    async fn light_one_publishes(&self, module: impl Fn(u32) -> Vec<u8>) -> anyhow::Result<()> {
        let light = self.light.first().context("there is no light tenant")?;
        for number in 0_u32.. {
            let answer = light.put_module(&format!("module-{number}"), module(number)).await?;
            answer.is(201).context("a light tenant publishes")?;
            sleep(BETWEEN_MODULES).await;
        }
        Ok(())
    }

    /// Lets the light tenants ask, at first in quiet and then while the attack goes on, round after round: as long as it is to
    /// last, and until the attacker was told what it must be.
    async fn endures(
        &self,
        attack: Attack,
        round: impl AsyncFn(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<Endured> {
        let pid = self.node.ready().pid;
        let echoes = Echoes::begin(&self.light, self.size.per_second);
        sleep(self.size.attacked / 2).await;
        let quiet = echoes.end().await?;

        let before = resident_bytes(pid)?;
        let echoes = Echoes::begin(&self.light, self.size.per_second);
        let (mut most, end) = (before, Instant::now() + self.size.attacked);
        let lasting = Box::pin(async {
            wait::until("the attacker to be told", self.size.attacked + SOON, async || {
                most = most.max(resident_bytes(pid)?);
                Ok((Instant::now() >= end && self.told.count(attack.told) > 0).then_some(()))
            })
            .await?;
            // Probes and operators are served in the midst of it.
            self.admin.get("/readyz").await?.is(200)?;
            register(&self.node.operator()?, "Late", "free").await.map(drop)
        });
        let lasted = tokio::select! {
            ended = Box::pin(again_and_again(self, &round)) => ended,
            lasted = lasting => lasted,
        };
        let attacked = echoes.end().await?;
        let (grown, told) = (most.saturating_sub(before), self.told.clone());
        let endured = Endured { attack, quiet, attacked, grown, told, size: self.size };
        eprintln!("{endured}");
        lasted?;
        Ok(endured)
    }
}

async fn again_and_again(
    scenario: &Scenario,
    round: &impl AsyncFn(&Scenario) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        round(scenario).await?;
    }
}

/// Keeps requests under way for as long as it is waited for.
async fn kept_up(_lanes: Vec<JoinSet<()>>) -> anyhow::Result<()> {
    std::future::pending().await
}

/// What an attack came to.
struct Endured {
    attack: Attack,
    quiet: Heard,
    attacked: Heard,
    /// By how much the node had grown at most, in bytes.
    grown: u64,
    told: Told,
    size: Size,
}

impl Endured {
    /// Everything that is promised to the neighbours, and to the attacker.
    fn left_neighbours_alone(&self) -> anyhow::Result<()> {
        let Self { attack, quiet, attacked, grown, told, size } = self;
        for (when, heard) in [("quiet", quiet), ("under attack", attacked)] {
            let wrong = heard.wrong.first();
            ensure!(wrong.is_none(), "{when}, {} echoes went wrong, at first: {wrong:?}", heard.wrong.len());
            ensure!(heard.times.count() > 0, "{when}, nobody asked");
        }
        ensure!(told.count(attack.told) > 0, "the attacker was not told `{}` but {told}", attack.told);
        let most = attack.pool_bytes + BESIDE_BYTES;
        ensure!(*grown <= most, "the node has grown by {} MiB, over {} MiB", grown >> 20, most >> 20);
        let p99 = attacked.times.percentile(99);
        ensure!(p99 <= CEILING, "the neighbours' p99 is {p99:?}");
        if size.is_measured {
            let bound = quiet.times.percentile(99) + SLOWER;
            ensure!(p99 <= bound, "the neighbours' p99 is {p99:?}, over {bound:?}");
        }
        Ok(())
    }
}

/// A row of the table: echoes, p50 and p99 in quiet and under attack with their ratio, growth and its bound, and what the attacker was told.
impl fmt::Display for Endured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |heard: &Heard, percent| heard.times.percentile(percent).as_secs_f64() * 1_000.0;
        let (quiet, attacked) = (&self.quiet, &self.attacked);
        write!(
            f,
            "| {} | {} + {} echoes, {} wrong | p50 {:.1} → {:.1} ms | p99 {:.1} → {:.1} ms, ratio {:.2} | {} of {} MiB | {} |",
            self.attack.name,
            quiet.times.count(),
            attacked.times.count(),
            quiet.wrong.len() + attacked.wrong.len(),
            ms(quiet, 50),
            ms(attacked, 50),
            ms(quiet, 99),
            ms(attacked, 99),
            ms(attacked, 99) / ms(quiet, 99),
            self.grown >> 20,
            (self.attack.pool_bytes + BESIDE_BYTES) >> 20,
            self.told
        )
    }
}
