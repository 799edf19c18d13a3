;; Answers in a version that does not exist.
;; expect: invalid_guest_response
(module
  (memory (export "memory") 1)
  (data (i32.const 16) "\02\00\00\00\c8\00\00\00\00\00\00\00")
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (i64.const 68719476748)))
