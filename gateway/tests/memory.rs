//! The memory that requests and answers take is counted for as long as it is taken.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail like tests, and draw keys"
)]

mod support;

use serde_json::Value;
use support::{ECHO, Node, problem, send, text};
use wasmwiz_events::event::Event;
use wasmwiz_gateway::GatewayConfig;

/// Runs until its deadline.
const SPIN: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;

const BYTES: &str = "application/octet-stream";

/// How long something may take that is bound to happen.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

/// A node on which one tenant may have 64 KiB.
async fn small() -> Node {
    Node::start_with(GatewayConfig { bodies_bytes_per_tenant_max: 64 << 10, ..Default::default() }).await
}

fn count(node: &Node, wanted: fn(&Event) -> bool) -> usize {
    let commits = node.log.commits();
    let events = commits.iter().flat_map(|recorded| recorded.commit.events().unwrap().to_vec());
    events.filter(|envelope| wanted(&envelope.event)).count()
}

#[tokio::test]
async fn an_input_is_counted_until_its_execution_ends_though_its_caller_has_gone() {
    let node = small().await;
    let (_, key) = node.tenant("pro").await;
    node.publish(&key, "spin", SPIN).await;
    node.publish(&key, "echo", ECHO).await;
    let spin = node.post("/v1/modules/spin/executions?timeout_ms=1500", &key).body(vec![b'x'; 40 << 10]);
    let caller = tokio::spawn(spin.send());
    let begun = tokio::time::timeout(DEADLINE, async {
        while count(&node, |event| matches!(event, Event::ExecutionAccepted(_))) == 0 {
            tokio::task::yield_now().await;
        }
    });
    begun.await.expect("it runs");
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());

    let served = tokio::time::timeout(DEADLINE, async {
        loop {
            let echo = node.post("/v1/modules/echo/executions", &key).header("accept", BYTES);
            let response = send(echo.body(vec![b'x'; 40 << 10])).await;
            if response.status() == 200 {
                return;
            }
            assert_eq!(response.status(), 503);
        }
    });
    served.await.expect("room is given back");
    let ended = count(&node, |event| matches!(event, Event::ExecutionFinished(_)));
    assert_eq!(ended, 2, "the second was let in while the first was still in memory");
}

#[tokio::test]
async fn an_answer_that_there_is_no_memory_for_says_where_it_is() {
    let node = small().await;
    let (_, key) = node.tenant("pro").await;
    node.publish(&key, "echo", ECHO).await;
    // As JSON each of them takes six bytes.
    let zeros = vec![0; 15 << 10];
    let run = || node.post("/v1/modules/echo/executions", &key).body(zeros.clone());
    let response = send(run()).await;
    assert_eq!(response.status(), 503);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let position = response.headers()["wasmwiz-position"].clone();
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert!(text(&body["type"]).ends_with("/too-many-bodies") && body["reason"] == "recorded", "{body}");
    assert!(text(&body["detail"]).contains(&location), "{body}");

    let get = |path: &str| node.get(path, &key).header("wasmwiz-min-position", &position);
    assert_eq!(problem(get(&location)).await, (503, "too-many-bodies".into()));
    let stdout = send(get(&format!("{location}/stdout"))).await;
    assert_eq!((stdout.status().as_u16(), &stdout.bytes().await.unwrap()[..]), (200, &zeros[..]));
    let raw = send(run().header("accept", BYTES)).await;
    assert_eq!((raw.status().as_u16(), &raw.bytes().await.unwrap()[..]), (200, &zeros[..]));
}

#[tokio::test]
async fn a_resource_has_the_beginning_of_a_large_output_and_says_where_the_rest_is() {
    // As a part of a commit, and as a blob of several pieces.
    for (inline_output_bytes, size) in [(1_001, 5_000), (100_001, 600_000)] {
        let node = Node::start_with(GatewayConfig { inline_output_bytes, ..Default::default() }).await;
        let (_, key) = node.tenant("pro").await;
        node.publish(&key, "echo", ECHO).await;
        let input = "é".repeat(size / 2);
        let run = send(node.post("/v1/modules/echo/executions", &key).body(input.clone())).await;
        assert_eq!(run.status(), 200);
        let position = run.headers()["wasmwiz-position"].clone();
        let location = run.headers()["location"].to_str().unwrap().to_owned();
        let answered: Value = serde_json::from_slice(&run.bytes().await.unwrap()).unwrap();
        // No half of a character is shown.
        assert_eq!(text(&answered["stdout"]), &input[..usize::try_from(inline_output_bytes).unwrap() - 1]);
        assert_eq!((&answered["inline"]["stdout"], &answered["inline"]["stderr"]), (&false.into(), &true.into()));
        assert_eq!((&answered["truncated"]["stdout"], &answered["stdout_encoding"]), (&false.into(), &"utf-8".into()));
        assert_eq!(answered["usage"]["stdout_bytes"], size);

        let get = |path: &str| node.get(path, &key).header("wasmwiz-min-position", &position);
        let read: Value = serde_json::from_slice(&send(get(&location)).await.bytes().await.unwrap()).unwrap();
        for member in ["stdout", "stdout_encoding", "inline", "truncated"] {
            assert_eq!(read[member], answered[member], "{member}");
        }
        assert_eq!(send(get(&format!("{location}/stdout"))).await.bytes().await.unwrap(), input.as_bytes());
        let small = send(node.post("/v1/modules/echo/executions", &key).body("all of it")).await;
        let small: Value = serde_json::from_slice(&small.bytes().await.unwrap()).unwrap();
        assert_eq!((&small["stdout"], &small["inline"]["stdout"]), (&"all of it".into(), &true.into()));
    }
}
