//! Uploads and the compiler: what it costs, for whom, and when.

use std::{ffi::OsString, path::Path};

use wasmwiz_actors::executor::{Asker, CompileConfig, PrepareError};

use super::*;

/// Waits until it holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn compile_of_a_tenant() -> CompileConfig {
    CompileConfig {
        permits: 2,
        permits_per_tenant: 1,
        waiting_per_tenant_max: 1,
        wall_ms: 300,
        ..CompileConfig::default()
    }
}

/// A compiler that notes that it has begun, and compiles nothing before the gate is open. Then it ends as one that failed.
fn gated(folder: &Path) -> Vec<OsString> {
    let folder = folder.display();
    let script = format!(
        "/bin/cat > /dev/null; : > {folder}/begun-$$; until [ -e {folder}/gate ]; do /bin/sleep 0.02; done; exit 70"
    );
    ["/bin/sh", "-c", &script].map(OsString::from).into()
}

#[tokio::test]
async fn an_upload_that_does_not_compile_now_is_neither_accepted_nor_charged_and_holds_no_slot() {
    let compile = CompileConfig { worker: Some(vec!["/bin/sleep".into(), "60".into()]), ..compile_of_a_tenant() };
    let node = Arc::new(Node::start_with(ExecutorConfig { guests_max: 1, wait_ms: 0, compile, ..executors() }).await);
    let before = node.events().len();
    let run = |n: u8| {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.execute(Code::Inline(with_a_custom_section(n)), "").await })
    };
    // One compiles for as long as it may, one waits for it, and the third is over the tenant's share.
    let compiling = [run(0), run(1), run(2)];
    let errors = futures_util::future::join_all(compiling).await.into_iter().map(|done| done.unwrap().unwrap_err());
    let errors: Vec<_> = errors.collect();
    let over_share = |error: &&DispatchError| matches!(error, DispatchError::TooManyCompilations { limit: 2, .. });
    assert!(errors.iter().filter(over_share).count() >= 1, "{errors:?}");
    // None of them was refused for the one slot there is: nobody held it. And none for what the host was too slow for.
    assert!(errors.iter().all(|error| !matches!(error, DispatchError::Busy { .. })), "{errors:?}");
    assert!(errors.iter().any(|error| matches!(error, DispatchError::NotNow(_))), "{errors:?}");
    assert_eq!(node.events().len(), before);
}

#[tokio::test]
async fn one_tenants_uploads_do_not_take_the_compiler_from_another() {
    let folder = tempfile::tempdir().unwrap();
    let begun = || {
        let files = std::fs::read_dir(folder.path()).unwrap();
        files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("begun")).count()
    };
    let worker = Some(gated(folder.path()));
    let compile = CompileConfig { worker, wall_ms: 60_000, ..compile_of_a_tenant() };
    let executors = Executors::start(ExecutorConfig { compile, ..executors() }).unwrap();
    let prepare = |tenant: &str, n: u8| {
        let (executors, wasm) = (executors.clone(), with_a_custom_section(n));
        let asker = Asker::Tenant(TenantId::new(tenant).unwrap());
        tokio::spawn(async move { executors.prepare(asker, Digest::of(&wasm), wasm).await })
    };
    // Given a flood of which none is done: one compiles, one waits for it, and all the others are over the share.
    let flood: Vec<_> = (0..64).map(|n| prepare("flood", n)).collect();
    until("all but two are turned away", || flood.iter().filter(|asked| asked.is_finished()).count() == 62).await;
    until("one compiles", || begun() == 1).await;
    // When another tenant asks, then its module is compiled beside that one.
    let other = prepare("other", 100);
    until("another tenant's compiles, too", || begun() == 2).await;
    assert!(!other.is_finished());

    std::fs::write(folder.path().join("gate"), "").unwrap();
    assert!(matches!(other.await.unwrap(), Err(PrepareError::Failed(_))));
    let flooded = futures_util::future::join_all(flood).await;
    let over = |made: &&Result<_, _>| matches!(made, Ok(Err(PrepareError::OverShare { limit: 2 })));
    assert_eq!(flooded.iter().filter(over).count(), 62);
    assert_eq!(flooded.iter().filter(|made| matches!(made, Ok(Err(PrepareError::Failed(_))))).count(), 2);
}

#[tokio::test]
async fn as_many_as_a_tenant_may_have_compiled_are() {
    let compile = CompileConfig { wall_ms: 60_000, ..compile_of_a_tenant() };
    let executors = Executors::start(ExecutorConfig { compile, ..executors() }).unwrap();
    let prepare = |tenant: &str, n: u8| {
        let (executors, wasm) = (executors.clone(), with_a_custom_section(n));
        let asker = Asker::Tenant(TenantId::new(tenant).unwrap());
        async move { executors.prepare(asker, Digest::of(&wasm), wasm).await }
    };
    for made in futures_util::future::join_all([prepare("one", 0), prepare("one", 1), prepare("other", 2)]).await {
        made.unwrap();
    }
}

#[tokio::test]
async fn a_published_module_whose_artefact_is_gone_is_compiled_again_however_many_run() {
    // Nothing is kept on disk and one module in memory, so the second name evicts the first.
    let compile = CompileConfig { wall_ms: 10_000, ..compile_of_a_tenant() };
    let config = ExecutorConfig { cached_modules_max: 1, guests_max: 8, compile, ..executors() };
    let node = Node::start_with(config).await;
    let names = ["one", "two", "three", "four"].map(|name| ModuleName::new(name).unwrap());
    for (name, n) in names.iter().zip(0..) {
        node.publish_as(name.clone(), with_a_custom_section(n)).await.unwrap();
    }
    let all = names.map(|name| node.execute(Code::Named { name, version: None }, "hello"));
    for done in futures_util::future::join_all(all).await {
        let End::Finished(finished) = done.unwrap().end else { panic!("not finished") };
        assert_eq!(finished.outcome, Outcome::Succeeded, "{finished:?}");
    }
}
