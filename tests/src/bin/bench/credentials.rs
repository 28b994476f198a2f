//! What it costs to know who asks: the same requests with a key, with a token, and with neither where none is asked for.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use wasmwiz_gateway::auth::api_key::{ApiKey, Hasher};
use wasmwiz_tests::{turns::median, wire};

use crate::{load, node::Node, probe};

/// Connections that ask at the same time.
const CONNECTIONS: usize = 16;

/// Rounds; in each, every request is sent for a second. Medians count.
const ROUNDS: usize = 9;

/// How often a key is read and hashed to see what that takes.
const HASHES: u32 = 100_000;

/// The payload of one execution, in bytes.
const BODY_BYTES: usize = 1_024;

/// What was measured: processor time of the node for one request, in microseconds.
#[derive(Debug)]
pub(crate) struct Credentials {
    /// Reading a key and hashing its secret, which is done once a request.
    pub(crate) hash_us: f64,
    /// A read that asks for no credential.
    pub(crate) anonymous_us: f64,
    /// A read of a module by a key and by a token.
    pub(crate) read_us: [f64; 2],
    /// An echo by a key and by a token.
    pub(crate) echo_us: [f64; 2],
}

impl Credentials {
    /// Starts a node on `data`, and measures.
    pub(crate) fn measure(data: &Path) -> anyhow::Result<Self> {
        let _ = std::fs::remove_dir_all(data);
        std::fs::create_dir_all(data)?;
        let node = Node::start(&data.join("node"))?;
        let token = token(&node)?;
        let body = vec![b'a'; BODY_BYTES];
        let echo = |credential: &str| wire::echo_request("/v1/modules/echo/executions", Some(credential), &body);
        let requests = [
            wire::read_request("/livez", None),
            wire::read_request("/v1/modules/echo", Some(&node.key)),
            wire::read_request("/v1/modules/echo", Some(&token)),
            echo(&node.key),
            echo(&token),
        ];
        let mut rounds: [Vec<f64>; 5] = Default::default();
        for round in 1..=ROUNDS {
            eprintln!("credentials: round {round} of {ROUNDS}");
            for (request, seen) in requests.iter().zip(&mut rounds) {
                let cpu = probe::cpu_seconds(node.pid())?;
                let loaded = load::run(node.api, request, CONNECTIONS, 1)?;
                seen.push((probe::cpu_seconds(node.pid())? - cpu) * 1e6 / loaded.with_warm_up());
            }
        }
        let [anonymous_us, key_read, token_read, key_echo, token_echo] = rounds.map(median);
        let (read_us, echo_us) = ([key_read, token_read], [key_echo, token_echo]);
        Ok(Self { hash_us: hash_us(&node.key)?, anonymous_us, read_us, echo_us })
    }

    /// Prints them.
    pub(crate) fn print(&self) {
        let Self { hash_us, anonymous_us, read_us: [key_read, token_read], echo_us: [key_echo, token_echo] } = self;
        println!("\nprocessor time of the node, a request       by a key   by a token");
        println!("  a read of a module                    {key_read:>9.1} us {token_read:>9.1} us");
        println!("  an echo of 1 KiB, recorded            {key_echo:>9.1} us {token_echo:>9.1} us");
        println!("  a probe, which asks for neither       {anonymous_us:>9.1} us");
        println!(
            "  reading a key and hashing its secret  {hash_us:>9.2} us, {:.2} % of the echo",
            100.0 * hash_us / key_echo
        );
        println!(
            "  a token costs more than a key by      {:>9.1} us, {:.1} % of the echo",
            token_read - key_read,
            100.0 * (token_read - key_read) / key_echo
        );
    }
}

fn token(node: &Node) -> anyhow::Result<String> {
    let (status, said) = node.post("/v1/tokens", &json!({}).to_string())?;
    ensure!(status == 200, "no token: {said}");
    let said: serde_json::Value = serde_json::from_str(&said)?;
    Ok(said["access_token"].as_str().context("no token")?.to_owned())
}

fn hash_us(key: &str) -> anyhow::Result<f64> {
    let hasher = Hasher::default();
    let begin = Instant::now();
    for _ in 0..HASHES {
        let key = ApiKey::parse(std::hint::black_box(key)).map_err(|_| anyhow::anyhow!("the key of dev is no key"))?;
        std::hint::black_box(key.hash(&hasher));
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / f64::from(HASHES))
}
