//! The engines: which WebAssembly it accepts, how guests are stopped and how their memory is handed out.
//!
//! There is one for each [`Profile`], and they differ in nothing but that. [`settings`] is shared by the executors and by the child process that compiles, so that what one writes the other can
//! load. Everything that is not needed by the output of today's C, Rust, Zig and Go compilers is off: most advisories
//! against the engine were in such parts.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    num::NonZeroUsize,
};

use sha2::{Digest as _, Sha256};
use wasmparser::WasmFeatures;
use wasmtime::{Config, Enabled, Engine, Linker, PoolingAllocationConfig, Store, Strategy};

use super::{ExecutorConfig, MemoryReset, profile::Profile, run::Guest, swap, wasi};

/// What modules may use: mutable globals, sign extension, saturating conversion, multi-value, bulk memory, reference
/// types, SIMD, extended constants and tail calls. No threads, garbage collection, 64-bit or several memories, exceptions,
/// relaxed SIMD, custom page sizes, wide arithmetic, stack switching or components.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::EXTENDED_CONST);

/// The most elements a table may have.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 20_000;
/// The deepest stack of a guest, in bytes.
const WASM_STACK_BYTES: usize = 512 << 10;
/// The stack that a guest and the host functions it calls share, in bytes: the difference is the host's room.
const ASYNC_STACK_BYTES: usize = 2 << 20;
/// Memory, table and stack of a slot that stay mapped between two guests, in bytes; what the last guest wrote is zeroed.
const KEEP_RESIDENT_BYTES: usize = 64 << 10;
/// Slots beyond `guests_max`, for the health check: a full node can still tell that it works.
const SPARE_SLOTS: u32 = 2;

/// What guests can tell of the host beside its engine: imported functions, clocks, random numbers, and what is made of a module
/// before it is compiled. Another number whenever a guest could be told something else than before, or be charged something
/// else, for then a record made before is not run again the same way.
const HOST: &[u8] = b"wasmwiz engine 3";

/// The settings that decide what machine code is made of a module, and how it is stopped.
pub(crate) fn settings(profile: Profile) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .epoch_interruption(true)
        .consume_fuel(profile == Profile::Metered)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(ASYNC_STACK_BYTES)
        .async_stack_zeroing(true)
        // With 4 GiB and a guard behind, every 32-bit address is checked by the hardware: no branch to mispredict.
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .guard_before_linear_memory(true)
        .signals_based_traps(true)
        .shared_memory(false)
        .gc_support(false)
        .concurrency_support(false)
        // The same bits on every run: `execution verify` compares them.
        .cranelift_nan_canonicalization(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(16))
        .wasm_features(WasmFeatures::all().difference(FEATURES), false)
        .wasm_features(FEATURES, true);
    config
}

/// Is memory reset by asking the kernel which pages a guest wrote? Older kernels cannot say, and zero all.
pub(crate) fn scans(config: &ExecutorConfig) -> bool {
    let wanted = match config.memory_reset {
        MemoryReset::Auto => swap::is_impossible(),
        MemoryReset::Scan => true,
        MemoryReset::Zero => false,
    };
    wanted && PoolingAllocationConfig::is_pagemap_scan_available()
}

/// [`settings`] and the pool that guests are taken from.
pub(crate) fn pooled(profile: Profile, config: &ExecutorConfig) -> Config {
    let slots = config.guests_max.saturating_add(SPARE_SLOTS);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(slots)
        .total_memories(slots)
        .total_tables(slots)
        .total_stacks(slots)
        .max_memories_per_module(1)
        .max_tables_per_module(1)
        .max_memory_size(usize::try_from(config.memory_max_bytes).unwrap_or(usize::MAX))
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_core_instance_size(1 << 20)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .async_stack_keep_resident(KEEP_RESIDENT_BYTES)
        .pagemap_scan(if scans(config) { Enabled::Auto } else { Enabled::No });
    let mut settings = settings(profile);
    settings.allocation_strategy(pool);
    settings
}

/// Version and settings of `engine` and what the host tells guests, as 16 hexadecimal digits. Artefacts of another fingerprint are not loaded.
pub(crate) fn fingerprint(engine: &Engine) -> String {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut hasher = Sha(Sha256::new_with_prefix(HOST));
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let digest = hasher.0.finalize();
    hex::encode(digest.get(..8).unwrap_or(&digest))
}

/// Parameter and result types of a function that guests may import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) params: Vec<wasmparser::ValType>,
    pub(crate) results: Vec<wasmparser::ValType>,
}

/// The functions that guests may import, by name.
pub(crate) type Imports = HashMap<String, Signature>;

/// The module that all of them are imported from.
pub(crate) const IMPORT_MODULE: &str = "wasi_snapshot_preview1";

/// The linker that all guests share, and the names and types of what it offers.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<(Linker<Guest>, Imports)> {
    let mut linker = Linker::<Guest>::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut Guest| &mut guest.wasi)?;
    wasi::replace_functions(&mut linker)?;

    let imports = imports(engine, &linker);
    Ok((linker, imports))
}

/// The names and types of what `linker` offers.
fn imports(engine: &Engine, linker: &Linker<Guest>) -> Imports {
    let mut store = Store::new(engine, Guest::nobody());
    let functions: Vec<(String, wasmtime::Func)> = linker
        .iter(&mut store)
        .filter(|(module, _, _)| *module == IMPORT_MODULE)
        .filter_map(|(_, name, item)| item.into_func().map(|function| (name.to_owned(), function)))
        .collect();
    functions
        .into_iter()
        .filter_map(|(name, function)| {
            let ty = function.ty(&store);
            let params = ty.params().map(|ty| number(&ty)).collect::<Option<_>>()?;
            let results = ty.results().map(|ty| number(&ty)).collect::<Option<_>>()?;
            Some((name, Signature { params, results }))
        })
        .collect()
}

/// The number types are all that WASI preview 1 uses.
fn number(ty: &wasmtime::ValType) -> Option<wasmparser::ValType> {
    match ty {
        wasmtime::ValType::I32 => Some(wasmparser::ValType::I32),
        wasmtime::ValType::I64 => Some(wasmparser::ValType::I64),
        wasmtime::ValType::F32 => Some(wasmparser::ValType::F32),
        wasmtime::ValType::F64 => Some(wasmparser::ValType::F64),
        wasmtime::ValType::V128 | wasmtime::ValType::Ref(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_as_hard_as_the_design_says() {
        for profile in Profile::ALL {
            is_as_hard(profile);
        }
    }

    fn is_as_hard(profile: Profile) {
        let config = ExecutorConfig { guests_max: 10, ..ExecutorConfig::default() };
        let config = Engine::new(&pooled(profile, &config)).unwrap();
        assert_eq!(config.get_wasm_features(), FEATURES);
        assert!(config.get_epoch_interruption());
        assert_eq!(config.get_consume_fuel(), profile == Profile::Metered);
        assert!(config.get_async_stack_zeroing() && config.get_signals_based_traps());
        assert!(config.get_guard_before_linear_memory() && !config.get_shared_memory());
        assert!(!config.get_concurrency_support() && !config.get_guest_debug());
        assert_eq!(config.get_cranelift_nan_canonicalization(), Some(true));
        assert_eq!(config.get_memory_reservation(), 4 << 30);
        assert_eq!(config.get_memory_guard_size(), 32 << 20);
        assert_eq!((config.get_max_wasm_stack(), config.get_async_stack_size()), (512 << 10, 2 << 20));
        assert_eq!(config.get_wasm_backtrace_max_frames(), 16);
        let pool = config.get_pooling_config().unwrap();
        assert_eq!(pool.get_total_core_instances(), 12);
        assert_eq!((pool.get_total_memories(), pool.get_total_tables(), pool.get_total_stacks()), (12, 12, 12));
        assert_eq!((pool.get_max_memories_per_module(), pool.get_max_tables_per_module()), (1, 1));
        assert_eq!((pool.get_max_memory_size(), pool.get_table_elements()), (1 << 30, TABLE_ELEMENTS_MAX));
    }

    #[test]
    fn a_function_of_ours_has_the_type_of_the_one_it_replaces() {
        let engine = Engine::new(&settings(Profile::Plain)).unwrap();
        let mut originals = Linker::<Guest>::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut originals, |guest: &mut Guest| &mut guest.wasi).unwrap();
        let (_, ours) = linker(&engine).unwrap();
        let theirs = imports(&engine, &originals);
        assert_eq!((theirs.len(), &theirs), (46, &ours));
    }

    #[test]
    fn what_the_compiler_writes_the_executors_can_load() {
        let config = ExecutorConfig { guests_max: 2, ..ExecutorConfig::default() };
        let prints = Profile::ALL.map(|profile| {
            let compiler = Engine::new(&settings(profile)).unwrap();
            let executor = Engine::new(&pooled(profile, &config)).unwrap();
            assert_eq!(fingerprint(&compiler), fingerprint(&executor));
            fingerprint(&compiler)
        });
        assert_ne!(prints[0], prints[1], "what one of them compiles is none of the other's");
    }
}
