//! Reading settings out of their layers into typed values.
//!
//! What a file says has its type already, and no other is made of it: `name = 2026.10` is a number and no name. What a
//! variable says is text, and means what its setting takes: a text as it stands there, a number or a boolean where
//! one is wanted, a list as TOML writes it. An error says which setting it is about, and where that is from.

use std::{collections::btree_map, fmt};

use serde::{
    Deserialize, Deserializer, de,
    de::{DeserializeSeed, IntoDeserializer as _, MapAccess, Visitor},
    forward_to_deserialize_any,
};
use toml::Value;

use super::layers::{Node, Origin, join};

/// What is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The whole key, and where its value is from; nothing until it is known.
    pub(super) at: Option<(String, Origin)>,
    /// What is wrong with it.
    pub(super) problem: String,
}

impl Fault {
    /// What is told innermost is the most exact.
    fn at(mut self, key: &str, node: &Node) -> Self {
        self.at.get_or_insert_with(|| (key.to_owned(), node.origin()));
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self { at: None, problem: problem.to_string() }
    }
}

impl From<toml::de::Error> for Fault {
    fn from(error: toml::de::Error) -> Self {
        // Without the line of the file that it would quote.
        Self { at: None, problem: error.message().to_owned() }
    }
}

/// Reads everything there is.
pub(super) fn read<'de, T: Deserialize<'de>>(node: &Node) -> Result<T, Fault> {
    T::deserialize(At { node, key: "" })
}

/// A value and its key.
#[derive(Clone, Copy)]
struct At<'a> {
    node: &'a Node,
    key: &'a str,
}

impl At<'_> {
    /// The text of a variable as TOML would read it.
    fn literal(text: &str) -> Option<Value> {
        toml::from_str::<toml::Table>(&format!("value = {text}")).ok()?.remove("value")
    }

    fn whole_number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Node::Text(text, _) = self.node else { return self.deserialize_any(visitor) };
        if let Ok(number) = text.trim().parse() {
            return visitor.visit_i64(number);
        }
        match Self::literal(text) {
            Some(Value::Integer(number)) => visitor.visit_i64(number),
            _ => Err(de::Error::custom(format_args!("is {text:?}, and a whole number is wanted"))),
        }
    }

    fn fraction<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Node::Text(text, _) = self.node else { return self.deserialize_any(visitor) };
        match text.trim().parse() {
            Ok(number) => visitor.visit_f64(number),
            Err(_) => Err(de::Error::custom(format_args!("is {text:?}, and a number is wanted"))),
        }
    }

    fn list<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Node::Text(text, _) = self.node else { return self.deserialize_any(visitor) };
        match Self::literal(text) {
            Some(list @ Value::Array(_)) => Ok(list.deserialize_any(visitor)?),
            _ => Err(de::Error::custom(r#"is no list; write it as TOML does, such as ["one", "two"]"#)),
        }
    }
}

macro_rules! read_by {
    ($by:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.$by(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for At<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node {
            Node::Table(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None, key: self.key }),
            // The library would make a text of it.
            Node::Typed(Value::Datetime(_), _) => {
                Err(de::Error::custom("is a date, and no setting is one; put it in quotes"))
            }
            Node::Typed(value, _) => Ok(value.clone().deserialize_any(visitor)?),
            Node::Text(text, _) => visitor.visit_str(text),
        }
    }

    read_by! { whole_number: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    read_by! { fraction: deserialize_f32 deserialize_f64 }

    read_by! { list: deserialize_seq }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Node::Text(text, _) = self.node else { return self.deserialize_any(visitor) };
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => visitor.visit_bool(true),
            "false" | "0" | "no" | "off" => visitor.visit_bool(false),
            _ => Err(de::Error::custom(format_args!("is {text:?}, and true or false is wanted"))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.node {
            Node::Text(text, _) => visitor.visit_enum(text.as_str().into_deserializer()),
            Node::Typed(value, _) => Ok(value.clone().deserialize_enum(name, variants, visitor)?),
            Node::Table(_) => Err(de::Error::custom("is a table, and one word is wanted")),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

/// The entries of a table, one after the other.
struct Entries<'a> {
    entries: btree_map::Iter<'a, String, Node>,
    value: Option<(&'a str, &'a Node)>,
    key: &'a str,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((name, node)) = self.entries.next() else { return Ok(None) };
        self.value = Some((name, node));
        // An unknown key is told here.
        let read = seed.deserialize(name.as_str().into_deserializer());
        read.map(Some).map_err(|fault: Fault| fault.at(&join(self.key, name), node))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((name, node)) = self.value.take() else { return Err(de::Error::custom("has no value")) };
        let key = join(self.key, name);
        seed.deserialize(At { node, key: &key }).map_err(|fault| fault.at(&key, node))
    }
}
