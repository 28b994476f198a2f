//! Clients that take their time: two thousand of them at once, and one that does not and must not notice.

use super::*;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::Instant,
};
use wasmwiz_tests::{harness::Launch, times::Times};

/// Slow clients at once.
const CLIENTS: usize = 2_000;

/// Files that this process and its node need for them, with some to spare.
const FILES: u64 = 8_192;

/// Between two bytes of a slow client, in milliseconds.
const DRIP_MS: u64 = 1_000;

/// For how long a slow reader takes its answer in drops: longer than a node waits.
const READ_SLOWLY: Duration = Duration::from_secs(12);

/// Requests of one look at the healthy client.
const REQUESTS: usize = 200;

/// Looks at it, quiet and under attack; the median of each counts.
const LOOKS: usize = 5;

/// The most that the healthy client may wait, in milliseconds: a ceiling for a machine that others use too. Behind clients
/// that hold the node up it would wait for as long as they do, which is seconds.
const ATTACKED_MS_MAX: f64 = 2_000.0;

/// What one slow client may cost the node, in bytes: hyper's first buffers, for reading and for the head of an answer, and the
/// state of a request.
const CLIENT_BYTES_MAX: u64 = 48 << 10;

/// What a slow client is slow in.
#[derive(Debug, Clone, Copy)]
enum Slow {
    Head,
    Body,
    Read,
}

/// Slow clients, which come again when they are cut off, until it is enough.
struct Attack {
    enough: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    cut_off: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Attack {
    fn begin(address: SocketAddr, key: &str) -> Self {
        let (enough, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (cut_off, mut clients) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        // A burst of connections would only test the backlog of the listener.
        let knocking = Arc::new(Semaphore::new(64));
        for number in 0..CLIENTS {
            let slow = [Slow::Head, Slow::Body, Slow::Read][number % 3];
            // From several addresses, each within what one may have.
            let from = SocketAddr::from(([127, 0, 1, u8::try_from(number % 8).unwrap_or(0) + 1], 0));
            let (enough, open, cut_off) = (Arc::clone(&enough), Arc::clone(&open), Arc::clone(&cut_off));
            let (knocking, key) = (Arc::clone(&knocking), key.to_owned());
            clients.spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    let Ok(place) = knocking.acquire().await else { return };
                    let Ok(stream) = connect(address, from).await else { continue };
                    drop(place);
                    open.fetch_add(1, Ordering::Relaxed);
                    drip(stream, slow, &key, &enough).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                    cut_off.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { enough, open, cut_off, clients }
    }

    async fn until_open(&self, count: usize) -> anyhow::Result<()> {
        let open = || self.open.load(Ordering::Relaxed);
        wait::until("slow clients", SOON, async || Ok((open() >= count).then_some(()))).await
    }
}

async fn connect(to: SocketAddr, from: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // So little that an answer of a hundred kilobytes does not fit into the system's own buffers.
    socket.set_recv_buffer_size(4_096)?;
    socket.bind(from)?;
    socket.connect(to).await
}

/// Is slow until the node has had enough of it, or the test has.
async fn drip(mut stream: TcpStream, slow: Slow, key: &str, enough: &AtomicBool) {
    let begun = match slow {
        Slow::Head => "GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: ".to_owned(),
        Slow::Body => format!(
            "POST /v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             content-length: 60000\r\n\r\n{{"
        ),
        Slow::Read => "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(20),
    };
    if stream.write_all(begun.as_bytes()).await.is_err() {
        return;
    }
    let (mut piece, begun) = ([0; 64], Instant::now());
    while !enough.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(DRIP_MS)).await;
        let goes_on = match slow {
            Slow::Head | Slow::Body => {
                let sent = stream.write_all(b" ").await.is_ok();
                // An answer to a slow client is the end of it.
                sent && matches!(stream.try_read(&mut piece), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            }
            Slow::Read if begun.elapsed() < READ_SLOWLY => stream.read(&mut piece).await.is_ok_and(|read| read > 0),
            // What the node had sent before it gave up is still on its way; after that comes the end.
            Slow::Read => {
                let mut sink = tokio::io::sink();
                let _cut_off = tokio::time::timeout(SOON, tokio::io::copy(&mut stream, &mut sink)).await;
                false
            }
        };
        if !goes_on {
            return;
        }
    }
}

/// The 99th percentile of a client that asks for one thing after the other, in milliseconds: the median of several looks.
async fn p99_ms(client: &Client, what: &str) -> anyhow::Result<f64> {
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        let mut times = Times::default();
        for _ in 0..REQUESTS {
            let begun = Instant::now();
            client.get("/v1/keys?limit=1").await?.expect(reqwest::StatusCode::OK)?;
            times.push(begun.elapsed());
        }
        eprintln!("{what}: {times}");
        looks.push(times.percentile(99).as_secs_f64() * 1_000.0);
    }
    looks.sort_unstable_by(f64::total_cmp);
    looks.get(LOOKS / 2).copied().context("no look")
}

fn raise_files() -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum.map_or(FILES, |maximum| maximum.min(FILES));
    ensure!(current > CLIENTS as u64 + 256, "the hard limit of open files is {current}; raise it for this test");
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).context("cannot have more files open")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_slow_clients_are_cut_off_and_a_healthy_one_does_not_notice() -> anyhow::Result<()> {
    raise_files()?;
    let node = Launch::dev()?
        .variable("WASMWIZ_GATEWAY__SERVER__HEADER_READ_TIMEOUT_MS", "8000")
        .variable("WASMWIZ_GATEWAY__SERVER__WRITE_STALL_MS", "8000")
        .variable("WASMWIZ_GATEWAY__BODY_GRACE_MS", "8000")
        .start()
        .await?;
    let (client, admin) = (node.client()?, node.admin()?);
    let address = node.ready().url.trim_start_matches("http://").parse()?;
    let key = node.ready().api_key.clone().context("dev gives a key")?;
    p99_ms(&client, "to warm up").await?;
    let before = resident_bytes(node.ready().pid)?;
    let quiet = p99_ms(&client, "quiet").await?;
    let mut attack = Attack::begin(address, &key);
    attack.until_open(CLIENTS * 9 / 10).await?;
    let attacked = p99_ms(&client, "attacked").await?;
    let grown = resident_bytes(node.ready().pid)?.saturating_sub(before);
    // All that were there are cut off, and come again.
    let (round, cut_off) = (Duration::from_secs(60), || attack.cut_off.load(Ordering::Relaxed));
    wait::until("all to be cut off", round, async || Ok((cut_off() >= CLIENTS).then_some(()))).await?;
    // Those that are cut off sooner come again sooner: of each kind, before all of them go.
    for reason in ["no_head", "slow_reader"] {
        let most = (CLIENTS / 3 * 9 / 10) as f64;
        until_counted(&admin, "wasmwiz_http_connections_cut_off_total", reason, most).await?;
    }
    attack.enough.store(true, Ordering::Relaxed);
    attack.clients.shutdown().await;
    eprintln!(
        "{CLIENTS} slow clients: p99 {quiet:.2} ms quiet, {attacked:.2} ms attacked, ratio {:.2}; the node has grown by \
         {} KiB",
        attacked / quiet,
        grown >> 10
    );
    ensure!(grown < CLIENT_BYTES_MAX * CLIENTS as u64, "the node has grown by {} MiB", grown >> 20);
    ensure!(attacked < ATTACKED_MS_MAX, "the healthy client waited {attacked} ms");
    ensure!(metric(&admin, "wasmwiz_http_requests_total", "status=\"408\"").await? > 0.0, "no slow body was refused");
    Ok(())
}

#[tokio::test]
async fn operators_reach_a_node_whose_clients_take_all_connections() -> anyhow::Result<()> {
    let node = Launch::dev()?.variable("WASMWIZ_GATEWAY__SERVER__CONNECTIONS_MAX", "20").start().await?;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(Connection::open(&node.ready().url).await?);
    }
    let refused = wait::until("the last place to be taken", SOON, async || {
        let mut one_more = Connection::open(&node.ready().url).await?;
        let got = String::from_utf8_lossy(&one_more.read_to_end(SOON).await?).into_owned();
        Ok(got.contains("too-many-connections").then_some(got))
    });
    ensure!(refused.await?.starts_with("HTTP/1.1 503"), "not a 503");
    node.admin()?.get("/readyz").await?.is(200)?;
    until_counted(&node.admin()?, "wasmwiz_http_connections_refused_total", "connections", 1.0).await
}

#[tokio::test]
async fn a_slow_body_is_told_so() -> anyhow::Result<()> {
    let node = Launch::dev()?.variable("WASMWIZ_GATEWAY__BODY_IDLE_MS", "200").start().await?;
    let key = node.ready().api_key.clone().context("dev gives a key")?;
    let head =
        format!("POST /v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 9\r\n\r\n{{");
    let got = told(&node, [head]).await?;
    ensure!(got.statuses == [408] && got.text.contains("body-too-slow"), "{}", got.text);
    Ok(())
}
