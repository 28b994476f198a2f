//! A node without its binary: a real region, real executors, a log in memory, and the gateway on a port of its own.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::{
    aggregate::Authority,
    bus::CommandBus,
    disk_space::DiskSpace,
    dispatch::{Dispatch, DispatchDeps},
    executor::{ExecutorConfig, Executors},
    handle::{Ask, Origin},
    ids::Ids,
    limits::Policy,
    ownership::Alone,
    region::{Region, RegionConfig, RegionDeps},
    tenant::{Command, NewKey, SYSTEM},
};
use wasmwiz_events::{
    blobs::{Blobs, fs::FsBlobs},
    commit::Commit,
    digest::Digest,
    envelope::{Actor, Cause, Envelope},
    event::Event,
    id::{NodeId, TenantId},
    key::{Scope, Scopes},
    log::{Append, EventLog, memory::MemoryLog},
    revision::Epoch,
    tenant::Tier,
    time::{Clock, SystemClock},
};
use wasmwiz_gateway::{
    Gateway, GatewayConfig, GatewayDeps, Readiness,
    auth::{
        api_key::{self, Hasher},
        keyring::{self, Keyring},
    },
    server,
};
use wasmwiz_projections::{Views, views::View};

/// Writes what it reads.
pub(crate) const ECHO: &str = include_str!("../../../examples/echo.wat");

/// Exits with code 3 after writing bytes that are no text.
pub(crate) const EXIT_3: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\ff\fe")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 2))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 3))))"#;

pub(crate) fn wasm(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap()
}

pub(crate) struct Node {
    pub(crate) url: String,
    pub(crate) admin_url: String,
    pub(crate) address: SocketAddr,
    pub(crate) operator: String,
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) views: Views,
    pub(crate) readiness: Readiness,
    region: Region,
    client: reqwest::Client,
    stop: CancellationToken,
    _data: TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::start_with(GatewayConfig::default()).await
    }

    pub(crate) async fn start_with(config: GatewayConfig) -> Self {
        let pem = keyring::draw().unwrap();
        Self::start_signing(config, Keyring::new(&[("001.pem".to_owned(), pem)], None).unwrap()).await
    }

    /// A node that signs tokens with these keys.
    pub(crate) async fn start_signing(config: GatewayConfig, keyring: Keyring) -> Self {
        Self::on(Arc::new(MemoryLog::new()), None, config, keyring).await
    }

    /// Another node on the same log, with views that begin anew.
    pub(crate) async fn without_its_views(&self) -> Self {
        let keyring = Keyring::new(&[("001.pem".to_owned(), keyring::draw().unwrap())], None).unwrap();
        Self::on(Arc::clone(&self.log), Some(self.operator.clone()), GatewayConfig::default(), keyring).await
    }

    async fn on(log: Arc<MemoryLog>, operator: Option<String>, config: GatewayConfig, keyring: Keyring) -> Self {
        let data = tempfile::tempdir().unwrap();
        let shared: Arc<dyn EventLog> = Arc::clone(&log) as _;
        let blobs: Arc<dyn Blobs> = Arc::new(FsBlobs::open(&data.path().join("blobs")).unwrap());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (node, boot, policy) = (NodeId::new("node-1").unwrap(), Ids.boot(), Policy::default());
        let deps = RegionDeps {
            log: Arc::clone(&shared),
            clock: Arc::clone(&clock),
            policy,
            ownership: Arc::new(Alone { node: node.clone(), boot }),
            snapshots: None,
        };
        let region = Region::start(RegionConfig::default(), deps).await.unwrap();
        let executors = Executors::start(ExecutorConfig { threads: 1, guests_max: 8, ..Default::default() }).unwrap();
        let views = Views::open(&data.path().join("views"), Default::default(), Arc::clone(&shared)).await.unwrap();
        let dispatch = Dispatch::new(DispatchDeps {
            bus: CommandBus::alone(region.clone()),
            executors,
            blobs: Arc::clone(&blobs),
            log: Arc::clone(&shared),
            node,
            boot,
            space: DiskSpace::default(),
        });
        let operator = match operator {
            Some(operator) => operator,
            None => first_operator(&region, &views).await,
        };
        let readiness = Readiness::default();
        let deps = GatewayDeps {
            bus: CommandBus::alone(region.clone()),
            dispatch,
            views: views.clone(),
            log: shared,
            blobs,
            clock,
            policy,
            pepper: None,
            keyring,
            last_used: Default::default(),
            readiness: readiness.clone(),
            feed: None,
            feed_in_readiness: false,
        };
        let gateway = Gateway::new(deps, config.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(server::serve(listener, wasmwiz_gateway::app(&gateway), config.server, stop.clone()));
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin_url = format!("http://{}", admin.local_addr().unwrap());
        let endpoint = wasmwiz_gateway::admin(&gateway, || "wasmwiz_up 1\n".to_owned());
        tokio::spawn(server::serve(admin, endpoint, Default::default(), stop.clone()));
        let (url, client) =
            (format!("http://{address}"), reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap());
        Self { url, admin_url, address, operator, log, views, readiness, region, client, stop, _data: data }
    }

    /// Removes bytes that are kept, as a sweep does.
    pub(crate) fn remove_blob(&self, digest: Digest) {
        let hex = digest.to_hex();
        let (prefix, _) = hex.split_at(2);
        std::fs::remove_file(self._data.path().join("blobs/sha256").join(prefix).join(&hex)).unwrap();
    }

    pub(crate) fn request(&self, method: Method, path: &str, key: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        if key.is_empty() { request } else { request.bearer_auth(key) }
    }

    pub(crate) fn get(&self, path: &str, key: &str) -> RequestBuilder {
        self.request(Method::GET, path, key)
    }

    pub(crate) fn post(&self, path: &str, key: &str) -> RequestBuilder {
        self.request(Method::POST, path, key)
    }

    /// Registers a tenant; gives its id and its first key.
    pub(crate) async fn tenant(&self, tier: &str) -> (String, String) {
        let body = serde_json::json!({"name": "Acme", "tier": tier});
        let (status, tenant) = read(self.post("/v1/tenants", &self.operator).json(&body)).await;
        assert_eq!(status, 201, "{tenant}");
        (text(&tenant["id"]), text(&tenant["initial_key"]["secret"]))
    }

    /// Registers a tenant of this id, as the platform does with its own; gives its first key.
    pub(crate) async fn tenant_named(&self, id: &str) -> String {
        let secret = api_key::draw(&mut rand::rng(), &Hasher::default());
        let key = new_key(&secret, "first", Scopes::TENANT);
        register(&self.region, &self.views, id, key).await;
        secret.text().to_owned()
    }

    pub(crate) async fn publish(&self, key: &str, name: &str, wat: &str) -> (u16, Value) {
        let put = self.request(Method::PUT, &format!("/v1/modules/{name}"), key);
        read(put.header("content-type", "application/wasm").body(wasm(wat))).await
    }

    /// Writes what another owner of the tenant has decided, as one commit.
    pub(crate) async fn write(&self, tenant: &str, events: Vec<Event>) {
        let tenant = TenantId::new(tenant).unwrap();
        let (head, now) = (self.log.head(&tenant).await.unwrap(), SystemClock.now());
        let cause = || Cause {
            command: Ids.command(),
            correlation: None,
            actor: Actor::system(),
            traceparent: None,
            idempotency: None,
        };
        let envelope = |(event, n): (Event, u64)| Envelope {
            id: Ids.event(),
            tenant: tenant.clone(),
            revision: head.revision.plus(n),
            time: now,
            cause: cause(),
            event,
        };
        let envelopes = events.into_iter().zip(1..).map(envelope).collect();
        let commit = Commit::seal(&head, tenant.clone(), Ids.commit(), Epoch::FIRST, now, envelopes).unwrap();
        self.log.append(Append { commit, payloads: vec![] }).await.unwrap();
    }

    /// Waits until the views have everything that is in the log.
    pub(crate) async fn settle(&self) {
        let tail = self.log.tail().await.unwrap();
        self.views.wait_for(tail, Duration::from_secs(10)).await.unwrap();
    }
}

fn new_key(secret: &api_key::NewSecret, name: &str, scopes: Scopes) -> NewKey {
    NewKey { key_id: secret.key_id().clone(), name: name.into(), scopes, hash: secret.hash(), expires_at: None }
}

async fn register(region: &Region, views: &Views, id: &str, key: NewKey) {
    let command = Command::Register { name: id.into(), tier: Tier::Enterprise, first_key: Some(key) };
    let ask = Ask { command, by: Authority::System, origin: Origin::internal(Ids.command()), payloads: vec![] };
    let decided = region.ask(&TenantId::new(id).unwrap(), ask).await.unwrap();
    views.wait_for(decided.position, Duration::from_secs(10)).await.unwrap();
}

async fn first_operator(region: &Region, views: &Views) -> String {
    let secret = api_key::draw(&mut rand::rng(), &Hasher::default());
    let key = new_key(&secret, "operator", Scopes::TENANT.with(Scope::Operator));
    register(region, views, SYSTEM, key).await;
    views.until_live(View::Keys, Duration::from_secs(10)).await.unwrap();
    secret.text().to_owned()
}

/// A key of the right form, with a checksum that fits: the id of one key and the secret of another.
pub(crate) fn with_secret_of(key: &str, other: &str) -> String {
    api_key::text_of(&key[3..15], &other[16..48])
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

pub(crate) async fn send(request: RequestBuilder) -> Response {
    request.send().await.unwrap()
}

pub(crate) async fn read(request: RequestBuilder) -> (u16, Value) {
    let response = send(request).await;
    let status = response.status().as_u16();
    let body = response.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// Expects a problem document, and gives its slug.
pub(crate) async fn problem(request: RequestBuilder) -> (u16, String) {
    let response = send(request).await;
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{status}");
    assert!(response.headers().contains_key("x-request-id"));
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(body["status"].as_u64(), Some(u64::from(status)));
    assert!(!text(&body["detail"]).is_empty());
    (status, text(&body["type"]).trim_start_matches("https://wasmwiz.dev/problems/").to_owned())
}
