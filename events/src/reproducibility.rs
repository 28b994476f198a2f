//! Whether an execution can be run again from its record, and what that takes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an execution's end depended on: decided by what its guest did, and recorded with its end.
///
/// "The same" means the same end, exit code, outputs and peak memory, on an engine of the same fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reproducibility {
    /// On the module, its input, arguments, limits and seed alone: no clock was read.
    Pure,
    /// On those and on the moment of its acceptance, at which its clocks start.
    VirtualTime,
    /// On what it was told by clocks of the host, which is kept beside the record.
    Transcript,
    /// On something that is not recorded: the host's time, its load, whoever cancelled it, or readings of
    /// the host's clocks that were not kept.
    Unverifiable,
}

impl Reproducibility {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pure, Self::VirtualTime, Self::Transcript, Self::Unverifiable];

    /// Its name in the API and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::VirtualTime => "virtual-time",
            Self::Transcript => "transcript",
            Self::Unverifiable => "unverifiable",
        }
    }

    /// Does a run from the record give the same, by construction?
    pub const fn is_deterministic(self) -> bool {
        !matches!(self, Self::Unverifiable)
    }
}

impl fmt::Display for Reproducibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_name_is_what_is_written() {
        for class in Reproducibility::ALL {
            let written = serde_json::to_string(&class).unwrap();
            assert_eq!(written, format!("\"{class}\""));
            assert_eq!(serde_json::from_str::<Reproducibility>(&written).unwrap(), class);
            assert_eq!(class.is_deterministic(), class != Reproducibility::Unverifiable);
        }
    }
}
