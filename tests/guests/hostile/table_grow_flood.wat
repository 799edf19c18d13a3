;; Grows four tables until there is no more.
;; expect: ok
(module
  (memory (export "memory") 1)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (table $t0 1 funcref)
  (func $fill0 (loop $more (br_if $more (i32.ne (table.grow $t0 (ref.null func) (i32.const 1000)) (i32.const -1)))))
  (table $t1 1 funcref)
  (func $fill1 (loop $more (br_if $more (i32.ne (table.grow $t1 (ref.null func) (i32.const 1000)) (i32.const -1)))))
  (table $t2 1 funcref)
  (func $fill2 (loop $more (br_if $more (i32.ne (table.grow $t2 (ref.null func) (i32.const 1000)) (i32.const -1)))))
  (table $t3 1 funcref)
  (func $fill3 (loop $more (br_if $more (i32.ne (table.grow $t3 (ref.null func) (i32.const 1000)) (i32.const -1)))))
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (call $fill0) (call $fill1) (call $fill2) (call $fill3)
    (i64.const 68719476748)))
