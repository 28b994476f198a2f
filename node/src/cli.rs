//! The command line: one command a file.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod audit;
pub mod compile;
pub mod config;
pub mod dev;
pub mod node;
pub mod openapi;
pub mod output;

/// WasmWiz runs WebAssembly modules for many tenants, and records every execution so that it can be proven.
///
/// Try it: `wasmwiz dev` starts a whole platform in one process, runs an example through its own HTTP API and prints
/// what it did, an API key and a curl line to paste.
#[derive(Debug, Parser)]
#[command(name = "wasmwiz", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a platform to try out: a tenant, example modules, one execution, and stay up.
    Dev(dev::Dev),
    /// Start a node from a configuration file.
    Node(node::Node),
    /// Print the effective configuration, secrets redacted.
    Config(config::Config),
    /// Prove or read the recorded history, without a node.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Print the OpenAPI document of the HTTP API.
    Openapi(openapi::Openapi),
    /// Compile one module from standard input. The node starts this as a child, so that a hostile module cannot hold it up.
    #[command(name = "__compile", hide = true)]
    Compile(compile::Compile),
}

/// Runs a command and gives its exit code: 0 done, 1 failed or found something, 2 wrong usage.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Dev(command) => command.run(),
        Command::Node(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Audit(command) => command.run(),
        Command::Openapi(command) => command.run(),
        Command::Compile(command) => return command.run(),
    };
    done.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::FAILURE
    })
}
