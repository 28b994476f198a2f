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
}

impl<C> Page<C> {
    /// The first page.
    pub const fn first(limit: u32) -> Self {
        Self { limit, after: None }
    }

    /// The page that follows `cursor`.
    pub const fn following(limit: u32, cursor: C) -> Self {
        Self { limit, after: Some(cursor) }
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
}
