;; Calls itself with large frames.
;; expect: guest_trap
;; fuel: 4611686018427387904
(module
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func $down (param $x i64) (result i64) (local i64 i64 i64 i64 i64 i64 i64 i64)
    (i64.add (call $down (local.get $x)) (i64.mul (local.get $x) (call $down (local.get $x)))))
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (drop (call $down (i64.const 1))) (i64.const 68719476748)))
