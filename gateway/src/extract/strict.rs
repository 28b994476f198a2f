//! JSON read so that every reader takes it in the same way: at every depth a name comes once, and the depth has a bound.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// How deep values may be nested. Commands are flat; what is deeper was not written for them.
const DEPTH_MAX: usize = 32;

/// Reads one value that is `depth` deep itself.
pub(super) struct Strict {
    pub(super) depth: usize,
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > DEPTH_MAX {
            return Err(D::Error::custom(format_args!("it is nested more than {DEPTH_MAX} deep")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(Self { depth: self.depth.saturating_add(1) })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom("a member is given twice"));
            }
            object.insert(name, members.next_value_seed(Self { depth: self.depth.saturating_add(1) })?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Value, serde_json::Error> {
        Strict { depth: 0 }.deserialize(&mut serde_json::Deserializer::from_str(json))
    }

    #[test]
    fn what_every_reader_takes_in_the_same_way_is_read_as_ever() {
        for json in
            ["null", "true", "-1", "18446744073709551615", "1.5", "\"a\\u0000\"", r#"[1,{"a":[{}],"b":{"a":1}}]"#]
        {
            assert_eq!(read(json).unwrap(), serde_json::from_str::<Value>(json).unwrap(), "{json}");
        }
    }

    #[test]
    fn a_name_that_comes_twice_is_refused_at_every_depth() {
        for json in [r#"{"a":1,"a":1}"#, r#"[[{"b":{"a":1,"a":2}}]]"#, r#"{"a":1,"\u0061":2}"#] {
            assert!(read(json).unwrap_err().to_string().contains("given twice"), "{json}");
        }
    }

    #[test]
    fn depth_has_a_bound() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(&nested(DEPTH_MAX)).is_ok());
        assert!(read(&nested(DEPTH_MAX + 2)).unwrap_err().to_string().contains("deep"));
    }
}
