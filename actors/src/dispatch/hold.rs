//! What lasts as long as a request does.

use std::fmt;

/// What is to last as long as the bytes of a request are in memory, such as what counts them. It is dropped when the
/// request has been dealt with: a caller that hangs up before does not take it along.
#[derive(Default)]
pub struct Hold {
    _guard: Option<Box<dyn Send + Sync>>,
}

impl Hold {
    /// Holds `guard`.
    pub fn of(guard: impl Send + Sync + 'static) -> Self {
        Self { _guard: Some(Box::new(guard)) }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold(…)")
    }
}
