//! Guests for the scenarios: small programs, each with one habit.
//!
//! The text ones are assembled when they are asked for; the C ones are compiled by `cargo xtask setup`. What each does is
//! said at the top of its source, in `tests/guests` and `examples`.

use std::{fs, path::Path};

use anyhow::Context;

/// A guest written as WebAssembly text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// What it is called, which is also a fit name for its module.
    pub name: &'static str,
    /// Its source.
    pub text: &'static str,
}

impl Guest {
    /// The module's bytes.
    ///
    /// # Errors
    /// When the source is not WebAssembly text.
    pub fn wasm(&self) -> anyhow::Result<Vec<u8>> {
        wat::parse_str(self.text).with_context(|| format!("the guest {} does not assemble", self.name))
    }
}

macro_rules! guests {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $path:literal;)*) => {
        $($(#[$doc])* pub const $constant: Guest = Guest { name: $name, text: include_str!($path) };)*

        /// All of them.
        pub const ALL: &[Guest] = &[$($constant),*];
    };
}

guests! {
    /// Copies its input to its output.
    ECHO = "echo", "../../examples/echo.wat";
    /// Greets the name in its input.
    GREETER = "greeter", "../../examples/greeter.wat";
    /// Writes the wall clock's time.
    CLOCK = "clock", "../guests/clock.wat";
    /// Writes whatever it can find out, and ends as its random numbers say.
    CURIOUS = "curious", "../guests/curious.wat";
    /// Calls itself until its stack is used up.
    DEEP_RECURSION = "deep-recursion", "../guests/deep_recursion.wat";
    /// Never ends, and never calls the host.
    ENDLESS_LOOP = "endless-loop", "../guests/endless_loop.wat";
    /// Never ends, and sleeps.
    ENDLESS_SLEEP = "endless-sleep", "../guests/endless_sleep.wat";
    /// Ends with exit code 7.
    EXIT7 = "exit7", "../guests/exit7.wat";
    /// Imports a function that does not exist.
    FOREIGN_IMPORT = "foreign-import", "../guests/foreign_import.wat";
    /// Takes memory until it is given no more, then sleeps for ever.
    HOARD = "hoard", "../guests/hoard.wat";
    /// Takes memory until it is given no more, then traps.
    MEMORY_BOMB = "memory-bomb", "../guests/memory_bomb.wat";
    /// Reads behind the end of its memory.
    OUT_OF_BOUNDS = "out-of-bounds", "../guests/out_of_bounds.wat";
    /// Hashes whatever it can find out of where it runs, and ends by using up its stack.
    PROBE = "probe", "../guests/probe.wat";
    /// Writes 16 random bytes.
    RANDOM = "random", "../guests/random.wat";
    /// Computes for as many milliseconds as its input says.
    SPIN = "spin", "../guests/spin.wat";
    /// Writes a line to standard error.
    STDERR = "stderr", "../guests/stderr.wat";
    /// Writes for ever.
    STDOUT_FLOOD = "stdout-flood", "../guests/stdout_flood.wat";
    /// Writes two mebibytes and ends.
    STDOUT_MEGABYTES = "stdout-megabytes", "../guests/stdout_megabytes.wat";
    /// Traps at once.
    TRAP = "trap", "../guests/trap.wat";
}

/// The module that `cargo xtask setup` made of `<name>.c`.
///
/// # Errors
/// When it is not there.
pub fn compiled(name: &str) -> anyhow::Result<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests");
    let module = folder.join(name).with_extension("wasm");
    fs::read(&module).with_context(|| format!("no compiled guest {name}: run `cargo xtask setup`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_assembles_to_a_core_module() {
        for guest in ALL {
            let wasm = guest.wasm().unwrap();
            assert_eq!(wasm.get(..8), Some(&b"\0asm\x01\0\0\0"[..]), "{}", guest.name);
        }
    }

    #[test]
    fn every_text_guest_in_the_folders_is_listed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for folder in ["tests/guests", "examples"] {
            for entry in fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "wat") {
                    let text = fs::read_to_string(&path).unwrap();
                    assert!(ALL.iter().any(|guest| guest.text == text), "{} is not in guests.rs", path.display());
                }
            }
        }
    }

    #[test]
    fn a_c_guest_that_is_missing_says_how_to_make_it() {
        let error = compiled("no-such-guest").unwrap_err();
        assert!(error.to_string().contains("cargo xtask setup"), "{error}");
    }
}
