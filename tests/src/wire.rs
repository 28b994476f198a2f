//! Requests of measurements, written and read by hand: nothing else of the client is measured.

use std::str;

use anyhow::{Context as _, ensure};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

/// What ends the head of an answer.
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// A POST whose answer is the same bytes again.
pub fn echo_request(path: &str, authorization: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n", body.len());
    request.push_str("Content-Type: application/octet-stream\r\n");
    if let Some(key) = authorization {
        request.push_str(&format!("Authorization: Bearer {key}\r\n"));
    }
    request.push_str("\r\n");
    [request.as_bytes(), body].concat()
}

/// A GET.
pub fn read_request(path: &str, authorization: Option<&str>) -> Vec<u8> {
    let authorization = authorization.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{authorization}\r\n").into_bytes()
}

/// Reads one answer with a `Content-Length` into the buffer, which is emptied before, and gives its status.
///
/// # Errors
/// When the connection ends before the answer, or it has another form.
pub async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<u16> {
    buffer.clear();
    let mut answer = None;
    loop {
        if let Some((status, length)) = answer
            && buffer.len() >= length
        {
            return Ok(status);
        }
        ensure!(stream.read_buf(buffer).await? > 0, "the server closed the connection");
        if answer.is_none() {
            answer = head(buffer)?;
        }
    }
}

/// The status and the length of the whole answer, once its head is there.
fn head(bytes: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(end) = bytes.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD) else { return Ok(None) };
    let head = str::from_utf8(bytes.get(..end).unwrap_or_default())?.to_ascii_lowercase();
    let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)).context("not an answer of HTTP/1.1")?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("an answer without Content-Length")?.trim().parse()?;
    Ok(Some((status.parse()?, end + END_OF_HEAD.len() + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is_there() {
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert_eq!(head(b"HTTP/1.1 503 Busy\r\nContent-Length: 7\r\n\r\nwhy").unwrap(), Some((503, 47)));
        head(b"HTTP/1.1 200 OK\r\n\r\n").unwrap_err();
        head(b"220 mail.example ESMTP\r\n\r\n").unwrap_err();
    }
}
