;; Grows its memory a mebibyte at a time and writes to every page of it. Traps when it is given no more.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (local $page i32)
    (loop $more
      (local.set $page (memory.grow (i32.const 16)))
      (if (i32.eq (local.get $page) (i32.const -1)) (then (unreachable)))
      (memory.fill (i32.shl (local.get $page) (i32.const 16)) (i32.const 0xa5) (i32.const 0x100000))
      (br $more))))
