//! The serve loop against clients that behave and clients that do not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail like tests, and draw keys"
)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use poem::{Endpoint, Request, Response, endpoint::make};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use wasmwiz_gateway::server::{self, Drained, ServerConfig};

const PATIENCE: Duration = Duration::from_secs(10);

struct Serving {
    address: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<Drained>,
}

async fn serving(config: ServerConfig, endpoint: impl Endpoint + 'static) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let ended = tokio::spawn(server::serve(listener, endpoint, config, stop.clone()));
    Serving { address, stop, ended }
}

fn hello() -> impl Endpoint + 'static {
    make(|_: Request| async { Ok::<_, poem::Error>(Response::builder().body("hello")) })
}

async fn said(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _closed = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server does not close");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 4_096];
    let count = timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap().unwrap();
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let serving = serving(ServerConfig::default(), hello()).await;
    let mut stream = TcpStream::connect(serving.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(GET).await.unwrap();
        assert!(answer(&mut stream).await.ends_with("hello"));
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_closed() {
    let config = ServerConfig { header_read_timeout_ms: 50, ..Default::default() };
    let serving = serving(config, hello()).await;
    for begun in ["", "G", "GET / HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut stream = TcpStream::connect(serving.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        assert!(!said(&mut stream).await.contains("hello"), "{begun:?}");
    }
}

#[tokio::test]
async fn a_head_without_measure_is_refused() {
    let serving = serving(ServerConfig::default(), hello()).await;
    let many: String = (0..100).map(|index| format!("x-{index}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(200_000));
    for headers in [many, long] {
        let mut stream = TcpStream::connect(serving.address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let _cut_off = stream.write_all(head.as_bytes()).await;
        assert!(!said(&mut stream).await.contains("hello"));
    }
}

#[tokio::test]
async fn connections_over_the_caps_are_told_and_closed() {
    let config = ServerConfig { connections_per_address_max: 1, ..Default::default() };
    let serving = serving(config, hello()).await;
    let mut first = TcpStream::connect(serving.address).await.unwrap();
    first.write_all(GET).await.unwrap();
    assert!(answer(&mut first).await.ends_with("hello"));
    let mut second = TcpStream::connect(serving.address).await.unwrap();
    let refused = said(&mut second).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("too-many-connections"), "{refused}");
    drop(first);
    timeout(PATIENCE, async {
        loop {
            let mut third = TcpStream::connect(serving.address).await.unwrap();
            if third.write_all(GET).await.is_ok() && answer(&mut third).await.ends_with("hello") {
                return;
            }
        }
    })
    .await
    .expect("a closed connection does not make room");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let config = ServerConfig { header_read_timeout_ms: 50, idle_ms: 50, ..Default::default() };
    let serving = serving(config, hello()).await;
    let mut stream = TcpStream::connect(serving.address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    assert!(said(&mut stream).await.contains("hello"));
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_the_end() {
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let endpoint = make({
        let (entered, go) = (Arc::clone(&entered), Arc::clone(&go));
        move |_: Request| {
            let (entered, go) = (Arc::clone(&entered), Arc::clone(&go));
            async move {
                entered.notify_one();
                go.notified().await;
                Ok::<_, poem::Error>(Response::builder().body("late"))
            }
        }
    });
    let serving = serving(ServerConfig::default(), endpoint).await;
    let mut stream = TcpStream::connect(serving.address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    timeout(PATIENCE, entered.notified()).await.unwrap();
    serving.stop.cancel();
    timeout(PATIENCE, async { while TcpStream::connect(serving.address).await.is_ok() {} }).await.unwrap();
    go.notify_one();
    assert!(said(&mut stream).await.ends_with("late"));
    let drained = timeout(PATIENCE, serving.ended).await.unwrap().unwrap();
    assert_eq!(drained, Drained { open: 1, aborted: 0 });
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut_off() {
    let entered = Arc::new(Notify::new());
    let endpoint = make({
        let entered = Arc::clone(&entered);
        move |_: Request| {
            entered.notify_one();
            std::future::pending::<poem::Result<Response>>()
        }
    });
    let serving = serving(ServerConfig { drain_ms: 50, ..Default::default() }, endpoint).await;
    let mut stream = TcpStream::connect(serving.address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    timeout(PATIENCE, entered.notified()).await.unwrap();
    serving.stop.cancel();
    let drained = timeout(PATIENCE, serving.ended).await.unwrap().unwrap();
    assert_eq!(drained, Drained { open: 1, aborted: 1 });
    assert_eq!(said(&mut stream).await, "");
}

#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_never_hide_a_second_one() {
    let serving = serving(ServerConfig::default(), hello()).await;
    let hidden = "GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n";
    for head in [
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : x\r\n\r\n",
        "GET / HTTP/9.9\r\nhost: x\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(serving.address).await.unwrap();
        let _cut_off = stream.write_all(format!("{head}{hidden}").as_bytes()).await;
        let answers = said(&mut stream).await;
        assert!(!answers.contains("hello"), "{head:?}: {answers}");
    }
}

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port() {
    let serving = serving(ServerConfig::default(), hello()).await;
    let mut stream = TcpStream::connect(serving.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frame = [0; 9];
    timeout(PATIENCE, stream.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(frame[3], 4, "the first frame of a server is SETTINGS");
}
