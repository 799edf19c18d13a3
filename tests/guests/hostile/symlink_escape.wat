;; Links to places above its root, outside its mount and by absolute paths, and follows what it could make.
;; expect: ok
;; scratch: 1048576
(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $path_symlink (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (data (i32.const 8192) "/etc/passwd")
  (data (i32.const 8208) "../../../etc/passwd")
  (data (i32.const 8232) "tmp/a")
  (data (i32.const 8240) "../log")
  (data (i32.const 8248) "tmp/b")
  (data (i32.const 8256) "tmp/b/x")
  (func $must (param $got i32) (param $want i32)
    (if (i32.ne (local.get $got) (local.get $want)) (then unreachable)))
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (call $must (call $path_symlink (i32.const 8192) (i32.const 11) (i32.const 3) (i32.const 8232) (i32.const 5)) (i32.const 76))
    (call $must (call $path_symlink (i32.const 8208) (i32.const 19) (i32.const 3) (i32.const 8232) (i32.const 5)) (i32.const 0))
    (call $must (call $path_symlink (i32.const 8240) (i32.const 6) (i32.const 3) (i32.const 8248) (i32.const 5)) (i32.const 0))
    (call $must (call $open (i32.const 3) (i32.const 1) (i32.const 8232) (i32.const 5) (i32.const 0) (i64.const 2) (i64.const -1) (i32.const 0) (i32.const 1024)) (i32.const 76))
    (call $must (call $open (i32.const 3) (i32.const 1) (i32.const 8256) (i32.const 7) (i32.const 1) (i64.const 66) (i64.const -1) (i32.const 0) (i32.const 1024)) (i32.const 76))
    (i64.const 68719476748)))
