//! Requests without TLS: to pods, services and containers of a trial, which are on this machine.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;

/// The longest answer that is read, in bytes: a page of executions is less.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// How long an answer may take, from its first byte to its last: longer than the longest execution of a trial.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The line with the status, and the headers.
    head: String,
    /// Does the server close the connection after it?
    closes: bool,
}

/// A request: method, path, and headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'r> {
    pub(crate) method: &'r str,
    pub(crate) path: &'r str,
    pub(crate) key: &'r str,
    pub(crate) headers: &'r [(&'r str, &'r str)],
    pub(crate) body: &'r [u8],
}

/// A connection that may be used again. Nothing where there is none at the moment.
#[derive(Debug, Default)]
pub(crate) struct Kept(Option<TcpStream>);

impl Request<'_> {
    /// Sends it over a connection of its own.
    ///
    /// # Errors
    /// When nobody answers, or not in whole.
    pub(crate) fn send(&self, address: SocketAddr) -> io::Result<Answer> {
        self.exchange(&mut connect(address)?, address, "close")
    }

    /// Sends it over the connection that is kept, or over a new one, and keeps that if the server does.
    ///
    /// # Errors
    /// As [`Self::send`]; also where the server has closed the kept one meanwhile.
    pub(crate) fn send_over(&self, kept: &mut Kept, address: SocketAddr) -> io::Result<Answer> {
        let mut stream = kept.0.take().map_or_else(|| connect(address), Ok)?;
        let answer = self.exchange(&mut stream, address, "keep-alive")?;
        kept.0 = (!answer.closes).then_some(stream);
        Ok(answer)
    }

    fn exchange(&self, stream: &mut TcpStream, address: SocketAddr, connection: &str) -> io::Result<Answer> {
        let Self { method, path, key, headers, body } = self;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: {connection}\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !key.is_empty() {
            head.push_str(&format!("Authorization: Bearer {key}\r\n"));
        }
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(&[format!("{head}\r\n").as_bytes(), body].concat())?;
        let (mut answer, mut read) = (Vec::new(), [0; 16 << 10]);
        loop {
            let count = stream.read(&mut read)?;
            answer.extend_from_slice(read.get(..count).unwrap_or_default());
            if let Some(answer) = Answer::read(&answer) {
                return Ok(answer);
            }
            if count == 0 || answer.len() > ANSWER_BYTES_MAX {
                return Err(io::Error::other(format!(
                    "the connection ended after {} bytes of the answer",
                    answer.len()
                )));
            }
        }
    }

    /// Sends it, and wants that status and JSON.
    ///
    /// # Errors
    /// When the answer is another.
    pub(crate) fn json(&self, address: SocketAddr, status: u16) -> anyhow::Result<Value> {
        let asked = format!("{} {address}{}", self.method, self.path);
        self.send(address).with_context(|| asked.clone())?.json(&asked, status)
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    Ok(stream)
}

impl Answer {
    /// Its JSON, if it has that status.
    ///
    /// # Errors
    /// When it is another.
    pub(crate) fn json(&self, asked: &str, status: u16) -> anyhow::Result<Value> {
        let text = String::from_utf8_lossy(&self.body);
        ensure!(self.status == status, "{asked} is answered with {}, and not with {status}: {text}", self.status);
        serde_json::from_str(&text).with_context(|| format!("{asked}: not JSON: {text}"))
    }

    /// The value of a header, whose name is in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        value_in(&self.head, name)
    }

    /// Nothing where it is not whole.
    fn read(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let (head, rest) = (std::str::from_utf8(bytes.get(..end)?).ok()?, bytes.get(end + 4..)?);
        let status = head.split("\r\n").next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let body = match (value_in(head, "transfer-encoding"), value_in(head, "content-length")) {
            (Some(encoding), _) if encoding.eq_ignore_ascii_case("chunked") => joined(rest)?,
            (_, Some(length)) => rest.get(..length.parse().ok()?)?.to_vec(),
            _ => Vec::new(),
        };
        let closes = value_in(head, "connection").is_some_and(|said| said.eq_ignore_ascii_case("close"));
        Some(Self { status, body, head: head.to_owned(), closes })
    }
}

/// The value of a header in the head of an answer.
fn value_in<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut headers = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A request for a page.
pub(crate) const fn get<'r>(path: &'r str, key: &'r str) -> Request<'r> {
    Request { method: "GET", path, key, headers: &[], body: &[] }
}

/// The chunks of a body, put together; nothing where the last is missing.
fn joined(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(rest.get(..line)?).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = rest.get(line + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(answer: &str) -> Option<(u16, String)> {
        Answer::read(answer.as_bytes()).map(|answer| (answer.status, String::from_utf8(answer.body).unwrap()))
    }

    #[test]
    fn an_answer_is_read_by_its_length_or_its_chunks() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"), Some((200, "ab".to_owned())));
        let chunks = "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n";
        assert_eq!(body(chunks), Some((201, "abcd".to_owned())));
        assert_eq!(body("HTTP/1.1 204 No Content\r\n\r\n"), Some((204, String::new())));
    }

    #[test]
    fn a_server_that_closes_says_so() {
        let closes = |head: &str| Answer::read(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes()).unwrap().closes;
        assert!(closes("Connection: close") && !closes("Connection: keep-alive") && !closes("Content-Length: 0"));
    }

    #[test]
    fn a_header_is_found_by_its_name_in_any_case() {
        let answer = Answer::read(b"HTTP/1.1 200 OK\r\nWasmwiz-Position: a:7 \r\nB:\r\n\r\n").unwrap();
        assert_eq!(answer.header("wasmwiz-position"), Some("a:7"));
        assert_eq!((answer.header("b"), answer.header("c")), (Some(""), None));
    }

    #[test]
    fn half_an_answer_is_none() {
        let halves = [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        ];
        halves.iter().for_each(|half| assert_eq!(body(half), None, "{half}"));
    }
}
