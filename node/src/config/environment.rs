//! The variables of the environment that are settings: `WASMWIZ_<SECTION>__<KEY>`, and no others.
//!
//! Names without the two underscores are left alone: Kubernetes sets `WASMWIZ_PORT=tcp://…` for a Service of that name, and
//! the command line's client has `WASMWIZ_URL`.

use std::{collections::BTreeMap, ffi::OsString};

use super::ConfigError;

/// What every variable of this program begins with.
const PREFIX: &str = "WASMWIZ_";

/// What stands between the parts of a key.
const SEPARATOR: &str = "__";

/// A variable that is a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    /// Its name.
    pub(super) name: String,
    /// The key that it sets, part by part.
    pub(super) key: Vec<String>,
    /// Its value, as it stands there.
    pub(super) text: String,
}

/// Those among `all` that are settings, by the keys they set.
///
/// # Errors
/// [`ConfigError::Setting`] when one of them is not text, or two set the same key.
pub(super) fn settings(
    all: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<impl Iterator<Item = Variable>, ConfigError> {
    let mut found = BTreeMap::<Vec<String>, Variable>::new();
    for (name, value) in all {
        if !is_setting(&name) {
            continue;
        }
        let shown = name.to_string_lossy().into_owned();
        let wrong = |problem: String| Err(ConfigError::Setting { place: shown.clone(), problem });
        let (Ok(name), Ok(text)) = (name.into_string(), value.into_string()) else {
            return wrong("is not UTF-8 text; set it to text, or give the setting in a file".into());
        };
        let key: Vec<String> = name.get(PREFIX.len()..).unwrap_or_default().split(SEPARATOR).map(lower).collect();
        let variable = Variable { name, key: key.clone(), text };
        if let Some(other) = found.insert(key, variable) {
            return wrong(format!("sets the same as {}; unset one of them", other.name));
        }
    }
    Ok(found.into_values())
}

/// The key that a variable of this name sets, if it sets one.
pub(super) fn key_of(name: &OsString) -> Option<String> {
    let text = name.to_str().filter(|_| is_setting(name))?;
    Some(lower(text.get(PREFIX.len()..)?).replace(SEPARATOR, "."))
}

/// Does this name a setting? Not every name is text.
fn is_setting(name: &OsString) -> bool {
    let bytes = name.as_encoded_bytes();
    let Some((prefix, rest)) = bytes.split_at_checked(PREFIX.len()) else { return false };
    prefix.eq_ignore_ascii_case(PREFIX.as_bytes())
        && rest.windows(SEPARATOR.len()).any(|window| window == SEPARATOR.as_bytes())
}

fn lower(part: &str) -> String {
    part.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn found(all: &[(&[u8], &[u8])]) -> Result<Vec<Variable>, String> {
        let all =
            all.iter().map(|(name, value)| (OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())));
        settings(all).map(Iterator::collect).map_err(|error| error.to_string())
    }

    #[test]
    fn what_kubernetes_and_others_set_is_no_setting() {
        let others: [(&[u8], &[u8]); 9] = [
            (b"WASMWIZ_PORT", b"tcp://10.0.0.1:8080"),
            (b"WASMWIZ_SERVICE_HOST", b"10.0.0.1"),
            (b"WASMWIZ_PORT_8080_TCP_ADDR", b"10.0.0.1"),
            (b"WASMWIZ_API_KEY", b"\xff"),
            (b"WASMWIZ_\xff", b"x"),
            (b"WASMWIZ", b"x"),
            (b"WASMWIZ__", b""),
            (b"OTHER_LISTEN__API", b"x"),
            (b"\xff__", b"\xff"),
        ];
        assert_eq!(found(&others), Ok(vec![]));
    }

    #[test]
    fn a_setting_keeps_its_text_and_its_name() {
        let variable = found(&[(b"WASMWIZ_LISTEN__TLS__CERT_FILE", b" a=b ")]).unwrap().remove(0);
        assert_eq!(variable.name, "WASMWIZ_LISTEN__TLS__CERT_FILE");
        assert_eq!(variable.key, ["listen", "tls", "cert_file"]);
        assert_eq!(variable.text, " a=b ");
    }

    #[test]
    fn a_setting_that_is_not_text_or_is_there_twice_is_refused_by_its_name() {
        let error = found(&[(b"WASMWIZ_NODE__NAME", b"caf\xe9")]).unwrap_err();
        assert!(error.starts_with("WASMWIZ_NODE__NAME is not UTF-8"), "{error}");
        let error = found(&[(b"WASMWIZ_NODE__N\xffME", b"x")]).unwrap_err();
        assert!(error.starts_with("WASMWIZ_NODE__N\u{fffd}ME is not UTF-8"), "{error}");
        let error = found(&[(b"WASMWIZ_NODE__NAME", b"a"), (b"wasmwiz_node__name", b"b")]).unwrap_err();
        assert_eq!(error, "wasmwiz_node__name sets the same as WASMWIZ_NODE__NAME; unset one of them");
    }
}
