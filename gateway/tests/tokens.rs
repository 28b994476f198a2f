//! Tokens: what is let in, and everything that is not, against a gateway that serves.

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
#[path = "tokens/forged.rs"]
mod forged;
#[path = "tokens/secrets.rs"]
mod secrets;
mod support;

use forge::{Forge, Signer};
use reqwest::Method;
use serde_json::{Value, json};
use support::{ECHO, Node, problem, read, send, text};
use wasmwiz_gateway::{
    GatewayConfig,
    auth::{
        config::{AttemptsConfig, TokensConfig},
        keyring::{self, Keyring},
        token,
    },
};

/// Nobody is limited: these tests fail often on purpose, and from one address.
fn without_limits() -> GatewayConfig {
    let attempts = AttemptsConfig { per_minute_of_address: 0, per_minute_at_key: 0, ..Default::default() };
    GatewayConfig { attempts, ..Default::default() }
}

/// A node whose signing keys are known, a tenant, and its key.
struct Setting {
    node: Node,
    tenant: String,
    key: String,
    signer: Signer,
    /// Still live, and does not sign.
    older: Signer,
    /// Not live any more.
    retired: Signer,
}

impl Setting {
    async fn new(config: GatewayConfig) -> Self {
        let pems = [keyring::draw().unwrap(), keyring::draw().unwrap(), keyring::draw().unwrap()];
        let [retired, older, signer] = pems.each_ref().map(|pem| Signer::ed25519_of(pem));
        let [_, second, third] = pems;
        let ring = Keyring::new(&[("2.pem".into(), second), ("3.pem".into(), third)], None).unwrap();
        assert_eq!(ring.signer_kid(), signer.kid);
        let node = Node::start_signing(config, ring).await;
        let (tenant, key) = node.tenant("pro").await;
        Self { node, tenant, key, signer, older, retired }
    }

    /// A token as the platform would sign it.
    fn forge(&self) -> Forge<'_> {
        let now = forge::now();
        Forge {
            header: json!({"alg": "EdDSA", "kid": self.signer.kid, "typ": "at+jwt"}),
            claims: json!({
                "iss": "wasmwiz", "aud": "wasmwiz", "sub": &self.key[3..15], "tenant": self.tenant,
                "scope": "modules:read modules:write", "iat": now, "nbf": now, "exp": now + 900, "jti": "t-1",
            }),
            signer: &self.signer,
        }
    }

    async fn status(&self, token: &str) -> u16 {
        let response = send(self.node.get("/v1/modules", token)).await;
        let status = response.status().as_u16();
        if status == 401 {
            assert!(response.headers().contains_key("www-authenticate"));
            let body = response.text().await.unwrap();
            assert!(body.contains("problems/unauthenticated") && !body.contains(token.get(..20).unwrap_or("\0")));
        }
        status
    }
}

fn claim(name: &str, value: Value) -> impl Fn(&mut Forge<'_>) + use<> {
    let name = name.to_owned();
    move |forge| forge.claims[&name] = value.clone()
}

#[tokio::test]
async fn a_key_is_exchanged_for_a_token_that_does_no_more() {
    let setting = Setting::new(without_limits()).await;
    let (node, key) = (&setting.node, &setting.key);
    let response = send(node.post("/v1/tokens", key)).await;
    assert_eq!((response.status().as_u16(), &response.headers()["cache-control"]), (200, &"no-store".parse().unwrap()));
    let token: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!((text(&token["token_type"]), token["expires_in"].as_u64()), ("Bearer".into(), Some(900)));
    let all = text(&token["access_token"]);
    assert_eq!(node.publish(&all, "echo", ECHO).await.0, 201);
    let (_, ran) = read(node.post("/v1/modules/echo/executions", &all).body("x")).await;
    assert_eq!((text(&ran["outcome"]), text(&ran["key_id"])), ("succeeded".into(), key[3..15].to_owned()));

    let body = json!({"scopes": ["modules:read"], "ttl_seconds": 60});
    let (status, narrow) = read(node.post("/v1/tokens", key).json(&body)).await;
    assert_eq!((status, narrow["expires_in"].as_u64(), text(&narrow["scope"])), (200, Some(60), "modules:read".into()));
    let narrow = text(&narrow["access_token"]);
    assert_eq!(read(node.get("/v1/modules", &narrow)).await.0, 200);
    assert_eq!(problem(node.get("/v1/usage", &narrow)).await, (403, "missing-scope".into()));
    let delete = node.request(Method::DELETE, "/v1/modules/echo", &narrow);
    assert_eq!(problem(delete).await, (403, "missing-scope".into()));
    for credential in [&narrow, &all] {
        assert_eq!(problem(node.post("/v1/tokens", credential)).await, (403, "key-required".into()));
    }
    assert_eq!(problem(node.post("/v1/tokens", "")).await, (401, "unauthenticated".into()));
}

#[tokio::test]
async fn a_token_is_not_given_for_what_is_wrong() {
    let setting = Setting::new(without_limits()).await;
    let (node, key) = (&setting.node, &setting.key);
    for bad in [
        json!({"scopes": []}),
        json!({"scopes": ["fly"]}),
        json!({"scopes": "modules:read"}),
        json!({"ttl_seconds": 0}),
        json!({"ttl_seconds": 3_601}),
        json!({"ttl_seconds": -1}),
        json!({"ttl_seconds": "900"}),
        json!({"audience": "them"}),
        json!([]),
    ] {
        assert_eq!(problem(node.post("/v1/tokens", key).json(&bad)).await, (400, "invalid-body".into()), "{bad}");
    }
    let operator = json!({"scopes": ["operator"]});
    assert_eq!(problem(node.post("/v1/tokens", key).json(&operator)).await, (403, "wider-scopes".into()));
    let narrow = json!({"name": "narrow", "scopes": ["modules:read"]});
    let narrow = text(&read(node.post("/v1/keys", key).json(&narrow)).await.1["secret"]);
    let wider = json!({"scopes": ["modules:read", "modules:write"]});
    assert_eq!(problem(node.post("/v1/tokens", &narrow).json(&wider)).await, (403, "wider-scopes".into()));
    // A token that says more than its key may, though it is signed rightly.
    let forged = setting.forge().with(claim("sub", json!(&narrow[3..15]))).token();
    assert_eq!(setting.status(&forged).await, 200);
    assert_eq!(node.publish(&forged, "echo", ECHO).await.0, 403);
    let operating = setting.forge().with(claim("scope", json!("operator"))).token();
    assert_eq!(problem(node.get("/v1/tenants", &operating)).await, (403, "missing-scope".into()));
    assert_eq!(problem(node.post("/v1/tenants", &operating).json(&json!({}))).await, (403, "missing-scope".into()));
}

#[tokio::test]
async fn a_token_never_outlives_its_key() {
    let setting = Setting::new(without_limits()).await;
    let (node, key) = (&setting.node, &setting.key);
    let ends = wasmwiz_events::time::Timestamp::from_unix_ms((forge::now() + 120) * 1_000);
    let body = json!({"name": "short", "scopes": ["modules:read"], "expires_at": ends.to_string()});
    let (_, short) = read(node.post("/v1/keys", key).json(&body)).await;
    let (_, token) = read(node.post("/v1/tokens", &text(&short["secret"]))).await;
    assert!((100..=120).contains(&token["expires_in"].as_u64().unwrap()), "{token}");

    let (_, issued) = read(node.post("/v1/keys", key).json(&json!({"name": "k", "scopes": ["modules:read"]}))).await;
    let (_, token) = read(node.post("/v1/tokens", &text(&issued["secret"]))).await;
    let token = text(&token["access_token"]);
    assert_eq!(read(node.get("/v1/modules", &token)).await.0, 200);
    let revoke = node.request(Method::DELETE, &format!("/v1/keys/{}", text(&issued["id"])), key);
    assert_eq!(send(revoke).await.status(), 204);
    assert_eq!(problem(node.get("/v1/modules", &token)).await, (401, "unauthenticated".into()));
}

#[tokio::test]
async fn nobody_of_a_suspended_tenant_is_let_in_by_a_token() {
    let setting = Setting::new(without_limits()).await;
    let node = &setting.node;
    let token = setting.forge().token();
    let path = |what: &str| format!("/v1/tenants/{}/{what}", setting.tenant);
    assert_eq!(read(node.post(&path("suspend"), &node.operator)).await.0, 200);
    assert_eq!(problem(node.get("/v1/modules", &token)).await, (403, "tenant-suspended".into()));
    assert_eq!(problem(node.post("/v1/tokens", &setting.key)).await, (403, "tenant-suspended".into()));
    assert_eq!(read(node.post(&path("resume"), &node.operator)).await.0, 200);
    assert_eq!(setting.status(&token).await, 200);
}

#[tokio::test]
async fn a_revoked_keys_token_has_no_power_even_while_the_view_lags() {
    let setting = Setting::new(GatewayConfig { visible_wait_ms: 50, ..without_limits() }).await;
    let (node, key) = (&setting.node, &setting.key);
    node.publish(key, "echo", ECHO).await;
    node.settle().await;
    let token = text(&read(node.post("/v1/tokens", key)).await.1["access_token"]);
    node.views.shutdown().await;
    let revoke = node.request(Method::DELETE, &format!("/v1/keys/{}", &key[3..15]), key);
    assert_eq!(problem(revoke).await, (503, "unavailable".into()));
    let recorded = node.log.commits().len();
    // The view lets it in as before.
    assert_eq!(setting.status(&token).await, 200);
    let delete = node.request(Method::DELETE, "/v1/modules/echo", &token);
    assert_eq!(problem(delete).await, (401, "unauthenticated".into()));
    let run = node.post("/v1/modules/echo/executions", &token);
    assert_eq!(problem(run).await, (401, "unauthenticated".into()));
    assert_eq!(problem(node.post("/v1/tokens", key)).await, (401, "unauthenticated".into()));
    assert_eq!(node.log.commits().len(), recorded);
}

#[tokio::test]
async fn the_public_keys_are_told_and_no_private_ones() {
    let setting = Setting::new(without_limits()).await;
    let response = send(setting.node.get("/.well-known/jwks.json", "")).await;
    assert_eq!(response.headers()["cache-control"], "public, max-age=300");
    let jwks: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let keys = jwks["keys"].as_array().unwrap();
    let kids: Vec<_> = keys.iter().map(|key| text(&key["kid"])).collect();
    assert_eq!(kids, [setting.signer.kid.clone(), setting.older.kid.clone()]);
    for key in keys {
        assert_eq!(
            (text(&key["kty"]), text(&key["alg"]), text(&key["use"])),
            ("OKP".into(), "EdDSA".into(), "sig".into())
        );
        assert!(key.get("d").is_none());
    }
    assert_eq!(text(&keys[0]["x"]), setting.signer.x());
}

#[tokio::test]
async fn an_operator_is_let_in_by_a_token_that_was_signed_offline() {
    let pem = keyring::draw().unwrap();
    let ring = || Keyring::new(&[("1.pem".into(), pem.clone())], None).unwrap();
    let node = Node::start_signing(without_limits(), ring()).await;
    let (config, now) = (TokensConfig::default(), wasmwiz_events::time::Timestamp::from_unix_ms(forge::now() * 1_000));
    let token = token::of_operator(&ring(), &config, "ada@example.com", 600, "t-1", now).unwrap();
    let body = json!({"name": "Acme", "tier": "pro"});
    let (status, tenant) = read(node.post("/v1/tenants", &token).json(&body)).await;
    assert_eq!(status, 201, "{tenant}");
    node.settle().await;
    let (_, audit) = read(node.get("/v1/audit", &text(&tenant["initial_key"]["secret"]))).await;
    assert_eq!(text(&audit["items"][0]["actor"]), "operator:ada@example.com");
    assert_eq!(problem(node.get("/v1/modules", &token)).await, (403, "missing-scope".into()));
    assert_eq!(problem(node.post("/v1/tokens", &token)).await, (403, "key-required".into()));
    for (name, ttl_seconds) in [("", 60), ("Ada", 60), ("a b", 60), ("abcdefghij12", 60), ("ada", 0), ("ada", 43_201)] {
        assert!(token::of_operator(&ring(), &config, name, ttl_seconds, "t", now).is_err(), "{name} {ttl_seconds}");
    }
    let stranger = Keyring::new(&[("1.pem".into(), keyring::draw().unwrap())], None).unwrap();
    let forged = token::of_operator(&stranger, &config, "ada", 600, "t-1", now).unwrap();
    assert_eq!(problem(node.get("/v1/tenants", &forged)).await, (401, "unauthenticated".into()));
}

#[tokio::test]
async fn a_key_that_only_reads_is_seen_in_use_and_so_is_its_token() {
    let setting = Setting::new(without_limits()).await;
    let (node, key) = (&setting.node, &setting.key);
    for by_token in [false, true] {
        let (_, issued) =
            read(node.post("/v1/keys", key).json(&json!({"name": "k", "scopes": ["modules:read"]}))).await;
        let path = format!("/v1/keys/{}", text(&issued["id"]));
        assert_eq!(read(node.get(&path, key)).await.1["last_used_at"], json!(null));
        let mine = setting.forge().with(claim("sub", issued["id"].clone())).token();
        let credential = if by_token { mine } else { text(&issued["secret"]) };
        let recorded = node.log.commits().len();
        assert_eq!(read(node.get("/v1/modules", &credential)).await.0, 200);
        assert!(read(node.get(&path, key)).await.1["last_used_at"].is_string());
        assert_eq!(node.log.commits().len(), recorded, "a read is no event");
    }
}
