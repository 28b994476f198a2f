//! Pages of lists: `limit`, an opaque `cursor`, and the link to the next page.
//!
//! A cursor carries a tag over the list, the tenant and the filter that it was made for, so that one from elsewhere is
//! noticed instead of giving a page that means nothing. It is no secret and opens nothing: a query names its tenant
//! itself.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, header};
use poem::{Request, Response};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use wasmwiz_events::id::TenantId;
use wasmwiz_projections::{Listed, Page, page::MAX_ITEMS};

use crate::{
    extract::Query,
    memory::{Room, Share},
    problem::{Kind, Problem},
    routes::receipt,
};

/// Items of a page when the caller does not say.
const DEFAULT_ITEMS: u32 = 50;

const TAG_BYTES: usize = 8;

/// What a cursor is good for, and where its list is.
#[derive(Debug)]
pub(crate) struct Paging {
    path: String,
    limit: u32,
    filter: Vec<(String, String)>,
    scope: Sha256,
}

/// A page of a list, as it is written.
#[derive(Serialize)]
struct Written<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

impl Paging {
    /// Takes `limit` and `cursor` from the query of `request`, which asks for `list` of `tenant`.
    pub(crate) fn of<C: DeserializeOwned>(
        request: &Request,
        query: &mut Query,
        list: &'static str,
        tenant: &TenantId,
    ) -> Result<(Self, Page<C>), Problem> {
        let limit = query.number::<u32>("limit").unwrap_or(DEFAULT_ITEMS);
        if !(1..=MAX_ITEMS).contains(&limit) {
            query.fault("limit", &format!("is a number from 1 to {MAX_ITEMS}"));
        }
        let cursor = query.one::<String>("cursor");
        let mut filter = query.filter();
        filter.sort_unstable();
        let mut scope = Sha256::new();
        let parts = [list, request.uri().path(), tenant.as_str()]
            .into_iter()
            .chain(filter.iter().flat_map(|(name, value)| [name.as_str(), value]));
        for part in parts {
            // Lengths first: parts that are joined differently are hashed differently.
            scope.update((part.len() as u64).to_be_bytes());
            scope.update(part);
        }
        let paging = Self { path: request.uri().path().to_owned(), limit, filter, scope };
        let after = cursor.map(|cursor| paging.open(&cursor)).transpose()?;
        Ok((paging, Page { limit, after, bytes_max: u64::MAX }))
    }

    fn tag(&self, inner: &[u8]) -> [u8; TAG_BYTES] {
        let hash = self.scope.clone().chain_update(inner).finalize();
        let mut tag = [0; TAG_BYTES];
        tag.iter_mut().zip(hash).for_each(|(tag, byte)| *tag = byte);
        tag
    }

    fn seal<C: Serialize>(&self, cursor: &C) -> String {
        // Cursors are plain data: serialising one does not fail.
        let inner = serde_json::to_vec(cursor).unwrap_or_default();
        URL_SAFE_NO_PAD.encode([&self.tag(&inner)[..], &inner].concat())
    }

    fn open<C: DeserializeOwned>(&self, cursor: &str) -> Result<C, Problem> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
        let inner = bytes.as_deref().and_then(|bytes| {
            let (tag, inner) = bytes.split_at_checked(TAG_BYTES)?;
            (tag == self.tag(inner)).then_some(inner)
        });
        inner.and_then(|inner| serde_json::from_slice(inner).ok()).ok_or_else(|| {
            Problem::new(
                Kind::MalformedCursor,
                "The cursor is not one of this list with this filter. Begin again without cursor, and send next_cursor \
                 back unchanged, with the same parameters.",
            )
            .at("query:cursor", "does not belong here")
        })
    }

    /// Writes a page down, in room of the share.
    pub(crate) fn answer<T, C: Serialize, V: Serialize>(
        &self,
        share: &Share,
        listed: Listed<T, C>,
        view: impl FnMut(T) -> V,
    ) -> Result<Response, Problem> {
        self.write(share.room(0)?, listed.items.into_iter().map(view).collect(), listed.next.as_ref())
    }

    /// Writes a page of things that are ready to be shown, which `room` may be for already.
    pub(crate) fn write<V: Serialize, C: Serialize>(
        &self,
        room: Room,
        items: Vec<V>,
        next: Option<&C>,
    ) -> Result<Response, Problem> {
        let (next_cursor, link) = self.next(next);
        let mut response = receipt(room, http::StatusCode::OK, &Written { items, next_cursor })?;
        if let Some(link) = link {
            response.headers_mut().insert(header::LINK, link);
        }
        Ok(response)
    }

    /// The next page's cursor, and its link, for lists that are written in a form of their own.
    pub(crate) fn next<C: Serialize>(&self, next: Option<&C>) -> (Option<String>, Option<HeaderValue>) {
        let next_cursor = next.map(|cursor| self.seal(cursor));
        let link = next_cursor.as_deref().and_then(|cursor| self.link(cursor));
        (next_cursor, link)
    }

    fn link(&self, cursor: &str) -> Option<HeaderValue> {
        let mut link = format!("<{}?limit={}&cursor={cursor}", self.path, self.limit);
        for (name, value) in &self.filter {
            link.push_str(&format!("&{}={}", escaped(name), escaped(value)));
        }
        link.push_str(">; rel=\"next\"");
        HeaderValue::from_str(&link).ok()
    }
}

/// Percent-encodes everything that is not unreserved in a URL.
fn escaped(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paging(uri: &str, list: &'static str, tenant: &str) -> Result<(Paging, Page<u32>), Problem> {
        let request = Request::builder().uri(uri.parse().unwrap()).finish();
        let mut query = Query::of(&request)?;
        query.all("key");
        let paging = Paging::of(&request, &mut query, list, &TenantId::new(tenant).unwrap())?;
        query.finish().map(|()| paging)
    }

    #[test]
    fn a_cursor_goes_on_where_it_was_made_and_nowhere_else() {
        let (made, _) = paging("/v1/x?key=a", "x", "acme").unwrap();
        let cursor = made.seal(&7_u32);
        let after = |uri: String, list, tenant| paging(&uri, list, tenant).map(|(_, page)| page.after);
        assert_eq!(after(format!("/v1/x?key=a&cursor={cursor}&limit=9"), "x", "acme").unwrap(), Some(7));
        for (uri, list, tenant) in [
            (format!("/v1/x?key=a&cursor={cursor}"), "x", "other"),
            (format!("/v1/y?key=a&cursor={cursor}"), "y", "acme"),
            (format!("/v1/x?key=b&cursor={cursor}"), "x", "acme"),
            (format!("/v1/x?cursor={cursor}"), "x", "acme"),
            (format!("/v1/x?key=a&cursor={cursor}A"), "x", "acme"),
            ("/v1/x?key=a&cursor=%00".to_owned(), "x", "acme"),
        ] {
            assert_eq!(after(uri.clone(), list, tenant).unwrap_err().kind(), Kind::MalformedCursor, "{uri} {list}");
        }
    }

    #[test]
    fn a_page_has_from_one_to_two_hundred_items() {
        assert_eq!(paging("/v1/x", "x", "acme").unwrap().1.limit, 50);
        for limit in ["0", "201", "-1", "x", "05", "%2B5"] {
            let problem = paging(&format!("/v1/x?limit={limit}"), "x", "acme").unwrap_err();
            assert_eq!(problem.kind(), Kind::InvalidQuery, "{limit}");
        }
    }

    #[test]
    fn the_link_to_the_next_page_repeats_the_filter() {
        let (paging, _) = paging("/v1/x?limit=2&key=a%20b", "x", "acme").unwrap();
        let link = paging.link("CURSOR").unwrap();
        assert_eq!(link, "</v1/x?limit=2&cursor=CURSOR&key=a%20b>; rel=\"next\"");
    }
}
