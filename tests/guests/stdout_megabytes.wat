;; Writes two mebibytes of `x` to standard output, 64 KiB a call, and ends well: more than a small limit keeps.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (local $calls i32)
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 65536))
    (loop $more
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 65536))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $calls (i32.add (local.get $calls) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $calls) (i32.const 32))))))
