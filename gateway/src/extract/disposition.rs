//! Which part of a form a part is: `Content-Disposition`, as RFC 7578 and RFC 6266 write it.

use http::{HeaderMap, header};

use super::parameters::Valued;

/// Why a part has no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nameless(pub(crate) &'static str);

/// The name of a part with these headers. What its file is called does not matter.
pub(crate) fn name(headers: &HeaderMap) -> Result<String, Nameless> {
    let mut given = headers.get_all(header::CONTENT_DISPOSITION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(Nameless("has no Content-Disposition, or several; form-data with a name is one"));
    };
    let disposition = Valued::of_form(value.as_bytes()).filter(|disposition| disposition.value() == "form-data");
    let disposition = disposition.ok_or(Nameless("has a Content-Disposition that is not form-data with its name"))?;
    let name = disposition.parameter("name").and_then(|name| std::str::from_utf8(name).ok());
    name.map(str::to_owned).ok_or(Nameless("has no name, or several; the parts are wasm, input and arg"))
}
