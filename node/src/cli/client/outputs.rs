//! The outputs of an execution: all of them, also what its resource has no room for.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::Value;

use super::{
    failure::Failure,
    http::{Api, EXECUTION_BYTES, UPLOAD_DEADLINE},
    patient,
};

/// The streams, as the resource names them.
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// Reads what the resource has only the beginning of, and puts it in its place.
pub(super) async fn complete(api: &Api, execution: &mut Value) -> Result<(), Failure> {
    for stream in STREAMS.into_iter().filter(|stream| is_cut(execution, stream)).collect::<Vec<_>>() {
        let Some(id) = execution.get("id").and_then(Value::as_str).map(str::to_owned) else { continue };
        let request = || api.request(Method::GET, api.at(&["v1", "executions", &id, stream], &[]));
        let bytes = patient::send(api, request, (UPLOAD_DEADLINE, EXECUTION_BYTES)).await?.body;
        put(execution, stream, bytes);
    }
    Ok(())
}

/// Has it only the beginning of this stream? A node of an earlier version always has all of it, and does not say so.
pub(super) fn is_cut(execution: &Value, stream: &str) -> bool {
    execution.pointer(&format!("/inline/{stream}")) == Some(&Value::Bool(false))
}

fn put(execution: &mut Value, stream: &str, bytes: Vec<u8>) {
    let (text, encoding) = match String::from_utf8(bytes) {
        Ok(text) => (text, "utf-8"),
        Err(error) => (STANDARD.encode(error.as_bytes()), "base64"),
    };
    let Some(members) = execution.as_object_mut() else { return };
    members.insert(stream.to_owned(), text.into());
    members.insert(format!("{stream}_encoding"), encoding.into());
    if let Some(inline) = members.get_mut("inline").and_then(Value::as_object_mut) {
        inline.insert(stream.to_owned(), true.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_read_takes_the_place_of_the_beginning() {
        let mut execution =
            json!({"stdout": "gr", "stdout_encoding": "utf-8", "inline": {"stdout": false, "stderr": true}});
        assert!(is_cut(&execution, "stdout") && !is_cut(&execution, "stderr"));
        put(&mut execution, "stdout", vec![0xff, 0]);
        assert_eq!((&execution["stdout"], &execution["stdout_encoding"]), (&json!("/wA="), &json!("base64")));
        assert!(!is_cut(&execution, "stdout"));
        assert!(!is_cut(&json!({"stdout": "all of it"}), "stdout"), "an earlier version");
    }
}
