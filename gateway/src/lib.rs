//! The HTTP edge of WasmWiz and nothing else.
//!
//! ```text
//! socket ─► server ─► middleware ─► router ─► auth ─► routes ─► region, dispatch   (commands)
//!                                                            └► views, log, blobs  (queries)
//! ```
//! The **server** bounds what clients may do to a listener. The **middleware** gives every request an id, a trace and an
//! end, and writes every error down as a [`problem`]. The **router** shows every route on one screen, with the scope it
//! needs. A **route** extracts, asks, and shows; it decides nothing.
//!
//! **Invariants**
//! - No rule of the domain is here: the tenant's entity decides, also about what the views have let through.
//! - A request learns of its own tenant only; another tenant's id is a 404.
//! - Every body, list, wait and queue has a bound in [`config::GatewayConfig`].
//! - No secret is logged, and none is shown twice.

mod accept;
pub mod auth;
mod client;
pub mod config;
mod denials;
mod etag;
pub mod gateway;
mod idempotency;
mod lease;
mod lists;
mod memory;
pub mod metrics;
pub mod openapi;
pub mod problem;
pub mod server;
mod shares;

mod extract;
mod middleware;
mod page;
mod position;
mod prefer;
mod rate_limit;
mod router;
mod routes;
mod stream;
mod views;
mod writes;

pub use config::GatewayConfig;
pub use denials::record_denials;
pub use gateway::{Gateway, GatewayDeps, Readiness, admin, app};
pub use openapi::openapi_document;
