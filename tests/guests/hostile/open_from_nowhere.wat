;; Opens a file from a descriptor that it was never given.
;; expect: ok
(module
  (import "wasi_snapshot_preview1" "path_open" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func $must (param $got i32) (param $want i32)
    (if (i32.ne (local.get $got) (local.get $want)) (then unreachable)))
  (data (i32.const 8192) "/etc/passwd")
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (call $must (call $path_open (i32.const 77) (i32.const 0) (i32.const 8192) (i32.const 11) (i32.const 0) (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 0)) (i32.const 8))
    (call $must (call $fd_prestat_get (i32.const 77) (i32.const 0)) (i32.const 8))
    (i64.const 68719476748)))
