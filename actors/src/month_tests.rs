//! Tenants that write as fast as their tiers let them, for as long as a month by a clock that is stepped: what they store stays within
//! its bound, is what their events say, and has room again once something is released.
//!
//! ```text
//! Greedy asks ─► a tenant's model, or its entity with a log ─► answers and events ─► Book counts again, payload by payload
//! ```
//! `WASMWIZ_TESTS_MONTH_DAYS` says how many days. Payloads are sizes and digests here: nobody writes their bytes.

use wasmwiz_events::{
    event::Event,
    tenant::Tier,
    time::{Moment, Timestamp},
};

use crate::{
    aggregate::{Authority, Context},
    limits::{Policy, Retention},
    tenant::{Command, Refusal, Tenant, scenario::*},
};

use self::{entity::WithLog, greedy::Greedy, model::Model};

mod book;
mod entity;
mod greedy;
mod model;

/// How many days a tenant writes, if the variable does not say otherwise.
const DAYS: (&str, u64) = ("WASMWIZ_TESTS_MONTH_DAYS", 3);

const DAY_MS: u64 = 86_400_000;

/// How often it is looked for what may go: as a node does that is not told otherwise.
const SWEEP_EVERY_MS: u64 = DAY_MS / 4;

/// What an enterprise tenant may store here: its tier has no bound, its contract has.
const CONTRACT_BYTES: u64 = 1 << 40;

/// A tenant that can be asked.
trait Asked {
    /// Has it decide, and gives what follows.
    async fn ask(&mut self, by: &Authority, command: Command) -> Result<Vec<Event>, Refusal>;

    /// What the wall clock says.
    fn now(&self) -> Timestamp;

    /// Lets time pass.
    fn wait(&mut self, ms: u64);

    /// How many bytes it counts as stored; `None` where that is not to be seen.
    fn counted(&self) -> Option<u64>;

    /// The same tenant, folded from the first event on by somebody who knows nothing else.
    fn folded_from_zero(&self) -> Tenant;
}

#[expect(clippy::disallowed_methods, reason = "the size of a test is no setting of a node")]
fn days() -> u64 {
    std::env::var(DAYS.0).map_or(DAYS.1, |text| text.parse().unwrap())
}

/// For how many days payloads are kept: so that they are released several times, however long the test.
fn kept_days() -> u32 {
    u32::try_from(days() / 4).unwrap().clamp(1, 7)
}

/// The tiers as they are, but that enterprise has a bound, and payloads are kept for some days.
fn policy() -> Policy {
    let days = Some(kept_days());
    let mut policy = Policy {
        retention: Retention { inputs_days: days, outputs_days: days, transcripts_days: days, modules_days: days },
        ..Policy::default()
    };
    policy.enterprise.storage_bytes = CONTRACT_BYTES;
    policy
}

/// Asks without a change: by the platform, so that no token is needed, whether a module of the largest size may be published.
fn is_there_room(tenant: &Tenant, preview: Command, at: Timestamp) -> Result<Vec<Event>, Refusal> {
    let (policy, by, Moment { wall: now, steady }) = (policy(), Authority::System, even(at));
    tenant.decide(preview, &Context { now, steady, policy: &policy, by: &by, once: None, expected: None, ended: &[] })
}

/// Lets the tenant write for all those days, and then removes all that it has.
async fn writes_as_fast_as_it_may(tenant: &mut impl Asked, mut greedy: Greedy) {
    let end = NOON.plus_ms(days() * DAY_MS);
    let (mut sweep_at, mut fold_at) = (NOON.plus_ms(SWEEP_EVERY_MS), NOON.plus_ms(DAY_MS));
    greedy.registers(tenant).await;
    while tenant.now() < end {
        let wait_ms = greedy.asks_for_all(tenant).await;
        tenant.wait(wait_ms);
        let now = tenant.now();
        if now >= fold_at {
            fold_at = fold_at.plus_ms(DAY_MS);
            is_the_fold_of_its_events(tenant, &mut greedy).await;
        }
        if now >= sweep_at {
            sweep_at = sweep_at.plus_ms(SWEEP_EVERY_MS);
            greedy.is_swept(tenant).await;
        }
    }
    println!("{greedy}");
    // It was at its bound, and had room again after a release.
    greedy.was_full_and_had_room_again();
    // Nothing is counted for ever: what is deleted, or has ended, goes.
    greedy.removes_all(tenant).await;
    tenant.wait(u64::from(kept_days() + 1) * DAY_MS);
    greedy.is_swept(tenant).await;
    assert_eq!(greedy.stored_bytes(), 0, "{greedy}");
    is_the_fold_of_its_events(tenant, &mut greedy).await;
}

/// A tenant that is read from its beginning counts what the live one does, and says the same of what there is room for.
async fn is_the_fold_of_its_events(tenant: &mut impl Asked, greedy: &mut Greedy) {
    let fresh = tenant.folded_from_zero();
    assert_eq!(fresh.stored_bytes(), greedy.stored_bytes(), "{greedy}");
    let preview = greedy.preview();
    let said = is_there_room(&fresh, preview.clone(), tenant.now());
    assert_eq!(tenant.ask(&Authority::System, preview).await, said, "{greedy}");
}

async fn a_model_stays_within_its_bound(tier: Tier) {
    // Given a tenant of this tier; when it writes as fast as it may; then what it asserts at every step holds.
    let (mut model, greedy) = (Model::new(policy()), Greedy::new(tier, policy()).leaving_one_open());
    writes_as_fast_as_it_may(&mut model, greedy).await;
}

#[tokio::test]
async fn a_basic_tenant_that_writes_as_fast_as_it_may_stays_within_its_bound() {
    a_model_stays_within_its_bound(Tier::Basic).await;
}

#[tokio::test]
async fn a_pro_tenant_that_writes_as_fast_as_it_may_stays_within_its_bound() {
    a_model_stays_within_its_bound(Tier::Pro).await;
}

#[tokio::test]
async fn an_enterprise_tenant_with_a_contract_stays_within_its_bound() {
    a_model_stays_within_its_bound(Tier::Enterprise).await;
}

#[tokio::test]
async fn a_free_tenant_with_an_entity_and_a_log_stays_within_its_bound() {
    let mut tenant = WithLog::start(policy()).await;
    writes_as_fast_as_it_may(&mut tenant, Greedy::new(Tier::Free, policy())).await;
    tenant.stop().await;
}
