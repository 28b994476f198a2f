;; Writes to standard output whatever it can find out: random numbers, what both clocks show before and after a sleep, their
;; resolution, its arguments, and its input. How it ends is up to its random numbers: with an exit code from 0 to 5, by a trap, or
;; after it has taken memory, some hundred pages at most.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_res_get" (func $clock_res_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)

  (func $say (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))

  (func $clocks
    (drop (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 64)))
    (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 72)))
    (drop (call $clock_res_get (i32.const 0) (i32.const 80)))
    (drop (call $clock_res_get (i32.const 1) (i32.const 88)))
    (call $say (i32.const 64) (i32.const 32)))

  ;; Some microseconds by the monotonic clock.
  (func $sleep (param $us i64)
    (i32.store (i32.const 144) (i32.const 1))
    (i64.store (i32.const 152) (i64.mul (local.get $us) (i64.const 1000)))
    (drop (call $poll_oneoff (i32.const 128) (i32.const 192) (i32.const 1) (i32.const 256))))

  (func (export "_start") (local $end i32)
    (drop (call $random_get (i32.const 32) (i32.const 24)))
    (call $say (i32.const 32) (i32.const 24))
    (call $clocks)
    (call $sleep (i64.extend_i32_u (i32.load16_u (i32.const 34))))
    (call $clocks)
    ;; The arguments: how many, and their text.
    (drop (call $args_sizes_get (i32.const 96) (i32.const 100)))
    (drop (call $args_get (i32.const 1024) (i32.const 8192)))
    (call $say (i32.const 96) (i32.const 8))
    (call $say (i32.const 8192) (i32.load (i32.const 100)))
    (loop $more
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 4096))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.load (i32.const 8))
        (then (call $say (i32.const 65536) (i32.load (i32.const 8))) (br $more))))
    (local.set $end (i32.and (i32.load8_u (i32.const 32)) (i32.const 7)))
    (if (i32.eq (local.get $end) (i32.const 6)) (then (unreachable)))
    (if (i32.eq (local.get $end) (i32.const 7))
      (then
        (loop $all
          (br_if $all
            (i32.and
              (i32.lt_u (memory.size) (i32.const 300))
              (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))))
        (i32.store (i32.const 96) (memory.size))
        (call $say (i32.const 96) (i32.const 4))))
    (call $proc_exit (local.get $end))))
