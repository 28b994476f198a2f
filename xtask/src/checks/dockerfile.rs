//! The Dockerfile: how it is written (hadolint), and what of it would harm a deployment (checkov).

use std::path::Path;

use super::{Outcome, configuration, tools::tool};
use crate::process::run;

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    if !tree.join("Dockerfile").is_file() {
        return Ok(Outcome::Skipped("there is no Dockerfile"));
    }
    let mut lint = tool("hadolint", tree)?;
    run(lint.arg("--config").arg(configuration("hadolint.yaml")).arg("Dockerfile"))?;
    let mut policies = tool("checkov", tree)?;
    policies.arg("--config-file").arg(configuration("checkov.yaml"));
    // Only what is named: it would read every file of the tree otherwise.
    run(policies.args(["--file", "Dockerfile"]))?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::super::{tests::tree, tools};
    use super::*;

    const HARMLESS: &str = "FROM debian:bookworm\n\
        LABEL org.opencontainers.image.title=\"a\" org.opencontainers.image.description=\"a\"\n\
        LABEL org.opencontainers.image.licenses=\"MIT\" org.opencontainers.image.version=\"1\"\n\
        LABEL org.opencontainers.image.revision=\"1\"\n\
        USER 65532:65532\nHEALTHCHECK CMD [\"/bin/true\"]\n";

    fn look(dockerfile: &str) -> anyhow::Result<Outcome> {
        check(tree(&[("Dockerfile", dockerfile)]).path())
    }

    #[test]
    fn a_base_without_a_version_is_found() {
        if tools::are_there() {
            let error = look(&HARMLESS.replace(":bookworm", "")).unwrap_err();
            assert!(error.to_string().contains("hadolint"), "{error}");
        }
    }

    #[test]
    fn an_image_that_runs_as_root_is_found() {
        if tools::are_there() {
            assert_eq!(look(HARMLESS).unwrap(), Outcome::Passed);
            let error = look(&HARMLESS.replace("USER 65532:65532\n", "")).unwrap_err();
            assert!(error.to_string().contains("checkov"), "{error}");
        }
    }
}
