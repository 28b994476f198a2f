;; Reads a number of milliseconds in decimal digits from standard input, and works and sleeps by turns until the monotonic clock
;; has moved that far. A guest's clock moves by how long it sleeps, and the guest uses its processor in between.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)

  (func $now (result i64)
    (if (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 16)) (then (unreachable)))
    (i64.load (i32.const 16)))

  ;; The number at the beginning of standard input; 0 when there is none. At most 32 bytes are read, in one call.
  (func $read_number (result i64)
    (local $number i64) (local $at i32) (local $digit i32)
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 32))
    (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
    (local.set $at (i32.const 1024))
    (loop $more
      (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
      (if (i32.lt_u (local.get $digit) (i32.const 10))
        (then
          (local.set $number
            (i64.add (i64.mul (local.get $number) (i64.const 10)) (i64.extend_i32_u (local.get $digit))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $more))))
    (local.get $number))

  ;; Ten milliseconds, by the monotonic clock.
  (func $sleep
    (i32.store (i32.const 64) (i32.const 0))
    (i32.store8 (i32.const 72) (i32.const 0))
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 10000000))
    (i32.store16 (i32.const 104) (i32.const 0))
    (if (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)) (then (unreachable))))

  (func $work (local $rounds i32)
    (local.set $rounds (i32.const 16384))
    (loop $more
      (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
      (br_if $more (local.get $rounds))))

  (func (export "_start") (local $end i64)
    (local.set $end (i64.mul (call $read_number) (i64.const 1000000)))
    (local.set $end (i64.add (call $now) (local.get $end)))
    (loop $more
      (if (i64.lt_u (call $now) (local.get $end))
        (then (call $work) (call $sleep) (br $more))))))
