//! The OpenAPI document, and a page that shows it without loading anything.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::header;
use poem::{Request, Response};
use sha2::{Digest as _, Sha256};

use crate::{
    gateway::Gateway,
    middleware::content_security_policy,
    openapi::{self, Operation},
    router::Answer,
};

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi::openapi_document().into());

static PAGE: LazyLock<(Bytes, String)> = LazyLock::new(|| {
    let html = openapi::page();
    let policy = policy(&html);
    (html.into(), policy)
});

/// GET /openapi.json
pub(crate) async fn document(_: Gateway, _: Request) -> Answer {
    Ok(Response::builder().header(header::CONTENT_TYPE, "application/json").body(DOCUMENT.clone()))
}

/// GET /docs
pub(crate) async fn page(_: Gateway, _: Request) -> Answer {
    let (html, policy) = &*PAGE;
    let mut response = Response::builder().header(header::CONTENT_TYPE, "text/html; charset=utf-8").body(html.clone());
    content_security_policy(&mut response, policy);
    Ok(response)
}

/// Allows the page exactly the scripts and styles that are in it, and calls to this node.
fn policy(html: &str) -> String {
    let hashes = |tag: &str| {
        inline(html, tag)
            .map(|text| format!(" 'sha256-{}'", STANDARD.encode(Sha256::digest(text.as_bytes()))))
            .collect::<String>()
    };
    format!(
        "default-src 'none'; script-src{}; style-src{}; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hashes("script"),
        hashes("style"),
    )
}

/// The contents of all elements `tag`.
fn inline<'a>(html: &'a str, tag: &str) -> impl Iterator<Item = &'a str> {
    let (opening, closing) = (format!("<{tag}"), format!("</{tag}>"));
    let mut rest = html;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&opening)?;
        let (_, content) = after.split_once('>')?;
        let (content, after) = content.split_once(&closing)?;
        rest = after;
        Some(content)
    })
}

pub(crate) fn document_doc() -> Operation {
    Operation::new("openapi", "health", "This document").answers::<serde_json::Value>(200, "The document")
}

pub(crate) fn page_doc() -> Operation {
    Operation::new("docs", "health", "A page that shows this document").answers_bytes(200, "text/html", "The page")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_and_may_run_only_what_is_in_it() {
        let (html, policy) = &*PAGE;
        let html = std::str::from_utf8(html).unwrap();
        let head_and_body: String = {
            let mut page = html.to_owned();
            for tag in ["script", "style"] {
                for content in inline(html, tag).map(str::to_owned).collect::<Vec<_>>() {
                    page = page.replace(&content, "");
                }
            }
            page
        };
        for loads in ["src=", "href=", "@import", "http://", "https://"] {
            assert!(!head_and_body.contains(loads), "{loads}: {head_and_body}");
        }
        assert_eq!(policy.matches("'sha256-").count(), 3, "{policy}");
        assert!(!policy.contains("unsafe"));
    }

    #[test]
    fn contents_are_found_between_their_tags() {
        let found: Vec<_> = inline("<a><script x>1</script><script>2</script>", "script").collect();
        assert_eq!(found, ["1", "2"]);
    }
}
