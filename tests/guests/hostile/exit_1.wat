;; Leaves without an answer.
;; expect: guest_exit
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (call $proc_exit (i32.const 1)) (i64.const 68719476748)))
