//! The command line: one command a file.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod audit;
pub mod client;
pub mod compat;
pub mod compile;
pub mod completions;
pub mod config;
pub mod dev;
pub mod log;
pub mod man;
pub mod node;
pub mod openapi;
pub mod operator;
pub mod output;
pub mod place;
pub mod recompute;
pub mod rerun;
pub mod token;

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
    /// Keep a node's address and an API key, for the commands that ask it.
    Login(client::login::Login),
    /// Upload a module and run it.
    Run(client::run::Run),
    /// Publish, list, show and delete modules.
    Module(client::module::Module),
    /// List, show, read, verify and cancel executions.
    #[command(visible_alias = "execution")]
    Exec(client::exec::Exec),
    /// Issue, list, show, rotate and revoke keys.
    Key(client::key::Key),
    /// List, issue, rotate and revoke operators' keys, without a node.
    Operator(operator::Operator),
    /// Register and run tenants, as an operator.
    Tenant(client::tenant::Tenant),
    /// Show what executions cost, or derive it from the log.
    Usage(client::usage::Usage),
    /// Show how a node is.
    Status(client::status::Status),
    /// Show how the views of a node stand and what they have set aside, as an operator.
    Views(client::views::Views),
    /// Show the nodes, their leases, and who owns which shard, as an operator.
    Cluster(client::cluster::Cluster),
    /// Look at a node and its cluster, and say what to do, as an operator.
    Doctor(client::doctor::Doctor),
    /// Prove or read the recorded history.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Ask whether this version can read a log, before it is to run on it.
    #[command(subcommand)]
    Compat(compat::Compat),
    /// Bring the log from one place to another.
    #[command(subcommand)]
    Log(log::Log),
    /// Draw keys that sign tokens, and sign operators' tokens, without a node.
    #[command(subcommand)]
    Token(token::Token),
    /// Print the OpenAPI document of the HTTP API.
    Openapi(openapi::Openapi),
    /// Print the completions of a shell.
    Completions(completions::Completions),
    /// Write the manual.
    Man(man::Man),
    /// Compile one module from standard input. The node starts this as a child, so that a hostile module cannot hold it up.
    #[command(name = "__compile", hide = true)]
    Compile(compile::Compile),
}

/// Runs a command and gives its exit code: 0 done, 1 failed or found something, 2 wrong usage; those that ask a node have
/// codes for its refusals, and `run` has the guest's.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Dev(command) => command.run(),
        Command::Node(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Login(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Module(command) => command.run(),
        Command::Exec(command) => command.run(),
        Command::Key(command) => command.run(),
        Command::Operator(command) => command.run(),
        Command::Tenant(command) => command.run(),
        Command::Usage(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Views(command) => command.run(),
        Command::Cluster(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Audit(command) => command.run(),
        Command::Compat(command) => command.run(),
        Command::Log(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Openapi(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
        Command::Compile(command) => return command.run(),
    };
    done.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::from(client::exit_code(&error))
    })
}
