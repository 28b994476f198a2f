;; Calls itself until its stack is used up. The sum after the call keeps the engine from making a loop of it.
(module
  (memory (export "memory") 1)
  (func $deeper (param $depth i64) (result i64)
    (i64.add (call $deeper (i64.add (local.get $depth) (i64.const 1))) (local.get $depth)))
  (func (export "_start") (drop (call $deeper (i64.const 0)))))
