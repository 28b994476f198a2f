;; Reads a name from standard input and greets it: `Ada` gives `Hello, Ada!`. WASI preview 1, two imports.
;;
;; Line ends and spaces after the name are dropped, and no name at all is the world's. A name is at most 4096 bytes long;
;; what comes after them is not read.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))

  ;; Bytes 0..8: one vector, the address and the length of a buffer. Bytes 8..12: how many bytes a call moved.
  ;; Bytes 1024..1031: `Hello, `; the name follows it at once, so that the greeting is one piece.
  (memory (export "memory") 1)
  (data (i32.const 1024) "Hello, ")
  (data (i32.const 16) "world")

  ;; Writes `$length` bytes from `$address` to standard output: a write may take less than it is given.
  (func $write_all (param $address i32) (param $length i32)
    (loop $more
      (if (i32.eqz (local.get $length)) (then (return)))
      (i32.store (i32.const 0) (local.get $address))
      (i32.store (i32.const 4) (local.get $length))
      (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
      (local.set $address (i32.add (local.get $address) (i32.load (i32.const 8))))
      (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 8))))
      (br $more)))

  ;; Reads the name to address 1031 and gives its length: a read may give less than there is.
  (func $read_name (result i32)
    (local $length i32)
    (loop $more
      (i32.store (i32.const 0) (i32.add (i32.const 1031) (local.get $length)))
      (i32.store (i32.const 4) (i32.sub (i32.const 4096) (local.get $length)))
      (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
      (local.set $length (i32.add (local.get $length) (i32.load (i32.const 8))))
      (br_if $more
        (i32.and
          (i32.ne (i32.load (i32.const 8)) (i32.const 0))
          (i32.lt_u (local.get $length) (i32.const 4096)))))
    (local.get $length))

  ;; The length of the name without the blanks (every byte up to the space) at its end.
  (func $without_blanks (param $length i32) (result i32)
    (loop $more
      (if (i32.eqz (local.get $length)) (then (return (i32.const 0))))
      (if (i32.le_u (i32.load8_u (i32.add (i32.const 1030) (local.get $length))) (i32.const 32))
        (then
          (local.set $length (i32.sub (local.get $length) (i32.const 1)))
          (br $more))))
    (local.get $length))

  (func (export "_start")
    (local $length i32)
    (local.set $length (call $without_blanks (call $read_name)))
    (if (i32.eqz (local.get $length))
      (then
        (memory.copy (i32.const 1031) (i32.const 16) (i32.const 5))
        (local.set $length (i32.const 5))))
    (i32.store16 (i32.add (i32.const 1031) (local.get $length)) (i32.const 0x0a21)) ;; `!` and the end of the line.
    (call $write_all (i32.const 1024) (i32.add (local.get $length) (i32.const 9)))))
