;; Calls the host for ever.
;; expect: fuel_exhausted
;; fuel: 100000
(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (loop $again (drop (call $sched_yield)) (br $again))
    (i64.const 68719476748)))
