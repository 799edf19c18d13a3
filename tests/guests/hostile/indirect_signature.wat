;; Calls a function as what it is not.
;; expect: guest_trap
(module
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func $f)
  (table 1 funcref)
  (elem (i32.const 0) $f)
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (drop (call_indirect (param i64) (result i64) (i64.const 1) (i32.const 0)))
    (i64.const 68719476748)))
