//! What the caller's executions cost.

use std::str::FromStr;

use http::StatusCode;
use poem::Request;
use wasmwiz_projections::usage::UsageBy;

use super::json;
use crate::{
    auth::Caller,
    extract::Query,
    gateway::Gateway,
    openapi::Operation,
    problem::Kind,
    router::Answer,
    views::{self, Usage},
};

/// How far back a report goes when the caller does not say: 30 days, in milliseconds.
const DEFAULT_SPAN_MS: i64 = 30 * 86_400_000;

struct By(UsageBy, &'static str);

impl FromStr for By {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "hour" => Ok(Self(UsageBy::Hour, "hour")),
            "day" => Ok(Self(UsageBy::Day, "day")),
            "key" => Ok(Self(UsageBy::Key, "key")),
            "module" => Ok(Self(UsageBy::Module, "module")),
            _ => Err("is one of hour, day, key and module"),
        }
    }
}

/// GET /v1/usage
pub(crate) async fn report(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    use wasmwiz_events::time::Timestamp;
    let mut query = Query::of(&request)?;
    let to = query.one::<Timestamp>("to").unwrap_or_else(|| gateway.deps().clock.now());
    let earlier = Timestamp::from_unix_ms(to.unix_ms().saturating_sub(DEFAULT_SPAN_MS)).max(Timestamp::EARLIEST);
    let from = query.one::<Timestamp>("from").unwrap_or(earlier);
    let By(by, name) = query.one("by").unwrap_or(By(UsageBy::Day, "day"));
    if from > to {
        query.fault("from", "lies after to");
    }
    query.finish()?;
    let report = gateway.deps().views.usage().usage(caller.tenant_id(), from, to, by).await?;
    let body = Usage {
        from: views::written(from),
        to: views::written(to),
        by: name.to_owned(),
        items: report.rows.into_iter().map(views::UsageSum::from).collect(),
        truncated: report.truncated,
    };
    json(StatusCode::OK, &body)
}

pub(crate) fn report_doc() -> Operation {
    Operation::new("getUsage", "usage", "Sum up what executions cost")
        .describe("Needs the scope usage:read. Times count by whole hours; an execution counts when it ended.")
        .query::<String>("from", "From this time on, as in RFC 3339; 30 days before to when absent.")
        .query::<String>("to", "Up to this time, as in RFC 3339; now when absent.")
        .query::<String>("by", "hour, day (when absent), key or module.")
        .answers::<Usage>(200, "The sums")
        .problem(&[Kind::InvalidQuery])
}
