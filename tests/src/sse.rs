//! A client of server-sent events that reads one after the other, as a browser's `EventSource` would.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    client::{Answer, Client, send},
    wait::SOON,
};

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// Where it is.
    pub id: String,
    /// Its name.
    pub event: String,
    /// Its data.
    pub data: String,
}

impl Event {
    /// Its data, of JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.data).with_context(|| format!("not JSON: {}", self.data))
    }
}

/// What comes on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// An event.
    Event(Event),
    /// A comment.
    Comment(String),
    /// Nothing more: the stream has ended as it should.
    End,
}

/// An open stream.
#[derive(Debug)]
pub struct Stream {
    response: Response,
    /// What came after the last whole block.
    rest: String,
}

impl Stream {
    /// Opens a stream, right after the event with the id `last` if there is one.
    ///
    /// # Errors
    /// When the answer is no stream.
    pub async fn open(client: &Client, path: &str, last: Option<&str>) -> anyhow::Result<Self> {
        let request = client.request(Method::GET, path);
        let request = last.into_iter().fold(request, |request, id| request.header("last-event-id", id));
        let response = request.send().await.context("no answer")?;
        let status = response.status();
        ensure!(status == StatusCode::OK, "{path} gives {status}: {}", response.text().await.unwrap_or_default());
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        ensure!(header("content-type").as_deref() == Some("text/event-stream"), "{:?}", response.headers());
        ensure!(header("cache-control").is_some_and(|value| value.contains("no-cache")), "{:?}", response.headers());
        ensure!(header("x-request-id").is_some(), "no X-Request-Id: {:?}", response.headers());
        Ok(Self { response, rest: String::new() })
    }

    /// Asks for a stream that is not to be had, and gives the answer.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn refused(client: &Client, path: &str, last: Option<&str>) -> anyhow::Result<Answer> {
        let request = client.request(Method::GET, path);
        let request = last.into_iter().fold(request, |request, id| request.header("last-event-id", id));
        timeout(SOON, send(request)).await.context("it is answered with a stream")?
    }

    /// The next thing that comes.
    ///
    /// # Errors
    /// When nothing comes in time, or the connection breaks.
    pub async fn next_said(&mut self, within: Duration) -> anyhow::Result<Said> {
        loop {
            if let Some((block, rest)) = self.rest.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.rest = rest;
                return Ok(said(&block));
            }
            let chunk = timeout(within, self.response.chunk()).await.context("nothing came")?;
            match chunk.context("the stream broke")? {
                Some(bytes) => self.rest.push_str(std::str::from_utf8(&bytes).context("no text")?),
                None => {
                    ensure!(self.rest.is_empty(), "it ends within an event: {}", self.rest);
                    return Ok(Said::End);
                }
            }
        }
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// As [`Self::next_said`].
    pub async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            match self.next_said(SOON).await? {
                Said::Event(event) => return Ok(Some(event)),
                Said::Comment(_) => {}
                Said::End => return Ok(None),
            }
        }
    }

    /// All events up to the end.
    ///
    /// # Errors
    /// As [`Self::next_said`].
    pub async fn rest(mut self) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await? {
            events.push(event);
        }
        Ok(events)
    }
}

fn said(block: &str) -> Said {
    let (mut event, mut data) = (Event::default(), Vec::new());
    let mut comment = None;
    for line in block.lines() {
        match line.split_once(':') {
            Some(("", text)) => comment = Some(text.trim().to_owned()),
            Some(("id", id)) => id.trim().clone_into(&mut event.id),
            Some(("event", name)) => name.trim().clone_into(&mut event.event),
            Some(("data", text)) => data.push(text.strip_prefix(' ').unwrap_or(text)),
            _ => {}
        }
    }
    match comment {
        Some(comment) if data.is_empty() => Said::Comment(comment),
        _ => Said::Event(Event { data: data.join("\n"), ..event }),
    }
}
