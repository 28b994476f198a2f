//! Shell scripts in the place of nodes: how they are started, killed and started again.

use super::*;

/// A launch of a shell script in the node's place. It gets `--ready-file FILE` as its arguments.
fn script(text: &str) -> Launch {
    Launch::of(PathBuf::from("/bin/sh")).unwrap().argument("-c").argument(text).argument("script")
}

const SERVES: &str =
    r#"echo life >&2; echo '{"url": "http://127.0.0.1:1", "pid": '$$'}' > $2.new && mv $2.new $2; exec sleep 600"#;

#[tokio::test]
async fn a_node_is_started_when_its_ready_file_is_there() {
    let node = script(SERVES).start().await.unwrap();
    assert_eq!(node.ready().url, "http://127.0.0.1:1");
    assert_eq!(node.ready().pid, node.child.id());
}

#[tokio::test]
async fn a_node_that_ends_before_it_serves_is_an_error_with_its_last_words() {
    let error = script("echo no log to be found >&2; exit 3").start().await.unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("no log to be found") && message.contains("exit status: 3"), "{message}");
}

#[tokio::test]
async fn a_killed_node_starts_again_on_the_same_folder() {
    let mut node = script(SERVES).start().await.unwrap();
    let (first, data) = (node.ready().pid, node.data());
    node.kill9().await.unwrap();
    assert!(node.exit_status().unwrap().is_some_and(|status| !status.success()));
    node.restart().await.unwrap();
    assert_ne!(node.ready().pid, first);
    assert_eq!(node.data(), data);
    assert_eq!(node.stderr(), "life\nlife\n");
}

#[tokio::test]
async fn a_node_that_is_told_to_end_says_how_it_did() {
    let loops = SERVES.replace("exec sleep 600", "while :; do sleep 0.01; done");
    let mut node = script(&format!("trap 'exit $CODE' TERM; {loops}")).variable("CODE", "9").start().await.unwrap();
    assert_eq!(node.terminate().await.unwrap().code(), Some(9));
}

#[tokio::test]
async fn a_dropped_node_is_gone() {
    let node = script(SERVES).start().await.unwrap();
    let pid = Pid::from_child(&node.child);
    drop(node);
    assert!(rustix::process::test_kill_process(pid).is_err());
}
