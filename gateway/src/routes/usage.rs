//! What the caller's executions cost.

use std::str::FromStr;

use http::{HeaderValue, StatusCode, header};
use poem::{Request, Response};
use wasmwiz_events::time::Timestamp;
use wasmwiz_projections::usage::{Span, UsageBy, UsageCursor};

use super::json;
use crate::{
    accept,
    auth::Caller,
    extract::Query,
    gateway::Gateway,
    openapi::Operation,
    page::Paging,
    problem::Kind,
    router::Answer,
    views::{self, Storage, Usage, UsageSum},
};

mod csv;

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
    let mut query = Query::of(&request)?;
    let (from, to) = query.between();
    // A report that begins later than now is empty, as a list is.
    let to = to.unwrap_or_else(|| from.into_iter().fold(gateway.deps().clock.now(), Timestamp::max));
    let earlier = Timestamp::from_unix_ms(to.unix_ms().saturating_sub(DEFAULT_SPAN_MS)).max(Timestamp::EARLIEST);
    let from = from.unwrap_or(earlier);
    let By(by, name) = query.one("by").unwrap_or(By(UsageBy::Day, "day"));
    let (paging, page) = Paging::of::<UsageCursor>(&request, &mut query, "usage", caller.tenant_id())?;
    query.finish()?;
    let csv = accept::choose(request.headers(), &["application/json", csv::MEDIA_TYPE])? == csv::MEDIA_TYPE;
    // The pages of a report that ends "now" are about one time: the first one's.
    let span = page.after.as_ref().map_or(Span { from, to }, |cursor| cursor.span);
    let _turn = gateway.turn_of_list(&caller).await?;
    let listed = gateway.deps().views.usage().usage(caller.tenant_id(), span, by, page).await?;
    let (next_cursor, link) = paging.next(listed.next.as_ref());
    let items: Vec<_> = listed.items.into_iter().map(UsageSum::from).collect();
    let share = gateway.memory_of(&caller);
    let mut response = if csv {
        // Two hundred short lines at most.
        let table = csv::table(&items);
        let room = share.room(table.len() as u64)?;
        Response::builder().header(header::CONTENT_TYPE, csv::MEDIA_TYPE).body(room.keep(table.into()))
    } else {
        let stored = gateway.deps().views.usage().storage(caller.tenant_id()).await?;
        let limit_bytes = gateway.deps().policy.of(caller.tenant.tier).storage();
        let body = Usage {
            from: views::written(span.from),
            to: views::written(span.to),
            by: name.to_owned(),
            items,
            truncated: next_cursor.is_some(),
            next_cursor,
            storage: Storage::new(stored, limit_bytes),
        };
        json(&share, StatusCode::OK, &body)?
    };
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

pub(crate) fn report_doc() -> Operation {
    Operation::new("getUsage", "usage", "Sum up what executions cost")
        .describe(
            "Needs the scope usage:read. Times count by whole hours; an execution counts when it ended. A row for each \
             bucket in which something ended: times ascending, keys and modules in the order of their names. `storage` \
             says what is stored now, and how much that may be; the table has none of it. `wasmwiz usage recompute \
             --check` derives every figure from the log.",
        )
        .query::<String>("from", "From this time on, as in RFC 3339; 30 days before to when absent.")
        .query::<String>("to", "Up to this time, as in RFC 3339; now when absent.")
        .query::<String>("by", "hour, day (when absent), key or module.")
        .paged()
        .answers::<Usage>(200, "A page of the sums")
        .answers_bytes(
            200,
            "text/csv",
            "With Accept: text/csv, the same page as in RFC 4180, with a header row; a name that a spreadsheet would take \
             for a formula has an apostrophe before it",
        )
        .with_header("Link", "The next page, rel=\"next\", when there is one.")
        .with_header("Vary", "accept")
        .problem(&[Kind::InvalidQuery, Kind::NotAcceptable, Kind::RateLimited])
}
