//! Issuers outside: what of theirs is believed, how their keys are learned, and that nobody is let in when they are not there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail like tests, and read the clock"
)]

#[path = "support/forge.rs"]
mod forge;
mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use forge::{Forge, Signer};
use reqwest::Method;
use serde_json::{Value, json};
use support::{ECHO, Node, problem, read, send, text};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use wasmwiz_gateway::{
    GatewayConfig,
    auth::config::{AttemptsConfig, FetchConfig, TokensConfig},
};

/// How long something may take that is bound to happen.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a site says at a path.
#[derive(Clone)]
enum Says {
    Json(Value),
    Raw(String),
    Nothing,
}

/// An issuer's site.
struct Site {
    url: String,
    keys: Arc<Mutex<Says>>,
    discovery: Arc<Mutex<Says>>,
    /// How often its keys were fetched.
    fetched: Arc<AtomicUsize>,
}

impl Site {
    async fn open(keys: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let site = Self {
            keys: Arc::new(Mutex::new(set(keys))),
            discovery: Arc::new(Mutex::new(Says::Json(json!({"issuer": url, "jwks_uri": format!("{url}/keys")})))),
            fetched: Arc::default(),
            url,
        };
        let (keys, discovery) = (Arc::clone(&site.keys), Arc::clone(&site.discovery));
        let fetched = Arc::clone(&site.fetched);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&discovery), Arc::clone(&keys), Arc::clone(&fetched)));
            }
        });
        site
    }

    fn publish(&self, keys: &[&Signer]) {
        *self.keys.lock().unwrap() = set(keys);
    }

    fn break_keys(&self, says: Says) {
        *self.keys.lock().unwrap() = says;
    }

    fn describe(&self, says: Says) {
        *self.discovery.lock().unwrap() = says;
    }
}

fn set(keys: &[&Signer]) -> Says {
    Says::Json(json!({"keys": keys.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}))
}

async fn answer(
    mut stream: TcpStream,
    discovery: Arc<Mutex<Says>>,
    keys: Arc<Mutex<Says>>,
    fetched: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        request.extend(byte);
    }
    let says = if request.starts_with(b"GET /keys ") {
        fetched.fetch_add(1, Ordering::SeqCst);
        keys.lock().unwrap().clone()
    } else {
        discovery.lock().unwrap().clone()
    };
    let text = match says {
        Says::Json(json) => {
            let body = json.to_string();
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        }
        Says::Raw(text) => text,
        Says::Nothing => return std::future::pending().await,
    };
    stream.write_all(text.as_bytes()).await
}

fn issuer(name: &str, site: &Site, tenant: &str) -> Value {
    json!({
        "name": name, "issuer": site.url, "audience": "wiz", "tenant": tenant,
        "allowed": ["modules:read", "modules:write", "executions:run", "executions:read", "audit:read"],
    })
}

/// A node that believes these issuers, looks again soon, and limits nobody.
async fn node(issuers: Vec<Value>) -> Node {
    let fetch = FetchConfig { timeout_ms: 500, unknown_key_every_ms: 100, retry_ms: 50, ..Default::default() };
    let issuers = issuers.into_iter().map(|issuer| serde_json::from_value(issuer).unwrap()).collect();
    let tokens = TokensConfig { fetch, issuers, ..Default::default() };
    tokens.check().unwrap();
    let attempts = AttemptsConfig { per_minute_of_address: 0, per_minute_at_key: 0, ..Default::default() };
    Node::start_with(GatewayConfig { tokens, attempts, ..Default::default() }).await
}

fn forge<'a>(site: &Site, signer: &'a Signer) -> Forge<'a> {
    let now = forge::now();
    Forge {
        header: json!({"alg": signer.algorithm(), "kid": signer.kid, "typ": "at+jwt", "x5t": "ignored"}),
        claims: json!({
            "iss": site.url, "aud": ["wiz"], "sub": "ada", "iat": now, "exp": now + 600,
            "scope": "openid modules:read modules:write executions:run executions:read keys:manage operator",
        }),
        signer,
    }
}

async fn until(node: &Node, token: &str, status: u16) {
    let wait = tokio::time::timeout(DEADLINE, async {
        while send(node.get("/v1/modules", token)).await.status() != status {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    wait.await.unwrap_or_else(|_| panic!("{status} does not come"));
}

/// The tenant of all subjects in these tests.
const TENANT: &str = "acme";

/// A node that knows the keys of this site, and a key of the tenant.
async fn known(site: &Site, signer: &Signer) -> (Node, String) {
    let node = node(vec![issuer("corp", site, TENANT)]).await;
    let key = node.tenant_named(TENANT).await;
    until(&node, &forge(site, signer).token(), 200).await;
    (node, key)
}

#[tokio::test]
async fn a_subject_of_an_issuer_acts_for_its_tenant_within_the_settings() {
    let (rsa, p256, ed) = (Signer::rsa("rsa-1"), Signer::p256("ec-1"), Signer::ed25519("ed-1"));
    let site = Site::open(&[&rsa, &p256, &ed]).await;
    let (node, key) = known(&site, &rsa).await;
    for signer in [&rsa, &p256, &ed] {
        assert_eq!(read(node.get("/v1/modules", &forge(&site, signer).token())).await.0, 200, "{}", signer.kid);
    }
    let token = forge(&site, &p256).token();
    assert_eq!(node.publish(&token, "echo", ECHO).await.0, 201);
    let (status, ran) = read(node.post("/v1/modules/echo/executions", &token).body("x")).await;
    assert_eq!((status, text(&ran["outcome"])), (200, "succeeded".into()));
    let id = text(&ran["key_id"]);
    assert!(id.len() == 32 && id.starts_with("oidc"), "{id}");
    node.settle().await;
    let (_, audit) = read(node.get("/v1/audit?limit=1", &key)).await;
    assert_eq!(text(&audit["items"][0]["type"]), "dev.wasmwiz.execution.finished.v1");
    let (_, audit) = read(node.get("/v1/audit?actor=oidc:corp:ada", &key)).await;
    assert_eq!(audit["items"].as_array().unwrap().len(), 2, "{audit}");
    // The issuer may say so; the settings do not allow it.
    assert_eq!(problem(node.get("/v1/keys", &token)).await, (403, "missing-scope".into()));
    assert_eq!(problem(node.get("/v1/tenants", &token)).await, (403, "missing-scope".into()));
    assert_eq!(problem(node.post("/v1/tokens", &token)).await, (403, "key-required".into()));
    let suspend = node.post(&format!("/v1/tenants/{TENANT}/suspend"), &node.operator);
    assert_eq!(read(suspend).await.0, 200);
    assert_eq!(problem(node.get("/v1/modules", &token)).await, (403, "tenant-suspended".into()));
    let delete = node.request(Method::DELETE, "/v1/modules/echo", &token);
    assert_eq!(problem(delete).await, (403, "tenant-suspended".into()));
}

#[tokio::test]
async fn what_an_issuer_did_not_sign_for_us_is_not_believed() {
    let (rsa, p256, other) = (Signer::rsa("rsa-1"), Signer::p256("ec-1"), Signer::rsa("rsa-1"));
    let site = Site::open(&[&rsa, &p256]).await;
    let (node, _) = known(&site, &rsa).await;
    let now = forge::now();
    let secrets = [rsa.public(), rsa.jwk().to_string().into_bytes(), rsa.jwk()["n"].as_str().unwrap().into()];
    let hmacs = secrets.map(|secret| Signer::hmac(&secret, "rsa-1"));
    let mut tokens: Vec<(&str, String)> = Vec::new();
    for hmac in &hmacs {
        tokens.push(("an RSA key as a secret", forge(&site, hmac).token()));
        let mut disguised = forge(&site, hmac);
        disguised.header["alg"] = json!("RS256");
        tokens.push(("an RSA key as a secret, disguised", disguised.token()));
    }
    let mut change = |name: &'static str, change: &dyn Fn(&mut Forge<'_>)| {
        tokens.push((name, forge(&site, &rsa).with(change).token()));
    };
    change("no algorithm", &|forge| forge.header["alg"] = json!("none"));
    change("a stronger algorithm of the same key", &|forge| forge.header["alg"] = json!("RS512"));
    change("another padding of the same key", &|forge| forge.header["alg"] = json!("PS256"));
    change("the name of another kind of key", &|forge| forge.header["kid"] = json!("ec-1"));
    change("the type of an identity", &|forge| forge.header["typ"] = json!("JWT"));
    change("a key of its own", &|forge| forge.header["jwk"] = other.jwk());
    change("another audience", &|forge| forge.claims["aud"] = json!("them"));
    change("our own audience", &|forge| forge.claims["aud"] = json!("wasmwiz"));
    change("our own name", &|forge| forge.claims["iss"] = json!("wasmwiz"));
    change("nearly the issuer", &|forge| forge.claims["iss"] = json!(format!("{}/", site.url)));
    change("over", &|forge| forge.claims["exp"] = json!(now - 60));
    change("too long", &|forge| forge.claims["exp"] = json!(now + 90_000));
    change("no scope", &|forge| forge.claims["scope"] = json!(null));
    change("no subject", &|forge| forge.claims["sub"] = json!(null));
    change("a subject with a line's end", &|forge| forge.claims["sub"] = json!("a\nb"));
    change("a long subject", &|forge| forge.claims["sub"] = json!("a".repeat(129)));
    change("another key of the same name", &|_| {});
    let last = tokens.len() - 1;
    tokens[last].1 = forge(&site, &other).token();
    for (name, token) in tokens {
        assert_eq!(problem(node.get("/v1/modules", &token)).await, (401, "unauthenticated".into()), "{name}");
    }
}

#[tokio::test]
async fn an_issuer_names_neither_tenants_nor_scopes_by_itself() {
    let rsa = Signer::rsa("rsa-1");
    let site = Site::open(&[&rsa]).await;
    let node = node(vec![json!({
        "name": "corp", "issuer": site.url, "audience": "wiz", "algorithms": ["RS256"], "types": ["JWT"],
        "tenant_claim": "org", "tenants": {"o-1": TENANT},
        "scope_claim": "groups", "scopes": {"devs": ["modules:read"]},
    })])
    .await;
    node.tenant_named(TENANT).await;
    let (other, _) = node.tenant("pro").await;
    let token = |org: &str, groups: Value| {
        let mut forge = forge(&site, &rsa);
        forge.header["typ"] = json!("JWT");
        (forge.claims["org"], forge.claims["groups"]) = (json!(org), groups);
        forge.token()
    };
    until(&node, &token("o-1", json!(["devs"])), 200).await;
    assert_eq!(problem(node.get("/v1/modules", &token("o-1", json!(["modules:read"])))).await.0, 403);
    for org in [TENANT, other.as_str(), "system", "o-2"] {
        assert_eq!(problem(node.get("/v1/modules", &token(org, json!(["devs"])))).await.0, 401, "{org}");
    }
}

#[tokio::test]
async fn a_new_key_is_learned_and_unknown_ones_do_not_cause_a_flood() {
    let (old, new) = (Signer::p256("ec-1"), Signer::p256("ec-2"));
    let site = Site::open(&[&old]).await;
    let (node, _) = known(&site, &old).await;
    site.publish(&[&new]);
    until(&node, &forge(&site, &new).token(), 200).await;
    until(&node, &forge(&site, &old).token(), 401).await;
    let (before, begun) = (site.fetched.load(Ordering::SeqCst), std::time::Instant::now());
    for n in 0..300 {
        let unknown = Signer::p256(&format!("unknown-{n}"));
        let (status, slug) = problem(node.get("/v1/modules", &forge(&site, &unknown).token())).await;
        assert!(
            (status, slug.as_str()) == (401, "unauthenticated")
                || (status, slug.as_str()) == (503, "issuer-unavailable")
        );
    }
    let (fetched, most) = (site.fetched.load(Ordering::SeqCst) - before, begun.elapsed().as_millis() / 100 + 2);
    assert!(fetched as u128 <= most, "{fetched} looks, and there should be {most} at most");
    assert_eq!(read(node.get("/v1/modules", &forge(&site, &new).token())).await.0, 200);
}

#[tokio::test]
async fn keys_that_were_learned_are_good_while_their_issuer_is_away() {
    let key = Signer::ed25519("ed-1");
    let site = Site::open(&[&key]).await;
    let (node, _) = known(&site, &key).await;
    site.break_keys(Says::Raw("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".into()));
    let fetched = site.fetched.load(Ordering::SeqCst);
    let unknown = forge(&site, &Signer::ed25519("ed-2")).token();
    tokio::time::timeout(DEADLINE, async {
        while site.fetched.load(Ordering::SeqCst) < fetched + 2 {
            let status = send(node.get("/v1/modules", &unknown)).await.status().as_u16();
            assert!([401, 503].contains(&status), "{status}");
        }
    })
    .await
    .expect("its keys are looked at again");
    assert_eq!(read(node.get("/v1/modules", &forge(&site, &key).token())).await.0, 200);
}

#[tokio::test]
async fn an_issuer_whose_keys_are_not_known_lets_nobody_in() {
    let key = Signer::p256("ec-1");
    let good = Site::open(&[&key]).await;
    let moved = format!("HTTP/1.1 302 Found\r\nlocation: {}/keys\r\ncontent-length: 0\r\n\r\n", good.url);
    let huge = format!("HTTP/1.1 200 OK\r\n\r\n{{\"keys\":[{}]}}", " ".repeat(100 << 10));
    let many = json!({"keys": (0..33).map(|n| Signer::ed25519(&format!("k{n}")).jwk()).collect::<Vec<_>>()});
    let mut sites = Vec::new();
    for keys in [
        Says::Raw("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".into()),
        Says::Raw(moved.clone()),
        Says::Raw(huge),
        Says::Raw("nonsense".into()),
        Says::Json(json!({"keys": {}})),
        Says::Json(many),
        Says::Nothing,
    ] {
        let site = Site::open(&[&key]).await;
        site.break_keys(keys);
        sites.push(site);
    }
    let keys_of_the_good = format!("{}/keys", good.url);
    for discovery in [
        Says::Raw(moved),
        Says::Json(json!({"issuer": good.url, "jwks_uri": keys_of_the_good})),
        Says::Json(json!({"issuer": "{self}", "jwks_uri": "http://192.0.2.1/keys"})),
        Says::Json(json!({"issuer": "{self}", "jwks_uri": "file:///etc/passwd"})),
        Says::Json(json!({"issuer": "{self}"})),
    ] {
        let site = Site::open(&[&key]).await;
        let named = match discovery {
            Says::Json(json) => {
                let text = json.to_string().replace("{self}", &site.url);
                Says::Json(serde_json::from_str(&text).unwrap())
            }
            other => other,
        };
        site.describe(named);
        sites.push(site);
    }
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    sites.push(Site { url: gone, ..Site::open(&[]).await });
    sites.push(good);
    let settings = sites.iter().enumerate().map(|(n, site)| issuer(&format!("corp-{n}"), site, TENANT));
    let node = node(settings.collect()).await;
    node.tenant_named(TENANT).await;
    let good = sites.pop().unwrap();
    until(&node, &forge(&good, &key).token(), 200).await;
    for (n, site) in sites.iter().enumerate() {
        let response = send(node.get("/v1/modules", &forge(site, &key).token())).await;
        let (status, retry_after) = (response.status().as_u16(), response.headers().get("retry-after").cloned());
        assert_eq!((status, retry_after), (503, Some("1".parse().unwrap())), "{n}");
        assert!(response.text().await.unwrap().contains("problems/issuer-unavailable"), "{n}");
    }
}
