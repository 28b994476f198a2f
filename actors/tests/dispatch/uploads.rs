//! Places for taking modules and inputs in: a tenant has a share of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::{sync::Notify, task::JoinSet};
use wasmwiz_actors::disk_space::Level;
use wasmwiz_events::blobs::{BlobError, Pieces};

use super::*;

/// Places of one tenant, and how many more may wait for one.
const AT_ONCE: usize = 4;
const INSIDE: usize = 32;

/// Keeps the bytes of one module only when it is let.
struct Slow {
    inner: Arc<FsBlobs>,
    held: Digest,
    is_held: AtomicBool,
    waiting: AtomicUsize,
    let_go: Notify,
}

#[async_trait]
impl Blobs for Slow {
    async fn put(&self, bytes: Bytes) -> Result<Digest, BlobError> {
        if Digest::of(&bytes) == self.held {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            loop {
                let let_go = self.let_go.notified();
                if !self.is_held.load(Ordering::SeqCst) {
                    break;
                }
                let_go.await;
            }
        }
        self.inner.put(bytes).await
    }

    async fn get(&self, digest: Digest) -> Result<Option<Bytes>, BlobError> {
        self.inner.get(digest).await
    }

    async fn open_pieces(&self, digest: Digest) -> Result<Option<Pieces>, BlobError> {
        self.inner.open_pieces(digest).await
    }

    async fn contains(&self, digest: Digest) -> Result<bool, BlobError> {
        self.inner.contains(digest).await
    }
}

/// A node whose disk may be made to keep these bytes only when it is let.
async fn slow_for(wasm: &Bytes) -> (Arc<Slow>, Arc<Node>) {
    let data = tempfile::tempdir().unwrap();
    let inner = Arc::new(FsBlobs::open(data.path()).unwrap());
    let slow = Arc::new(Slow {
        inner: Arc::clone(&inner),
        held: Digest::of(wasm),
        is_held: AtomicBool::new(false),
        waiting: AtomicUsize::new(0),
        let_go: Notify::new(),
    });
    let over = Arc::clone(&slow) as Arc<dyn Blobs>;
    let node = Arc::new(Node::over(over, inner, data, executors(), RegionConfig::default()).await);
    (slow, node)
}

#[tokio::test]
async fn what_is_refused_by_the_time_that_it_has_a_place_is_not_kept() {
    let (wasm, late) = (with_a_custom_section(1), with_a_custom_section(2));
    let (slow, node) = slow_for(&wasm).await;
    node.publish(wasm.clone()).await.unwrap();
    // It is compiled, and not kept.
    node.dispatch.space().set(Level::Low);
    let refused = node.publish(late.clone()).await;
    assert!(matches!(refused, Err(DispatchError::DiskFull)), "{refused:?}");
    node.dispatch.space().set(Level::Plenty);

    // All places of the tenant are taken, and it waits for one.
    slow.is_held.store(true, Ordering::SeqCst);
    slow.waiting.store(0, Ordering::SeqCst);
    let upload = |number: usize, wasm: &Bytes| {
        let (node, wasm, name) = (Arc::clone(&node), wasm.clone(), ModuleName::new(&format!("m-{number}")).unwrap());
        tokio::spawn(async move { node.publish_as(name, wasm).await })
    };
    let before: Vec<_> = (0..AT_ONCE).map(|number| upload(number, &wasm)).collect();
    while slow.waiting.load(Ordering::SeqCst) < AT_ONCE {
        tokio::task::yield_now().await;
    }
    let waits = upload(AT_ONCE, &late);
    // Time for it to come as far.
    for n in 0..50 {
        node.ask(Command::Change { name: Some(format!("name {n}")), tier: None }).await.unwrap();
    }

    // By then its tenant may not act any more.
    node.ask(Command::Suspend { reason: None }).await.unwrap();
    slow.is_held.store(false, Ordering::SeqCst);
    slow.let_go.notify_waiters();
    for upload in before.into_iter().chain([waits]) {
        let refused = upload.await.unwrap();
        assert!(matches!(refused, Err(DispatchError::Ask(AskError::Refused(Refusal::Suspended)))), "{refused:?}");
    }
    assert!(!node.blobs.contains(Digest::of(&late)).await.unwrap());
}

#[tokio::test]
async fn time_refuses_what_is_not_kept_yet_and_nothing_that_is() {
    // Given a module, and an input that does not ride with its commit.
    let input = Bytes::from(vec![7_u8; 200_000]);
    let (slow, node) = slow_for(&input).await;
    node.publish(echo()).await.unwrap();
    // When its caller has stopped waiting by the time that there is a slot, then it is not kept.
    let refused = node.dispatch.execute(request(named(None), input.clone(), 0)).await;
    assert!(matches!(refused, Err(DispatchError::Ask(AskError::Refused(Refusal::DeadlinePassed)))), "{refused:?}");
    assert!(!node.blobs.contains(Digest::of(&input)).await.unwrap());

    // When its caller stops waiting while it is being kept, then it is accepted all the same.
    slow.is_held.store(true, Ordering::SeqCst);
    let runs = tokio::spawn({
        let (node, input) = (Arc::clone(&node), input.clone());
        async move { node.dispatch.execute(request(named(None), input, 1_000)).await }
    });
    while slow.waiting.load(Ordering::SeqCst) < 1 {
        assert!(!runs.is_finished(), "it is not kept");
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    slow.is_held.store(false, Ordering::SeqCst);
    slow.let_go.notify_waiters();
    let done = runs.await.unwrap().unwrap();
    assert_eq!(done.accepted.stdin.digest, Digest::of(&input));
}

#[tokio::test]
async fn no_more_inputs_are_kept_than_are_being_decided() {
    // Given a log that takes its time.
    let node = Arc::new(Node::start().await);
    node.publish(echo()).await.unwrap();
    node.log.hold();
    // When a tenant sends more than have their turns.
    let inputs: Vec<Bytes> = (0..8_u8).map(|n| vec![n; 100_000].into()).collect();
    let send = |input: &Bytes| {
        let (node, input) = (Arc::clone(&node), input.clone());
        tokio::spawn(async move { node.enqueue(named(None), input).await })
    };
    let sent: Vec<_> = inputs.iter().map(send).collect();
    node.log.held_back(1).await;
    // Time for the others to be kept, if they were.
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Then those wait that have none.
    let mut kept = 0;
    for input in &inputs {
        kept += usize::from(node.blobs.contains(Digest::of(input)).await.unwrap());
    }
    assert!((1..=AT_ONCE).contains(&kept), "{kept} are kept");
    node.log.release();
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_tenant_waits_for_its_own_uploads_and_another_does_not() {
    let wasm = with_a_custom_section(1);
    let (slow, node) = slow_for(&wasm).await;
    let (other, other_key) = (TenantId::new("other").unwrap(), KeyId::new("key2").unwrap());
    let (hash, scopes) = (Digest::of(b"other secret"), Scopes::TENANT);
    let first_key = NewKey { key_id: other_key.clone(), name: "first".into(), scopes, hash, expires_at: None };
    let command = Command::Register { name: "Other".into(), tier: Tier::Basic, first_key: Some(first_key) };
    let ask = Ask { command, by: Authority::System, origin: origin(), payloads: vec![] };
    node.region.ask(&other, ask).await.unwrap();
    // Once it is compiled, nothing but its place stands between an upload and the disk.
    node.publish_as(ModuleName::new("first").unwrap(), wasm.clone()).await.unwrap();
    node.publish_as(ModuleName::new("second").unwrap(), echo()).await.unwrap();
    slow.is_held.store(true, Ordering::SeqCst);
    slow.waiting.store(0, Ordering::SeqCst);

    let mut uploads = JoinSet::new();
    for number in 0..INSIDE + 8 {
        let (node, wasm) = (Arc::clone(&node), wasm.clone());
        // Two names: how many a tenant may write a minute is not looked at here.
        let name = ModuleName::new(&format!("m-{}", number % 2)).unwrap();
        uploads.spawn(async move { node.publish_as(name, wasm).await });
    }
    for _ in 0..8 {
        let refused = uploads.join_next().await.unwrap().unwrap().unwrap_err();
        assert!(matches!(refused, DispatchError::TooManyUploads { limit: INSIDE, .. }), "{refused}");
    }
    while slow.waiting.load(Ordering::SeqCst) < AT_ONCE {
        tokio::task::yield_now().await;
    }
    let upload = Upload {
        tenant: other,
        by: Authority::Key(other_key),
        origin: origin(),
        name: ModuleName::new("echo").unwrap(),
        wasm: echo(),
        settings: Settings::default(),
        hold: Hold::default(),
    };
    node.dispatch.publish(upload).await.unwrap();

    slow.is_held.store(false, Ordering::SeqCst);
    slow.let_go.notify_waiters();
    while let Some(upload) = uploads.join_next().await {
        upload.unwrap().unwrap();
    }
}
