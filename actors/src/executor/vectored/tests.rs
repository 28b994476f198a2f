//! What a guest sees of its streams is what the library would show it.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;
use wasmtime::{Engine, Instance, Module, Store};
use wasmtime_wasi::{WasiCtxBuilder, p2::pipe::MemoryInputPipe};

use super::*;
use crate::executor::{budget::MemoryBudget, engine, profile::Profile, sink::Sink, wasi};

/// A guest of 4 MiB that makes one call for its caller.
const GUEST: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pwrite" (func $pwrite (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pread" (func $pread (param i32 i32 i32 i64 i32) (result i32)))
    (memory (export "memory") 64)
    (func (export "write") (param i32 i32 i32 i32) (result i32)
      (call $write (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
    (func (export "read") (param i32 i32 i32 i32) (result i32)
      (call $read (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
    (func (export "pwrite") (param i32 i32 i32 i32) (result i32)
      (call $pwrite (local.get 0) (local.get 1) (local.get 2) (i64.const 5) (local.get 3)))
    (func (export "pread") (param i32 i32 i32 i32) (result i32)
      (call $pread (local.get 0) (local.get 1) (local.get 2) (i64.const 5) (local.get 3))))"#;

const MEMORY_BYTES: usize = 4 << 20;
/// What a guest may name in one call, as `executor::wasi` has it.
const ALLOWED_BYTES: usize = MEMORY_BYTES + (64 << 10);
const INPUT_BYTES: usize = 200 << 10;

/// A call, and what describes its buffers: address and length of each.
#[derive(Debug, Clone)]
struct Call {
    name: &'static str,
    fd: i32,
    at: u32,
    count: u32,
    told: u32,
    described: Vec<(u32, u32)>,
}

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    /// The number that the guest was told, or why it ended.
    answer: Result<i32, String>,
    memory: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

struct Tried {
    store: Store<Guest>,
    instance: Instance,
    outputs: [Sink; 2],
}

impl Tried {
    /// A guest with our functions, or with those of the library.
    fn new(is_ours: bool) -> Self {
        let engine = Engine::new(&engine::settings(Profile::Plain)).unwrap();
        let mut linker = Linker::<Guest>::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut Guest| &mut guest.wasi).unwrap();
        if is_ours {
            wasi::replace_functions(&mut linker).unwrap();
        }
        let account = MemoryBudget::new(64 << 20).account(None);
        let outputs = [(); 2].map(|()| Sink::new(16 << 20, &account));
        let [stdout, stderr] = outputs.clone();
        let input: Vec<u8> = (0..INPUT_BYTES).map(|at| (at % 251) as u8).collect();
        let mut guest = Guest::nobody();
        guest.wasi = WasiCtxBuilder::new()
            .stdin(MemoryInputPipe::new(bytes::Bytes::from(input)))
            .stdout(stdout)
            .stderr(stderr)
            .build_p1();
        let mut store = Store::new(&engine, guest);
        store.set_hostcall_fuel(ALLOWED_BYTES);
        store.set_epoch_deadline(1_000);
        let module = Module::new(&engine, wat::parse_str(GUEST).unwrap()).unwrap();
        let (instance, _) = finished(linker.instantiate_async(&mut store, &module));
        Self { store, instance: instance.unwrap(), outputs }
    }

    /// Makes the call; how often it gave way to others, too.
    fn makes(mut self, call: &Call) -> (Came, usize) {
        let memory = self.instance.get_memory(&mut self.store, "memory").unwrap();
        let bytes = memory.data_mut(&mut self.store);
        for (index, byte) in bytes.iter_mut().enumerate().skip(1 << 20) {
            *byte = (index % 241) as u8;
        }
        for (index, (at, length)) in call.described.iter().enumerate() {
            let place = call.at as usize + index * DESCRIPTION_BYTES;
            if let Some(described) = bytes.get_mut(place..place + DESCRIPTION_BYTES) {
                described[..4].copy_from_slice(&at.to_le_bytes());
                described[4..].copy_from_slice(&length.to_le_bytes());
            }
        }
        let function = self.instance.get_typed_func::<(i32, i32, i32, i32), i32>(&mut self.store, call.name).unwrap();
        let passed = (call.fd, call.at.cast_signed(), call.count.cast_signed(), call.told.cast_signed());
        let (answer, gave_way) = finished(function.call_async(&mut self.store, passed));
        let [stdout, stderr] = self.outputs.map(|output| output.take().bytes.to_vec());
        let answer = answer.map_err(|error| HostCallError::of(&error).to_string());
        (Came { answer, memory: memory.data(&self.store).to_vec(), stdout, stderr }, gave_way)
    }
}

/// What a future comes to, and how often it was not done yet.
fn finished<T>(future: impl Future<Output = T>) -> (T, usize) {
    let mut future = pin!(future);
    let mut waits = 0;
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => return (done, waits),
            Poll::Pending => waits += 1,
        }
    }
}

fn is_what_the_library_does(call: &Call) -> (Came, usize) {
    let (theirs, _) = Tried::new(false).makes(call);
    let (ours, gave_way) = Tried::new(true).makes(call);
    // Compared before it is printed: memory is long.
    assert_eq!(
        (&ours.answer, &ours.stdout, &ours.stderr),
        (&theirs.answer, &theirs.stdout, &theirs.stderr),
        "{call:?}"
    );
    assert!(ours.memory == theirs.memory, "memory differs after {call:?}");
    (ours, gave_way)
}

fn a_write(described: Vec<(u32, u32)>) -> Call {
    Call { name: "write", fd: 1, at: 4096, count: described.len() as u32, told: 8, described }
}

fn anything() -> impl Strategy<Value = Call> {
    let address = prop_oneof![
        6 => (1_u32 << 20)..(3 << 20),
        1 => (MEMORY_BYTES as u32 - 8)..=(MEMORY_BYTES as u32),
        1 => any::<u32>(),
    ];
    let length = prop_oneof![
        4 => Just(0_u32),
        4 => 1_u32..5_000,
        2 => 60_000_u32..200_000,
        1 => (MEMORY_BYTES as u32 - 100)..(ALLOWED_BYTES as u32 + 100),
        1 => any::<u32>(),
    ];
    let at =
        prop_oneof![6 => Just(4096_u32), 1 => 4096_u32..4104, 1 => (MEMORY_BYTES as u32 - 64)..=(MEMORY_BYTES as u32)];
    let told = prop_oneof![6 => Just(8_u32), 1 => 8_u32..12, 1 => any::<u32>()];
    let more = prop_oneof![4 => Just(0_u32), 2 => 0_u32..10_000, 1 => any::<u32>()];
    let name = prop_oneof![4 => Just("write"), 2 => Just("read"), 1 => Just("pwrite"), 1 => Just("pread")];
    let described = proptest::collection::vec((address, length), 0..6);
    (name, -1..4, at, more, told, described).prop_map(|(name, fd, at, more, told, described)| Call {
        name,
        fd,
        at,
        count: (described.len() as u32).saturating_add(more),
        told,
        described,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_guest_sees_what_the_library_would_show_it(call in anything()) {
        is_what_the_library_does(&call);
    }
}

#[test]
fn a_call_with_many_empty_buffers_gives_way_while_they_are_looked_at() {
    // Given 100,000 buffers, the last of which is not empty
    let mut described = vec![(0, 0); 99_999];
    described.push((1 << 20, 7));
    // When they are written
    let (came, gave_way) = is_what_the_library_does(&a_write(described));
    // Then that one is, and others had their turn after each 4,096
    assert_eq!((came.answer, came.stdout.len(), gave_way), (Ok(errno::SUCCESS), 7, 24));
}

#[test]
fn a_large_buffer_is_written_in_pieces() {
    // Given a buffer of 1 MiB and some bytes
    let call = a_write(vec![(1 << 20, (1 << 20) + 5)]);
    // When it is written
    let (came, gave_way) = is_what_the_library_does(&call);
    // Then all of it was, and others had their turn after each 64 KiB
    assert_eq!((came.answer, came.stdout.len(), gave_way), (Ok(errno::SUCCESS), (1 << 20) + 5, 16));
    assert_eq!(came.memory[8..12], ((1_u32 << 20) + 5).to_le_bytes());
}

#[test]
fn calls_that_end_a_guest_or_are_refused_are_those_of_the_library() {
    let beyond = Call { count: u32::MAX, ..a_write(vec![]) };
    assert_eq!(is_what_the_library_does(&beyond).0.answer, Ok(errno::NOMEM));
    let to_the_end = Call { count: 520_000, ..a_write(vec![]) };
    assert_eq!(is_what_the_library_does(&to_the_end).0.answer, Ok(errno::NOMEM), "what follows is longer than memory");
    let no_such = Call { fd: 9, ..a_write(vec![(1 << 20, 1 << 20)]) };
    assert_eq!(is_what_the_library_does(&no_such).0.answer, Ok(errno::BADF));
    let not_within = a_write(vec![(3 << 20, 2 << 20)]);
    assert!(is_what_the_library_does(&not_within).0.answer.is_err());
    let not_aligned = Call { at: 4098, ..a_write(vec![(1 << 20, 1)]) };
    assert!(is_what_the_library_does(&not_aligned).0.answer.is_err());
    let told_nowhere = Call { told: u32::MAX - 3, ..a_write(vec![(1 << 20, 1 << 20)]) };
    assert!(is_what_the_library_does(&told_nowhere).0.answer.is_err());
}
