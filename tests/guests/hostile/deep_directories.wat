;; Makes each directory inside the last until the mount takes no more names, and looks up from the deepest.
;; expect: ok
;; scratch: 1048576
(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $path_create_directory (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (data (i32.const 8192) "tmp")
  (data (i32.const 8196) "d")
  (data (i32.const 8200) "d/..")
  (data (i32.const 8208) "../..")
  (func $must (param $got i32) (param $want i32)
    (if (i32.ne (local.get $got) (local.get $want)) (then unreachable)))
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64) (local $fd i32) (local $errno i32)
    (local.set $fd (i32.const 3))
    (call $must (call $open (local.get $fd) (i32.const 1) (i32.const 8192) (i32.const 3) (i32.const 2) (i64.const 0x7ffe200) (i64.const -1) (i32.const 0) (i32.const 1024)) (i32.const 0))
    (loop $deeper
      (local.set $fd (i32.load (i32.const 1024)))
      (if (i32.eqz (local.tee $errno (call $path_create_directory (local.get $fd) (i32.const 8196) (i32.const 1)))) (then
        (call $must (call $open (local.get $fd) (i32.const 1) (i32.const 8196) (i32.const 1) (i32.const 2) (i64.const 0x7ffe200) (i64.const -1) (i32.const 0) (i32.const 1024)) (i32.const 0))
        (call $must (call $fd_close (local.get $fd)) (i32.const 0))
        (br $deeper))))
    (call $must (local.get $errno) (i32.const 51))
    (call $must (call $path_filestat_get (local.get $fd) (i32.const 0) (i32.const 8208) (i32.const 5) (i32.const 2048)) (i32.const 76))
    (i64.const 68719476748)))
