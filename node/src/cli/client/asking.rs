//! What commands with actions have in common: which node is asked, and how its answer is printed.

use clap::Args;

use super::{Connect, Format};

/// Which node is asked, and how its answer is printed.
#[derive(Debug, Args)]
pub(super) struct Asking {
    /// How to print it.
    #[arg(long, value_enum, default_value_t, global = true)]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) connect: Connect,
}
