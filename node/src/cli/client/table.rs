//! A table for people.

use super::render::{Paint, plain};

/// Rows under a header. Every row has as many cells as the header.
#[derive(Debug, Default)]
pub(super) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(super) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. What a server said is shown without its control characters.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// Has it no rows?
    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Its lines. Columns are as wide as their widest cell; the last one is not filled up.
    pub(super) fn lines(&self, paint: Paint) -> Vec<String> {
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain(self.header.get(at).map(|name| name.len())).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..self.header.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let cells: Vec<_> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        let header = paint.bold(&line(&mut self.header.iter().copied()));
        std::iter::once(header).chain(self.rows.iter().map(|row| line(&mut row.iter().map(String::as_str)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_no_cell_moves_the_cursor() {
        let mut table = Table::new(&["NAME", "V"]);
        table.row(["grüße".to_owned(), "1".to_owned()]);
        table.row(["a\u{1b}[1m\n".to_owned(), "22".to_owned()]);
        let expected = ["NAME             V", "grüße            1", "a\\u{1b}[1m\\u{a}  22"];
        assert_eq!(table.lines(Paint::OFF), expected);
        assert_eq!(table.lines(Paint::ON)[0], "\u{1b}[1mNAME             V\u{1b}[0m");
    }
}
