//! How single fields are written in frames, where their own form would not be read back.

/// As JSON in a text: for types with optional fields that are left out, which a positional form cannot read.
pub(crate) mod json {
    use serde::{Deserialize as _, Deserializer, Serialize, Serializer, de::DeserializeOwned};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&serde_json::to_string(value).map_err(serde::ser::Error::custom)?)
    }

    pub(crate) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        serde_json::from_str(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A scope by its name.
pub(crate) mod scope {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use wasmwiz_events::key::Scope;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(scope: &Scope, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(scope.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scope, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A moment as a number, whatever its year: a caller may wait until long after the last one that has a text.
pub(crate) mod moment {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use wasmwiz_events::time::Timestamp;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(moment: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(moment.unix_ms())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(deserializer).map(Timestamp::from_unix_ms)
    }

    /// One that may be absent.
    pub(crate) mod optional {
        use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
        use wasmwiz_events::time::Timestamp;

        #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
        pub(crate) fn serialize<S: Serializer>(moment: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
            moment.map(Timestamp::unix_ms).serialize(serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
            Ok(Option::<i64>::deserialize(deserializer)?.map(Timestamp::from_unix_ms))
        }
    }
}

/// What is never in a frame in this form.
pub(crate) mod never {
    use serde::{Deserializer, Serializer};

    const WHY: &str = "a command within a command is not written as one";

    pub(crate) fn serialize<T, S: Serializer>(_: &T, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(WHY))
    }

    pub(crate) fn deserialize<'de, T, D: Deserializer<'de>>(_: D) -> Result<T, D::Error> {
        Err(serde::de::Error::custom(WHY))
    }
}
