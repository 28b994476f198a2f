//! Hostile guests: each ends as what it is and in time, and the neighbours are answered as if they were not there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};
use wasmwiz_tests::{
    client::Client,
    guests::{self, Guest},
    harness::NodeProcess,
    tenants::register,
    times::Times,
};

/// What a guest is given that would never end, in milliseconds.
const TIMEOUT_MS: u64 = 1_000;

/// What a guest is given that ends by itself, in milliseconds: enough to reach its own end while it takes turns with all
/// the others on a few cores.
const ENOUGH_MS: u64 = 20_000;

/// By how much it may pass its deadline, in milliseconds. A ceiling for a machine that others use too: a guest that is not
/// stopped passes it by far, and `cargo xtask bench` has the figures.
const GRACE_MS: u64 = 5_000;

/// Hostile guests of each kind at the same time.
const AT_ONCE: usize = 8;

/// Tenants that attack in turns: so often that the rate of their tier, some sixteen a second, does not stop them.
const ATTACKERS: usize = 3;

/// Requests of a light guest, quiet and under attack.
const LIGHT_REQUESTS: usize = 1_000;

/// By how much the neighbour's 99th percentile may grow. Likewise a ceiling: a neighbour that has to wait for the others' ends
/// waits for seconds, at every request.
const SLOWER: Duration = Duration::from_millis(1_500);

/// The guests, the outcome that each must have, and whether it uses its time up.
const HOSTILE: [(Guest, &str, bool); 6] = [
    (guests::ENDLESS_LOOP, "deadline_exceeded", true),
    (guests::ENDLESS_SLEEP, "deadline_exceeded", true),
    (guests::STDOUT_FLOOD, "deadline_exceeded", true),
    (guests::MEMORY_BOMB, "out_of_memory", false),
    (guests::DEEP_RECURSION, "trapped", false),
    (guests::TRAP, "trapped", false),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_guests_end_in_time_as_what_they_are_and_leave_their_neighbours_alone() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let operator = node.operator()?;
    let alone = register(&operator, "Alone", "basic").await?.client;
    let mut hostile = Vec::new();
    for _ in 0..ATTACKERS {
        hostile.push(register(&operator, "Hostile", "pro").await?.client);
    }
    let neighbour = register(&operator, "Neighbour", "enterprise").await?.client;
    for (guest, ..) in HOSTILE {
        for client in hostile.iter().chain([&alone]) {
            client.put_module(guest.name, guest.wasm()?).await?.expect(reqwest::StatusCode::CREATED)?;
        }
    }
    for guest in [guests::ECHO, guests::GREETER] {
        neighbour.put_module(guest.name, guest.wasm()?).await?.expect(reqwest::StatusCode::CREATED)?;
    }

    // When they are alone, the whole way over HTTP is within the grace, also of those that need no deadline.
    for (guest, outcome, until_deadline) in HOSTILE {
        let took = run(&alone, guest, outcome, until_deadline).await?;
        ensure!(took <= Duration::from_millis(TIMEOUT_MS + GRACE_MS), "{} was answered after {took:?}", guest.name);
    }

    light(&neighbour, 20).await?; // The first answers pay for connections.
    let quiet = light(&neighbour, LIGHT_REQUESTS).await?;
    let attack = Attack::begin(hostile);
    let attacked = light(&neighbour, LIGHT_REQUESTS).await?;
    let (hostile_times, rounds) = attack.end().await?;
    eprintln!("neighbour, quiet:        {quiet}");
    eprintln!("neighbour, under attack: {attacked}");
    eprintln!("{rounds} rounds of {AT_ONCE} of each kind, answered after: {hostile_times}");
    let bound = quiet.percentile(99) + SLOWER;
    ensure!(attacked.percentile(99) <= bound, "the neighbour's p99 is {:?}, over {bound:?}", attacked.percentile(99));
    Ok(())
}

/// Runs light guests one after the other, and checks every answer.
async fn light(client: &Client, requests: usize) -> anyhow::Result<Times> {
    let mut times = Times::default();
    for number in 0..requests {
        let (guest, input) = if number % 2 == 0 { ("echo", "abc") } else { ("greeter", "Ada") };
        let begun = Instant::now();
        let execution = client.execute(guest, input).await?;
        times.push(begun.elapsed());
        let expected = if number % 2 == 0 { "abc" } else { "Hello, Ada!\n" };
        ensure!(execution.stdout == expected, "the {guest} gave {:?}", execution.stdout);
    }
    Ok(times)
}

/// Runs a hostile guest and checks how it ended; gives how long the answer took.
async fn run(client: &Client, guest: Guest, outcome: &str, until_deadline: bool) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let timeout_ms = if until_deadline { TIMEOUT_MS } else { ENOUGH_MS };
    let path = format!("/v1/modules/{}/executions?timeout_ms={timeout_ms}", guest.name);
    let answer = client.post_bytes(&path, "").await?;
    let took = begun.elapsed();
    let execution = answer.is(200).with_context(|| guest.name)?;
    ensure!(execution["outcome"] == outcome, "{}: {execution}", guest.name);
    let flooded = guest == guests::STDOUT_FLOOD;
    ensure!(execution["truncated"]["stdout"] == flooded, "{}: {execution}", guest.name);
    let wall_ms = number(&execution["usage"]["wall_ms"])?;
    ensure!(wall_ms <= (timeout_ms + GRACE_MS) as f64, "{} ran for {wall_ms} ms", guest.name);
    ensure!(!until_deadline || wall_ms >= TIMEOUT_MS as f64, "{} ended early, after {wall_ms} ms", guest.name);
    Ok(took)
}

fn number(value: &Value) -> anyhow::Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

/// Rounds of hostile guests, one after the other, until it is enough.
struct Attack {
    enough: Arc<AtomicBool>,
    rounds: tokio::task::JoinHandle<anyhow::Result<(Times, usize)>>,
}

impl Attack {
    fn begin(clients: Vec<Client>) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let rounds = tokio::spawn(attack(clients, Arc::clone(&enough)));
        Self { enough, rounds }
    }

    async fn end(self) -> anyhow::Result<(Times, usize)> {
        ensure!(!self.rounds.is_finished(), "the attack ended by itself: {:?}", self.rounds.await?);
        self.enough.store(true, Ordering::Relaxed);
        self.rounds.await.context("the attack panicked")?
    }
}

async fn attack(clients: Vec<Client>, enough: Arc<AtomicBool>) -> anyhow::Result<(Times, usize)> {
    let (mut times, mut rounds) = (Times::default(), 0);
    for client in clients.iter().cycle() {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let mut guests = JoinSet::new();
        for (guest, outcome, until_deadline) in HOSTILE.into_iter().cycle().take(AT_ONCE * HOSTILE.len()) {
            let client = client.clone();
            guests.spawn(async move { run(&client, guest, outcome, until_deadline).await });
        }
        while let Some(ended) = guests.join_next().await {
            times.push(ended.context("a client panicked")??);
        }
        rounds += 1;
    }
    Ok((times, rounds))
}
