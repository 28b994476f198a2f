//! JSON values as YAML 1.2 in block style.
//!
//! Texts are double-quoted whatever they hold, so that none is taken for a number, a date or a word with a meaning.

use std::fmt::Write as _;

use serde_json::Value;

use super::render::moves;

/// Writes a value down, with a newline at its end.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, 0, false);
    text
}

/// Writes a value where a line has just begun, or behind a `key:` or a `-` when `inline`.
fn write(text: &mut String, value: &Value, indent: usize, inline: bool) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (at, (name, member)) in members.iter().enumerate() {
                begin(text, indent, inline && at == 0);
                let _ = write!(text, "{}:", quoted(name));
                nested(text, member, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                begin(text, indent, inline && at == 0);
                text.push_str("- ");
                write(text, item, indent + 2, true);
            }
        }
        Value::String(string) => {
            let _ = writeln!(text, "{}", quoted(string));
        }
        // Numbers, true, false, null, {} and [] are written alike in both.
        other => {
            let _ = writeln!(text, "{other}");
        }
    }
}

/// A member's value: on the same line, or on the lines below.
fn nested(text: &mut String, member: &Value, indent: usize) {
    let is_block = matches!(member, Value::Object(members) if !members.is_empty())
        || matches!(member, Value::Array(items) if !items.is_empty());
    text.push(if is_block { '\n' } else { ' ' });
    write(text, member, indent + 2, false);
}

fn begin(text: &mut String, indent: usize, inline: bool) {
    if !inline {
        text.extend(std::iter::repeat_n(' ', indent));
    }
}

fn quoted(string: &str) -> String {
    let mut text = String::from("\"");
    for letter in string.chars() {
        match letter {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            letter if moves(letter) || matches!(letter, '\u{feff}' | '\u{2028}' | '\u{2029}') => {
                let _ = write!(text, "\\u{:04x}", u32::from(letter));
            }
            letter => text.push(letter),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_written_in_blocks_with_quoted_texts() {
        let value = json!({
            "items": [{"id": "no", "n": 1.5, "tags": ["a\n\u{1b}", "b"], "none": null, "map": {}}, {"id": "2026-11-25", "list": []}],
            "next": true,
        });
        let expected = "\"items\":\n  - \"id\": \"no\"\n    \"map\": {}\n    \"n\": 1.5\n    \"none\": null\n    \"tags\":\n      - \
                        \"a\\n\\u001b\"\n      - \"b\"\n  - \"id\": \"2026-11-25\"\n    \"list\": []\n\"next\": true\n";
        assert_eq!(document(&value), expected);
        assert_eq!(document(&json!("x\"\\")), "\"x\\\"\\\\\"\n");
        assert_eq!(document(&json!([])), "[]\n");
    }
}
