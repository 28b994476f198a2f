//! Bodies that are small until they are unpacked: nothing unpacks them.

use super::*;
use reqwest::Method;

/// Ten mebibytes of zeros and more, each packed to a few kilobytes at most.
const BOMBS: [(&str, &[u8]); 4] = [
    ("gzip", include_bytes!("bombs/gzip.bin")),
    ("deflate", include_bytes!("bombs/deflate.bin")),
    ("br", include_bytes!("bombs/br.bin")),
    ("zstd", include_bytes!("bombs/zstd.bin")),
];

#[tokio::test]
async fn a_packed_body_is_refused_in_every_codec_and_at_every_door() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let client = node.client()?;
    let growth = Growth::begin(&node)?;
    for (codec, bomb) in BOMBS {
        for (method, path, media_type) in [
            (Method::PUT, "/v1/modules/bomb", "application/wasm"),
            (Method::POST, "/v1/modules/echo/executions", "application/octet-stream"),
            (Method::POST, "/v1/executions", "multipart/form-data; boundary=B"),
            (Method::POST, "/v1/keys", "application/json"),
        ] {
            let request = client.request(method, path).header("content-type", media_type);
            let answer = client.send(request.header("content-encoding", codec).body(bomb)).await?;
            answer.refuses(415, "unsupported-encoding").with_context(|| format!("{codec} to {path}"))?;
            ensure!(answer.header("accept-encoding") == Some("identity"), "{answer:?}");
        }
        // Without the header it is bytes like others: the guest gets them as they are.
        let execution = client.post_bytes("/v1/modules/echo/executions", bomb).await?.is(200)?;
        ensure!(execution["usage"]["stdin_bytes"] == bomb.len(), "{codec}: {execution}");
    }
    growth.is_small("bombs").await?;
    Ok(())
}
