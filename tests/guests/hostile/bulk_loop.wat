;; Fills memory for ever: each fill is one instruction.
;; expect: deadline_exceeded
;; fuel: 4611686018427387904
;; timeout-ms: 20
(module
  (memory (export "memory") 256)
  (data (i32.const 16) "\01\00\00\00\c8\00\00\00\00\00\00\00")
  (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64)
    (loop $again
    (memory.fill (i32.const 4096) (i32.const 1) (i32.const 16000000))
    (br $again))
    (i64.const 68719476748)))
