//! Whose turn is next, without any guest.

use tokio::sync::oneshot::error::TryRecvError;
use wasmwiz_events::id::TenantId;

use super::*;

const SLICE: Duration = Duration::from_millis(2);

fn whose(name: &str) -> Whose {
    Some(TenantId::new(name).unwrap())
}

/// The turn of a thread that nobody else has.
fn first(turns: &Arc<Turns>, whose: &Whose) -> Turn {
    turns.take(whose, Weight::Heavy).ok().unwrap()
}

fn end(mut turn: Turn, used: Duration) {
    turn.used = used;
}

/// All who wait, and whose each is.
struct Crowd(Vec<(&'static str, Weight, Waiting)>);

impl Crowd {
    /// The one that was told, of which there is one.
    fn told(&mut self) -> (&'static str, Weight, Turn) {
        let mut told = Vec::new();
        self.0.retain_mut(|(name, weight, waiting)| match waiting.0.try_recv() {
            Ok(turn) => {
                told.push((*name, *weight, turn));
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Closed) => panic!("forgotten"),
        });
        let one = told.pop().unwrap();
        assert!(told.is_empty(), "one has the turn at a time");
        one
    }
}

/// `rounds` slices of those who are told in turn; each stands in line again. How many each tenant had.
fn slices(turns: &Arc<Turns>, crowd: &mut Crowd, rounds: u32) -> HashMap<&'static str, u32> {
    let mut had = HashMap::new();
    for _ in 0..rounds {
        let (name, weight, turn) = crowd.told();
        *had.entry(name).or_default() += 1;
        crowd.0.push((name, weight, turns.wait(&whose(name), weight)));
        end(turn, SLICE);
    }
    had
}

fn waiting(
    turns: &Arc<Turns>,
    name: &'static str,
    weight: Weight,
    count: usize,
) -> Vec<(&'static str, Weight, Waiting)> {
    (0..count).map(|_| (name, weight, turns.wait(&whose(name), weight))).collect()
}

#[test]
fn tenants_have_as_much_of_a_thread_as_each_other_however_many_guests_they_have() {
    let turns = Arc::new(Turns::default());
    let turn = first(&turns, &whose("t-one"));
    let mut crowd = Crowd(waiting(&turns, "t-many", Weight::Heavy, 31));
    crowd.0.extend(waiting(&turns, "t-some", Weight::Heavy, 3));
    crowd.0.extend(waiting(&turns, "t-one", Weight::Heavy, 1));
    end(turn, Duration::ZERO);
    let had = slices(&turns, &mut crowd, 300);
    assert_eq!(had, HashMap::from([("t-many", 100), ("t-some", 100), ("t-one", 100)]));
}

#[test]
fn who_begins_many_guests_keeps_a_light_one_of_another_tenant_waiting_for_one_slice() {
    let turns = Arc::new(Turns::default());
    // Given a tenant whose guests are all light, as they have only begun.
    let turn = first(&turns, &whose("t-many"));
    let mut crowd = Crowd(waiting(&turns, "t-many", Weight::Light, 64));
    end(turn, Duration::ZERO);
    slices(&turns, &mut crowd, 100);
    // When another one's comes, then it is next.
    crowd.0.extend(waiting(&turns, "t-other", Weight::Light, 1));
    let (_, _, turn) = crowd.told();
    end(turn, SLICE);
    assert_eq!(crowd.told().0, "t-other");
}

#[test]
fn a_light_guest_comes_before_heavy_ones_until_its_tenant_has_had_so_much_more() {
    let turns = Arc::new(Turns::default());
    let turn = first(&turns, &whose("t-both"));
    let mut crowd = Crowd(waiting(&turns, "t-heavy", Weight::Heavy, 4));
    crowd.0.extend(waiting(&turns, "t-both", Weight::Heavy, 4));
    crowd.0.extend(waiting(&turns, "t-both", Weight::Light, 1));
    end(turn, Duration::ZERO);
    let had = slices(&turns, &mut crowd, 25);
    assert_eq!(had, HashMap::from([("t-both", 25)]), "fifty milliseconds in advance");
    let had = slices(&turns, &mut crowd, 200);
    assert!(had["t-heavy"].abs_diff(had["t-both"]) <= 1, "and then as much as anybody: {had:?}");
}

#[test]
fn who_was_away_has_saved_nothing_up_and_owes_nothing() {
    let turns = Arc::new(Turns::default());
    // Given one that has had a thread alone for a while, and then beside another one.
    let turn = first(&turns, &whose("t-long"));
    let mut crowd = Crowd(waiting(&turns, "t-long", Weight::Heavy, 1));
    end(turn, Duration::ZERO);
    slices(&turns, &mut crowd, 1_000);
    for (newcomer, tenants) in [("t-new", 2), ("t-newer", 3)] {
        crowd.0.extend(waiting(&turns, newcomer, Weight::Heavy, 1));
        let had = slices(&turns, &mut crowd, 90);
        assert_eq!(had.len(), tenants, "{had:?}");
        assert!(had.values().all(|had| had.abs_diff(90 / tenants as u32) <= 1), "{had:?}");
    }
}

#[test]
fn a_turn_passes_over_those_who_are_gone_and_comes_back_from_who_leaves_with_it() {
    let turns = Arc::new(Turns::default());
    let turn = first(&turns, &whose("t-one"));
    let mut crowd = Crowd(waiting(&turns, "t-gone", Weight::Light, 1_000));
    let told = turns.wait(&whose("t-told"), Weight::Light);
    let stays = turns.wait(&whose("t-stays"), Weight::Heavy);
    crowd.0.clear();
    end(turn, SLICE);
    // It was told, and is dropped before it knows.
    drop(told);
    let mut stays = Crowd(vec![("t-stays", Weight::Heavy, stays)]);
    end(stays.told().2, SLICE);
    // Then nobody is left, and the thread is idle.
    assert!(turns.state().lines.is_empty() && !turns.state().is_taken);
    drop(first(&turns, &whose("t-next")));
}

#[tokio::test(flavor = "current_thread")]
async fn guests_of_a_thread_give_way_to_each_other_and_to_its_timers() {
    let turns = Arc::new(Turns::default());
    let rounds = |name: &'static str, count: u32| {
        let (turns, pause) = (Arc::clone(&turns), Pause::of_slices());
        async move {
            let inner = pause.clone();
            let mut guest = std::pin::pin!(async move {
                for _ in 0..count {
                    inner.give_way().await;
                }
            });
            let whose = whose(name);
            Sliced::new(guest.as_mut(), pause, &whose, Duration::from_secs(1), turns).await;
        }
    };
    // One that gives way for ever is no obstacle for the others, and neither for time.
    let for_ever = rounds("t-many", u32::MAX);
    let others = async { tokio::join!(rounds("t-many", 100), rounds("t-other", 100)) };
    tokio::select! {
        () = for_ever => panic!("that was soon"),
        ended = tokio::time::timeout(Duration::from_secs(30), async {
            others.await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }) => ended.unwrap(),
    }
}
