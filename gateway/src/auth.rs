//! Authentication.
pub mod api_key;
