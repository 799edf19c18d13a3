;; Gives room behind its memory.
;; expect: invalid_guest_response
(module
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 65537))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (i64.const 68719476748)))
