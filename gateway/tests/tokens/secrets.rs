//! Tokens and streams end with the secret that they were given for or opened with.

use super::*;

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
