//! `cargo xtask campaign`: what the night does, by its name, at its size, here.

use std::{fs, io::Write as _, process::ExitCode};

use anyhow::{Context, bail};

use crate::{process::command, workspace};

/// Run a campaign of the night on this machine
///
/// `.github/workflows/nightly.yml` says which there are, what each runs, and how much of it. A variable that is set already
/// counts instead of the one there. Without a name they are listed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which
    name: Option<String>,
}

/// Runs it. A campaign that finds something is no error of this chore, but its exit code.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let file = workspace::root().join(".github/workflows/nightly.yml");
    let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let campaigns = campaigns(&text);
    let names: Vec<_> = campaigns.iter().map(|(name, _)| *name).collect();
    let Some(name) = &arguments.name else {
        writeln!(std::io::stdout(), "{}", names.join("\n")).context("cannot print")?;
        return Ok(ExitCode::SUCCESS);
    };
    let Some((_, chore)) = campaigns.iter().find(|(known, _)| known == name) else {
        bail!("there is no campaign `{name}`; there are {}", names.join(", "));
    };
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut xtask = command(&own.to_string_lossy());
    xtask.args(chore.split_whitespace());
    for (variable, value) in variables(&text) {
        if std::env::var_os(variable).is_none() {
            xtask.env(variable, value);
        }
    }
    eprintln!("campaign {name}: cargo xtask {chore}");
    let status = xtask.status().with_context(|| format!("cannot start `cargo xtask {chore}`"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The names of the workflow's campaigns, and the chore of each.
fn campaigns(workflow: &str) -> Vec<(&str, &str)> {
    let lines: Vec<_> = workflow.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter_map(|pair| match pair {
        [name, chore] => Some((name.strip_prefix("- campaign: ")?, chore.strip_prefix("chore: ")?)),
        _ => None,
    });
    pairs.map(|(name, chore)| (name, chore.trim_matches('"'))).collect()
}

/// The sizes that it sets. What only the workflow knows is left out.
fn variables(workflow: &str) -> Vec<(&str, &str)> {
    let is_size =
        |name: &str| ["WASMWIZ_TESTS_", "PROPTEST_", "NEXTEST_"].iter().any(|prefix| name.starts_with(prefix));
    let set = workflow.lines().filter_map(|line| line.trim().split_once(": "));
    let set = set.filter(|(name, value)| is_size(name) && !value.contains("${{"));
    set.map(|(name, value)| (name, value.trim_matches('"'))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nights_campaigns_are_known_by_their_names_with_their_sizes() {
        let text = fs::read_to_string(workspace::root().join(".github/workflows/nightly.yml")).unwrap();
        let campaigns = campaigns(&text);
        assert_eq!(campaigns.len(), text.matches("- campaign: ").count());
        for (name, part) in [
            ("crash", "crash::"),
            ("histories", "replay_tests"),
            ("neighbours", "neighbours::"),
            ("heads", "tamper::heads"),
            ("reproduced", "reproduce::"),
            ("stalled", "stalled::"),
            ("month", "month_tests"),
            ("past", "however_long_its_past"),
            ("past-on-jetstream", "jetstream::past::"),
            ("chaos", "chaos -- --size nightly"),
        ] {
            let found = campaigns.iter().find(|(known, _)| *known == name);
            assert!(found.is_some_and(|(_, chore)| chore.contains(part) && !chore.contains('"')), "{name}: {found:?}");
        }
        let variables = variables(&text);
        assert!(variables.contains(&("WASMWIZ_TESTS_HEADS_CASES", "100")), "{variables:?}");
        assert!(variables.contains(&("WASMWIZ_TESTS_NEIGHBOURS_SECONDS", "40")), "{variables:?}");
        assert!(variables.contains(&("WASMWIZ_TESTS_MONTH_DAYS", "30")), "{variables:?}");
        assert!(variables.contains(&("NEXTEST_PROFILE", "nightly")), "{variables:?}");
        assert!(variables.iter().all(|(name, _)| *name != "WASMWIZ_TESTS_SEED"), "only the workflow knows it");
    }
}
