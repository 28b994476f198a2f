//! The effective configuration for people: TOML, with a remark at each line that is not a default.

use std::{collections::BTreeMap, fmt::Write as _};

use super::layers::{Origin, join};

/// Adds where values are from to a configuration in TOML. It stays one.
pub(super) fn annotated(toml: &str, origins: &BTreeMap<String, Origin>) -> String {
    let (mut shown, mut table) = (String::from("# What has no remark is a default.\n"), String::new());
    for line in toml.lines() {
        let header = line.strip_prefix('[').map(|rest| rest.trim_matches(['[', ']']));
        let key = match header {
            Some(header) => {
                header.clone_into(&mut table);
                // A table has no origin of its own, a list of tables has.
                Some(table.clone()).filter(|_| line.starts_with("[["))
            }
            None => line.split_once(" = ").map(|(name, _)| join(&table, name)),
        };
        let origin = key.and_then(|key| origins.get(&key));
        let _infallible = match origin {
            None => writeln!(shown, "{line}"),
            // A remark behind the first line of a longer value could become part of it.
            Some(origin) if line.parse::<toml::Table>().is_ok() => writeln!(shown, "{line} # from {origin}"),
            Some(origin) => writeln!(shown, "# from {origin}\n{line}"),
        };
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_that_is_not_a_default_says_where_it_is_from_and_the_whole_stays_toml() {
        let toml = "a = 1\n\n[b]\nc = \"x # y\"\nlist = [\n    \"c = 1\",\n]\n\n[[b.d]]\ne = 1\n";
        let from = |key: &str, origin| (key.to_owned(), origin);
        let variable = Origin::Variable("WASMWIZ_B__C".into());
        let origins = [from("b.c", variable), from("b.list", Origin::File), from("b.d", Origin::File)].into();
        let shown = annotated(toml, &origins);
        let expected = "# What has no remark is a default.\na = 1\n\n[b]\nc = \"x # y\" # from WASMWIZ_B__C\n\
                        # from the file\nlist = [\n    \"c = 1\",\n]\n\n[[b.d]] # from the file\ne = 1\n";
        assert_eq!(shown, expected);
        assert_eq!(shown.parse::<toml::Table>().unwrap(), toml.parse::<toml::Table>().unwrap());
    }
}
