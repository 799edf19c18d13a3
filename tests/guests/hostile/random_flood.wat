;; Asks for 64 MiB of randomness again and again: host calls burn no fuel.
;; expect: deadline_exceeded
;; memory-bytes: 67108864
;; timeout-ms: 50
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (memory (export "memory") 1024)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (loop $again
    (drop (call $random_get (i32.const 0) (i32.const 67108864)))
    (br $again))
    (i64.const 68719476748)))
