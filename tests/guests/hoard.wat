;; Grows its memory a mebibyte at a time until it is given no more, and then sleeps for ever: it holds no processor, only memory.
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))

  ;; Bytes 0..132 as in endless_sleep.wat: a subscription to the monotonic clock, its event, and how many there were.
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    (loop $again
      (i32.store (i32.const 16) (i32.const 1))
      (i64.store (i32.const 24) (i64.const 0x3fffffffffffffff))
      (drop (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
      (br $again))))
