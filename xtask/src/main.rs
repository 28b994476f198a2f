//! The chores of the workspace, run as `cargo xtask <chore>`.
//!
//! One chore a file. A chore says what it does before it does it, on standard error, and stops at the first thing that
//! fails. Nothing here is part of the product: the node never depends on it.

mod advisories;
mod bench;
mod campaign;
mod chaos;
mod checks;
mod ci;
mod deploy;
mod engine;
mod guests;
mod image;
mod k8s;
mod load;
mod mutant;
mod openapi;
mod package;
mod pins;
mod pipeline;
mod process;
mod python;
mod release;
mod rollback;
mod sbom;
mod secrets;
mod setup;
mod smoke;
mod test;
mod upgrade;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The chores of the WasmWiz workspace.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

const AFTER_HELP: &str = "\
On a fresh machine with the Rust toolchain, a C compiler and python3:
  cargo xtask test            install the test tools once, then run every test
  cargo xtask test hostile::  only the tests whose name contains `hostile::`
  cargo xtask ci              what a change must pass besides the tests
  cargo xtask ci workflows    only the check of that name
  cargo xtask load            whether the node has become slower than its baseline
  cargo xtask chaos           whether it keeps its promises when it is killed, stopped, out of room, slow, out of time
  cargo xtask campaign heads  what the night does under this name, at its size; without a name they are listed
  cargo xtask upgrade         whether it and the version before it read each other's logs
  cargo xtask mutant          whether the checker of histories catches a node without its fences
  cargo xtask mutant ends     whether `chaos` catches a node that does not end what it lost
  cargo xtask openapi         write docs/openapi.json anew, after a change of the API
  cargo xtask k8s render      write k8s/*.yaml anew, after a change of an overlay or of the alerts
  cargo xtask k8s try FILE    start the containers of a rendered manifest here, and see the cluster form
  cargo xtask k8s rehearse    staging, production, an update under load, a broken build, and back, the same way
  cargo xtask image --fleet   nodes of the image as containers here, killed and replaced under load
  cargo xtask smoke --help    try a platform that was just deployed; `deploy` and `rollback` say what they refuse
  .ci/run                     both, as the pipeline runs them";

#[derive(Debug, Subcommand)]
enum Chore {
    Setup(setup::Arguments),
    Test(test::Arguments),
    Ci(ci::Arguments),
    Bench(bench::Arguments),
    Campaign(campaign::Arguments),
    Load(load::Arguments),
    Chaos(chaos::Arguments),
    Upgrade(upgrade::Arguments),
    Openapi(openapi::Arguments),
    Mutant(mutant::Arguments),
    Pins(pins::Arguments),
    Pipeline(pipeline::Arguments),
    Secrets(secrets::Arguments),
    Advisories(advisories::Arguments),
    Engine(engine::Arguments),
    Sbom(sbom::Arguments),
    Image(image::Arguments),
    K8s(k8s::Arguments),
    Package(package::Arguments),
    Release(release::Arguments),
    Deploy(deploy::Arguments),
    Smoke(smoke::Arguments),
    Rollback(rollback::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Setup(arguments) => setup::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Test(arguments) => test::run(&arguments),
        Chore::Ci(arguments) => ci::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Bench(arguments) => bench::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Campaign(arguments) => campaign::run(&arguments),
        Chore::Mutant(arguments) => mutant::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Load(arguments) => load::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Chaos(arguments) => chaos::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Upgrade(arguments) => upgrade::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Openapi(arguments) => openapi::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Pipeline(arguments) => pipeline::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Pins(arguments) => pins::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Secrets(arguments) => secrets::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Advisories(arguments) => advisories::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Engine(arguments) => engine::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Sbom(arguments) => sbom::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Image(arguments) => image::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::K8s(arguments) => k8s::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Package(arguments) => package::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Deploy(arguments) => deploy::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Rollback(arguments) => rollback::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Smoke(arguments) => smoke::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Release(arguments) => release::run(&arguments).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::{CommandFactory, Parser};

    use super::{Arguments, checks, workspace};

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    /// Pages that name chores in code.
    const PAGES: [&str; 7] = [
        "README.md",
        "k8s/README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/delivery.md",
        "docs/compliance.md",
        "docs/operations.md",
    ];

    /// What a page has in code that begins as a chore does: between ticks, or as a line of a listing.
    fn chores(text: &str) -> Vec<&str> {
        let between_ticks = text.split('`').skip(1).step_by(2);
        let lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
        between_ticks.chain(lines).filter(|code| code.starts_with("cargo xtask ") && !code.contains('`')).collect()
    }

    /// A workflow of this repository.
    fn workflow(name: &str) -> String {
        fs::read_to_string(workspace::root().join(".github/workflows").join(name)).unwrap()
    }

    /// What steps have in variables, and a value of each that a chore takes.
    const VARIABLES: [(&str, &str); 6] = [
        ("\"$ENVIRONMENT\"", "staging"),
        ("--image \"$IMAGE\"", "--image registry.example/wasmwiz"),
        ("\"$DIGEST\"", "sha256:0000000000000000000000000000000000000000000000000000000000000000"),
        ("\"$RUN_URL\"", "run"),
        ("\"$REPAIR\"", "false"),
        ("\"$SERVERS\"", "true"),
    ];

    fn with_values(text: &str) -> String {
        VARIABLES.iter().fold(text.to_owned(), |text, (variable, value)| text.replace(variable, value))
    }

    /// What a workflow runs: its steps' chores, and those that its matrix gives to one step.
    fn run_by(workflow: &str) -> Vec<String> {
        // A step may be broken over lines, and has its values from variables.
        let text = with_values(&workflow.split("\\\n").map(str::trim_start).collect::<Vec<_>>().join(""));
        let lines = text.lines().map(|line| line.trim().trim_start_matches("- "));
        let chores = lines.filter_map(|line| {
            let chore = line.strip_prefix("chore: ").map(|chore| chore.trim_matches('"'));
            let step = line.strip_prefix("run: ").unwrap_or(line).strip_prefix("cargo xtask ");
            chore.or(step.filter(|step| !step.starts_with("\"${words")))
        });
        chores.map(|chore| format!("xtask {chore}")).collect()
    }

    #[test]
    fn every_chore_that_a_workflow_runs_is_one() {
        for (name, at_least) in
            [("ci.yml", 6), ("nightly.yml", 10), ("release.yml", 5), ("deploy.yml", 4), ("rollback.yml", 2)]
        {
            let chores = run_by(&workflow(name));
            assert!(chores.len() >= at_least, "{name}: {chores:?}");
            for chore in chores {
                let parsed = Arguments::try_parse_from(chore.split_whitespace());
                assert!(parsed.is_ok(), "{name}: `{chore}`: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn a_step_that_runs_a_chore_is_seen_whichever_way_it_is_written() {
        let steps = "  - chore: \"load -- --size nightly\"\n    run: cargo xtask ci words\n    run: |\n      cargo xtask engine\n";
        assert_eq!(run_by(steps), ["xtask load -- --size nightly", "xtask ci words", "xtask engine"]);
    }

    #[test]
    fn what_the_night_sets_is_what_the_tests_read() {
        let below = |folder: &str| checks::texts_below(&workspace::root().join(folder), ".rs").unwrap();
        let sources = [below("tests"), below("actors/tests"), below("actors/src")].concat();
        let night = workflow("nightly.yml");
        let set: Vec<_> = night.lines().filter_map(|line| line.trim().split_once(": ")).collect();
        let set: Vec<_> = set.iter().map(|(name, _)| name).filter(|name| name.starts_with("WASMWIZ_TESTS_")).collect();
        assert!(set.len() > 5, "{set:?}");
        for name in set {
            let read = sources.iter().any(|text| text.contains(&format!("\"{name}\"")));
            assert!(read, "nightly.yml sets {name}, and no test reads it");
        }
        let profiles = fs::read_to_string(workspace::root().join(".config/nextest.toml")).unwrap();
        assert!(night.contains("NEXTEST_PROFILE: nightly") && profiles.contains("[profile.nightly]"));
    }

    #[test]
    fn every_promise_of_the_delivery_says_what_checks_it_or_that_it_is_not_there_yet() {
        let page = fs::read_to_string(workspace::root().join("docs/delivery.md")).unwrap();
        let rows = page.lines().filter_map(|line| {
            let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
            let number: u32 = cells.first()?.parse().ok()?;
            Some((number, cells))
        });
        let rows: Vec<_> = rows.collect();
        assert!(rows.iter().map(|(number, _)| *number).eq(1..=47), "promises are missing, or not in their order");
        for (number, cells) in rows {
            let [_, promised, place, checked, not_claimed] = cells[..] else {
                panic!("{number} has {} cells", cells.len())
            };
            let is_to_come = not_claimed.starts_with("not yet");
            assert!(!promised.is_empty() && (is_to_come || !place.is_empty()), "{number} is nowhere");
            assert!(is_to_come || !checked.is_empty(), "nothing is said to check {number}");
        }
    }

    #[test]
    fn every_chore_that_a_page_names_is_one() {
        for page in PAGES {
            let text = fs::read_to_string(workspace::root().join(page)).unwrap();
            for chore in chores(&text).into_iter().filter(|chore| !chore.contains('\n')) {
                let chore = with_values(chore);
                let parsed = Arguments::try_parse_from(chore.split_whitespace().skip(1));
                let helped = chore.ends_with("--help");
                assert!(parsed.is_ok() || helped, "{page}: `{chore}`: {}", parsed.unwrap_err());
            }
        }
    }
}
