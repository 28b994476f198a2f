//! A commit that an operator has let be passed over.

use super::*;

#[tokio::test]
async fn a_skipped_commit_is_passed_over_and_what_is_behind_it_is_told_also_by_views_that_are_built_anew() {
    // Which views need a further skip, as what they have cannot go on without the commit: here, of an execution without an acceptance.
    for (place, further) in [(1, vec![]), (3, vec![]), (PLACE.get(), vec![6])] {
        let (mut history, commits) = lived();
        let (log, folder, place) = (TestLog::of(&commits), tempfile::tempdir().unwrap(), Position::new(place));
        log.damage(place);
        let views = caught_up(folder.path(), &log).await;
        let theirs = told(&views, &other()).await.unwrap();
        assert_eq!(set_aside(&views).len(), 5, "{place}");

        log.push(history.commit(&system(), vec![registered("System"), skipped(place)]));
        settled(&views, &log).await;
        let still = set_aside(&views);
        assert!(still.iter().all(|(_, _, at, _)| *at > place), "{place}: {still:?}");
        assert_eq!(still.is_empty(), further.is_empty(), "{place}: {still:?}");
        for at in further {
            log.push(history.commit(&system(), vec![skipped(Position::new(at))]));
            settled(&views, &log).await;
        }
        assert_eq!(set_aside(&views), [], "{place}");
        let now = told(&views, &acme()).await.unwrap();
        assert_eq!(told(&views, &other()).await.unwrap(), theirs);
        // What comes later is told as of any other tenant.
        let later = log.push(history.commit(&acme(), vec![issued("a333")]));
        views.wait_for(later, DEADLINE).await.unwrap();
        assert!(views.keys().authenticate_lookup(&key_id("a333")).is_some(), "{place}");
        assert_ne!(told(&views, &acme()).await.unwrap(), now);

        let expected = (told(&views, &acme()).await.unwrap(), told(&views, &other()).await.unwrap());
        for config in [Config::default(), Config { batch_events: 1, linger_ms: 0, ..Config::default() }] {
            let fresh = tempfile::tempdir().unwrap();
            let anew = log.views_with(fresh.path(), config).await;
            settled(&anew, &log).await;
            assert_eq!(set_aside(&anew), [], "{place}");
            let again = (told(&anew, &acme()).await.unwrap(), told(&anew, &other()).await.unwrap());
            assert_eq!(again, expected, "{place}");
        }
    }
}

#[tokio::test]
async fn the_newest_commit_of_a_stream_is_not_passed_over_before_the_stream_goes_on() {
    let (mut history, commits) = lived();
    let (log, folder, newest) = (TestLog::of(&commits), tempfile::tempdir().unwrap(), Position::new(17));
    log.damage(newest);
    let views = caught_up(folder.path(), &log).await;
    log.push(history.commit(&system(), vec![registered("System"), skipped(newest)]));
    settled(&views, &log).await;
    let fresh = tempfile::tempdir().unwrap();
    let anew = caught_up(fresh.path(), &log).await;
    settled(&anew, &log).await;
    for views in [&views, &anew] {
        assert_eq!(set_aside(views).len(), 5);
        let aside = views.keys().set_aside(&acme()).unwrap();
        assert!(aside.position == newest && aside.reason.contains("newest commit"), "{aside:?}");
    }
    // Once something lies behind it, it is passed over.
    log.push(history.commit(&acme(), vec![issued("a333")]));
    for views in [&views, &anew] {
        settled(views, &log).await;
        assert_eq!(set_aside(views), []);
        assert!(views.keys().authenticate_lookup(&key_id("a333")).is_some());
        assert!(views.keys().authenticate_lookup(&key_id("a222")).is_none(), "what it said is not in effect");
    }
}

#[tokio::test]
async fn a_skip_of_a_commit_of_another_counts_none_of_the_stream_as_passed_over() {
    let (mut history, commits) = lived();
    let (log, folder) = (TestLog::of(&commits), tempfile::tempdir().unwrap());
    // The commit at 8 is sound, and another tenant's.
    let said = Position::new(8);
    log.damage(Position::new(3));
    log.damage_said_at(Position::new(9), said);
    let one_by_one = Config { batch_events: 1, linger_ms: 0, ..Config::default() };
    let views = log.views_with(folder.path(), one_by_one).await;
    settled(&views, &log).await;
    log.push(history.commit(&system(), vec![registered("System"), skipped(Position::new(3)), skipped(said)]));
    settled(&views, &log).await;
    let aside = views.keys().set_aside(&acme()).unwrap();
    assert!(aside.position == said && aside.commits == 5, "{aside:?}");
    assert!(aside.reason.contains("nothing says that it is a commit of this tenant"), "{aside:?}");
    // So the stream is released when all of it is folded, and not a commit earlier.
    log.repair();
    views.try_again().await.unwrap();
    assert_eq!(set_aside(&views), []);
    assert!(views.keys().authenticate_lookup(&key_id("a222")).is_some(), "its last commit is folded");
}

#[tokio::test]
async fn a_skip_is_remembered_over_a_restart_in_the_midst_of_a_long_past() {
    let (mut history, commits) = lived();
    let log = TestLog::of(&commits);
    let one_by_one = Config { batch_events: 1, linger_ms: 0, ..Config::default() };
    let (folder, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    log.damage(Position::new(3));
    drop(caught_up(folder.path(), &log).await);
    log.push(history.commit(&system(), vec![registered("System"), skipped(Position::new(3))]));
    // Four commits a turn, and seven are to be folded.
    for _ in 0..6 {
        let views = log.views_with(folder.path(), one_by_one.clone()).await;
        tokio::task::yield_now().await;
        drop(views);
    }
    let views = log.views_with(folder.path(), one_by_one).await;
    settled(&views, &log).await;
    assert_eq!(set_aside(&views), []);
    let anew = caught_up(fresh.path(), &log).await;
    settled(&anew, &log).await;
    assert_eq!(told(&views, &acme()).await.unwrap(), told(&anew, &acme()).await.unwrap());
}

#[tokio::test]
async fn only_the_operators_stream_skips_and_only_what_cannot_be_folded() {
    let (mut history, commits) = lived();
    let (log, folder) = (TestLog::of(&commits), tempfile::tempdir().unwrap());
    log.damage(PLACE);
    let views = caught_up(folder.path(), &log).await;
    let theirs = told(&views, &other()).await.unwrap();
    // Another tenant's stream says it, or the operators' says it of another place: nothing changes.
    log.push(history.commit(&other(), vec![skipped(PLACE)]));
    log.push(
        history.commit(&system(), vec![registered("System"), skipped(Position::new(7)), skipped(Position::new(3))]),
    );
    settled(&views, &log).await;
    assert_eq!(set_aside(&views).len(), 5);
    assert!(views.keys().set_aside(&acme()).is_some_and(|aside| aside.position == PLACE));
    assert!(views.keys().has_skipped(&acme(), Position::new(3)) && !views.keys().has_skipped(&acme(), PLACE));
    // What can be folded is, whatever was said of it.
    log.repair();
    views.try_again().await.unwrap();
    let sound = TestLog::of(&two_tenants());
    let whole = tempfile::tempdir().unwrap();
    let expected = told(&caught_up(whole.path(), &sound).await, &acme()).await.unwrap();
    assert_eq!(told(&views, &acme()).await.unwrap(), expected);
    assert_ne!(told(&views, &other()).await.unwrap(), theirs, "it has one more event");
}

#[tokio::test]
async fn while_the_operators_stream_is_set_aside_nothing_is_skipped_and_then_all_that_it_says() {
    let (mut history, mut commits) = lived();
    commits.push(history.commit(&system(), vec![registered("System")]));
    let damaged = commits.last().unwrap().position;
    // Its name comes behind `acme`: the one is tried before the other is known to say anything.
    commits.push(history.commit(&system(), vec![skipped(Position::new(3))]));
    let (log, folder) = (TestLog::of(&commits), tempfile::tempdir().unwrap());
    for place in [Position::new(3), damaged] {
        log.damage(place);
    }
    let views = caught_up(folder.path(), &log).await;
    settled(&views, &log).await;
    assert_eq!(set_aside(&views).len(), 10);
    log.repair();
    log.damage(Position::new(3));
    views.try_again().await.unwrap();
    assert_eq!(set_aside(&views), []);
    assert!(told(&views, &acme()).await.is_ok());
}

#[tokio::test]
async fn what_an_early_page_of_the_operators_stream_skips_is_tried_although_later_pages_skip_nothing() {
    let (mut history, mut commits) = lived();
    commits.push(history.commit(&system(), vec![registered("System")]));
    let damaged = commits.last().unwrap().position;
    commits.push(history.commit(&system(), vec![skipped(Position::new(3))]));
    commits.push(history.commit(&system(), vec![issued("s111")]));
    let (log, folder) = (TestLog::of(&commits), tempfile::tempdir().unwrap());
    log.damage(Position::new(3));
    log.damage(damaged);
    // Each commit is a page.
    let one_by_one = Config { batch_events: 1, linger_ms: 0, ..Config::default() };
    let views = log.views_with(folder.path(), one_by_one).await;
    settled(&views, &log).await;
    assert_eq!(set_aside(&views).len(), 10);
    log.repair();
    log.damage(Position::new(3));
    views.try_again().await.unwrap();
    assert_eq!(set_aside(&views), []);
}

#[tokio::test]
async fn a_second_end_is_passed_over_by_the_views_that_cannot_count_it_and_by_no_other() {
    let mut history = History::new(1);
    let commits = [
        history.commit(&acme(), vec![registered("Acme"), issued("k123"), accepted(1, "k123", module_ref("hello", 1))]),
        history.commit(&acme(), vec![finished(1, Outcome::Succeeded)]),
        history.commit(&acme(), vec![finished(1, Outcome::Trapped), issued("k456")]),
        history.commit(&acme(), vec![issued("k789")]),
        history.commit(&system(), vec![registered("System"), skipped(Position::new(3))]),
    ];
    let (log, folder) = (TestLog::of(&commits), tempfile::tempdir().unwrap());
    let views = caught_up(folder.path(), &log).await;
    settled(&views, &log).await;
    assert_eq!(set_aside(&views), []);
    assert!(views.keys().authenticate_lookup(&key_id("k456")).is_some(), "the keys view can fold it, and has");
    let record = views.executions().get(&acme(), crate::testing::execution_id(1)).await.unwrap().unwrap();
    assert_eq!(record.end.unwrap().outcome, Outcome::Succeeded);
}
