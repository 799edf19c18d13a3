;; Makes symbolic links that lead to each other, to themselves and ever longer, and follows them.
;; expect: ok
;; scratch: 1048576
(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $path_symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (data (i32.const 8192) "tmp/a")
  (data (i32.const 8200) "tmp/b")
  (data (i32.const 8208) "a")
  (data (i32.const 8212) "b")
  (data (i32.const 8216) "tmp/c")
  (data (i32.const 8224) "c/c/c/c/c/c/c/c")
  (func $must (param $got i32) (param $want i32)
    (if (i32.ne (local.get $got) (local.get $want)) (then unreachable)))
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64) (local $count i32)
    (call $must (call $path_symlink (i32.const 8212) (i32.const 1) (i32.const 3) (i32.const 8192) (i32.const 5)) (i32.const 0))
    (call $must (call $path_symlink (i32.const 8208) (i32.const 1) (i32.const 3) (i32.const 8200) (i32.const 5)) (i32.const 0))
    (call $must (call $path_symlink (i32.const 8224) (i32.const 15) (i32.const 3) (i32.const 8216) (i32.const 5)) (i32.const 0))
    (loop $again
      (call $must (call $open (i32.const 3) (i32.const 1) (i32.const 8192) (i32.const 5) (i32.const 0) (i64.const 2) (i64.const -1) (i32.const 0) (i32.const 1024)) (i32.const 32))
      (call $must (call $open (i32.const 3) (i32.const 1) (i32.const 8192) (i32.const 5) (i32.const 1) (i64.const 66) (i64.const -1) (i32.const 0) (i32.const 1024)) (i32.const 32))
      (call $must (call $path_filestat_get (i32.const 3) (i32.const 1) (i32.const 8216) (i32.const 5) (i32.const 2048)) (i32.const 32))
      (br_if $again (i32.lt_u (local.tee $count (i32.add (local.get $count) (i32.const 1))) (i32.const 1000))))
    (i64.const 68719476748)))
