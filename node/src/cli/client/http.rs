//! Requests to a node: each with a deadline, each answer read up to a bound.

use std::{fmt, time::Duration};

use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{self, HeaderValue},
};
use serde_json::Value;

use super::{failure::Failure, patient};
use crate::here::is_here;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a request may take that runs no guest and sends no module.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// How long an upload may take.
pub(super) const UPLOAD_DEADLINE: Duration = Duration::from_secs(300);

/// How much of an answer is read that is no stream of an execution: a page of 200 items is far below.
const ANSWER_BYTES: usize = 16 << 20;

/// How much of an execution is read: two outputs of the largest tier as JSON that escapes each byte.
pub(super) const EXECUTION_BYTES: usize = 224 << 20;

/// Items of a page that is asked for: the most that the API gives.
const PAGE_ITEMS: usize = 200;

/// Pages of one list that are asked for: a filter that few pass gives many empty ones, and a list has an end.
const PAGES: usize = 1_000;

/// How much of a problem is read: what is longer is none that people read.
const PROBLEM_BYTES: usize = 1 << 20;

/// How much of all pages of a list is read.
const LIST_BYTES: usize = 256 << 20;

/// How long all pages of a list may take.
const LIST_DEADLINE: Duration = Duration::from_secs(300);

/// How long the end of a write is waited for.
const SETTLED: Duration = Duration::from_secs(5);

/// Header of the answer to a write, and the one that sends it back.
const POSITION: &str = "wasmwiz-position";
const MIN_POSITION: &str = "wasmwiz-min-position";

/// One node, and who asks.
pub(super) struct Api {
    http: reqwest::Client,
    url: Url,
    key: Option<String>,
}

impl fmt::Debug for Api {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    /// The bytes.
    pub(super) body: Vec<u8>,
    url: String,
    /// Where the log has what was written, as the node names it.
    position: Option<HeaderValue>,
}

impl Answer {
    /// As JSON.
    pub(super) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body).map_err(|_| Failure::Strange { url: self.url.clone() })
    }
}

impl Api {
    /// A client of the node at `url`. A node never redirects: whoever does is not sent the key.
    pub(super) fn new(url: Url, key: Option<String>) -> anyhow::Result<Self> {
        let agent = concat!("wasmwiz/", env!("CARGO_PKG_VERSION"));
        let mut http = reqwest::Client::builder().user_agent(agent).connect_timeout(CONNECT);
        http = http.redirect(reqwest::redirect::Policy::none());
        if is_here(&url) {
            // What the environment says of proxies is for other machines: a key is not carried to one and back.
            http = http.no_proxy();
        }
        if url.scheme() == "http" {
            // A machine without the system's certificates can ask a node beside it all the same.
            http = http.tls_certs_only([]);
        }
        Ok(Self { http: http.build()?, url, key })
    }

    /// Where the node is.
    pub(super) fn url(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// The address of a resource: its segments and its query, escaped.
    pub(super) fn at(&self, segments: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// A request to complete and to send.
    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a request and reads the answer, which must say that it was done.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        deadline: Duration,
        most_bytes: usize,
    ) -> Result<Answer, Failure> {
        let work = async {
            let response = request.send().await.map_err(|source| self.unreachable(source))?;
            if !response.status().is_success() {
                return Err(self.refused(response).await);
            }
            let position = response.headers().get(POSITION).cloned();
            let body = self.read(response, most_bytes).await?;
            Ok(Answer { body, url: self.url().to_owned(), position })
        };
        let slow = Failure::TooSlow { url: self.url().to_owned(), seconds: deadline.as_secs() };
        tokio::time::timeout(deadline, work).await.unwrap_or(Err(slow))
    }

    async fn refused(&self, response: Response) -> Failure {
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = self.read(response, PROBLEM_BYTES).await.unwrap_or_default();
        let problem = serde_json::from_slice(&body).unwrap_or_default();
        Failure::Refused { status, problem: Box::new(problem), retry_after }
    }

    async fn read(&self, mut response: Response, most_bytes: usize) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| self.unreachable(source))? {
            if chunk.len() > most_bytes - body.len() {
                return Err(Failure::TooLarge { most_bytes });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unreachable(&self, source: reqwest::Error) -> Failure {
        Failure::Unreachable { url: self.url().to_owned(), source: source.without_url() }
    }

    /// GET of JSON.
    pub(super) async fn get(&self, segments: &[&str], query: &[(&str, String)]) -> Result<Value, Failure> {
        let request = self.request(Method::GET, self.at(segments, query));
        self.send(request, DEADLINE, ANSWER_BYTES).await?.json()
    }

    /// How the node is: a JSON answer whether it is well (200) or not (503).
    pub(super) async fn health(&self) -> Result<Value, Failure> {
        let work = async {
            let request = self.request(Method::GET, self.at(&["health"], &[]));
            let response = request.send().await.map_err(|source| self.unreachable(source))?;
            if !response.status().is_success() && response.status() != StatusCode::SERVICE_UNAVAILABLE {
                return Err(self.refused(response).await);
            }
            let body = self.read(response, ANSWER_BYTES).await?;
            Answer { body, url: self.url().to_owned(), position: None }.json()
        };
        let slow = Failure::TooSlow { url: self.url().to_owned(), seconds: DEADLINE.as_secs() };
        tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(slow))
    }

    /// Waits until lists show what `answer` says was written, so that the next command sees it. `segments` begin with those of
    /// a list. A caller who may not read it does not wait: what was done is done.
    pub(super) async fn settle(&self, answer: &Answer, segments: &[&str]) {
        let (Some(position), Some(list)) = (&answer.position, segments.get(..2)) else { return };
        let request = self.request(Method::GET, self.at(list, &[("limit", "1".to_owned())]));
        let _ = self.send(request.header(MIN_POSITION, position), SETTLED, ANSWER_BYTES).await;
    }

    /// GET of the bytes of an execution.
    pub(super) async fn bytes(&self, segments: &[&str]) -> Result<Vec<u8>, Failure> {
        let request = self.request(Method::GET, self.at(segments, &[]));
        Ok(self.send(request, UPLOAD_DEADLINE, EXECUTION_BYTES).await?.body)
    }

    /// A request with a JSON body, or none; gives the JSON of the answer, null when it has no body.
    pub(super) async fn call(&self, method: Method, segments: &[&str], body: Option<&Value>) -> Result<Value, Failure> {
        let request = self.request(method, self.at(segments, &[]));
        let request = body.map_or(request.try_clone(), |body| Some(request.json(body)));
        let Some(request) = request else { return Err(Failure::Strange { url: self.url().to_owned() }) };
        let answer = self.send(request, DEADLINE, ANSWER_BYTES).await?;
        self.settle(&answer, segments).await;
        if answer.body.is_empty() { Ok(Value::Null) } else { answer.json() }
    }

    /// The first `most` items of a list, page after page; and whether there are more.
    pub(super) async fn list(
        &self,
        segments: &[&str],
        query: &[(&str, String)],
        most: usize,
    ) -> Result<(Vec<Value>, bool), Failure> {
        self.within(self.pages(segments, query, (most, false), |_| true)).await
    }

    /// The first `most` items of a list that are wanted, page after page; and whether the list goes on.
    pub(super) async fn list_where(
        &self,
        segments: &[&str],
        query: &[(&str, String)],
        most: usize,
        is_wanted: impl FnMut(&Value) -> bool,
    ) -> Result<(Vec<Value>, bool), Failure> {
        self.within(self.pages(segments, query, (most, true), is_wanted)).await
    }

    async fn within<T>(&self, listing: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let slow = Failure::TooSlow { url: self.url().to_owned(), seconds: LIST_DEADLINE.as_secs() };
        tokio::time::timeout(LIST_DEADLINE, listing).await.unwrap_or(Err(slow))
    }

    /// A node that gives longer pages than it was asked for, or pages without end, is not read on and on.
    async fn pages(
        &self,
        segments: &[&str],
        query: &[(&str, String)],
        (most, is_filtered): (usize, bool),
        mut is_wanted: impl FnMut(&Value) -> bool,
    ) -> Result<(Vec<Value>, bool), Failure> {
        let (mut items, mut cursor, mut left) = (Vec::new(), None::<String>, LIST_BYTES);
        for number in 0..PAGES {
            let mut query = query.to_vec();
            // Of those that come, few may be wanted.
            let page = if is_filtered { PAGE_ITEMS } else { PAGE_ITEMS.min(most.saturating_sub(items.len())) };
            query.push(("limit", page.to_string()));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let request = || self.request(Method::GET, self.at(segments, &query));
            let bounds = (DEADLINE, ANSWER_BYTES.min(left));
            // Who asked is told at once why there is no list. One that has begun is not given up for a busy moment.
            let answer = match number {
                0 => self.send(request(), bounds.0, bounds.1).await?,
                _ => patient::send(self, request, bounds).await?,
            };
            left -= answer.body.len();
            let mut page = answer.json()?;
            let Some(Value::Array(new)) = page.get_mut("items").map(Value::take) else {
                return Err(Failure::Strange { url: self.url().to_owned() });
            };
            items.extend(new.into_iter().filter(|item| is_wanted(item)));
            if items.len() > most {
                items.truncate(most);
                return Ok((items, true));
            }
            match page.get("next_cursor").and_then(Value::as_str) {
                Some(_) if items.len() >= most => break,
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok((items, false)),
            }
        }
        Ok((items, true))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A server that answers every request with this head, and then with this piece again and again until nobody listens.
    async fn server(head: &'static str, piece: &'static str) -> Api {
        server_of(vec![head], piece).await
    }

    /// The same with the next head each time, and with the last one from then on.
    async fn server_of(heads: Vec<&'static str>, piece: &'static str) -> Api {
        let last = *heads.last().unwrap();
        let mut next = heads.into_iter().chain(std::iter::repeat(last));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let (Ok((mut stream, _)), Some(head)) = (listener.accept().await, next.next()) {
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4_096]).await;
                    let _ = stream.write_all(head.as_bytes()).await;
                    while !piece.is_empty() && stream.write_all(piece.as_bytes()).await.is_ok() {}
                    // The other end hangs up.
                    let _ = stream.read(&mut [0; 1]).await;
                });
            }
        });
        Api::new(url.parse().unwrap(), Some("ww_a_secret".to_owned())).unwrap()
    }

    const BRIEF: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_server_that_never_answers_or_never_ends_is_given_up_by_the_deadline() {
        for head in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "HTTP/1.1 500 x\r\n\r\n{"]
        {
            let api = server(head, "").await;
            let failed = api.send(api.request(Method::GET, api.at(&[], &[])), BRIEF, 1 << 20).await.unwrap_err();
            assert!(matches!(failed, Failure::TooSlow { .. }), "{head:?}: {failed:?}");
            assert_eq!(failed.code(), 6);
        }
    }

    #[tokio::test]
    async fn a_server_that_answers_endlessly_is_read_up_to_the_bound() {
        let api = server("HTTP/1.1 200 OK\r\n\r\n", ENDLESS).await;
        let failed = api.send(api.request(Method::GET, api.at(&[], &[])), DEADLINE, 1 << 20).await.unwrap_err();
        assert!(matches!(failed, Failure::TooLarge { most_bytes: 0x10_0000 }), "{failed:?}");
        // A problem without end is told by its status alone.
        let api = server("HTTP/1.1 404 Not Found\r\n\r\n", ENDLESS).await;
        let failed = api.get(&["v1"], &[]).await.unwrap_err();
        assert_eq!((failed.code(), failed.to_string().as_str()), (4, "Not Found (404)"));
        // So is a head without end none.
        let api = server("HTTP/1.1 200 OK\r\n", "x-more: of it\r\n").await;
        assert!(matches!(api.get(&["v1"], &[]).await.unwrap_err(), Failure::Unreachable { .. }));
        assert!(api.health().await.is_err());
    }

    #[tokio::test]
    async fn a_list_ends_where_it_was_asked_to_also_when_the_server_does_not() {
        const PAGE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 40\r\nconnection: close\r\n\r\n\
                            {\"items\":[1,2,3,4],\"next_cursor\":\"same\"}";
        let body = PAGE.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body.len(), 40, "the head says so");
        let api = server(PAGE, "").await;
        let (items, more) = api.list(&["v1"], &[], 6).await.unwrap();
        assert_eq!((items.len(), more), (6, true));
        let api = server("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n", "").await;
        assert!(matches!(api.get(&["v1"], &[]).await.unwrap_err(), Failure::Refused { .. }), "the key goes elsewhere");
    }

    #[tokio::test]
    async fn a_list_that_has_begun_waits_for_a_node_that_is_busy_and_one_that_has_not_says_so() {
        const PAGE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 40\r\nconnection: close\r\n\r\n\
                            {\"items\":[1,2,3,4],\"next_cursor\":\"same\"}";
        const BUSY: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 52\r\nconnection: close\r\n\r\n\
                            {\"type\":\"https://wasmwiz.dev/problems/rate-limited\"}";
        assert_eq!(BUSY.split_once("\r\n\r\n").unwrap().1.len(), 52, "the head says so");
        // Given a node that is busy for a moment between two pages, then the list is whole.
        let api = server_of(vec![PAGE, BUSY, BUSY, PAGE], "").await;
        let (items, _) = api.list(&["v1"], &[], 6).await.unwrap();
        assert_eq!(items.len(), 6);
        // Given one that is busy from the start, then who asked is told.
        let api = server_of(vec![BUSY, PAGE], "").await;
        assert!(api.list(&["v1"], &[], 6).await.unwrap_err().is_about("rate-limited"));
    }

    const ENDLESS: &str = "and so on, and so on, and so on, and so on, and so on, and so on, and so on, and so on; ";

    #[test]
    fn what_goes_into_an_address_is_escaped() {
        let api = Api::new("http://127.0.0.1:8080/base/".parse().unwrap(), None).unwrap();
        let url = api.at(&["v1", "modules", "../a?b"], &[("arg", "x&y=z".to_owned())]);
        assert_eq!(url.as_str(), "http://127.0.0.1:8080/base/v1/modules/..%2Fa%3Fb?arg=x%26y%3Dz");
    }
}
