//! A platform of canned answers: as it is meant to be, and with one fault at a time.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::*;
use crate::process::works;

/// What may be wrong with it: what is in an answer, and what is there instead.
type Fault = (&'static str, &'static str);

const HEAD: &str = "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\n\
                    Content-Security-Policy: default-src 'none'\r\nCache-Control: no-store\r\nX-Request-Id: 1\r\n\
                    Wasmwiz-Position: p1\r\n";

/// The answers, by how a request begins; the first that fits. With a key, unless the line says `-`.
const ANSWERS: [(&str, &str, &str); 17] = [
    ("GET /livez", "200", "{}"),
    ("GET /readyz", "200", "{}"),
    (
        "GET /health",
        "200",
        r#"{"checks": {"event_log": {"status": "ok"}, "projections": {"status": "ok"}, "executor": {"status": "ok"}}}"#,
    ),
    ("GET /no-such-page", "404", "{}"),
    ("GET /metrics", "404", "{}"),
    ("- GET /v1", "401", "{}"),
    ("- POST /v1", "401", "{}"),
    ("POST /v1/tenants/t/suspend", "200", "{}"),
    ("POST /v1/tenants", "201", r#"{"id": "t", "initial_key": {"secret": "ww_key"}}"#),
    ("PUT /v1/modules/smoke", "201", r#"{"digest": "sha256:00"}"#),
    (
        "POST /v1/modules/smoke/executions",
        "200",
        r#"{"id": "e", "outcome": "succeeded", "stdout": "from the smoke test\n"}"#,
    ),
    ("POST /v1/executions/e/verify", "200", r#"{"reproduced": true}"#),
    ("GET /v1/executions/e", "200", r#"{"outcome": "succeeded"}"#),
    ("GET /v1/usage", "200", r#"{"items": [{"executions": 1}]}"#),
    ("GET /v1/audit/head", "200", r#"{"hash": "00"}"#),
    (
        "GET /v1/audit",
        "200",
        r#"{"items": [{"type": "dev.wasmwiz.tenant.registered.v1"}, {"type": "dev.wasmwiz.module.published.v1"},
            {"type": "dev.wasmwiz.execution.accepted.v1"}, {"type": "dev.wasmwiz.execution.finished.v1"}]}"#,
    ),
    ("", "500", "{}"),
];

/// Serves it, and gives its address and what it was asked.
fn platform(fault: Fault) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            kept.lock().unwrap().push(answer(stream, fault));
        }
    });
    (url, asked)
}

fn answer(mut stream: TcpStream, (is, becomes): Fault) -> String {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    for line in reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
        head.push(line.to_ascii_lowercase());
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).unwrap();
    let anonymous = if head.iter().any(|line| line.starts_with("authorization: bearer ww_")) { "" } else { "- " };
    let line = head[0].replacen("get", "GET", 1).replacen("post", "POST", 1).replacen("put", "PUT", 1);
    let request = format!("{anonymous}{line}");
    // What is for everybody is answered with and without a key.
    let fits = |begin: &str| request.starts_with(begin) || (!begin.contains("/v1") && line.starts_with(begin));
    let (_, status, body) = ANSWERS.iter().find(|(begin, ..)| fits(begin)).unwrap();
    let challenge = if *status == "401" { "WWW-Authenticate: Bearer\r\n" } else { "" };
    let text = format!("HTTP/1.1 {status} Status\r\n{HEAD}{challenge}");
    let (text, body) = (text.replace(is, becomes), body.replace(is, becomes));
    write!(stream, "{text}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).unwrap();
    request
}

fn tried(fault: Fault) -> (anyhow::Result<()>, Vec<String>) {
    let (url, asked) = platform(fault);
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "ww_operator\n").unwrap();
    let outcome = run(&Arguments { url, operator_key_file: key, ca_file: None });
    let asked = asked.lock().unwrap().clone();
    (outcome, asked)
}

#[test]
fn a_platform_that_does_what_it_is_there_for_passes_and_its_tenant_is_suspended() {
    if !works(crate::process::command("curl").arg("--version")) {
        println!("skipped: curl is not there");
        return;
    }
    let (outcome, asked) = tried(("nothing", "nothing"));
    outcome.unwrap();
    assert!(asked.last().unwrap().starts_with("POST /v1/tenants/t/suspend"), "{asked:?}");
}

#[test]
fn each_fault_of_a_platform_is_found() {
    if !works(crate::process::command("curl").arg("--version")) {
        println!("skipped: curl is not there");
        return;
    }
    for (fault, said) in [
        (("\"executor\": {\"status\": \"ok\"", "\"executor\": {\"status\": \"failing\""), "executor is not well"),
        (("X-Frame-Options: DENY", "X-Frame-Options: SAMEORIGIN"), "x-frame-options"),
        (("X-Request-Id: 1\r\n", ""), "x-request-id"),
        (("HTTP/1.1 401", "HTTP/1.1 200"), "and not with 401"),
        (("WWW-Authenticate: Bearer\r\n", ""), "how to come in"),
        (("HTTP/1.1 404", "HTTP/1.1 200"), "and not with 404"),
        (("from the smoke test", "from elsewhere"), "the echo is not what was said"),
        (("\"outcome\": \"succeeded\"", "\"outcome\": \"lost\""), "it ended with"),
        (("\"reproduced\": true", "\"reproduced\": false"), "run again, it is another"),
        (("\"executions\": 1", "\"executions\": 0"), "no execution is in the usage"),
        (("execution.finished", "execution.other"), "the history has no execution.finished"),
        (("{\"hash\": \"00\"}", "{}"), "the history has no head"),
    ] {
        let (outcome, asked) = tried(fault);
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(error.contains(said), "{fault:?}: {error}");
        let registered = asked.iter().any(|request| request.starts_with("POST /v1/tenants "));
        let suspended = asked.iter().any(|request| request.starts_with("POST /v1/tenants/t/suspend"));
        assert_eq!(registered, suspended, "{fault:?}: {asked:?}");
    }
}
