//! One page of a list.
//!
//! A cursor is a plain value of the list's own type: it names a row, so that a page stays where it is while rows are
//! added. The gateway makes it opaque.

use serde::{Deserialize, Serialize};

/// The most items of one page. The HTTP contract's bound.
pub const MAX_ITEMS: u32 = 200;

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<C> {
    /// How many items at most; held to 1..=[`MAX_ITEMS`].
    pub limit: u32,
    /// Where the page before ended; `None` for the first page.
    pub after: Option<C>,
    /// How many bytes its items may have together, about. It ends early where they would have more, after one at least.
    pub bytes_max: u64,
}

impl<C> Page<C> {
    /// The first page.
    pub const fn first(limit: u32) -> Self {
        Self { limit, after: None, bytes_max: u64::MAX }
    }

    /// The page that follows `cursor`.
    pub const fn following(limit: u32, cursor: C) -> Self {
        Self { limit, after: Some(cursor), bytes_max: u64::MAX }
    }

    /// The same page, of at most about so many bytes.
    #[must_use]
    pub fn within(self, bytes_max: u64) -> Self {
        Self { bytes_max, ..self }
    }

    pub(crate) fn items(&self) -> usize {
        self.limit.clamp(1, MAX_ITEMS) as usize
    }

    /// How many rows to ask for: one more than the page holds tells whether another page follows.
    pub(crate) fn rows(&self) -> i64 {
        i64::from(self.limit.clamp(1, MAX_ITEMS)) + 1
    }
}

/// A page's items and where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed<T, C> {
    /// The items, in the list's order. May be fewer than asked for although more follow.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end of the list.
    pub next: Option<C>,
}

impl<T, C> Listed<T, C> {
    /// Cuts `rows`, read with [`Page::rows`], to the page.
    pub(crate) fn cut(mut rows: Vec<T>, page: &Page<C>, cursor: impl FnOnce(&T) -> C) -> Self {
        let more = rows.len() > page.items();
        rows.truncate(page.items());
        let next = if more { rows.last().map(cursor) } else { None };
        Self { items: rows, next }
    }

    /// Takes `rows`, asked for with [`Page::rows`], one by one until the page is full, in items or in bytes: no more of them is in memory.
    pub(crate) fn fill<E>(
        rows: impl Iterator<Item = Result<T, E>>,
        page: &Page<C>,
        size_bytes: impl Fn(&T) -> u64,
        cursor: impl FnOnce(&T) -> C,
    ) -> Result<Self, E> {
        let mut items: Vec<T> = Vec::new();
        let mut bytes = 0_u64;
        for row in rows {
            let row = row?;
            bytes = bytes.saturating_add(size_bytes(&row));
            if items.len() == page.items() || (bytes > page.bytes_max && !items.is_empty()) {
                let next = items.last().map(cursor);
                return Ok(Self { items, next });
            }
            items.push(row);
        }
        Ok(Self { items, next: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(rows: &[u64], page: &Page<u64>) -> Listed<u64, u64> {
        Listed::fill(rows.iter().copied().map(Ok::<_, ()>), page, |row| *row, |row| *row).unwrap()
    }

    #[test]
    fn a_page_ends_where_its_items_or_its_bytes_do() {
        let rows = [10, 11, 12, 13];
        let page = Page::<u64>::first(3);
        assert_eq!(filled(&rows, &page), Listed { items: vec![10, 11, 12], next: Some(12) });
        assert_eq!(filled(&rows, &page.clone().within(21)), Listed { items: vec![10, 11], next: Some(11) });
        assert_eq!(filled(&rows[2..], &page.clone().within(25)), Listed { items: vec![12, 13], next: None });
        assert_eq!(filled(&rows, &page.within(5)), Listed { items: vec![10], next: Some(10) }, "one at least");
    }
}
