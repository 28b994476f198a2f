//! The view of modules: its fold and its queries, given events.

use wasmwiz_events::{
    module::Deleted,
    settings::{Clock, Sleep},
};

use super::*;
use crate::testing::{History, module_name, module_ref, published, registered, tenant_id, views_of};

fn deleted(name: &str) -> Event {
    Event::ModuleDeleted(Deleted { name: module_name(name), writes_full_at: None })
}

fn labels(modules: &[ModuleRecord]) -> Vec<String> {
    modules.iter().map(|module| format!("{}@{}", module.name, module.version)).collect()
}

#[tokio::test]
async fn a_list_shows_the_latest_version_of_each_live_name() {
    let acme = tenant_id("acme");
    let mut history = History::new(1);
    let commits = [
        history.commit(&acme, vec![registered("Acme"), published("b", 1), published("a", 1), published("gone", 1)]),
        history.commit(&acme, vec![published("a", 2), deleted("gone"), published("c", 1)]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let first = views.modules().list(&acme, Page::first(2)).await.unwrap();
    assert_eq!(labels(&first.items), ["a@2", "b@1"]);
    let second = views.modules().list(&acme, Page::following(2, first.next.unwrap())).await.unwrap();
    assert_eq!(labels(&second.items), ["c@1"]);
    assert!(second.next.is_none());

    let module = views.modules().get(&acme, &module_name("a")).await.unwrap().unwrap();
    assert_eq!(module.digest, module_ref("a", 2).digest);
    assert_eq!((module.size_bytes, module.kind, module.deleted_at), (671, Kind::Core, None));
    assert_eq!(module.imports, ["wasi_snapshot_preview1.fd_write"]);
    assert_eq!(module.exports, ["_start"]);
    assert!(views.modules().get(&acme, &module_name("gone")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_version_is_shown_with_how_its_executions_run() {
    let acme = tenant_id("acme");
    let settings = Settings { sleep: Sleep::Skip, clock: Clock::Virtual, fuel: Some(9) };
    let Event::ModulePublished(second) = published("a", 2) else { unreachable!() };
    let second = Event::ModulePublished(Published { settings, ..second });
    let mut history = History::new(1);
    let commits = [history.commit(&acme, vec![registered("Acme"), published("a", 1), second])];
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let latest = views.modules().get(&acme, &module_name("a")).await.unwrap().unwrap();
    assert_eq!((latest.version, latest.settings), (2, settings));
    let listed = views.modules().versions(&acme, &module_name("a"), Page::first(5)).await.unwrap();
    assert_eq!(listed.items.iter().map(|one| one.settings).collect::<Vec<_>>(), [settings, Settings::default()]);
}

#[tokio::test]
async fn a_name_published_again_after_its_deletion_has_only_its_new_versions() {
    let acme = tenant_id("acme");
    let name = module_name("a");
    let mut history = History::new(1);
    let commits = [
        history.commit(&acme, vec![registered("Acme"), published("a", 1), published("a", 2)]),
        history.commit(&acme, vec![deleted("a")]),
        history.commit(&acme, vec![published("a", 3), published("a", 4)]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let first = views.modules().versions(&acme, &name, Page::first(1)).await.unwrap();
    let second = views.modules().versions(&acme, &name, Page::following(5, first.next.unwrap())).await.unwrap();
    assert_eq!((labels(&first.items), labels(&second.items)), (vec!["a@4".to_owned()], vec!["a@3".to_owned()]));
    let old = views.modules().get_version(&acme, &name, 2).await.unwrap().unwrap();
    assert_eq!(old.deleted_at, Some(commits[1].commit.header().recorded_at));
    assert!(views.modules().get_version(&acme, &name, 9).await.unwrap().is_none());
}

#[tokio::test]
async fn another_tenants_modules_are_not_there() {
    let (acme, other) = (tenant_id("acme"), tenant_id("other"));
    let mut history = History::new(1);
    let commits = [
        history.commit(&acme, vec![registered("Acme")]),
        history.commit(&other, vec![registered("Other"), published("theirs", 1)]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let views = views_of(folder.path(), &commits).await;
    let (modules, name) = (views.modules(), module_name("theirs"));
    assert!(modules.list(&acme, Page::first(10)).await.unwrap().items.is_empty());
    assert!(modules.get(&acme, &name).await.unwrap().is_none());
    assert!(modules.get_version(&acme, &name, 1).await.unwrap().is_none());
    assert!(modules.versions(&acme, &name, Page::first(10)).await.unwrap().items.is_empty());
    assert!(modules.get(&other, &name).await.unwrap().is_some());
}
