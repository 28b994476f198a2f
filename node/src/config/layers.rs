//! Settings on top of each other: defaults, the file, the environment. Each value remembers where it is from.

use std::{collections::BTreeMap, fmt};

use toml::{Table, Value};

use super::environment::Variable;

/// Where a value comes from. A later one wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has said anything.
    Default,
    /// The configuration file.
    File,
    /// This variable of the environment.
    Variable(String),
}

impl Origin {
    /// Does what is from here win over what is from there? Of two variables neither does.
    pub(super) const fn wins_over(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File => 1,
            Self::Variable(_) => 2,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File => f.write_str("the file"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// A table of settings, or one of them.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// Settings by their keys.
    Table(BTreeMap<String, Node>),
    /// One value, as its file has it.
    Typed(Value, Origin),
    /// One value as text: what it means depends on who reads it.
    Text(String, Origin),
}

impl Node {
    /// A table of typed values.
    pub(super) fn of(table: Table, origin: &Origin) -> Self {
        Self::Table(table.into_iter().map(|(key, value)| (key, Self::of_value(value, origin))).collect())
    }

    fn of_value(value: Value, origin: &Origin) -> Self {
        match value {
            Value::Table(table) => Self::of(table, origin),
            other => Self::Typed(other, origin.clone()),
        }
    }

    /// Puts `over` on top: tables are merged, and of values the upper one stays.
    pub(super) fn lay(&mut self, over: Self) {
        match (self, over) {
            (Self::Table(under), Self::Table(over)) => {
                for (key, node) in over {
                    match under.get_mut(&key) {
                        Some(there) => there.lay(node),
                        None => drop(under.insert(key, node)),
                    }
                }
            }
            (under, over) => *under = over,
        }
    }

    /// Puts a variable on top.
    pub(super) fn lay_variable(&mut self, variable: Variable) {
        let leaf = Self::Text(variable.text, Origin::Variable(variable.name));
        let over = variable.key.into_iter().rfold(leaf, |node, key| Self::Table([(key, node)].into()));
        self.lay(over);
    }

    /// Where it is from; of a table, whatever was said last about something in it.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Table(entries) => {
                entries.values().map(Self::origin).max_by_key(Origin::rank).unwrap_or(Origin::Default)
            }
            Self::Typed(_, origin) | Self::Text(_, origin) => origin.clone(),
        }
    }

    /// Every value that is not a default, by its whole key.
    pub(super) fn origins(&self) -> BTreeMap<String, Origin> {
        let mut origins = BTreeMap::new();
        self.collect("", &mut origins);
        origins
    }

    fn collect(&self, key: &str, origins: &mut BTreeMap<String, Origin>) {
        match self {
            Self::Table(entries) => {
                for (name, node) in entries {
                    node.collect(&join(key, name), origins);
                }
            }
            Self::Typed(_, Origin::Default) | Self::Text(_, Origin::Default) => {}
            Self::Typed(_, origin) | Self::Text(_, origin) => drop(origins.insert(key.to_owned(), origin.clone())),
        }
    }
}

/// The key of `name` in the table `key`.
pub(super) fn join(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}
