//! How a module is compiled: plain, or so that its instructions are counted.
//!
//! Counting costs a guest speed, and it makes machine code of its own. So there is an engine of each kind, and what is compiled
//! for one of them is none of the other's. Which one runs a guest is part of its record.

use wasmwiz_events::{digest::Digest, execution::Accepted};

/// What an engine makes of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// As fast as it gets. The clock ends what runs for too long.
    Plain,
    /// Each instruction is counted, and a guest ends when it has used up what it was given, at the same one in every run.
    Metered,
}

impl Profile {
    /// Both of them.
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Metered];

    /// That of an execution which was given so much fuel, if it was.
    pub const fn of(fuel: Option<u64>) -> Self {
        if fuel.is_some() { Self::Metered } else { Self::Plain }
    }
}

/// Which machine code: of which module, in which profile. A digest alone means the plain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodeId {
    /// SHA-256 of the module's bytes.
    pub digest: Digest,
    /// What is made of them.
    pub profile: Profile,
}

impl CodeId {
    /// What an accepted execution runs.
    pub const fn of(accepted: &Accepted) -> Self {
        Self { digest: accepted.module.digest, profile: Profile::of(accepted.fuel) }
    }
}

impl From<Digest> for CodeId {
    fn from(digest: Digest) -> Self {
        Self { digest, profile: Profile::Plain }
    }
}

/// One of something for each profile.
#[derive(Debug, Clone)]
pub(crate) struct Each<T> {
    plain: T,
    metered: T,
}

impl<T> Each<T> {
    /// Makes both.
    pub(crate) fn make<E>(mut one: impl FnMut(Profile) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self { plain: one(Profile::Plain)?, metered: one(Profile::Metered)? })
    }

    /// The one of this profile.
    pub(crate) const fn of(&self, profile: Profile) -> &T {
        match profile {
            Profile::Plain => &self.plain,
            Profile::Metered => &self.metered,
        }
    }
}
