//! Assembles the example modules, so that `wasmwiz dev` has something to run.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    for name in ["greeter", "echo"] {
        let source = format!("../examples/{name}.wat");
        println!("cargo::rerun-if-changed={source}");
        fs::write(Path::new(&out).join(format!("{name}.wasm")), wat::parse_file(&source)?)?;
    }
    Ok(())
}
