;; Calls the host at every depth of an endless recursion.
;; expect: guest_trap
;; fuel: 4611686018427387904
(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func $down (drop (call $sched_yield)) (call $down))
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (call $down) (i64.const 68719476748)))
