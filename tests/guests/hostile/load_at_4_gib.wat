;; Reads at the highest address with the highest offset: 8 GiB.
;; expect: guest_trap
(module
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (drop (i32.load offset=4294967295 (i32.const -1)))
    (i64.const 68719476748)))
