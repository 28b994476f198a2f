//! Payloads that are kept no longer, and what still names those that are.
//!
//! A digest in an event stays for ever, and so does the chain: what goes is the bytes. An event says up to which revision of its
//! stream they are released, so that whoever reads the stream knows what may be gone, whatever a disk still has.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::revision::Revision;

mod references;

pub use references::{References, payloads_of};

/// Payloads that are kept for the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Standard inputs of executions.
    Inputs,
    /// Standard outputs and errors of executions.
    Outputs,
    /// What guests read from the host's clocks.
    Transcripts,
    /// Modules of which no version is live: deleted ones, and those that came along with an execution.
    Modules,
}

impl Class {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Inputs, Self::Outputs, Self::Transcripts, Self::Modules];

    /// Its name in events, subjects and settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inputs => "inputs",
            Self::Outputs => "outputs",
            Self::Transcripts => "transcripts",
            Self::Modules => "modules",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Payloads of one class are kept no longer: those that events up to a revision of the stream name, and no later one. Of modules,
/// those whose last live version was deleted by then, and those that came along with executions accepted by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Which.
    pub class: Class,
    /// Up to which revision.
    pub through_revision: Revision,
    /// How many were counted among what the tenant stores, and are no longer.
    pub payloads: u64,
    /// How many bytes they have together.
    pub bytes: u64,
}

/// Up to which revision of a stream the payloads of each class are released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Through([Revision; Class::ALL.len()]);

impl Through {
    /// Takes note of an event.
    pub fn note(&mut self, released: &Released) {
        let [inputs, outputs, transcripts, modules] = &mut self.0;
        let through = match released.class {
            Class::Inputs => inputs,
            Class::Outputs => outputs,
            Class::Transcripts => transcripts,
            Class::Modules => modules,
        };
        *through = released.through_revision.max(*through);
    }

    /// Are payloads of this class released that an event at `revision` names?
    pub const fn has_released(&self, class: Class, revision: Revision) -> bool {
        revision.get() <= self.of(class).get()
    }

    /// The last revision of which something is released; `None` if nothing ever was.
    pub fn last(&self) -> Option<Revision> {
        self.0.into_iter().max().filter(|last| *last > Revision::NONE)
    }

    const fn of(&self, class: Class) -> Revision {
        let [inputs, outputs, transcripts, modules] = self.0;
        match class {
            Class::Inputs => inputs,
            Class::Outputs => outputs,
            Class::Transcripts => transcripts,
            Class::Modules => modules,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(class: Class, through: u64) -> Released {
        Released { class, through_revision: Revision::new(through), payloads: 1, bytes: 1 }
    }

    #[test]
    fn each_class_is_released_by_itself_and_never_taken_back() {
        let mut through = Through::default();
        assert_eq!(through.last(), None);
        through.note(&released(Class::Outputs, 7));
        through.note(&released(Class::Outputs, 5));
        through.note(&released(Class::Modules, 6));
        let has = |class, revision| through.has_released(class, Revision::new(revision));
        assert_eq!((has(Class::Outputs, 7), has(Class::Outputs, 8)), (true, false));
        assert_eq!((has(Class::Modules, 6), has(Class::Modules, 7)), (true, false));
        assert_eq!((has(Class::Inputs, 1), has(Class::Transcripts, 1)), (false, false));
        assert_eq!(through.last(), Some(Revision::new(7)));
    }

    #[test]
    fn a_class_is_written_by_its_name() {
        for class in Class::ALL {
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{class}\""));
        }
    }
}
