//! How an execution is shown.

use std::collections::BTreeSet;

use poem_openapi::{registry::Registry, types::Type as _};
use wasmwiz_events::{digest::Digest, execution::Content, revision::Position};

use super::*;

fn record() -> ExecutionRecord {
    ExecutionRecord {
        id: "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f".parse().unwrap(),
        attempt: 1,
        module: ModuleRef { name: None, version: None, digest: Digest::of(b"m") },
        key_id: "abcd".parse().unwrap(),
        stdin: Content::of(b""),
        accepted_at: Timestamp::from_unix_ms(0),
        accepted_position: Position::START,
        rerun_of: None,
        fuel: None,
        started_at: None,
        end: None,
    }
}

#[test]
fn what_is_written_is_what_is_documented() {
    let (record, streams) = (record(), Streams::default());
    let written = serde_json::to_value(Resource::stored(&record, &streams)).unwrap();
    let written: BTreeSet<_> = written.as_object().unwrap().keys().cloned().collect();
    let mut registry = Registry::new();
    Execution::register(&mut registry);
    let documented = registry.schemas["Execution"].properties.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(written, documented);
}

#[test]
fn no_resource_takes_more_than_its_size_says() {
    for stdout in [&b""[..], &[0; 10_000], &[b'"'; 10_000], &[0x7f; 10_000], &[0xff; 10_000], "é\u{2028}".as_bytes()] {
        let stdout = Bytes::copy_from_slice(stdout);
        let output = Output::shown(&stdout, stdout.len() as u64, u64::MAX);
        let streams = Streams { stdout: Some(output.clone()), stderr: Some(output) };
        let size = Resource::size_of(&streams, None);
        let written = serde_json::to_vec(&Resource::stored(&record(), &streams)).unwrap().len() as u64;
        assert!(written <= size.written_bytes, "{written} {size:?}");
        assert!(size.written_bytes < 6 * 20_000 + REST_BYTES + 10 && size.in_memory_bytes > size.written_bytes - 1);
    }
    let nul = Output::shown(&Bytes::from_static(&[0; 1_000]), 1_000, 1_000);
    let streams = Streams { stdout: Some(nul), stderr: None };
    assert_eq!(Resource::size_of(&streams, None).written_bytes, 6_000 + 3 + REST_BYTES);
}

#[test]
fn of_a_large_output_the_beginning_is_shown_and_no_half_character() {
    let shown = |bytes: &'static [u8], most| {
        let output = Output::shown(&Bytes::from_static(bytes), bytes.len() as u64, most);
        let (text, encoding) = split(&output);
        (text.into_owned(), encoding, output.is_whole)
    };
    let text = "grüß".as_bytes();
    assert_eq!(shown(text, 6), ("grüß".to_owned(), "utf-8", true));
    assert_eq!(shown(text, 5), ("grü".to_owned(), "utf-8", false));
    assert_eq!(shown(text, 4), ("grü".to_owned(), "utf-8", false));
    assert_eq!(shown(text, 3), ("gr".to_owned(), "utf-8", false));
    assert_eq!(shown(&[0xff, 0, b'a'], 2), ("/wA=".to_owned(), "base64", false));
    assert_eq!(shown(b"", 0), (String::new(), "utf-8", true));
    // Also where only the beginning was read.
    let read = Output::shown(&Bytes::from_static(b"abc"), 1_000, 2);
    assert_eq!((&read.bytes[..], read.is_whole), (&b"ab"[..], false));
}

#[test]
fn bytes_that_are_no_text_are_written_in_base64() {
    let (text, bytes) = (Bytes::from_static("grüß".as_bytes()), Bytes::from_static(&[0xff, 0]));
    assert_eq!((Body::from(&text).0.as_ref(), Body::from(&text).1), ("grüß", "utf-8"));
    assert_eq!((Body::from(&bytes).0.as_ref(), Body::from(&bytes).1), ("/wA=", "base64"));
}
