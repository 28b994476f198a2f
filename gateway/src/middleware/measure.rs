//! Requests, counted and timed. Routes are patterns: a raw path as a label would have no bound.

use std::time::Duration;

use http::StatusCode;

use crate::metrics;

/// The pattern of the route that answered; travels with the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouteLabel(pub(crate) &'static str);

/// One request under way, also when it is dropped half-way.
pub(super) struct InFlight(());

impl InFlight {
    pub(super) fn begin() -> Self {
        ::metrics::gauge!(metrics::REQUESTS_IN_FLIGHT).increment(1);
        Self(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        ::metrics::gauge!(metrics::REQUESTS_IN_FLIGHT).decrement(1);
    }
}

pub(super) fn answered(route: &'static str, status: StatusCode, took: Duration) {
    ::metrics::counter!(metrics::REQUESTS_TOTAL, "route" => route, "status" => label(status)).increment(1);
    ::metrics::histogram!(metrics::REQUEST_SECONDS, "route" => route).record(took);
}

/// Statuses that this gateway answers, as labels that need no allocation.
const fn label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        201 => "201",
        204 => "204",
        304 => "304",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        409 => "409",
        411 => "411",
        413 => "413",
        414 => "414",
        415 => "415",
        422 => "422",
        429 => "429",
        431 => "431",
        500 => "500",
        503 => "503",
        504 => "504",
        _ => "other",
    }
}
