//! Keys that are rotated and revoked while many use them: what was promised holds for every single request.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::{Context as _, ensure};
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;
use wasmwiz_events::time::{Clock as _, SystemClock, Timestamp};
use wasmwiz_tests::{
    chance::setting,
    client::{Client, send},
    guests,
    harness::{Launch, NodeProcess},
    tenants::{Tenant, issue, register},
    wait::{self, SOON},
};

/// Clients that use a key at the same time.
const CLIENTS: usize = 16;

/// How long the old secret is good after a rotation, in seconds.
const GRACE_SECONDS: u64 = 3;

/// How often each client uses a secret at least, before and after what is done to it.
const USES: usize = 5;

/// Requests with a key that was revoked, or with its tokens.
const REVOKED_REQUESTS: (&str, u64) = ("WASMWIZ_TESTS_REVOKED_REQUESTS", 1_000);

/// A node that limits nobody's attempts, and a tenant without limits of its rate.
async fn busy() -> anyhow::Result<(NodeProcess, Tenant)> {
    let node = Launch::dev()?
        .variable("WASMWIZ_GATEWAY__ATTEMPTS__PER_MINUTE_OF_ADDRESS", "0")
        .variable("WASMWIZ_GATEWAY__ATTEMPTS__PER_MINUTE_AT_KEY", "0")
        .start()
        .await?;
    let tenant = register(&node.operator()?, "Busy", "enterprise").await?;
    tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    Ok((node, tenant))
}

/// Reads or runs something: every second request writes.
async fn used(client: &Client, number: usize) -> anyhow::Result<u16> {
    let request = if number.is_multiple_of(2) {
        client.request(Method::GET, "/v1/modules")
    } else {
        client.request(Method::POST, "/v1/modules/echo/executions").body("used")
    };
    Ok(send(request).await?.status.as_u16())
}

/// One use of a secret.
#[derive(Debug, Clone, Copy)]
struct Use {
    sent: Timestamp,
    answered: Timestamp,
    status: u16,
}

/// Clients that use a secret until they are told to stop, and what came of each use.
struct Users {
    clients: JoinSet<anyhow::Result<Vec<Use>>>,
    uses: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Users {
    fn of(client: &Client, secret: &str) -> Self {
        let (uses, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (client, uses, stop) = (client.with_credential(secret), Arc::clone(&uses), Arc::clone(&stop));
            clients.spawn(async move {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let sent = SystemClock.now();
                    let status = used(&client, seen.len()).await?;
                    seen.push(Use { sent, answered: SystemClock.now(), status });
                    uses.fetch_add(1, Ordering::Relaxed);
                }
                Ok(seen)
            });
        }
        Self { clients, uses, stop }
    }

    /// Waits until each client has used it some times more.
    async fn go_on(&self) -> anyhow::Result<()> {
        let enough = self.uses.load(Ordering::Relaxed) + CLIENTS * USES;
        wait::until("more uses", SOON, async || Ok((self.uses.load(Ordering::Relaxed) >= enough).then_some(()))).await
    }

    async fn end(mut self) -> anyhow::Result<Vec<Use>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(seen) = self.clients.join_next().await {
            all.extend(seen??);
        }
        Ok(all)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_refuses_nobody_within_the_grace_and_the_old_secret_after_it() -> anyhow::Result<()> {
    let (_node, tenant) = busy().await?;
    let client = &tenant.client;
    let key = issue(client, "deploy", &["modules:read", "executions:run"]).await?;
    // Given many who use the old secret
    let old = Users::of(client, &key.secret);
    old.go_on().await?;
    // When it is rotated, and others use the new one
    let (path, body) = (format!("/v1/keys/{}/rotate", key.id), json!({"grace_seconds": GRACE_SECONDS}));
    let rotated = client.post_json(&path, &body).await?.is(200)?;
    let grace_until: Timestamp = rotated["grace_until"].as_str().context("no grace")?.parse()?;
    let new = Users::of(client, rotated["secret"].as_str().context("no secret")?);
    wait::until("the end of the grace", SOON, async || Ok((SystemClock.now() > grace_until).then_some(()))).await?;
    old.go_on().await?;
    new.go_on().await?;
    // Then the old one opens everything until its end and nothing after it, and the new one everything
    let (old, new) = (old.end().await?, new.end().await?);
    let within: Vec<_> = old.iter().filter(|one| one.answered < grace_until).collect();
    let after: Vec<_> = old.iter().filter(|one| one.sent > grace_until).collect();
    let refused = |uses: &[&Use]| uses.iter().filter(|one| one.status == 401).count();
    let odd = old.iter().chain(&new).find(|one| ![200, 401].contains(&one.status));
    ensure!(odd.is_none(), "{odd:?}");
    println!("{} uses within the grace, {} after it, {} of the new secret", within.len(), after.len(), new.len());
    ensure!(within.len() > CLIENTS * USES && after.len() > CLIENTS, "{} and {} uses", within.len(), after.len());
    ensure!(refused(&within) == 0, "{} of {} were refused within the grace", refused(&within), within.len());
    ensure!(refused(&after) == after.len(), "{} of {} were refused after it", refused(&after), after.len());
    ensure!(new.iter().all(|one| one.status == 200), "the new secret was refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_let_in_by_a_key_or_its_token_once_its_revocation_is_answered() -> anyhow::Result<()> {
    let wanted = usize::try_from(setting(REVOKED_REQUESTS.0, REVOKED_REQUESTS.1)?)?;
    let (_node, tenant) = busy().await?;
    let client = &tenant.client;
    let key = issue(client, "leaked", &["modules:read", "executions:run"]).await?;
    let holder = client.with_credential(&key.secret);
    let token = holder.post_json("/v1/tokens", &json!({})).await?.is(200)?;
    let token = token["access_token"].as_str().context("no token")?.to_owned();
    // Given many who use both
    let (revoked, before, after) =
        (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = client.with_credential(if number % 2 == 0 { &key.secret } else { &token });
        let (revoked, before, after) = (Arc::clone(&revoked), Arc::clone(&before), Arc::clone(&after));
        clients.spawn(async move {
            let mut admitted = 0;
            for number in 0.. {
                // Read before the request is sent: what is sent afterwards must not be let in.
                let is_over = revoked.load(Ordering::Acquire);
                let status = used(&client, number).await?;
                ensure!([200, 401].contains(&status), "a request was answered {status}");
                if !is_over {
                    before.fetch_add(usize::from(status == 200), Ordering::Relaxed);
                    continue;
                }
                admitted += usize::from(status == 200);
                if after.fetch_add(1, Ordering::Relaxed) + 1 >= wanted {
                    break;
                }
            }
            anyhow::Ok(admitted)
        });
    }
    wait::until("both are used", SOON, async || Ok((before.load(Ordering::Relaxed) >= CLIENTS * USES).then_some(())))
        .await?;
    // When the key is revoked
    client.delete(&format!("/v1/keys/{}", key.id)).await?.is(204)?;
    revoked.store(true, Ordering::Release);
    // Then none of all requests from there on is let in
    let mut admitted = 0;
    while let Some(one) = clients.join_next().await {
        admitted += one??;
    }
    let (before, after) = (before.load(Ordering::Relaxed), after.load(Ordering::Relaxed));
    println!("{before} admitted before, {admitted} of {after} after the revocation was answered");
    ensure!(after >= wanted && admitted == 0, "{admitted} of {after} were admitted");
    Ok(())
}
