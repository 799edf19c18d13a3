;; Asks for a model that its policy does not name.
;; expect: capability_denied
;; models: identity_f32
(module
  (import "wasi_ephemeral_nn" "load_by_name" (func $load_by_name (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (data (i32.const 8192) "identity_f32")
  (data (i32.const 8208) "secret")
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (drop (call $load_by_name (i32.const 8208) (i32.const 6) (i32.const 0)))
    (i64.const 68719476748)))
