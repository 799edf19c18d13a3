;; Sleeps for 584 years, whose end in nanoseconds passes 64 bits.
;; expect: deadline_exceeded
;; timeout-ms: 80
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (data (i32.const 8192) "\01\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\ff\ff\ff\ff\ff\ff\ff\ff")
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (drop (call $poll_oneoff (i32.const 8192) (i32.const 12288) (i32.const 1) (i32.const 16384)))
    (i64.const 68719476748)))
