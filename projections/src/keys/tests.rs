//! The view of keys: its fold and its queries, given events.

use wasmwiz_events::{
    commit::Recorded,
    event::Event,
    key::{Revoked, Rotated},
    tenant::{Renamed, Resumed, Suspended, TierChanged},
};

use super::*;
use crate::testing::{
    DEADLINE, EPOCH_MS, History, TestLog, accepted, issued, key_id, module_ref, registered, tenant_id, views_of,
};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(EPOCH_MS + ms)
}

#[tokio::test]
async fn a_tenant_is_what_its_events_say() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let commits = [
        history.commit(&acme, vec![registered("Acme")]),
        history.commit(
            &acme,
            vec![
                Event::TenantRenamed(Renamed { name: "Acme & Co".to_owned() }),
                Event::TenantTierChanged(TierChanged { tier: Tier::Pro }),
                Event::TenantSuspended(Suspended { reason: Some("unpaid".to_owned()) }),
            ],
        ),
        history.commit(&acme, vec![Event::TenantResumed(Resumed {})]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let log = TestLog::of(&commits[..2]);
    let views = log.views(folder.path()).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    let tenant = views.keys().tenant(&acme).unwrap();
    let expected = TenantRecord {
        id: acme.clone(),
        name: "Acme & Co".to_owned(),
        tier: Tier::Pro,
        standing: Standing::Suspended { reason: Some("unpaid".to_owned()) },
        registered_at: at(0),
        registered_position: Position::new(1),
        revision: Revision::new(4),
    };
    assert_eq!(*tenant, expected);

    views.wait_for(log.push(commits[2].clone()), DEADLINE).await.unwrap();
    assert_eq!(views.keys().tenant(&acme).unwrap().standing, Standing::Active);
    drop(views);

    // The mirror in memory is read from the rows at the next start.
    let views = log.views(folder.path()).await;
    let expected = TenantRecord { standing: Standing::Active, revision: Revision::new(5), ..expected };
    assert_eq!(views.keys().tenant(&acme).as_deref(), Some(&expected));
}

#[tokio::test]
async fn a_rotated_key_accepts_its_old_secret_until_the_grace_ends() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let (old, new) = (Digest::of(b"k123"), Digest::of(b"new"));
    let rotation = Rotated { key_id: key_id("k123"), hash: new, grace_until: at(10_000), writes_full_at: None };
    let commits = [
        history.commit(&acme, vec![registered("Acme"), issued("k123")]),
        history.commit(&acme, vec![Event::KeyRotated(rotation)]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let key = views.keys().authenticate_lookup(&key_id("k123")).unwrap();
    assert_eq!(key.hashes_at(at(9_999)).collect::<Vec<_>>(), [&new, &old]);
    assert_eq!(key.hashes_at(at(10_000)).collect::<Vec<_>>(), [&new]);
    let listed = views.keys().list_keys(&acme, Page::first(10)).await.unwrap();
    assert!(listed.items == [(*key).clone()], "rows and mirror say the same");
}

#[tokio::test]
async fn a_revoked_or_expired_key_is_not_valid() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let Event::KeyIssued(mut expiring) = issued("k456") else { unreachable!() };
    expiring.expires_at = Some(at(500));
    let commits = [
        history.commit(&acme, vec![registered("Acme"), issued("k123"), Event::KeyIssued(expiring)]),
        history.commit(&acme, vec![Event::KeyRevoked(Revoked { key_id: key_id("k123") })]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    assert!(views.keys().authenticate_lookup(&key_id("k123")).is_none());
    let revoked = views.keys().get_key(&acme, &key_id("k123")).await.unwrap().unwrap();
    assert_eq!(revoked.revoked_at, Some(at(1)));
    assert!(!revoked.is_valid_at(at(2)));
    let expiring = views.keys().authenticate_lookup(&key_id("k456")).unwrap();
    assert!(expiring.is_valid_at(at(499)) && !expiring.is_valid_at(at(500)));
}

#[tokio::test]
async fn revoked_keys_are_rows_and_take_no_memory_also_after_a_restart() {
    let (acme, other) = (tenant_id("acme"), tenant_id("other"));
    let mut history = History::new(1);
    let revoked = |n: u32| Event::KeyRevoked(Revoked { key_id: key_id(&format!("key{n}")) });
    let mut commits = vec![history.commit(&acme, vec![registered("Acme"), issued("live")])];
    for n in 0..20 {
        commits.push(history.commit(&acme, vec![issued(&format!("key{n}"))]));
        commits.push(history.commit(&acme, vec![revoked(n)]));
    }
    let folder = tempfile::tempdir().unwrap();
    let log = TestLog::of(&commits);
    let mut views = log.views(folder.path()).await;
    for _ in 0..2 {
        views.wait_for(log.end(), DEADLINE).await.unwrap();
        assert_eq!(views.keys().directory.0.read().unwrap().keys.len(), 1);
        assert!(views.keys().get_key(&acme, &key_id("key7")).await.unwrap().unwrap().revoked_at.is_some());
        assert!(views.keys().get_key(&other, &key_id("key7")).await.unwrap().is_none());
        drop(views);
        views = log.views(folder.path()).await;
    }
    // What a later event says of a revoked key changes nothing, and nobody else gets its id.
    let before = views.keys().get_key(&acme, &key_id("key7")).await.unwrap();
    let end = log.push(history.commit(&acme, vec![revoked(7)]));
    views.wait_for(end, DEADLINE).await.unwrap();
    assert!(views.keys().get_key(&acme, &key_id("key7")).await.unwrap() == before);
    let taken = log.push(history.commit(&other, vec![registered("Other"), issued("key7")]));
    views.wait_for(taken, DEADLINE).await.unwrap();
    assert!(views.keys().get_key(&acme, &key_id("key7")).await.unwrap() == before);
    let again = log.push(history.commit(&acme, vec![issued("key7")]));
    views.wait_for(again, DEADLINE).await.unwrap();
    assert!(views.keys().authenticate_lookup(&key_id("key7")).is_none());
}

#[tokio::test]
async fn a_key_that_was_never_issued_cannot_change() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let commits = [
        history.commit(&acme, vec![registered("Acme")]),
        history.commit(&acme, vec![Event::KeyRevoked(Revoked { key_id: key_id("k123") })]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let log = TestLog::of(&commits);
    let views = log.views(folder.path()).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();
    assert_eq!(views.keys().set_aside(&acme).unwrap().position, commits[1].position);
}

#[tokio::test]
async fn a_key_remembers_when_it_last_ran_something() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let module = module_ref("hello", 1);
    let mut commits = vec![history.commit(&acme, vec![registered("Acme"), issued("k123")])];
    history.pass_ms(99);
    commits.push(history.commit(&acme, vec![accepted(1, "k123", module.clone()), accepted(2, "tok3n", module)]));
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    assert_eq!(views.keys().get_key(&acme, &key_id("k123")).await.unwrap().unwrap().last_used_at, Some(at(100)));
    assert!(views.keys().authenticate_lookup(&key_id("tok3n")).is_none());
}

#[tokio::test]
async fn another_tenants_keys_are_not_there() {
    let (acme, other) = (tenant_id("acme"), tenant_id("other"));
    let mut history = History::new(1);
    let commits = [
        history.commit(&acme, vec![registered("Acme"), issued("k123")]),
        history.commit(&other, vec![registered("Other"), issued("k456")]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    assert!(views.keys().get_key(&acme, &key_id("k456")).await.unwrap().is_none());
    let listed = views.keys().list_keys(&acme, Page::first(10)).await.unwrap();
    assert_eq!(listed.items.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["k123"]);
}

/// What a tenant and its key `k123` hold against another tenant's of the same id: everything that may be said of one.
fn taken(history: &mut History) -> Vec<Arc<Recorded>> {
    let (acme, other) = (tenant_id("acme"), tenant_id("other"));
    let revoked = Event::KeyRevoked(Revoked { key_id: key_id("k123") });
    vec![
        history.commit(&acme, vec![registered("Acme"), issued("k123")]),
        history.commit(&other, vec![registered("Other"), issued("k123"), accepted(1, "k123", module_ref("hello", 1))]),
        history.commit(&other, vec![issued("k456"), revoked]),
    ]
}

#[tokio::test]
async fn an_id_that_is_taken_opens_nothing_for_the_later_tenant_and_stops_nobody() {
    let (acme, other) = (tenant_id("acme"), tenant_id("other"));
    // Folded in one batch, and with a batch for each commit: the same comes of it.
    for in_pieces in [false, true] {
        let mut history = History::new(1);
        let commits = taken(&mut history);
        let folder = tempfile::tempdir().unwrap();
        let log = TestLog::of(if in_pieces { &commits[..1] } else { &commits });
        let mut views = log.views(folder.path()).await;
        views.wait_for(log.end(), DEADLINE).await.unwrap();
        for commit in commits.iter().skip(if in_pieces { 1 } else { commits.len() }) {
            views.wait_for(log.push(commit.clone()), DEADLINE).await.unwrap();
        }
        for _ in 0..2 {
            assert_eq!(views.keys().authenticate_lookup(&key_id("k123")).unwrap().tenant, acme);
            assert_eq!(views.keys().authenticate_lookup(&key_id("k456")).unwrap().tenant, other);
            assert_eq!(views.keys().holder(&key_id("k123")).await.unwrap(), Some(acme.clone()));
            let refused = RefusedKey { id: key_id("k123"), tenant: other.clone(), revision: Revision::new(2) };
            assert_eq!(views.keys().refused(), [refused]);
            drop(views);
            views = log.views(folder.path()).await;
            views.wait_for(log.end(), DEADLINE).await.unwrap();
        }
    }
}

#[tokio::test]
async fn pages_of_keys_and_tenants_stay_where_they_are_while_rows_are_added() {
    let mut history = History::new(1);
    let acme = tenant_id("acme");
    let mut commits = vec![history.commit(&acme, vec![registered("Acme")])];
    for n in 0..5 {
        commits.push(history.commit(&acme, vec![issued(&format!("key{n}"))]));
        let tenant = tenant_id(&format!("t{n}"));
        commits.push(history.commit(&tenant, vec![registered("T")]));
    }
    let folder = tempfile::tempdir().unwrap();
    let log = TestLog::of(&commits);
    let views = log.views(folder.path()).await;
    views.wait_for(log.end(), DEADLINE).await.unwrap();

    let keys = views.keys().list_keys(&acme, Page::first(3)).await.unwrap();
    let tenants = views.keys().list_tenants(Page::first(4)).await.unwrap();
    log.push(history.commit(&acme, vec![issued("later")]));
    let end = log.push(history.commit(&tenant_id("later"), vec![registered("Later")]));
    views.wait_for(end, DEADLINE).await.unwrap();
    let more_keys = views.keys().list_keys(&acme, Page::following(3, keys.next.unwrap())).await.unwrap();
    let more_tenants = views.keys().list_tenants(Page::following(4, tenants.next.unwrap())).await.unwrap();

    let ids: Vec<_> = keys.items.iter().chain(&more_keys.items).map(|key| key.id.as_str()).collect();
    assert_eq!(ids, ["key4", "key3", "key2", "key1", "key0"]);
    let ids: Vec<_> = tenants.items.iter().chain(&more_tenants.items).map(|tenant| tenant.id.as_str()).collect();
    assert_eq!(ids, ["t4", "t3", "t2", "t1", "t0", "acme"]);
    assert!(more_keys.next.is_none() && more_tenants.next.is_none());
}
