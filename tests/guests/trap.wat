;; Does what is not allowed, at once.
(module
  (memory (export "memory") 1)
  (func (export "_start") (unreachable)))
