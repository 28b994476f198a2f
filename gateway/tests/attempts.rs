//! Guessing at keys: it is limited, and nobody else is kept out by it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail like tests, and draw keys"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rand::RngExt as _;
use support::{Node, problem, read, send};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use wasmwiz_gateway::{GatewayConfig, auth::api_key, auth::config::AttemptsConfig};

/// Guesses in all.
const GUESSES: usize = 100_000;

/// Guesses on the way at a time, on one connection.
const AT_ONCE: usize = 50;

/// A secret of the right form.
fn secret() -> String {
    const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    (0..32).map(|_| char::from(LETTERS[rand::rng().random_range(0..LETTERS.len())])).collect()
}

/// Sends many guesses over one connection, and counts the statuses of their answers: 401, 429, and all others.
async fn guess(node: &Node, keys: impl Iterator<Item = String>) -> [usize; 3] {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let (mut counts, mut seen, mut rest) = ([0; 3], Vec::new(), keys.peekable());
    let mut buffer = vec![0; 64 << 10];
    while rest.peek().is_some() {
        let (mut batch, mut sent) = (String::new(), 0);
        for key in rest.by_ref().take(AT_ONCE) {
            batch += &format!("GET /v1/modules HTTP/1.1\r\nhost: node\r\nauthorization: Bearer {key}\r\n\r\n");
            sent += 1;
        }
        stream.write_all(batch.as_bytes()).await.unwrap();
        let mut answered = 0;
        while answered < sent {
            let got = stream.read(&mut buffer).await.unwrap();
            assert!(got > 0, "the connection was closed");
            seen.extend_from_slice(&buffer[..got]);
            let mut from = 0;
            while let Some((status, end)) = answer(&seen[from..]) {
                counts[match status {
                    401 => 0,
                    429 => 1,
                    _ => 2,
                }] += 1;
                (answered, from) = (answered + 1, from + end);
            }
            seen.drain(..from);
        }
    }
    counts
}

/// The status of the first answer in these bytes, and where it ends; if it is whole.
fn answer(bytes: &[u8]) -> Option<(u16, usize)> {
    let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_end]).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let end = head_end + length.parse::<usize>().unwrap();
    (bytes.len() >= end).then(|| (head[9..12].parse().unwrap(), end))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_guesses_open_nothing_and_keep_no_other_key_out() {
    let node = Arc::new(Node::start().await);
    let (_, target) = node.tenant("pro").await;
    let (_, other) = node.tenant("pro").await;
    let begun = Instant::now();
    let served = Arc::new(AtomicUsize::new(0));
    // Somebody with a good key works on at the same address all the while; it was never used from there before.
    let working = tokio::spawn({
        let (node, other, served) = (Arc::clone(&node), other.clone(), Arc::clone(&served));
        async move {
            // As often as a busy job asks, so that the guesses have the rest of the machine.
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            loop {
                pace.tick().await;
                let (status, body) = read(node.get("/v1/modules", &other)).await;
                assert_eq!(status, 200, "{body}");
                served.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let id = target[3..15].to_owned();
    let at_a_live_key = (0..GUESSES / 2).map(|_| api_key::text_of(&id, &secret()));
    let at_any = (0..GUESSES / 2).map(|_| api_key::draw(&mut rand::rng(), &Default::default()).text().to_owned());
    let ([one_401, one_429, one_more], [any_401, any_429, any_more]) =
        tokio::join!(guess(&node, at_a_live_key), guess(&node, at_any));
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(!working.is_finished(), "the good key was refused");
    working.abort();
    assert_eq!((one_more, any_more), (0, 0), "answers that are neither 401 nor 429");
    assert_eq!(one_401 + one_429 + any_401 + any_429, GUESSES);
    let AttemptsConfig { per_minute_of_address, burst_of_address, .. } = AttemptsConfig::default();
    let looked_at_most = burst_of_address as usize + (seconds + 2) * per_minute_of_address as usize / 60;
    assert!(one_401 + any_401 <= looked_at_most, "{one_401} and {any_401} were no more than 401, of {looked_at_most}");
    assert!(served.load(Ordering::Relaxed) > 0);
    // Known keys of other ids work, and a token of one.
    assert_eq!(read(node.get("/v1/modules", &other)).await.0, 200);
    assert_eq!(read(node.get("/v1/tenants", &node.operator)).await.0, 200);
}

#[tokio::test]
async fn whoever_guesses_is_told_when_to_come_back() {
    let attempts = AttemptsConfig { per_minute_of_address: 1, burst_of_address: 2, ..Default::default() };
    let node = Node::start_with(GatewayConfig { attempts, ..Default::default() }).await;
    for guess in ["x", "ww_x"] {
        assert_eq!(problem(node.get("/v1/modules", guess)).await, (401, "unauthenticated".into()));
    }
    for guess in ["x", "ww_x", "a.b.c"] {
        let response = send(node.get("/v1/modules", guess)).await;
        let pause: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(response.status() == 429 && (50..=60).contains(&pause), "{guess}: {pause}");
        assert!(response.text().await.unwrap().contains("problems/too-many-attempts"));
    }
    // Whoever sends nothing guesses nothing.
    assert_eq!(problem(node.get("/v1/modules", "")).await, (401, "unauthenticated".into()));
}

#[tokio::test]
async fn a_key_that_is_guessed_at_is_closed_where_it_was_never_used() {
    let attempts =
        AttemptsConfig { per_minute_of_address: 0, per_minute_at_key: 1, burst_at_key: 3, ..Default::default() };
    let node = Node::start_with(GatewayConfig { attempts, ..Default::default() }).await;
    let ((_, used), (_, fresh)) = (node.tenant("pro").await, node.tenant("pro").await);
    assert_eq!(read(node.get("/v1/modules", &used)).await.0, 200);
    let wrong = |key: &str| api_key::text_of(&key[3..15], &secret());
    for _ in 0..3 {
        assert_eq!(problem(node.get("/v1/modules", &wrong(&fresh))).await.0, 401);
    }
    assert_eq!(problem(node.get("/v1/modules", &wrong(&fresh))).await, (429, "too-many-attempts".into()));
    assert_eq!(problem(node.get("/v1/modules", &fresh)).await, (429, "too-many-attempts".into()));
    assert_eq!(read(node.get("/v1/modules", &used)).await.0, 200);
}

#[tokio::test]
async fn a_tenant_behind_the_same_proxy_cannot_keep_an_operator_out() {
    let attempts = AttemptsConfig { per_minute_at_key: 1, burst_at_key: 3, ..Default::default() };
    let node = Node::start_with(GatewayConfig { attempts, ..Default::default() }).await;
    let (tenant, key) = node.tenant("pro").await;
    // Its own history tells a tenant which key has operated on it.
    let suspend = |what: &str| node.post(&format!("/v1/tenants/{tenant}/{what}"), &node.operator);
    assert_eq!((read(suspend("suspend")).await.0, read(suspend("resume")).await.0), (200, 200));
    node.settle().await;
    let (_, seen) = read(node.get("/v1/audit", &key)).await;
    let operator = seen["items"][0]["actor"].as_str().unwrap().strip_prefix("operator:").unwrap().to_owned();
    for _ in 0..20 {
        let status = send(node.get("/v1/tenants", &api_key::text_of(&operator, &secret()))).await.status();
        assert!(status == 401 || status == 429, "{status}");
    }
    assert_eq!(read(node.get("/v1/tenants", &node.operator)).await.0, 200, "its holder is kept out");
}
