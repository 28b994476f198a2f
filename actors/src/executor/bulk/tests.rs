//! What a guest sees of its memory is the same with and without pieces.

use proptest::prelude::*;
use wasmtime::{Engine, Instance, Module, Store, Trap};

use super::*;
use crate::executor::{engine, profile::Profile};

/// A module that does one bulk operation for its caller, in a memory of 64 pages (4 MiB) that may grow to 128, and calls others by
/// name, by table and at its start, so that all indices that could be shifted are used.
const BULK: &str = r#"(module
    (type $unused (func (param f64)))
    (import "host" "called" (func $called (param i32)))
    (memory (export "memory") 64 128)
    (table 2 funcref) (elem (i32.const 0) $fill $copy)
    (global $started (export "started") (mut i32) (i32.const 0))
    (data (i32.const 65536) "some bytes to copy") (data $passive "passive")
    (func $start (global.set $started (i32.const 7)) (call $called (i32.const 9)))
    (start $start)
    (func $fill (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))
    (func $copy (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
    (func (export "init") (param i32 i32 i32) (memory.init $passive (local.get 0) (local.get 1) (local.get 2)))
    (func (export "by_table") (param i32 i32 i32 i32)
      (call_indirect (param i32 i32 i32) (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#;

/// A guest, and what came of its operations.
struct Tried {
    store: Store<Vec<i32>>,
    instance: Instance,
}

impl Tried {
    fn new(engine: &Engine, wasm: &[u8]) -> Self {
        let module = Module::new(engine, wasm).unwrap();
        let mut store = Store::new(engine, Vec::new());
        store.set_epoch_deadline(1_000);
        let called = wasmtime::Func::wrap(&mut store, |mut caller: wasmtime::Caller<'_, Vec<i32>>, n: i32| {
            caller.data_mut().push(n);
        });
        let instance = Instance::new(&mut store, &module, &[called.into()]).unwrap();
        Self { store, instance }
    }

    fn does(&mut self, operation: &Operation) -> Option<Trap> {
        let Operation { name, to, from, count } = *operation;
        let function = self.instance.get_typed_func::<(i32, i32, i32), ()>(&mut self.store, name).unwrap();
        let done = function.call(&mut self.store, (to.cast_signed(), from.cast_signed(), count.cast_signed()));
        done.err().map(|error| *error.downcast_ref::<Trap>().unwrap())
    }

    fn memory(&mut self) -> Vec<u8> {
        let memory = self.instance.get_memory(&mut self.store, "memory").unwrap();
        memory.data(&self.store).to_vec()
    }
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    name: &'static str,
    to: u32,
    from: u32,
    count: u32,
}

fn both() -> [Tried; 2] {
    let engine = Engine::new(&engine::settings(Profile::Plain)).unwrap();
    let wasm = wat::parse_str(BULK).unwrap();
    let pieces = in_pieces(&wasm).unwrap();
    assert!(matches!(pieces, Cow::Owned(_)) && Rewriting::of(&pieces).unwrap().is_some());
    [&*wasm, &*pieces].map(|wasm| Tried::new(&engine, wasm))
}

/// Near the ends of pieces and of the memory, and anywhere.
fn place() -> impl Strategy<Value = u32> {
    let piece = PIECE_BYTES.cast_unsigned();
    prop_oneof![
        0..4 * piece + 3,
        (0..5_u32, 0..3_u32).prop_map(move |(pieces, more)| (pieces * piece + more).saturating_sub(1)),
        Just(u32::MAX),
        Just(u32::MAX - piece),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    (0..2_usize, place(), place(), place()).prop_map(|(which, to, from, count)| {
        let name = ["fill", "copy"][which];
        // A fill has a byte where a copy has a place.
        Operation { name, to, from: if name == "fill" { from % 256 } else { from }, count }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn pieces_make_the_same_memory_and_the_same_traps(operations in prop::collection::vec(operation(), 1..6)) {
        let [mut plain, mut pieces] = both();
        for tried in [&mut plain, &mut pieces] {
            // Something in it that is not the same everywhere.
            let memory = tried.instance.get_memory(&mut tried.store, "memory").unwrap();
            for (at, byte) in memory.data_mut(&mut tried.store).iter_mut().enumerate() {
                *byte = (at % 251) as u8;
            }
        }
        for operation in &operations {
            prop_assert_eq!(plain.does(operation), pieces.does(operation), "{:?}", operation);
            prop_assert!(plain.memory() == pieces.memory(), "the memory differs after {:?}", operation);
        }
    }
}

#[test]
fn everything_else_of_the_module_is_where_it_was() {
    for mut tried in both() {
        assert_eq!(tried.store.data(), &[9]);
        let started = tried.instance.get_global(&mut tried.store, "started").unwrap();
        assert_eq!(started.get(&mut tried.store).i32(), Some(7));
        let by_table = tried.instance.get_typed_func::<(i32, i32, i32, i32), ()>(&mut tried.store, "by_table").unwrap();
        by_table.call(&mut tried.store, (0, 65_536, 4, 1)).unwrap();
        assert_eq!(&tried.memory()[..4], b"some");
        assert_eq!(tried.does(&Operation { name: "init", to: 0, from: 0, count: 7 }), None);
        assert_eq!(&tried.memory()[..7], b"passive");
        let grow = tried.instance.get_typed_func::<i32, i32>(&mut tried.store, "grow").unwrap();
        assert_eq!(grow.call(&mut tried.store, 64).unwrap(), 64);
        // What was out of bounds before is not any more.
        let behind = Operation { name: "fill", to: 65 * 65_536, from: 3, count: 3 << 20 };
        assert_eq!((tried.does(&behind), tried.memory()[68 * 65_536]), (None, 3));
    }
}

#[test]
fn a_module_without_bulk_operations_stays_as_it_is() {
    let wasm = wat::parse_str(
        r#"(module (memory 1) (data $d "x") (func (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))))"#,
    );
    assert!(matches!(in_pieces(&wasm.unwrap()).unwrap(), Cow::Borrowed(_)));
    assert!(in_pieces(b"no module").is_err());
}
