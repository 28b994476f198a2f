//! Who gets a place, and who waits.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;

fn whose(name: &str) -> Whose {
    Some(TenantId::new(name).unwrap())
}

/// As many places as one gets at once.
fn all_at_once(places: &Arc<Places>, name: &str) -> Vec<Place> {
    std::iter::from_fn(|| places.enter(&whose(name))).collect()
}

/// Each takes one in turn, until nobody gets any more.
fn in_turns(places: &Arc<Places>, held: &mut BTreeMap<usize, Vec<Place>>, greedy: usize) {
    loop {
        let before: usize = held.values().map(Vec::len).sum();
        for tenant in 0..greedy {
            held.entry(tenant).or_default().extend(places.enter(&whose(&format!("greedy-{tenant}"))));
        }
        if held.values().map(Vec::len).sum::<usize>() == before {
            return;
        }
    }
}

/// Jain's index of fairness: 1 when all have the same.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|share| share * share).sum::<f64>());
    sum * sum / (shares.len() as f64 * squares)
}

#[test]
fn a_tenant_alone_has_four_fifths_and_the_rest_stays_for_others() {
    let places = Places::new(500, 0);
    let heavy = all_at_once(&places, "heavy");
    let light = all_at_once(&places, "light");
    let third = all_at_once(&places, "third");
    assert_eq!([heavy.len(), light.len(), third.len()], [400, 80, 16]);
    // What the platform runs has no share, and there are no other ones.
    let own: Vec<_> = std::iter::from_fn(|| places.enter(&None)).collect();
    assert_eq!(own.len(), 4);
}

#[test]
fn those_who_want_all_there_are_have_the_same_each() {
    for greedy in [2, 5, 10] {
        let (places, mut held) = (Places::new(512, 0), BTreeMap::new());
        in_turns(&places, &mut held, greedy);
        let shares: Vec<f64> = held.values().map(|places| places.len() as f64).collect();
        assert!(jain(&shares) >= 0.99, "{shares:?}");
        let left = 512 - held.values().map(Vec::len).sum::<usize>();
        assert!(left >= 512 / (4 * greedy + 1), "{left} are left of 512 by {greedy}");
    }
}

#[test]
fn who_came_first_keeps_what_it_has_and_not_what_it_gives_back() {
    let (places, mut held) = (Places::new(512, 0), BTreeMap::new());
    for tenant in 0..2 {
        held.insert(tenant, all_at_once(&places, &format!("greedy-{tenant}")));
    }
    assert_eq!([held[&0].len(), held[&1].len()], [410, 82]);
    // Guests end, first those that began first, and others take their places.
    for _ in 0..2_000 {
        for tenant in 0..2 {
            held.get_mut(&tenant).unwrap().remove(0);
        }
        in_turns(&places, &mut held, 2);
    }
    let shares = [held[&0].len() as f64, held[&1].len() as f64];
    assert!(jain(&shares) >= 0.95, "{shares:?}");
}

#[test]
fn a_small_node_is_used_to_its_last_place_by_one_tenant() {
    for count in 1..=4 {
        assert_eq!(all_at_once(&Places::new(count, 0), "only").len(), count as usize);
    }
}

#[tokio::test]
async fn lines_take_turns_and_one_tenants_long_line_keeps_nobody_waiting() {
    let places = Places::new(1, 100);
    let only = places.acquire(&whose("heavy")).await.unwrap();
    let (came, mut order) = tokio::sync::mpsc::channel(32);
    let wait = |name: &'static str| {
        let (places, came) = (Arc::clone(&places), came.clone());
        tokio::spawn(async move {
            let place = places.acquire(&whose(name)).await.unwrap();
            came.send(name).await.unwrap();
            drop(place);
        })
    };
    for _ in 0..20 {
        wait("heavy");
    }
    tokio::task::yield_now().await;
    wait("light");
    tokio::task::yield_now().await;
    drop(only);
    let first = [order.recv().await.unwrap(), order.recv().await.unwrap()];
    assert!(first.contains(&"light"), "{first:?}");
}

#[tokio::test]
async fn one_tenant_leaves_room_in_the_line() {
    let places = Places::new(1, 50);
    let heavy = whose("heavy");
    let _only = places.acquire(&heavy).await.unwrap();
    let waiting: Vec<_> = std::iter::from_fn(|| places.line_up(&heavy)).collect();
    assert_eq!(waiting.len(), 40, "four fifths of the line");
    assert!(places.line_up(&whose("light")).is_some() && places.line_up(&None).is_some());
}

#[test]
fn a_place_that_comes_free_before_one_is_in_line_is_its_own() {
    let (places, two) = (Places::new(1, 10), whose("two"));
    let only = places.enter(&whose("one")).unwrap();
    assert!(places.enter(&two).is_none());
    drop(only);
    let waiting = places.line_up(&two).unwrap();
    assert!(waiting.place().now_or_never().flatten().is_some());
}

#[test]
fn a_place_that_comes_while_nobody_waits_for_it_any_more_is_the_next_ones() {
    let (places, two) = (Places::new(1, 10), whose("two"));
    let only = places.enter(&whose("one")).unwrap();
    let waiting = places.line_up(&two).unwrap();
    drop(only);
    // It was given the place and goes away without having looked.
    assert_eq!(places.lock().free, 0);
    drop(waiting);
    assert_eq!(places.lock().free, 1);
    assert!(places.enter(&whose("three")).is_some());
}

#[tokio::test]
async fn a_stop_turns_those_who_wait_away_at_once_and_waits_for_the_others() {
    let places = Places::new(2, 10);
    let held = [places.enter(&whose("one")).unwrap(), places.enter(&whose("two")).unwrap()];
    let three = whose("three");
    let mut waiting = Box::pin(places.acquire(&three));
    assert!((&mut waiting).now_or_never().is_none());
    places.close();
    assert!(waiting.await.is_none());
    assert!(places.acquire(&whose("one")).await.is_none());
    let mut empty = Box::pin(places.empty());
    assert!((&mut empty).now_or_never().is_none());
    drop(held);
    empty.await;
}

#[tokio::test]
async fn a_place_that_goes_back_from_somebody_who_had_not_looked_counts_as_left() {
    let (places, two) = (Places::new(1, 10), whose("two"));
    let only = places.enter(&whose("one")).unwrap();
    let waiting = places.line_up(&two).unwrap();
    drop(only);
    places.close();
    let mut empty = Box::pin(places.empty());
    assert!((&mut empty).now_or_never().is_none());
    drop(waiting);
    empty.await;
}

proptest! {
    #[test]
    fn there_are_never_more_than_all_and_nobody_waits_for_what_it_may_have(
        steps in prop::collection::vec((0..4_u8, 0..5_u8, any::<bool>()), 1..300),
    ) {
        let places = Places::new(12, 8);
        let (mut held, mut waiting): (Vec<Place>, Vec<_>) = (Vec::new(), Vec::new());
        for (tenant, step, looks) in steps {
            let at = usize::from(tenant);
            match step {
                // Twice as often as anything else.
                0 | 1 => {
                    let places = Arc::clone(&places);
                    let mut one = Box::pin(async move { places.acquire(&whose(&format!("tenant-{tenant}"))).await });
                    match (&mut one).now_or_never() {
                        Some(place) => held.extend(place),
                        None => waiting.push(one),
                    }
                }
                2 | 3 if !held.is_empty() => drop(held.remove(at % held.len())),
                _ if !waiting.is_empty() => drop(waiting.remove(at % waiting.len())),
                _ => {}
            }
            if looks {
                waiting.retain_mut(|one| one.now_or_never().is_none_or(|place| { held.extend(place); false }));
                let state = places.lock();
                prop_assert_eq!(state.free as usize, 12 - held.len());
                prop_assert_eq!(state.waiting as usize, waiting.len());
                prop_assert_eq!(state.held.values().sum::<u32>() as usize, held.len());
            }
            let state = places.lock();
            prop_assert_eq!(state.turns.len(), state.lines.len());
            prop_assert!(state.turns.iter().all(|whose| !state.has_place_for(whose)), "one waits for what it may have");
        }
        drop((held, waiting));
        let state = places.lock();
        prop_assert!(state.free == 12 && state.held.is_empty() && state.lines.is_empty() && state.turns.is_empty());
    }
}
