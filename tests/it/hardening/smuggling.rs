//! Requests that two readers could cut up in two ways: the second one, which hides in the first, is never answered.

use super::*;

/// What an attacker wants a node to take for a request of its own.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n";

/// Heads after which it is not clear where the request ends, or what it is.
const HEADS: [&str; 34] = [
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5, 6\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +5\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0x5\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5 5\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: \r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: \"chunked\"\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\nx: y\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\nx: y\rtransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\n\rtransfer-encoding: chunked\r\n\r\n",
    "POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5;a\nb\r\nabcde\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    "GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    "GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET http://a.example/ HTTP/1.1\r\nhost: b.example\r\n\r\n",
];

#[tokio::test]
async fn a_request_that_hides_in_another_is_never_answered() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let growth = Growth::begin(&node)?;
    for head in HEADS {
        let got = told(&node, [format!("{head}{HIDDEN}")]).await.with_context(|| format!("{head:?}"))?;
        ensure!(got.statuses.len() <= 1, "{head:?} has {:?} answers: {}", got.statuses, got.text);
        ensure!(got.statuses.iter().all(|status| (400..500).contains(status)), "{head:?}: {}", got.text);
        ensure!(!got.text.contains("hidden"), "{head:?}: {}", got.text);
    }
    growth.is_small("smuggling").await?;
    // What can be cut up in one way only is two requests.
    let clear =
        format!("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n{}", HIDDEN.replace("host", "connection: close\r\nhost"));
    let got = told(&node, [clear]).await?;
    ensure!(got.statuses == [200, 404], "{}", got.text);
    Ok(())
}
