;; Calls itself with too little fuel to reach the end of the stack.
;; expect: fuel_exhausted
;; fuel: 5000
(module
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func $down (call $down))
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (call $down) (i64.const 68719476748)))
