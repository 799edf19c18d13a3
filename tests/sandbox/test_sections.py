"""The reader that sees hostile bytes first: it gives facts or says `MalformedModule`, and nothing else ever."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.guests import ROOT, assembled
from wisp.policy.facts import MAX_EXPORTS, MAX_IMPORTS, MAX_NAME, MAX_SIGNATURE, Export, ExternKind, Import, ModuleFacts
from wisp.sandbox.sections import MAX_TYPES, MalformedModule, read_facts

START = b"\0asm\x01\0\0\0"
TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START_SECTION, ELEMENT, CODE, DATA, DATA_COUNT, TAG = range(
    1, 14
)
EVERYTHING = assembled("""(module
  (type (func (param i32 i64 f32 f64 v128 funcref externref) (result i32 i64)))
  (import "m" "f" (func (param i32) (result i64)))
  (import "m" "t" (table 3 funcref))
  (import "m" "g" (global i32))
  (table 7 9 externref)
  (memory (export "memory") 2 5)
  (global (mut i64) (i64.const 3))
  (func $f (export "caf\\c3\\a9") (param f64) (result f32) (f32.const 1))
  (func $s) (start $s)
  (elem (table 0) (i32.const 0) func $f)
  (data (i32.const 0) "one") (data "two")
  (func (data.drop 1)))""")
HELLO = (ROOT / "tenants/acme/hello/module.wasm").read_bytes()


def number(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | 0x80 if value else low)
        if not value:
            return bytes(out)


def text(value: bytes) -> bytes:
    return number(len(value)) + value


def section(kind: int, content: bytes) -> bytes:
    return bytes((kind,)) + number(len(content)) + content


def vec(*items: bytes) -> bytes:
    return number(len(items)) + b"".join(items)


def module(*sections: bytes) -> bytes:
    return START + b"".join(sections)


def test_the_facts_are_those_of_the_module() -> None:
    facts = read_facts(EVERYTHING)
    assert facts == ModuleFacts(
        size_bytes=len(EVERYTHING),
        imports=(
            Import(module="m", name="f", kind=ExternKind.FUNC, params=("i32",), results=("i64",)),
            Import(module="m", name="t", kind=ExternKind.TABLE),
            Import(module="m", name="g", kind=ExternKind.GLOBAL),
        ),
        exports=(
            Export(name="memory", kind=ExternKind.MEMORY),
            Export(name="café", kind=ExternKind.FUNC, params=("f64",), results=("f32",)),
        ),
        memories=1,
        memory_min_pages=2,
        memory_max_pages=5,
        tables=2,
        table_min_elements=7,
        functions=4,
        globals=2,
        data_segments=2,
        has_start=True,
    )


@pytest.mark.parametrize("name", ["acme/hello", "acme/burn", "acme/digits", "globex/hello"])
def test_real_guests_are_read(name: str) -> None:
    facts = read_facts((ROOT / "tenants" / name / "module.wasm").read_bytes())
    exports = {export.name: export for export in facts.exports}
    assert exports["wisp_handle"].params == ("i32", "i32")
    assert exports["wisp_handle"].results == ("i64",)
    assert exports["memory"].kind is ExternKind.MEMORY
    assert {one.module for one in facts.imports} <= {"wasi_snapshot_preview1", "wasi_ephemeral_nn"}


def borders(wasm: bytes) -> Iterator[int]:
    """Where a section ends, and the module might."""
    at = 8
    while at < len(wasm):
        length = shift = 0
        at += 1
        while True:
            byte = wasm[at]
            length |= (byte & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if byte < 0x80:
                break
        at += length
        yield at


@pytest.mark.parametrize("wasm", [pytest.param(EVERYTHING, id="everything"), pytest.param(HELLO, id="hello")])
def test_a_module_cut_anywhere_is_malformed_unless_between_two_sections(wasm: bytes) -> None:
    whole = {8, *borders(wasm)}
    assert max(whole) == len(wasm)
    for end in range(len(wasm)):
        if end in whole:
            continue  # what is left is a module, or is refused for what it refers to
        with pytest.raises(MalformedModule):
            read_facts(wasm[:end])


@pytest.mark.parametrize("end", [8, *borders(EVERYTHING)])
def test_a_module_cut_between_two_sections_is_read_or_malformed(end: int) -> None:
    try:
        facts = read_facts(EVERYTHING[:end])
    except MalformedModule:
        return
    assert facts.size_bytes == end


def check_total(wasm: bytes) -> None:
    """Facts that the router takes from JSON as they are, or `MalformedModule` with a text of one printable line."""
    reason = ""
    try:
        facts = read_facts(wasm)
    except MalformedModule as refused:
        reason = str(refused)
    else:
        assert ModuleFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    assert reason.isprintable()
    assert len(reason) < 500


@given(st.lists(st.tuples(st.integers(8, len(EVERYTHING) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=500)
def test_flipped_bytes_give_facts_or_a_malformed_module(flips: list[tuple[int, int]]) -> None:
    wasm = bytearray(EVERYTHING)
    for at, value in flips:
        wasm[at] = value
    check_total(bytes(wasm))


@given(st.lists(st.tuples(st.integers(0, 14), st.binary(max_size=40)), max_size=6))
@settings(max_examples=300)
def test_arbitrary_sections_give_facts_or_a_malformed_module(sections: list[tuple[int, bytes]]) -> None:
    check_total(module(*(section(kind, content) for kind, content in sections)))


@given(st.binary(max_size=64))
def test_arbitrary_bytes_give_facts_or_a_malformed_module(data: bytes) -> None:
    check_total(data)
    check_total(START + data)


VOID = vec(b"\x60\x00\x00")


@pytest.mark.parametrize(
    ("wasm", "says"),
    [
        pytest.param(b"", "not WebAssembly", id="nothing"),
        pytest.param(b"(module)", "text format is not accepted", id="text"),
        pytest.param(b"\0asm", "version", id="magic alone"),
        pytest.param(b"\0asm\x0d\0\x01\0", "component", id="component"),
        pytest.param(b"\0asm\x02\0\0\0", "version 02000000", id="version 2"),
        pytest.param(b"\x7fELF" + bytes(60), "not WebAssembly", id="a program"),
        pytest.param(module(b"\x01"), "ends too early", id="a section without a length"),
        pytest.param(module(b"\x01\xff\xff\xff\xff\x0f"), "ends too early", id="a section of 4 GiB"),
        pytest.param(module(b"\x01\x80\x80\x80\x80\x80\x00"), "too long", id="a length of six bytes"),
        pytest.param(module(b"\x01\xff\xff\xff\xff\x1f"), "too large", id="a length of 33 bits"),
        pytest.param(module(section(14, b"")), "does not exist", id="an unknown section"),
        pytest.param(module(section(MEMORY, vec()), section(TABLE, vec())), "out of order", id="sections out of order"),
        pytest.param(module(section(TYPE, vec()), section(TYPE, vec())), "repeated", id="a repeated section"),
        pytest.param(module(section(TYPE, vec() + b"\0")), "longer than its content", id="something behind a section"),
        pytest.param(module(section(TYPE, b"\x01\x5f\x00")), "form 0x5f", id="a structure type"),
        pytest.param(module(section(TYPE, b"\x01\x4e\x00")), "form 0x4e", id="a recursive group"),
        pytest.param(module(section(TYPE, number(MAX_TYPES + 1))), "types, at most", id="too many types"),
        pytest.param(module(section(TYPE, number(2**32 - 1))), "types, at most", id="4 G types"),
        pytest.param(
            module(section(TYPE, vec(b"\x60" + number(MAX_SIGNATURE + 1)))), "signature", id="too many parameters"
        ),
        pytest.param(module(section(IMPORT, number(MAX_IMPORTS + 1))), "imports, at most", id="too many imports"),
        pytest.param(module(section(EXPORT, number(MAX_EXPORTS + 1))), "exports, at most", id="too many exports"),
        pytest.param(
            module(section(IMPORT, vec(text(b"\xff") + text(b"f") + b"\x03\x7f\x00"))), "UTF-8", id="a name not UTF-8"
        ),
        pytest.param(
            module(section(IMPORT, vec(text(b"m" * (MAX_NAME + 1)) + text(b"f") + b"\x03\x7f\x00"))),
            "a name of",
            id="a long name",
        ),
        pytest.param(module(section(IMPORT, vec(number(2**32 - 1) + b"m"))), "ends too early", id="a name of 4 GiB"),
        pytest.param(module(section(IMPORT, vec(text(b"m") + text(b"f") + b"\x05"))), "kind 0x5", id="an unknown kind"),
        pytest.param(
            module(section(IMPORT, vec(text(b"m") + text(b"f") + b"\x00\x00"))), "type 0", id="an import of no type"
        ),
        pytest.param(module(section(MEMORY, vec(b"\x10\x00"))), "flags", id="unknown limits"),
        pytest.param(module(section(MEMORY, vec(b"\x01\x00"))), "ends too early", id="a missing maximum"),
        pytest.param(
            module(section(TABLE, vec(b"\x40\x00\x70\x00\x01"))), "initial value", id="a table with an initial value"
        ),
        pytest.param(module(section(EXPORT, vec(text(b"f") + b"\x00\x00"))), "function 0", id="an export of nothing"),
        pytest.param(
            module(section(TYPE, VOID), section(FUNCTION, vec(b"\x01")), section(EXPORT, vec(text(b"f") + b"\0\0"))),
            "type 1",
            id="a function of no type",
        ),
        pytest.param(module(section(TAG, vec(b"\0\0"))), "exception handling", id="tags"),
        pytest.param(module(section(START_SECTION, b"")), "ends too early", id="a start without a function"),
    ],
)
def test_a_malformed_module_says_what_is_wrong(wasm: bytes, says: str) -> None:
    with pytest.raises(MalformedModule, match=says):
        read_facts(wasm)


def test_what_is_allowed_at_most_is_allowed() -> None:
    types = vec(b"\x60" + vec(*[b"\x7f"] * MAX_SIGNATURE) + vec())
    one = text(b"m" * MAX_NAME) + text(b"") + b"\x00\x00"
    facts = read_facts(module(section(TYPE, types), section(IMPORT, vec(*[one] * MAX_IMPORTS))))
    assert len(facts.imports) == MAX_IMPORTS
    assert len(facts.imports[-1].params) == MAX_SIGNATURE


def test_a_strange_value_type_is_named_other() -> None:
    wasm = module(section(TYPE, vec(b"\x60" + vec(b"\x64\x6e", b"\x6b") + vec(b"\x63\x00"))),
                  section(FUNCTION, vec(b"\0")), section(EXPORT, vec(text(b"f") + b"\0\0")))  # fmt: skip
    assert read_facts(wasm).exports[0].params == ("other", "other")


def test_custom_sections_are_passed_over_wherever_they_stand() -> None:
    custom = section(0, text(b"name") + b"\xff" * 100)
    facts = read_facts(module(custom, section(MEMORY, vec(b"\x00\x03")), custom, custom))
    assert (facts.memories, facts.memory_min_pages, facts.memory_max_pages) == (1, 3, None)


def test_64_bit_limits_are_read_as_such() -> None:
    facts = read_facts(module(section(MEMORY, vec(b"\x05\x03" + number(2**47)))))
    assert (facts.memory_min_pages, facts.memory_max_pages) == (3, 2**47)
