//! HTTP/2 by hand: frames that no library would send, or not so many of.

use crate::{harness::NodeProcess, raw::Connection};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Carries a piece of a body. The types of frames are those of RFC 9113, section 6.
pub const DATA: u8 = 0;
/// Begins a request.
pub const HEADERS: u8 = 1;
/// Says how much a stream matters.
pub const PRIORITY: u8 = 2;
/// Ends a stream at once.
pub const RST_STREAM: u8 = 3;
/// Says how the connection is to be used.
pub const SETTINGS: u8 = 4;
/// Asks whether the other side is there.
pub const PING: u8 = 6;
/// Ends the connection.
pub const GOAWAY: u8 = 7;
/// Lets the other side send more.
pub const WINDOW_UPDATE: u8 = 8;
/// Goes on with HEADERS.
pub const CONTINUATION: u8 = 9;

/// The flag of a stream's last frame.
pub const END_STREAM: u8 = 1;
/// The flag of the last frame of a head.
pub const END_HEADERS: u8 = 4;

/// `INITIAL_WINDOW_SIZE`, as a setting.
const INITIAL_WINDOW_SIZE: u8 = 4;

/// A frame as it is on the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [length.as_slice(), &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field of HPACK as a literal that is not indexed (RFC 7541, section 6.2.2). Names and values here are shorter than 127.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap_or(0);
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// The head of a request with a key, in HPACK.
pub fn head(method: &str, path: &str, key: &str) -> Vec<u8> {
    [
        field(":method", method),
        field(":scheme", "http"),
        field(":path", path),
        field(":authority", "node"),
        field("authorization", &format!("Bearer {key}")),
    ]
    .concat()
}

/// The setting of a client that lets no stream send anything.
pub const fn no_window() -> [u8; 6] {
    [0, INITIAL_WINDOW_SIZE, 0, 0, 0, 0]
}

/// A connection on which the client has begun with these settings.
///
/// # Errors
/// When the node does not listen, or closes it.
pub async fn open(node: &NodeProcess, settings: &[u8]) -> anyhow::Result<Connection> {
    let mut connection = Connection::open(&node.ready().url).await?;
    connection.send([PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_begins_with_its_length_kind_flags_and_stream() {
        assert_eq!(frame(DATA, END_STREAM, 3, b"abcd"), b"\0\0\x04\0\x01\0\0\0\x03abcd");
        assert_eq!(field("x-a", "b"), b"\0\x03x-a\x01b");
    }
}
