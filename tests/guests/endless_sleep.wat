;; Sleeps for some hundred years, again and again: it holds no processor, only its place.
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))

  ;; Bytes 0..48: a subscription (userdata, tag 0 = clock, clock 1 = monotonic, timeout in ns at 24, precision, flags 0 =
  ;; from now). Bytes 64..96: the event. Bytes 128..132: how many events there were.
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $again
      (i32.store (i32.const 16) (i32.const 1))
      (i64.store (i32.const 24) (i64.const 0x3fffffffffffffff))
      (drop (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
      (br $again))))
