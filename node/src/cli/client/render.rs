//! Results as people or programs want them.

use std::{fmt::Write as _, io::IsTerminal as _};

use clap::ValueEnum;
use serde_json::Value;

use super::{table::Table, yaml};
use crate::cli::output;

/// How a command prints its result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// What the API said.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Prints what the API said, or a table made of it.
pub(super) fn show(format: Format, value: &Value, table: impl FnOnce(&Value) -> Table) -> anyhow::Result<()> {
    match format {
        Format::Table => table(value).lines(Paint::of_stdout()).into_iter().for_each(output::line),
        Format::Json => output::line(json(value)?),
        Format::Yaml => output::line(yaml::document(value).trim_end()),
    }
    Ok(())
}

/// The same with several tables: an empty line between two, and none that has no rows.
pub(super) fn show_all(format: Format, value: &Value, tables: impl FnOnce(&Value) -> Vec<Table>) -> anyhow::Result<()> {
    if format != Format::Table {
        return show(format, value, |_| Table::default());
    }
    for (number, table) in tables(value).into_iter().filter(|table| !table.is_empty()).enumerate() {
        if number > 0 {
            output::line("");
        }
        table.lines(Paint::of_stdout()).into_iter().for_each(output::line);
    }
    Ok(())
}

/// A list: its items, and a word when there are more.
pub(super) fn show_list(
    format: Format,
    (items, more): (Vec<Value>, bool),
    header: &[&'static str],
    row: impl Fn(&Value) -> Vec<String>,
) -> anyhow::Result<()> {
    if more {
        output::progress(format_args!("there are more than these {}; --limit shows more", items.len()));
    }
    let list = serde_json::json!({"items": items, "more": more});
    show(format, &list, |list| {
        let mut table = Table::new(header);
        list.get("items").and_then(Value::as_array).into_iter().flatten().for_each(|item| table.row(row(item)));
        table
    })
}

/// One thing: a line a member, nested ones by their path.
pub(super) fn show_one(format: Format, value: &Value) -> anyhow::Result<()> {
    show(format, value, |value| {
        let mut table = Table::new(&["FIELD", "VALUE"]);
        members("", value, &mut table);
        table
    })
}

fn members(path: &str, value: &Value, table: &mut Table) {
    let Value::Object(object) = value else { return table.row([path.to_owned(), cell(value)]) };
    for (name, member) in object {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        members(&path, member, table);
    }
}

/// A member of an object, by its path, as a cell; `-` when there is none.
pub(super) fn at(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).map_or_else(|| "-".to_owned(), cell)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// As JSON that no terminal obeys: JSON may hold the controls above ASCII, and what turns the direction, as they are.
fn json(value: &Value) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        // Each of them is one unit of UTF-16, and stands within a text.
        if letter != '\n' && moves(letter) {
            write!(shown, "\\u{:04x}", u32::from(letter))?;
        } else {
            shown.push(letter);
        }
    }
    Ok(shown)
}

/// Does it move a terminal's cursor, change its colours, or show what follows in another order?
pub(super) fn moves(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text without what would move a terminal's cursor, change its colours, or turn its order.
pub(super) fn plain(text: &str) -> String {
    let shown = |letter: char| if moves(letter) { letter.escape_unicode().to_string() } else { letter.to_string() };
    text.chars().map(shown).collect()
}

/// Colours, where there are any.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(bool);

impl Paint {
    #[cfg(test)]
    pub(super) const ON: Self = Self(true);
    #[cfg(test)]
    pub(super) const OFF: Self = Self(false);

    /// On a terminal, unless `NO_COLOR` is set to anything (no-color.org).
    pub(super) fn of_stdout() -> Self {
        Self(std::io::stdout().is_terminal() && wanted())
    }

    /// The same for standard error.
    pub(super) fn of_stderr() -> Self {
        Self(std::io::stderr().is_terminal() && wanted())
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_thing_is_a_line_a_member_and_nested_members_by_their_path() {
        let mut table = Table::new(&["FIELD", "VALUE"]);
        members("", &json!({"id": "x", "module": {"name": null, "tags": ["a", 1]}}), &mut table);
        let expected = ["FIELD        VALUE", "id           x", "module.name  -", "module.tags  a, 1"];
        assert_eq!(table.lines(Paint::OFF), expected);
    }

    #[test]
    fn json_says_the_same_without_what_a_terminal_obeys() {
        let value = json!({"a": "\u{1b}[2J\u{9b}31m\u{202e}x\u{7f}\n", "b": ["grüße", {}]});
        let text = super::json(&value).unwrap();
        assert!(text.chars().all(|letter| letter == '\n' || !moves(letter)), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(text.contains("grüße"), "{text}");
    }
}
