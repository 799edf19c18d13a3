;; Wants the time between two words, and behind its memory.
;; expect: ok
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_res_get" (func $clock_res_get (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func $must (param $got i32) (param $want i32)
    (if (i32.ne (local.get $got) (local.get $want)) (then unreachable)))
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (call $must (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 1)) (i32.const 21))
    (call $must (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 4)) (i32.const 21))
    (call $must (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 65533)) (i32.const 21))
    (call $must (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 65536)) (i32.const 21))
    (call $must (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const -8)) (i32.const 21))
    (call $must (call $clock_time_get (i32.const 99) (i64.const -1) (i32.const 0)) (i32.const 28))
    (call $must (call $clock_res_get (i32.const 0) (i32.const 3)) (i32.const 21))
    (i64.const 68719476748)))
