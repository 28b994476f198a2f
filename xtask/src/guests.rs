//! The guests written in C: compiled to WebAssembly with the zig toolchain of `.tools`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    process::{command, run},
    workspace,
};

/// Where C guests are kept, below the workspace's root. Every `.c` file there is a program of its own.
const SOURCES: [&str; 2] = ["tests/guests", "examples"];

/// WASI preview 1, which zig's C library speaks; small code, so that compiling the guest stays cheap in tests.
const FLAGS: [&str; 6] = ["-target", "wasm32-wasi", "-Os", "-Wall", "-Wextra", "-Werror"];

/// Compiles every C guest that is newer than its module into `target/guests/<name>.wasm`.
pub(crate) fn compile() -> anyhow::Result<()> {
    let modules = workspace::guests();
    fs::create_dir_all(&modules).with_context(|| format!("cannot create {}", modules.display()))?;
    for source in sources()? {
        let name = source.file_stem().context("a source without a name")?;
        let module = modules.join(name).with_extension("wasm");
        if is_older(&source, &module) {
            continue;
        }
        eprintln!("setup: compiling {} to {}", source.display(), module.display());
        let mut zig = command("zig");
        zig.arg("cc").args(FLAGS).arg("-s").arg("-o").arg(&module).arg(&source);
        // The compiler's cache stays below the workspace: deleting `.tools` leaves nothing behind.
        zig.env("ZIG_GLOBAL_CACHE_DIR", workspace::tools().join("zig-cache"));
        zig.env("ZIG_LOCAL_CACHE_DIR", workspace::tools().join("zig-cache"));
        run(&mut zig)?;
    }
    Ok(())
}

fn sources() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in SOURCES {
        let folder = workspace::root().join(folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
        };
        for entry in entries {
            let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "c") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Was `source` last written before `module`? A file that is not there is not older than anything.
fn is_older(source: &Path, module: &Path) -> bool {
    let written = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    matches!((written(source), written(module)), (Some(source), Some(module)) if source < module)
}
