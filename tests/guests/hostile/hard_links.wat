;; Gives a file names until the mount takes no more, and a directory a second parent.
;; expect: ok
;; scratch: 1048576
(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_link" (func $path_link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $path_create_directory (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (data (i32.const 8192) "tmp/f")
  (data (i32.const 8200) "tmp/0000")
  (data (i32.const 8212) "tmp/d")
  (data (i32.const 8220) "tmp/e")
  (func $must (param $got i32) (param $want i32)
    (if (i32.ne (local.get $got) (local.get $want)) (then unreachable)))
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64) (local $count i32) (local $errno i32)
    (call $must (call $open (i32.const 3) (i32.const 1) (i32.const 8192) (i32.const 5) (i32.const 1) (i64.const 66) (i64.const -1) (i32.const 0) (i32.const 1024)) (i32.const 0))
    (call $must (call $path_create_directory (i32.const 3) (i32.const 8212) (i32.const 5)) (i32.const 0))
    (call $must (call $path_link (i32.const 3) (i32.const 0) (i32.const 8212) (i32.const 5) (i32.const 3) (i32.const 8220) (i32.const 5)) (i32.const 63))
    (loop $names
      (i32.store (i32.const 8204) (i32.add (i32.const 0x30303030) (i32.or
        (i32.and (local.get $count) (i32.const 15)) (i32.or
        (i32.shl (i32.and (local.get $count) (i32.const 0xf0)) (i32.const 4))
        (i32.shl (i32.and (local.get $count) (i32.const 0xf00)) (i32.const 8))))))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (br_if $names (i32.eqz (local.tee $errno
        (call $path_link (i32.const 3) (i32.const 0) (i32.const 8192) (i32.const 5) (i32.const 3) (i32.const 8200) (i32.const 8))))))
    (call $must (local.get $errno) (i32.const 51))
    (call $must (i32.le_u (local.get $count) (i32.const 1024)) (i32.const 1))
    (i64.const 68719476748)))
