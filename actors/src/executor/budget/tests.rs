//! Who gets memory, and who waits.

use futures_util::FutureExt as _;
use proptest::prelude::*;
use wasmwiz_events::id::TenantId;

use super::*;

const MIB: u64 = 1 << 20;

/// Long enough for what is decided at once.
const NO_TIME: Duration = Duration::ZERO;

fn whose(name: &str) -> Whose {
    Some(TenantId::new(name).unwrap())
}

/// Holders of `piece` bytes each, for as long as the tenant gets any.
fn all_at_once(budget: &Arc<MemoryBudget>, name: &str, piece: u64) -> Vec<Held> {
    std::iter::from_fn(|| {
        let mut held = Held::nothing_of(budget.account(whose(name)));
        held.grow(piece).is_ok().then_some(held)
    })
    .collect()
}

fn used(budget: &MemoryBudget) -> u64 {
    budget.state().0
}

#[test]
fn a_tenant_alone_has_two_thirds_and_the_rest_stays_for_others() {
    let budget = MemoryBudget::new(4_096 * MIB);
    let greedy = all_at_once(&budget, "greedy", 256 * MIB);
    assert_eq!(greedy.len(), 10);
    let second = all_at_once(&budget, "second", 256 * MIB);
    assert_eq!(second.len(), 3);
    assert_eq!(all_at_once(&budget, "light", 64 << 10).len() as u64 * (64 << 10), 341 * MIB + 320 * 1_024);
    drop((greedy, second));
    assert_eq!(used(&budget), 0);
}

#[test]
fn the_last_part_is_for_those_who_hold_little() {
    let budget = MemoryBudget::new(64 * MIB);
    let mut greedy = Vec::new();
    for tenant in 0..50 {
        greedy.extend(all_at_once(&budget, &format!("greedy-{tenant}"), 5 * MIB));
    }
    let free = budget.bounds.all_bytes - used(&budget);
    assert!(free >= LIGHT_BYTES, "{free}");
    let light = ["light", "as-light", "last"].map(|name| all_at_once(&budget, name, MIB));
    assert_eq!(
        light.each_ref().map(|held| held.len() as u64 * MIB),
        [LIGHT_BYTES, LIGHT_BYTES, free - 2 * LIGHT_BYTES]
    );
    let mut platforms = Held::nothing_of(budget.account(None));
    assert_eq!(platforms.grow(65 * MIB), Err(Full::Never { most_bytes: 64 * MIB }));
}

#[test]
fn one_is_told_whose_guests_hold_it_and_what_it_never_gets() {
    let budget = MemoryBudget::new(96 * MIB);
    let most_bytes = 60 * MIB;
    let mut own = Held::nothing_of(budget.account(whose("own")));
    assert_eq!(own.grow(61 * MIB), Err(Full::Never { most_bytes }));
    own.grow(40 * MIB).unwrap();
    let mut more = Held::nothing_of(budget.account(whose("own")));
    assert_eq!(more.grow(30 * MIB), Err(Full::Tenant));
    let mut others = Held::nothing_of(budget.account(whose("other")));
    assert_eq!(others.grow(40 * MIB), Err(Full::Node));
    assert_eq!(others.grow(30 * MIB), Ok(()));
    drop((own, more, others));
    assert_eq!(used(&budget), 0);
}

#[test]
fn what_is_reserved_is_taken_first_and_the_rest_given_back_at_the_end() {
    let budget = MemoryBudget::new(96 * MIB);
    let account = budget.reserve(whose("own"), 50 * MIB, NO_TIME).now_or_never().unwrap().unwrap();
    assert_eq!(used(&budget), 50 * MIB);
    let (mut memory, mut output) = (Held::nothing_of(Arc::clone(&account)), Held::nothing_of(Arc::clone(&account)));
    memory.grow(40 * MIB).unwrap();
    output.grow(4 * MIB).unwrap();
    assert_eq!(used(&budget), 50 * MIB);
    drop(memory);
    account.settle();
    assert_eq!(used(&budget), 4 * MIB, "an output that nobody has read is still there");
    drop((output, account));
    assert_eq!(used(&budget), 0);
    // More than a guest may have is not waited for.
    let most = budget.reserve(whose("own"), 1 << 40, NO_TIME).now_or_never().unwrap().unwrap();
    assert_eq!(used(&budget), 60 * MIB);
    let mut memory = Held::nothing_of(Arc::clone(&most));
    memory.grow(60 * MIB).unwrap();
    assert_eq!(memory.grow(1), Err(Full::Never { most_bytes: 60 * MIB }));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_waits_gets_what_others_give_back_and_is_told_when_nobody_does() {
    let budget = MemoryBudget::new(96 * MIB);
    let held = all_at_once(&budget, "greedy", 20 * MIB);
    assert_eq!(held.len(), 3);
    let minute = Duration::from_secs(60);
    assert_eq!(budget.reserve(whose("greedy"), 20 * MIB, minute).await.unwrap_err(), Full::Tenant);
    assert_eq!(budget.reserve(whose("other"), 30 * MIB, minute).await.unwrap_err(), Full::Node);
    let waits = (0..WAITING_PER_TENANT_MAX).map(|_| budget.reserve(whose("other"), 30 * MIB, minute));
    let waits = futures_util::future::join_all(waits.map(|wait| async move { wait.await.map(drop) }));
    let give_back = async {
        tokio::task::yield_now().await;
        assert!(budget.is_waited_for(&whose("other")) && !budget.is_waited_for(&whose("greedy")));
        drop(held);
    };
    let (reserved, ()) = tokio::join!(waits, give_back);
    assert!(reserved.into_iter().all(|reserved| reserved.is_ok()));
    assert!(!budget.is_waited_for(&whose("other")) && budget.lock().lines.is_empty() && budget.lock().turns.is_empty());
    assert_eq!(used(&budget), 0);
}

#[tokio::test(start_paused = true)]
async fn the_lines_take_turns() {
    // Given 96 MiB, all held by the platform, two guests of one tenant that wait for 10 MiB, and one of another behind
    // them.
    let budget = MemoryBudget::new(96 * MIB);
    let (mut some, mut rest) = (Held::nothing_of(budget.account(None)), Held::nothing_of(budget.account(None)));
    some.grow(38 * MIB).unwrap();
    rest.grow(58 * MIB).unwrap();
    let minute = Duration::from_secs(60);
    let [mut first, mut second, mut other] =
        ["flood", "flood", "other"].map(|name| Box::pin(budget.reserve(whose(name), 10 * MIB, minute)));
    for waits in [&mut first, &mut second, &mut other] {
        assert!(waits.as_mut().now_or_never().is_none());
    }
    // When there is enough for two of them, and would be for both of the first tenant.
    drop(some);
    // Then each tenant has one of its own run.
    let first = first.as_mut().now_or_never().unwrap().unwrap();
    assert!(second.as_mut().now_or_never().is_none());
    // One that is given some and does not wait any more leaves it to the next.
    assert_eq!(used(&budget), 78 * MIB);
    drop(other);
    let second = second.as_mut().now_or_never().unwrap().unwrap();
    assert_eq!(used(&budget), 78 * MIB);
    drop((first, second, rest));
    let state = budget.lock();
    assert_eq!((state.free, state.lines.len(), state.turns.len()), (96 * MIB, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_that_wants_much_is_not_passed_by_its_own_and_keeps_nobody_else_waiting() {
    let budget = MemoryBudget::new(96 * MIB);
    let (mut some, mut rest) = (Held::nothing_of(budget.account(None)), Held::nothing_of(budget.account(None)));
    some.grow(30 * MIB).unwrap();
    rest.grow(66 * MIB).unwrap();
    let reserve = |name, bytes, wait| budget.reserve(whose(name), bytes, wait);
    let minute = Duration::from_secs(60);
    let mut large = Box::pin(reserve("own", 40 * MIB, minute / 2));
    let mut small = Box::pin(reserve("own", 5 * MIB, minute));
    assert!(large.as_mut().now_or_never().is_none() && small.as_mut().now_or_never().is_none());
    drop(some);
    assert!(large.as_mut().now_or_never().is_none() && small.as_mut().now_or_never().is_none());
    let others = reserve("other", 5 * MIB, minute).now_or_never().unwrap().unwrap();
    // When the first gives up, the second has its turn.
    tokio::time::advance(minute / 2 + Duration::from_secs(1)).await;
    assert!(matches!(large.as_mut().now_or_never(), Some(Err(Full::Node))));
    assert!(matches!(small.as_mut().now_or_never(), Some(Ok(_))));
    drop((others, rest));
}

#[test]
fn what_a_guest_lacked_is_reserved_with_some_more_and_doubled_each_time() {
    assert_eq!(reservation(64 << 10, 0), MIB + (64 << 10));
    assert_eq!(reservation(40 * MIB, 0), 50 * MIB);
    assert_eq!(reservation(51 * MIB, 50 * MIB), 100 * MIB);
    assert_eq!(reservation(u64::MAX, u64::MAX), u64::MAX);
    // It is the most that it would have held, of memory and outputs, and not what it may have.
    let budget = MemoryBudget::new(96 * MIB);
    let mut own = Held::nothing_of(budget.account(whose("own")));
    own.grow(40 * MIB).unwrap();
    let account = budget.account(whose("own"));
    let (mut memory, mut output) = (Held::nothing_of(Arc::clone(&account)), Held::nothing_of(Arc::clone(&account)));
    memory.grow(MIB).unwrap();
    assert_eq!(memory.grow(30 * MIB), Err(Full::Tenant));
    assert_eq!(output.grow(29 * MIB), Err(Full::Tenant));
    assert_eq!((account.lacked_bytes(), memory.grow(60 * MIB).is_err()), (31 * MIB, true));
    assert_eq!(account.lacked_bytes(), 31 * MIB, "what it never gets is not waited for");
}

/// Jain's index of fairness: 1 when all have the same.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|share| share * share).sum::<f64>());
    sum * sum / (shares.len() as f64 * squares)
}

#[test]
fn ten_that_are_as_greedy_end_up_with_as_much() {
    let budget = MemoryBudget::new(4_096 * MIB);
    let mut held: Vec<Vec<Held>> = (0..10).map(|_| Vec::new()).collect();
    for round in 0..400 {
        for (tenant, guests) in held.iter_mut().enumerate() {
            // Guests end and others begin.
            if round % 3 == 0 && !guests.is_empty() {
                guests.swap_remove(0);
            }
            let mut next = Held::nothing_of(budget.account(whose(&format!("greedy-{tenant}"))));
            if next.grow(16 * MIB).is_ok() {
                guests.push(next);
            }
        }
    }
    let shares: Vec<f64> = held.iter().map(|guests| guests.len() as f64).collect();
    assert!(jain(&shares) >= 0.95, "{shares:?}");
    assert!(budget.bounds.all_bytes - used(&budget) >= 256 * MIB, "something is left for others");
}

proptest! {
    #[test]
    fn never_more_is_held_than_there_is_and_all_of_it_comes_back(
        all in 1_u64..200,
        steps in prop::collection::vec((0_u8..4, 1_u64..50, any::<bool>()), 0..60),
    ) {
        let budget = MemoryBudget::new(all);
        let mut held = Vec::new();
        for (tenant, bytes, gives) in steps {
            if gives && !held.is_empty() {
                held.swap_remove(0);
            } else {
                let mut next = Held::nothing_of(budget.account(whose(&format!("t-{tenant}"))));
                let full = next.grow(bytes).is_err();
                prop_assert_eq!(next.bytes(), if full { 0 } else { bytes });
                held.push(next);
            }
            let sum: u64 = held.iter().map(Held::bytes).sum();
            prop_assert!(sum == used(&budget) && sum <= all);
        }
        drop(held);
        prop_assert_eq!(used(&budget), 0);
        prop_assert!(budget.lock().held.is_empty());
    }
}
