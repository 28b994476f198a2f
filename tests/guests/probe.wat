;; Hashes whatever it can find out of where it runs, also how far its memory grows. It says the hash, and then calls itself until its stack
;; is used up, with a byte for each call. Two runs of one record say the same to the last byte, whatever else runs beside them.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_res_get" (func $clock_res_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fd_filestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $fd_prestat_dir_name (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek" (func $fd_seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $sock_accept (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (table 1 funcref)
  ;; FNV-1a, eight bytes at a time.
  (global $hash (mut i64) (i64.const -3750763034362895579))

  (func $mix (param $value i64)
    (global.set $hash
      (i64.mul (i64.xor (global.get $hash) (local.get $value)) (i64.const 1099511628211))))

  ;; What a call has answered, and the 64 bytes that it may have written, from 1024 on; they are zero again afterwards.
  (func $told (param $errno i32) (local $at i32)
    (call $mix (i64.extend_i32_u (local.get $errno)))
    (local.set $at (i32.const 1024))
    (loop $more
      (call $mix (i64.load (local.get $at)))
      (i64.store (local.get $at) (i64.const 0))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $more (i32.lt_u (local.get $at) (i32.const 1088)))))

  ;; Memory from one place to another.
  (func $seen (param $at i32) (param $end i32)
    (loop $more
      (call $mix (i64.load (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $more (i32.lt_u (local.get $at) (local.get $end)))))

  (func $say (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))

  (func $clocks (local $clock i32)
    (loop $more
      (call $told (call $clock_res_get (local.get $clock) (i32.const 1024)))
      (call $told (call $clock_time_get (local.get $clock) (i64.const 1) (i32.const 1024)))
      (local.set $clock (i32.add (local.get $clock) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $clock) (i32.const 5)))))

  ;; Some milliseconds by the monotonic clock, and standard input if it is to be asked for as well.
  (func $waits (param $count i32)
    (memory.fill (i32.const 2048) (i32.const 0) (i32.const 192))
    (i32.store (i32.const 2064) (i32.const 1))
    (i64.store (i32.const 2072) (i64.const 2000000))
    (i32.store8 (i32.const 2104) (i32.const 1))
    (call $told (call $poll_oneoff (i32.const 2048) (i32.const 1024) (local.get $count) (i32.const 1088)))
    (call $mix (i64.extend_i32_u (i32.load (i32.const 1088)))))

  (func $descriptors (local $fd i32)
    (loop $more
      (call $told (call $fd_fdstat_get (local.get $fd) (i32.const 1024)))
      (call $told (call $fd_filestat_get (local.get $fd) (i32.const 1024)))
      (call $told (call $fd_prestat_get (local.get $fd) (i32.const 1024)))
      (call $told (call $fd_prestat_dir_name (local.get $fd) (i32.const 1024) (i32.const 8)))
      (call $told (call $fd_seek (local.get $fd) (i64.const 0) (i32.const 1) (i32.const 1024)))
      (call $told (call $sock_accept (local.get $fd) (i32.const 0) (i32.const 1024)))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $fd) (i32.const 8)))))

  (func $texts
    (call $told (call $args_sizes_get (i32.const 1024) (i32.const 1028)))
    (call $told (call $args_get (i32.const 4096) (i32.const 8192)))
    (call $told (call $environ_sizes_get (i32.const 1024) (i32.const 1028)))
    (call $told (call $environ_get (i32.const 16384) (i32.const 20480)))
    (call $seen (i32.const 4096) (i32.const 32768)))

  (func $input
    (loop $more
      (i32.store (i32.const 0) (i32.const 32768))
      (i32.store (i32.const 4) (i32.const 4096))
      (call $told (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (call $mix (i64.extend_i32_u (i32.load (i32.const 8))))
      (call $seen (i32.const 32768) (i32.const 36864))
      (br_if $more (i32.load (i32.const 8)))))

  ;; How far memory and the table grow, to the page and the element, and what is in what was not there before.
  (func $growth (local $step i32)
    (local.set $step (i32.const 32768))
    (loop $more
      (call $mix (i64.extend_i32_s (memory.grow (local.get $step))))
      (call $mix (i64.extend_i32_s (table.grow (ref.null func) (local.get $step))))
      (local.set $step (i32.shr_u (local.get $step) (i32.const 1)))
      (br_if $more (local.get $step)))
    (call $mix (i64.extend_i32_u (memory.size)))
    (call $mix (i64.extend_i32_u (table.size)))
    (if (i32.gt_u (memory.size) (i32.const 1))
      (then
        (call $seen
          (i32.const 65536)
          (i32.mul
            (select (memory.size) (i32.const 64) (i32.lt_u (memory.size) (i32.const 64)))
            (i32.const 65536))))))

  (func $deeper (param $calls i32) (result i32)
    (i32.store8 (i32.const 64) (local.get $calls))
    (call $say (i32.const 64) (i32.const 1))
    (i32.add (call $deeper (i32.add (local.get $calls) (i32.const 1))) (i32.const 1)))

  (func (export "_start")
    (call $seen (i32.const 0) (i32.const 65536))
    (call $clocks)
    (call $told (call $random_get (i32.const 1024) (i32.const 64)))
    (call $texts)
    (call $descriptors)
    (call $waits (i32.const 1))
    (call $waits (i32.const 2))
    (call $told (call $sched_yield))
    (call $input)
    (call $growth)
    (call $clocks)
    (i64.store (i32.const 64) (global.get $hash))
    (call $say (i32.const 64) (i32.const 8))
    (drop (call $deeper (i32.const 0)))))
