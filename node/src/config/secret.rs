//! Values that are never printed.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConfigError;

/// A value that is never printed. Written as `"***"` wherever a configuration is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself: for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the file holds that `key` names, without the newline at its end.
    pub(super) fn in_file(key: &'static str, path: &PathBuf) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| ConfigError::SecretFile { key, path: path.clone(), source })?;
        Ok(Self(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The reader's own words would quote what is no text, and that may be the secret.
        let text = String::deserialize(deserializer);
        text.map(Self).map_err(|_| de::Error::custom("it is a text, in quotes"))
    }
}
