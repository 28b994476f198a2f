//! Old shapes of events, made current on reading. A stored byte never changes; its meaning is carried forward by pure
//! functions, one a step.
//!
//! A changed meaning gets a new version of the type, a step here, a golden file of the old shape, and an ADR.

use serde_json::{Value, value::RawValue};

/// One step from a version of a type to the next.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The type it reads.
    pub from: &'static str,
    /// The type it gives.
    pub to: &'static str,
    /// The change of shape. Pure and total: it must accept whatever was once written under `from`.
    pub upcast: fn(Value) -> Value,
}

/// The steps, in any order. Empty while every type is at its first version.
pub const STEPS: &[Step] = &[];

/// The current type and data of an event stored as `type_name`; `None` when it is current already, or unknown.
///
/// # Errors
/// When the stored data is not JSON.
pub fn to_current(
    type_name: &str,
    data: &RawValue,
) -> Result<Option<(&'static str, Box<RawValue>)>, serde_json::Error> {
    climb(STEPS, type_name, data)
}

fn climb(
    steps: &[Step],
    type_name: &str,
    data: &RawValue,
) -> Result<Option<(&'static str, Box<RawValue>)>, serde_json::Error> {
    let Some(first) = steps.iter().find(|step| step.from == type_name) else { return Ok(None) };
    let mut value = (first.upcast)(serde_json::from_str(data.get())?);
    let mut current = first.to;
    // Each step leaves a version for good, so there are at most as many as the table has.
    for _ in steps {
        let Some(step) = steps.iter().find(|step| step.from == current) else { break };
        value = (step.upcast)(value);
        current = step.to;
    }
    Ok(Some((current, serde_json::value::to_raw_value(&value)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LADDER: &[Step] = &[
        Step {
            from: "a.v2",
            to: "a.v3",
            upcast: |mut value| {
                value["third"] = 3.into();
                value
            },
        },
        Step {
            from: "a.v1",
            to: "a.v2",
            upcast: |mut value| {
                value["second"] = 2.into();
                value
            },
        },
    ];

    fn climbed(type_name: &str) -> Option<(&'static str, Value)> {
        let data = RawValue::from_string(r#"{"first":1}"#.to_owned()).unwrap();
        let (name, data) = climb(LADDER, type_name, &data).unwrap()?;
        Some((name, serde_json::from_str(data.get()).unwrap()))
    }

    #[test]
    fn an_old_event_climbs_every_step() {
        let expected = serde_json::json!({"first": 1, "second": 2, "third": 3});
        assert_eq!(climbed("a.v1"), Some(("a.v3", expected)));
    }

    #[test]
    fn a_current_or_unknown_event_is_left_alone() {
        assert_eq!(climbed("a.v3"), None);
        assert_eq!(climbed("b.v1"), None);
    }
}
