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
mod support;

use forge::{Forge, Signer, encoded};
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

fn header(name: &str, value: Value) -> impl Fn(&mut Forge<'_>) + use<> {
    let name = name.to_owned();
    move |forge| forge.header[&name] = value.clone()
}

type Change<'a> = Box<dyn Fn(&mut Forge<'a>) + 'a>;

fn change<'a>(change: impl Fn(&mut Forge<'a>) + 'a) -> Change<'a> {
    Box::new(change)
}

macro_rules! changes {
    ($($name:literal => $change:expr,)*) => { vec![$(($name, change($change))),*] };
}

#[tokio::test]
async fn a_token_that_is_as_it_should_be_is_let_in() {
    let setting = Setting::new(without_limits()).await;
    let now = forge::now();
    let cases: Vec<(&str, Change<'_>)> = changes! {
        "as the platform signs it" => |_| {},
        "a type with its prefix" => header("typ", json!("application/at+jwt")),
        "a type in capitals" => header("typ", json!("AT+JWT")),
        "an audience among others" => claim("aud", json!(["them", "wasmwiz"])),
        "no time of beginning" => |forge| drop(forge.claims.as_object_mut().unwrap().remove("nbf")),
        "a clock that is a little behind" => |forge| {
            forge.claims["iat"] = json!(now + 10);
            forge.claims["nbf"] = json!(now + 10);
        },
        "over for less than the leeway" => |forge| {
            forge.claims["iat"] = json!(now - 900);
            forge.claims["nbf"] = json!(now - 900);
            forge.claims["exp"] = json!(now - 5);
        },
        "a scope of another version" => claim("scope", json!("modules:read galaxies:read")),
        "a claim that nobody reads" => claim("extra", json!({"a": [1, {"b": null}], "c": 1.5})),
        "signed by the key before" => |forge| {
            forge.header["kid"] = json!(setting.older.kid);
            forge.signer = &setting.older;
        },
    };
    for (name, change) in cases {
        assert_eq!(setting.status(&setting.forge().with(change).token()).await, 200, "{name}");
    }
}

#[tokio::test]
async fn a_token_with_a_wrong_header_is_not_let_in() {
    let setting = Setting::new(without_limits()).await;
    let (_, jwks) = read(setting.node.get("/.well-known/jwks.json", "")).await;
    let own = Signer::ed25519_of(&keyring::draw().unwrap());
    let own_jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": own.x(), "kid": own.kid});
    let hmac = |secret: &[u8]| Signer::hmac(secret, &setting.signer.kid);
    let by_public_key = [
        hmac(&setting.signer.public()),
        hmac(setting.signer.x().as_bytes()),
        hmac(jwks["keys"][0].to_string().as_bytes()),
        hmac(jwks.to_string().as_bytes()),
        hmac(b""),
        hmac(b"secret"),
    ];
    let without =
        |name: &'static str| move |forge: &mut Forge<'_>| drop(forge.header.as_object_mut().unwrap().remove(name));
    let signed_by = |signer: &'_ Signer| {
        let kid = json!(signer.kid);
        move |forge: &mut Forge<'_>| forge.header["kid"] = kid.clone()
    };
    let cases: Vec<(&str, Change<'_>)> = changes! {
        "no algorithm" => without("alg"),
        "algorithm none" => header("alg", json!("none")),
        "algorithm None" => header("alg", json!("None")),
        "algorithm NONE" => header("alg", json!("NONE")),
        "algorithm nOnE" => header("alg", json!("nOnE")),
        "no text as algorithm" => header("alg", json!(["EdDSA"])),
        "algorithm in another case" => header("alg", json!("eddsa")),
        "another name of the algorithm" => header("alg", json!("Ed25519")),
        "a blank after the algorithm" => header("alg", json!("EdDSA ")),
        "RS256 over an Ed25519 signature" => header("alg", json!("RS256")),
        "ES256 over an Ed25519 signature" => header("alg", json!("ES256")),
        "HS256 over an Ed25519 signature" => header("alg", json!("HS256")),
        "no name of a key" => without("kid"),
        "an empty name of a key" => header("kid", json!("")),
        "a name of no key" => header("kid", json!("unknown")),
        "a path as a key's name" => header("kid", json!("../../../../dev/null")),
        "a path of the system as a key's name" => header("kid", json!("/etc/passwd")),
        "SQL as a key's name" => header("kid", json!("x' UNION SELECT 'secret';--")),
        "a command as a key's name" => header("kid", json!("|id")),
        "a URL as a key's name" => header("kid", json!("https://evil.example/key")),
        "a NUL in a key's name" => |forge| forge.header["kid"] = json!(format!("{}\0", setting.signer.kid)),
        "a long name of a key" => header("kid", json!("k".repeat(129))),
        "no text as a key's name" => header("kid", json!(1)),
        "another live key's name" => signed_by(&setting.older),
        "a retired key's name" => signed_by(&setting.retired),
        "a retired key" => |forge| {
            forge.header["kid"] = json!(setting.retired.kid);
            forge.signer = &setting.retired;
        },
        "a retired key under a live one's name" => |forge| forge.signer = &setting.retired,
        "no type" => without("typ"),
        "the type of any token" => header("typ", json!("JWT")),
        "the type of a logout" => header("typ", json!("logout+jwt")),
        "the type of an identity" => header("typ", json!("id_token")),
        "no text as type" => header("typ", json!(null)),
        "something critical" => header("crit", json!(["exp"])),
        "nothing critical" => header("crit", json!([])),
        "an unencoded payload" => header("b64", json!(false)),
        "compression" => header("zip", json!("DEF")),
        "encryption" => header("enc", json!("A256GCM")),
        "a key of its own" => |forge| {
            forge.header["jwk"] = own_jwk.clone();
            forge.signer = &own;
        },
        "a key of its own, by its name" => |forge| {
            forge.header["jwk"] = own_jwk.clone();
            forge.header["kid"] = json!(own.kid);
            forge.signer = &own;
        },
        "keys at a URL of its own" => header("jku", json!("http://127.0.0.1:1/keys")),
        "a certificate at a URL of its own" => header("x5u", json!("http://127.0.0.1:1/chain.pem")),
        "a certificate of its own" => header("x5c", json!(["MIIB"])),
        "an unknown key" => |forge| forge.signer = &own,
    };
    assert!(cases.len() >= 40, "{}", cases.len());
    for (name, change) in cases {
        assert_eq!(setting.status(&setting.forge().with(change).token()).await, 401, "{name}");
    }
    for (index, signer) in by_public_key.iter().enumerate() {
        for alg in ["HS256", "EdDSA"] {
            let forged = setting.forge().with(header("alg", json!(alg)));
            let forged = Forge { signer, ..forged };
            assert_eq!(setting.status(&forged.token()).await, 401, "{alg} with the secret {index}");
        }
    }
}

#[tokio::test]
async fn a_token_with_a_wrong_claim_is_not_let_in() {
    let setting = Setting::new(without_limits()).await;
    let (stranger, foreign_key) = setting.node.tenant("pro").await;
    let now = forge::now();
    let without =
        |name: &'static str| move |forge: &mut Forge<'_>| drop(forge.claims.as_object_mut().unwrap().remove(name));
    let cases: Vec<(&str, Change<'_>)> = changes! {
        "no issuer" => without("iss"),
        "another issuer" => claim("iss", json!("https://evil.example")),
        "nearly the issuer" => claim("iss", json!("wasmwiz ")),
        "the issuer in capitals" => claim("iss", json!("WasmWiz")),
        "several issuers" => claim("iss", json!(["wasmwiz"])),
        "no audience" => without("aud"),
        "another audience" => claim("aud", json!("them")),
        "other audiences" => claim("aud", json!(["them", "those"])),
        "no audience in the list" => claim("aud", json!([])),
        "an audience that is no text" => claim("aud", json!(["wasmwiz", 1])),
        "too many audiences" => claim("aud", json!(vec!["wasmwiz"; 17])),
        "an audience that is an object" => claim("aud", json!({"wasmwiz": true})),
        "no end" => without("exp"),
        "an end that was" => |forge| {
            forge.claims["iat"] = json!(now - 1_000);
            forge.claims["exp"] = json!(now - 100);
        },
        "an end in the far future" => claim("exp", json!(now + 3_601 + 60)),
        "an end after the year 9999" => claim("exp", json!(253_402_300_800_u64)),
        "an end that is text" => claim("exp", json!((now + 900).to_string())),
        "an end between two seconds" => claim("exp", json!(now as f64 + 900.5)),
        "an end that is null" => claim("exp", json!(null)),
        "an end below zero" => claim("exp", json!(-1)),
        "an end before its beginning" => claim("exp", json!(now - 1)),
        "no time of issue" => without("iat"),
        "a time of issue to come" => claim("iat", json!(now + 120)),
        "a time of issue that is text" => claim("iat", json!("now")),
        "a beginning to come" => claim("nbf", json!(now + 120)),
        "a beginning that is text" => claim("nbf", json!("0")),
        "no subject" => without("sub"),
        "a subject that is no text" => claim("sub", json!(7)),
        "a subject that is no key" => claim("sub", json!("AAAAAAAAAAAA")),
        "a subject that could be no key" => claim("sub", json!("../keys")),
        "an operator's name" => claim("sub", json!("operator:ada")),
        "an operator's name and scope" => |forge| {
            forge.claims["sub"] = json!("operator:ada");
            forge.claims["scope"] = json!("operator");
        },
        "an operator with more scopes" => |forge| {
            forge.claims["sub"] = json!("operator:ada");
            forge.claims["tenant"] = json!("system");
            forge.claims["scope"] = json!("operator modules:read");
        },
        "an operator with a key's name" => |forge| {
            forge.claims["sub"] = json!("operator:aaaaaaaaaaaa");
            forge.claims["tenant"] = json!("system");
            forge.claims["scope"] = json!("operator");
        },
        "no tenant" => without("tenant"),
        "another tenant" => claim("tenant", json!(stranger)),
        "the system tenant" => claim("tenant", json!("system")),
        "a tenant that is none" => claim("tenant", json!("nobody")),
        "another tenant's key" => claim("sub", json!(&foreign_key[3..15])),
        "no scope" => without("scope"),
        "scopes that are a list" => claim("scope", json!(["modules:read"])),
        "no name of its own" => without("jti"),
    };
    assert!(cases.len() >= 40, "{}", cases.len());
    for (name, change) in cases {
        assert_eq!(setting.status(&setting.forge().with(change).token()).await, 401, "{name}");
    }
}

#[tokio::test]
async fn a_text_that_is_nearly_a_token_is_not_let_in() {
    let setting = Setting::new(without_limits()).await;
    let good = setting.forge().token();
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let signed = |header: &[u8], claims: &[u8]| setting.signer.sign(&encoded(header), &encoded(claims));
    let plain = setting.forge();
    let (head, body) = (plain.header.to_string(), plain.claims.to_string());
    let twice = |text: &str, member: &str| format!("{},{member}}}", &text[..text.len() - 1]);
    let deep = format!("{},\"x\":{}1{}}}", &body[..body.len() - 1], "[".repeat(200), "]".repeat(200));
    let oversize = format!("{},\"x\":\"{}\"}}", &body[..body.len() - 1], "x".repeat(8 << 10));
    let mut flipped = signature.to_owned().into_bytes();
    flipped[10] = if flipped[10] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    // 64 bytes leave four bits of the last letter unused, which must be zero.
    let last = signature.chars().last().unwrap();
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let other = letters.chars().nth(letters.find(last).unwrap() + 1).unwrap();
    let cases = [
        ("one part", header.to_owned()),
        ("two parts", format!("{header}.{claims}")),
        ("no signature", format!("{header}.{claims}.")),
        ("a dot at the end", format!("{good}.")),
        ("a dot at the beginning", format!(".{good}")),
        ("two dots", format!("{header}..{signature}")),
        ("only dots", "..".to_owned()),
        ("four parts", format!("{good}.{signature}")),
        ("five parts", format!("{good}.{claims}.{signature}")),
        ("no header", format!(".{claims}.{signature}")),
        ("padding after the header", format!("{header}=.{claims}.{signature}")),
        ("padding after the claims", format!("{header}.{claims}=.{signature}")),
        ("padding after the signature", format!("{good}==")),
        ("letters of the other base64", good.replacen(&signature[..2], "+/", 1)),
        ("letters of no base64", format!("{header}.{claims}.!!{}", &signature[2..])),
        ("a blank", format!("{header}. {claims}.{signature}")),
        ("bits that must be zero", format!("{header}.{claims}.{}{other}", &signature[..signature.len() - 1])),
        ("a shorter signature", format!("{header}.{claims}.{}", &signature[..signature.len() - 4])),
        ("a longer signature", format!("{good}AAAA")),
        ("another signature", format!("{header}.{claims}.{flipped}")),
        ("a signature of zeros", format!("{header}.{claims}.{}", encoded(&[0; 64]))),
        ("another payload", format!("{header}.{}.{signature}", encoded(body.replace("read", "write").as_bytes()))),
        ("another header", format!("{}.{claims}.{signature}", encoded(twice(&head, "\"a\":1").as_bytes()))),
        ("a claim twice", signed(head.as_bytes(), twice(&body, "\"sub\":\"AAAAAAAAAAAA\"").as_bytes())),
        ("the same claim twice", signed(head.as_bytes(), twice(&body, "\"aud\":\"wasmwiz\"").as_bytes())),
        ("a claim twice further in", signed(head.as_bytes(), twice(&body, "\"x\":{\"a\":1,\"a\":1}").as_bytes())),
        ("an algorithm twice", signed(twice(&head, "\"alg\":\"none\"").as_bytes(), body.as_bytes())),
        ("a key's name twice", signed(twice(&head, "\"kid\":\"x\"").as_bytes(), body.as_bytes())),
        ("a name written otherwise, twice", signed(twice(&head, "\"\\u0061lg\":\"none\"").as_bytes(), body.as_bytes())),
        ("a list of claims", signed(head.as_bytes(), b"[]")),
        ("a text as claims", signed(head.as_bytes(), b"\"x\"")),
        ("no claims", signed(head.as_bytes(), b"")),
        ("no claim", signed(head.as_bytes(), b"{}")),
        ("a header that is no JSON", signed(b"{alg:EdDSA}", body.as_bytes())),
        ("something after the claims", signed(head.as_bytes(), format!("{body}x").as_bytes())),
        ("a byte order mark", signed(head.as_bytes(), format!("\u{feff}{body}").as_bytes())),
        ("no UTF-8", signed(head.as_bytes(), &[body.as_bytes(), &[0xff]].concat())),
        ("claims that are too deep", signed(head.as_bytes(), deep.as_bytes())),
        ("a token that is too long", signed(head.as_bytes(), oversize.as_bytes())),
        ("a token in an envelope", format!("{{\"payload\":\"{claims}\",\"signature\":\"{signature}\"}}")),
        ("a key's prefix before a token", format!("ww_{good}")),
    ];
    assert_eq!(setting.status(&good).await, 200);
    for (name, token) in cases {
        assert_eq!(setting.status(&token).await, 401, "{name}");
    }
    let twice = setting.node.get("/v1/modules", &good).header("authorization", format!("Bearer {good}"));
    // Which of two credentials counts could be read in two ways: no request at all.
    assert_eq!(send(twice).await.status(), 400);
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
async fn a_token_ends_with_the_secret_that_it_was_given_for() {
    let setting = Setting::new(without_limits()).await;
    let (node, key) = (&setting.node, &setting.key);
    let (_, issued) = read(node.post("/v1/keys", key).json(&json!({"name": "k", "scopes": ["modules:read"]}))).await;
    let exchange = async |secret: &str| text(&read(node.post("/v1/tokens", secret)).await.1["access_token"]);
    let rotate = async |grace_seconds: u64| {
        let path = format!("/v1/keys/{}/rotate", text(&issued["id"]));
        text(&read(node.post(&path, key).json(&json!({"grace_seconds": grace_seconds}))).await.1["secret"])
    };
    let first = exchange(&text(&issued["secret"])).await;
    let second_secret = rotate(3_600).await;
    assert_eq!(setting.status(&first).await, 200, "the secret has its grace");
    let second = exchange(&second_secret).await;
    let third_secret = rotate(0).await;
    for token in [&first, &second] {
        assert_eq!(problem(node.get("/v1/modules", token)).await, (401, "unauthenticated".into()));
    }
    assert_eq!(setting.status(&exchange(&third_secret).await).await, 200, "also in the same second");
}

/// A key that others must rotate, and what is done with it.
struct Rotating<'a> {
    setting: &'a Setting,
    id: String,
    secret: String,
}

impl<'a> Rotating<'a> {
    async fn issue(setting: &'a Setting) -> Self {
        let body = json!({"name": "k", "scopes": ["modules:read", "audit:read"]});
        let (_, issued) = read(setting.node.post("/v1/keys", &setting.key).json(&body)).await;
        Self { setting, id: text(&issued["id"]), secret: text(&issued["secret"]) }
    }

    async fn rotate(&self, grace_seconds: u64) -> String {
        let path = format!("/v1/keys/{}/rotate", self.id);
        let rotate = self.setting.node.post(&path, &self.setting.key);
        text(&read(rotate.json(&json!({"grace_seconds": grace_seconds}))).await.1["secret"])
    }

    async fn token(&self, secret: &str) -> String {
        text(&read(self.setting.node.post("/v1/tokens", secret)).await.1["access_token"])
    }
}

#[tokio::test]
async fn a_later_grace_revives_no_token_of_a_secret_that_has_ended() {
    let setting = Setting::new(without_limits()).await;
    let key = Rotating::issue(&setting).await;
    let leaked = key.token(&key.secret).await;
    key.rotate(0).await;
    assert_eq!(setting.status(&leaked).await, 401, "it outlives its secret");
    key.rotate(3_600).await;
    assert_eq!(setting.status(&leaked).await, 401, "it comes back with the next rotation's grace");

    let key = Rotating::issue(&setting).await;
    let leaked = key.token(&key.secret).await;
    let second = key.rotate(3_600).await;
    assert_eq!(setting.status(&leaked).await, 200, "the secret has its grace");
    key.rotate(3_600).await;
    assert_eq!(setting.status(&key.secret).await, 401, "a rotation within a grace ends the secret before");
    assert_eq!(setting.status(&leaked).await, 401, "it outlives its secret by the grace of another");
    assert_eq!(setting.status(&key.token(&second).await).await, 200, "the secret that has its grace gives none");
}

/// Reads a stream that must end, and soon.
async fn ends(mut stream: reqwest::Response, why: &str) {
    let end = async { while let Ok(Some(_)) = stream.chunk().await {} };
    assert!(tokio::time::timeout(std::time::Duration::from_secs(10), end).await.is_ok(), "{why}");
}

#[tokio::test]
async fn a_stream_ends_with_the_secret_that_opened_it_and_not_with_another() {
    let setting = Setting::new(without_limits()).await;
    let node = &setting.node;
    let key = Rotating::issue(&setting).await;
    let open = async |secret: &str| {
        let mut stream = send(node.get("/v1/audit/stream", secret)).await;
        assert!(stream.chunk().await.unwrap().is_some(), "no sign of life");
        stream
    };
    let old = open(&key.secret).await;
    let second = key.rotate(0).await;
    ends(old, "the holder of a secret that has ended reads on").await;
    let old = open(&second).await;
    let third = key.rotate(1).await;
    let mut new = open(&third).await;
    ends(old, "a stream outlives the grace of its secret").await;
    Rotating::issue(&setting).await;
    let told = new.chunk().await.unwrap().expect("the stream of the new secret has ended");
    assert!(told.starts_with(b"id: "), "{told:?}");
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_opened_it() {
    let tokens = TokensConfig { leeway_seconds: 0, ..Default::default() };
    let setting = Setting::new(GatewayConfig { tokens, ..without_limits() }).await;
    let ends_at = json!(forge::now() + 3);
    let forged = setting.forge().with(claim("scope", json!("audit:read"))).with(claim("exp", ends_at)).token();
    let stream = send(setting.node.get("/v1/audit/stream", &forged)).await;
    assert_eq!(stream.status(), 200);
    ends(stream, "a stream outlives its token").await;
    assert_eq!(setting.status(&forged).await, 401);
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
async fn a_secret_that_has_ended_gives_no_token_even_while_the_view_lags() {
    let setting = Setting::new(GatewayConfig { visible_wait_ms: 50, ..without_limits() }).await;
    let node = &setting.node;
    let key = Rotating::issue(&setting).await;
    assert_eq!(read(node.post("/v1/tokens", &key.secret)).await.0, 200);
    node.views.shutdown().await;
    key.rotate(0).await;
    // The view lets it in as before; a token would count as one that was given after the secret's end.
    assert_eq!(setting.status(&key.secret).await, 200);
    assert_eq!(problem(node.post("/v1/tokens", &key.secret)).await, (503, "unavailable".into()));
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
