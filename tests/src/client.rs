//! A client of a node's API, as a program of a tenant would be one.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use bytes::Bytes;
use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// How a write says where it is in the log, and how a read asks not to be served from before it.
const POSITION: (&str, &str) = ("wasmwiz-position", "wasmwiz-min-position");

/// Sends requests to one node with one credential, or none. It reads its own writes, and those of its clones: the last
/// position that a write was given goes with every read.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    credential: Option<String>,
    seen: Arc<Mutex<Option<String>>>,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// An execution, as the API shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Execution {
    /// Its id.
    pub id: String,
    /// How it ended; absent while it runs.
    pub outcome: Option<String>,
    /// The guest's exit code.
    pub exit_code: Option<i32>,
    /// What the guest wrote to standard output, as `stdout_encoding` says.
    #[serde(default)]
    pub stdout: String,
    /// What the guest wrote to standard error.
    #[serde(default)]
    pub stderr: String,
    /// `utf-8` or `base64`.
    pub stdout_encoding: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

impl Client {
    /// A client of the node at `url`.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(url: &str, credential: Option<&str>) -> anyhow::Result<Self> {
        // A proxy of the environment must not come between a test and its node, and a redirect is an answer to look at.
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .build();
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self {
            http: http.context("cannot make an HTTP client")?,
            url,
            credential: credential.map(str::to_owned),
            seen: Arc::default(),
        })
    }

    /// The same with another credential.
    #[must_use]
    pub fn with_credential(&self, credential: &str) -> Self {
        Self { credential: Some(credential.to_owned()), ..self.clone() }
    }

    /// The same with no credential.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { credential: None, ..self.clone() }
    }

    /// The same of another node: what was written by either is seen by both.
    #[must_use]
    pub fn at(&self, url: &str) -> Self {
        Self { url: url.trim_end_matches('/').to_owned(), ..self.clone() }
    }

    /// Where the node is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request to complete by hand, and then to give to [`send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.credential {
            Some(credential) => request.bearer_auth(credential),
            None => request,
        }
    }

    /// Sends a request, and remembers the position of what it wrote.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let answer = send(request).await?;
        if let Some(position) = answer.header(POSITION.0) {
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(position.to_owned());
        }
        Ok(answer)
    }

    /// GET, of what is at least as new as this client's last write.
    ///
    /// # Errors
    /// As [`send`]; so for all that follow.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.as_seen(self.request(Method::GET, path))).await
    }

    /// A request that says what this client has written last.
    pub fn as_seen(&self, request: RequestBuilder) -> RequestBuilder {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.into_iter().fold(request, |request, position| request.header(POSITION.1, position))
    }

    /// GET, and the JSON of the answer, which must be a 200.
    ///
    /// # Errors
    /// When it is another.
    pub async fn get_json(&self, path: &str) -> anyhow::Result<Value> {
        self.get(path).await?.expect(StatusCode::OK)?.json()
    }

    /// POST of JSON.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn post_json(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// PATCH of JSON.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn patch_json(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// POST of bytes.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn post_bytes(&self, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Answer> {
        let request = self.request(Method::POST, path).header("content-type", "application/octet-stream");
        self.send(request.body(body.into())).await
    }

    /// DELETE.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Publishes a module: 201 for a new version, 200 for the same bytes.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn put_module(&self, name: &str, wasm: impl Into<Bytes>) -> anyhow::Result<Answer> {
        self.send(self.publication(name, wasm)).await
    }

    /// The request that publishes a module.
    pub fn publication(&self, name: &str, wasm: impl Into<Bytes>) -> RequestBuilder {
        let request = self.request(Method::PUT, &format!("/v1/modules/{name}"));
        request.header("content-type", "application/wasm").body(wasm.into())
    }

    /// The request that runs a module for so long at most and waits for its end.
    pub fn run_for(&self, module: &str, timeout_ms: u64) -> RequestBuilder {
        self.request(Method::POST, &format!("/v1/modules/{module}/executions?timeout_ms={timeout_ms}"))
    }

    /// Runs a module with this input, and waits for its end.
    ///
    /// # Errors
    /// When the answer is not a 200: an execution that fails is one.
    pub async fn execute(&self, module: &str, stdin: impl Into<Bytes>) -> anyhow::Result<Execution> {
        let answer = self.post_bytes(&format!("/v1/modules/{module}/executions"), stdin).await?;
        answer.expect(StatusCode::OK)?.json()
    }

    /// One execution.
    ///
    /// # Errors
    /// When it is not to be seen.
    pub async fn execution(&self, id: &str) -> anyhow::Result<Execution> {
        self.get(&format!("/v1/executions/{id}")).await?.expect(StatusCode::OK)?.json()
    }
}

/// Sends a request and reads the answer, whatever its status.
///
/// # Errors
/// When there is no whole answer.
pub async fn send(request: RequestBuilder) -> anyhow::Result<Answer> {
    let response = request.send().await.context("no answer")?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await.context("no whole answer")?;
    Ok(Answer { status, headers, body })
}

impl Answer {
    /// Itself, if its status is this one.
    ///
    /// # Errors
    /// When it is another; with the body, which says why.
    pub fn expect(self, status: StatusCode) -> anyhow::Result<Self> {
        if self.status != status {
            bail!("expected {status}, got {}: {}", self.status, self.text());
        }
        Ok(self)
    }

    /// Its body, of JSON.
    ///
    /// # Errors
    /// When it is not JSON, or not of the shape.
    pub fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body).with_context(|| format!("not the JSON that was expected: {}", self.text()))
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The last word of a problem's type: `not-found` of `…/problems/not-found`. Absent when the answer is no problem.
    pub fn problem(&self) -> Option<String> {
        if !self.header("content-type")?.starts_with("application/problem+json") {
            return None;
        }
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        let (_, slug) = body.get("type")?.as_str()?.rsplit_once("/problems/")?;
        Some(slug.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that answers one request with these bytes and gives what it was sent.
    async fn answering(answer: &'static str) -> (Client, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let got = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..got]).to_lowercase()
        });
        (Client::new(&url, Some("ww_secret")).unwrap(), asked)
    }

    #[tokio::test]
    async fn a_request_carries_the_credential() {
        let (client, asked) = answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"one\": 1}").await;
        assert_eq!(client.get_json("/v1/keys").await.unwrap()["one"], 1);
        let asked = asked.await.unwrap();
        assert!(
            asked.starts_with("get /v1/keys http/1.1") && asked.contains("authorization: bearer ww_secret"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn an_unexpected_status_is_an_error_with_the_reason() {
        let (client, _asked) = answering("HTTP/1.1 409 Conflict\r\ncontent-length: 7\r\n\r\nwhy not").await;
        let error = client.execute("echo", "input").await.unwrap_err();
        assert_eq!(error.to_string(), "expected 200 OK, got 409 Conflict: why not");
    }

    #[tokio::test]
    async fn a_problem_is_known_by_the_last_word_of_its_type() {
        let (client, _asked) = answering(
            "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: 53\r\n\r\n\
             {\"type\": \"https://wasmwiz.dev/problems/no-such-page\"}",
        )
        .await;
        assert_eq!(client.get("/nowhere").await.unwrap().problem().as_deref(), Some("no-such-page"));
    }
}
