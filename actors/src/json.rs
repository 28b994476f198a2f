//! How much room a text takes once it is written as JSON.

/// Bytes that a text takes at most as a JSON string, with its quotes and a comma.
pub fn escaped_size(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(escaped).sum::<usize>() + 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_takes_more_room_than_said() {
        for text in ["", "plain", "quo\"te and \\", "\u{1}\u{1f}\n", "h\u{e9} \u{6f22}"] {
            assert!(serde_json::to_string(text).unwrap().len() < escaped_size(text), "{text:?}");
        }
    }
}
