from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wisp.errors import InvalidPolicy
from wisp.policy.document import MAX_VALUES, Path, Position, Value, field_name, read
from wisp.policy.scanner import MAX_BYTES, MAX_DEPTH

ATOMS = [*"abc01:-,[]{}&*!|>'\"%@`#?\\ \n\t\r.~=<", ": ", "- ", "\n  ", "---", "...", "\\u", "\ud7ff", "🦀", "null"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", 1),
        ("a: -1", -1),
        ("a: 0", 0),
        ("a: 1.5", 1.5),
        ("a: true", True),
        ("a: false", False),
        ("a: yes", "yes"),
        ("a: no", "no"),
        ("a: on", "on"),
        ("a: True", "True"),
        ("a: 017", "017"),
        ("a: 0o17", "0o17"),
        ("a: 0x1F", "0x1F"),
        ("a: 1_000", "1_000"),
        ("a: 1e5", "1e5"),
        ("a: .inf", ".inf"),
        ("a: .nan", ".nan"),
        ("a: 190:20:30", "190:20:30"),
        ("a: 2001-01-01", "2001-01-01"),
        ("a: =", "="),
        ("a: '1'", "1"),
        ('a: "true"', "true"),
        ('a: ""', ""),
        ("a: |\n  x\n  y\n", "x\ny\n"),
        ("a: >-\n  x\n  y\n", "x y"),
        ("a: []", ()),
        ("a: [1, [x]]", (1, ("x",))),
        ("a:\n- 1\n- {b: c}\n", (1, {"b": "c"})),
        ("a: {1: 2}", {"1": 2}),
        ("--- \na: 1\n...\n", 1),
        ("\ufeffa: 1", 1),
        ("a: é", "é"),
    ],
)
def test_values(text: str, value: Value) -> None:
    document = read(text.encode())
    assert document.faults == ()
    assert document.value == {"a": value}
    assert isinstance(document.value, dict)
    assert type(document.value["a"]) is type(value)


def test_positions_count_from_one_in_characters() -> None:
    document = read("é: [x, ü, z]\r\nlimits:\r\n    fuel:   2G\r\n".encode())
    assert document.positions.keys == {
        ("é",): Position(line=1, column=1),
        ("limits",): Position(line=2, column=1),
        ("limits", "fuel"): Position(line=3, column=5),
    }
    assert document.positions.values[("é", 2)] == Position(line=1, column=11)
    assert document.positions.values[("limits", "fuel")] == Position(line=3, column=13)


def test_a_fault_stands_at_the_nearest_thing_there_is() -> None:
    positions = read(b"a: 1\nb:\n  c: {d: 1}\n").positions
    assert (positions.fault(("b", "c", "d"), "x").line, positions.fault(("b", "c", "d"), "x").column) == (3, 10)
    assert (positions.fault(("b", "c", "e"), "x").line, positions.fault(("b", "c", "e"), "x").column) == (3, 6)
    assert (positions.fault(("z",), "x").line, positions.fault(("z",), "x").column) == (1, 1)
    assert positions.fault(("b", "c", "d"), "x", at_key=True).column == 7


def test_a_repeated_key_keeps_the_first_value() -> None:
    document = read(b"a: 1\nb: {c: 2}\na: {d: [3]}\nb: 4\n")
    assert document.value == {"a": 1, "b": {"c": 2}}
    assert [(fault.field, fault.line, fault.message) for fault in document.faults] == [
        ("a", 3, "this key stands already on line 1"),
        ("b", 4, "this key stands already on line 2"),
    ]


def test_the_size_is_bounded() -> None:
    assert read(b"a: 1\n" + b"#" * (MAX_BYTES - 5)).value == {"a": 1}
    with pytest.raises(InvalidPolicy, match="larger than 64 KiB"):
        read(b"a: 1\n" + b"#" * (MAX_BYTES - 4))


def test_the_depth_is_bounded() -> None:
    read(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    for text in (b"[" * (MAX_DEPTH + 2), b"{a: " * (MAX_DEPTH + 2), b"- " * (MAX_DEPTH + 2) + b"x"):
        with pytest.raises(InvalidPolicy, match="nested deeper than 16 levels"):
            read(text)


def test_the_number_of_values_is_bounded() -> None:
    read(b"[" + b"a," * (MAX_VALUES - 1) + b"]")
    with pytest.raises(InvalidPolicy, match="more than 4096 values"):
        read(b"[" + b"a," * MAX_VALUES + b"]")
    with pytest.raises(InvalidPolicy, match="too many or too deep"):
        read(b"a: 1\na: [" + b"a," * MAX_VALUES + b"]")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ((), "document"),
        (("limits", "fuel"), "limits.fuel"),
        (("models", 0, "max_time"), "models[0].max_time"),
        (("a\nb",), "a\\nb"),
        (("x" * 100,), "x" * 64 + "..."),
    ],
)
def test_field_names(path: Path, name: str) -> None:
    assert field_name(path) == name


def assert_total(text: bytes) -> None:
    """Any bytes are a document or an InvalidPolicy, and what is read is plain."""
    try:
        document = read(text)
    except InvalidPolicy as error:
        refused = error.faults
    else:
        assert_plain(document.value)
        return
    assert refused
    assert all(fault.line is not None and fault.column is not None for fault in refused)


def assert_plain(whole: Value) -> None:
    stack = [whole]
    while stack:
        value = stack.pop()
        assert type(value) in (str, int, float, bool, tuple, dict)
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
            stack += value.values()
        elif isinstance(value, tuple):
            stack += value
        elif isinstance(value, float):
            assert value - value == 0


@given(st.binary(max_size=400))
@example(b'"\\U00110000"')
@example(b'"\\x')
@example(b"%")
@example(b"a: |9999999999\n x")
@example(b"? ")
@example(b"- ? : - ?")
def test_any_bytes(text: bytes) -> None:
    assert_total(text)


@given(st.lists(st.sampled_from(ATOMS), max_size=60).map("".join))
def test_any_yaml_like_text(text: str) -> None:
    assert_total(text.encode())
