;; Copies standard input to standard output, whatever its size. WASI preview 1, two imports.
;;
;; Both calls may do less than they were asked to: a read gives what is there, and a write takes what fits. So the program
;; reads until it is given nothing, and writes until all that it read is gone. An error of either ends it with a trap.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))

  ;; Bytes 0..8: one vector, the address and the length of a buffer. Bytes 8..12: how many bytes a call moved.
  ;; Bytes 1024..65536: the buffer.
  (memory (export "memory") 1)

  ;; Writes `$length` bytes from `$address` to standard output.
  (func $write_all (param $address i32) (param $length i32)
    (loop $more
      (if (i32.eqz (local.get $length)) (then (return)))
      (i32.store (i32.const 0) (local.get $address))
      (i32.store (i32.const 4) (local.get $length))
      (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
      (local.set $address (i32.add (local.get $address) (i32.load (i32.const 8))))
      (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 8))))
      (br $more)))

  (func (export "_start")
    (loop $more
      (i32.store (i32.const 0) (i32.const 1024))
      (i32.store (i32.const 4) (i32.const 64512))
      (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
      (if (i32.load (i32.const 8))
        (then
          (call $write_all (i32.const 1024) (i32.load (i32.const 8)))
          (br $more))))))
