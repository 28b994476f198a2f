//! Requests by curl. A key is given to it in a file: the arguments of a process are anybody's to read.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    process::{command, read},
    workspace,
};

/// Seconds that one request may take: longer than a first run of a module on a busy node.
const SECONDS_MAX: &str = "60";

/// What sends requests to one platform.
pub(super) struct Client {
    url: String,
    ca_file: Option<PathBuf>,
    /// What is sent and what is received, for its owner alone. It goes when this does.
    folder: PathBuf,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    asked: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Client {
    pub(super) fn new(url: &str, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let is_url = url.starts_with("https://") || url.starts_with("http://");
        ensure!(is_url, "{url:?} is no address: https://HOST");
        let host: String = url.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let folder = workspace::root().join("target/smoke").join(format!("{}-{host}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let ca_file = ca_file.map(std::path::absolute).transpose()?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), ca_file, folder })
    }

    pub(super) fn get(&self, path: &str, key: Option<&str>) -> anyhow::Result<Answer> {
        self.send("GET", path, key, &[])
    }

    /// Reads what was written before that position, on whichever node answers.
    pub(super) fn get_after(&self, path: &str, key: &str, position: &str) -> anyhow::Result<Answer> {
        self.send("GET", path, Some(key), &["-H", &format!("Wasmwiz-Min-Position: {position}")])
    }

    pub(super) fn post_json(&self, path: &str, key: &str, body: &Value) -> anyhow::Result<Answer> {
        self.post(path, key, "application/json", body.to_string().as_bytes())
    }

    pub(super) fn post(&self, path: &str, key: &str, kind: &str, body: &[u8]) -> anyhow::Result<Answer> {
        self.send_body("POST", path, key, kind, body)
    }

    pub(super) fn upload(&self, path: &str, key: &str, kind: &str, body: &[u8]) -> anyhow::Result<Answer> {
        self.send_body("PUT", path, key, kind, body)
    }

    fn send_body(&self, method: &str, path: &str, key: &str, kind: &str, body: &[u8]) -> anyhow::Result<Answer> {
        let kind = format!("Content-Type: {kind}");
        let file = format!("@{}", self.keep("body", body)?.display());
        self.send(method, path, Some(key), &["-H", &kind, "--data-binary", &file])
    }

    /// Sends it. Any status is an answer.
    pub(super) fn send(&self, method: &str, path: &str, key: Option<&str>, more: &[&str]) -> anyhow::Result<Answer> {
        let asked = format!("{method} {}{path}", self.url);
        let (headers, body) = (self.folder.join("headers"), self.folder.join("answer"));
        // An answer without a body leaves the file as it is.
        self.keep("answer", b"")?;
        let mut curl = command("curl");
        curl.args(["--silent", "--show-error", "--max-time", SECONDS_MAX, "--request", method]);
        curl.arg("--dump-header").arg(&headers).arg("--output").arg(&body).args(["--write-out", "%{http_code}"]);
        if let Some(authorities) = &self.ca_file {
            curl.arg("--cacert").arg(authorities);
        }
        if let Some(key) = key {
            let file = self.keep("key", format!("Authorization: Bearer {key}\n").as_bytes())?;
            curl.arg("-H").arg(format!("@{}", file.display()));
        }
        let status = read(curl.args(more).arg(format!("{}{path}", self.url))).with_context(|| asked.clone())?;
        let status = status.parse().with_context(|| format!("{asked} is answered with the status {status}"))?;
        let headers = fs::read_to_string(&headers).context("curl keeps no headers")?;
        let body = fs::read(&body).context("curl keeps no answer")?;
        Ok(Answer { status, asked, headers: headers_of(&headers), body })
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let file = self.folder.join(name);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file);
        let written = opened.and_then(|mut opened| opened.write_all(bytes));
        written.with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Nothing to be done about it, and no reason to fail: the folder is its owner's.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The headers of the last answer: there may be interim ones before it.
fn headers_of(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\r\n", "\n");
    let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let lines = last.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned())).collect()
}

impl Answer {
    /// # Errors
    /// When the status is another.
    pub(super) fn is(self, status: u16) -> anyhow::Result<Self> {
        ensure!(
            self.status == status,
            "{} is answered with {}, and not with {status}: {}",
            self.asked,
            self.status,
            self.text()
        );
        Ok(self)
    }

    /// # Errors
    /// When it is not JSON.
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}: not JSON: {}", self.asked, self.text()))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header, named in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::headers_of;

    #[test]
    fn the_headers_are_those_of_the_last_answer_and_their_names_are_in_lower_case() {
        let text = "HTTP/1.1 100 Continue\r\nA: 1\r\n\r\nHTTP/1.1 200 OK\r\nX-Frame-Options: DENY\r\nB: c: d\r\n\r\n";
        let expected =
            [("x-frame-options", "DENY"), ("b", "c: d")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(headers_of(text), expected);
        assert!(headers_of("").is_empty());
    }
}
