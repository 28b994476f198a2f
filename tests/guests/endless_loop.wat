;; Never ends and never calls the host: only the engine can stop it.
(module
  (memory (export "memory") 1)
  (func (export "_start") (loop $again (br $again))))
