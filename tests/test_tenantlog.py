"""The newest lines of each function, however they came, within bounds."""

from __future__ import annotations

import pytest

from wisp import tenantlog
from wisp.names import parse_function, parse_tenant, request_id
from wisp.tenantlog import MAX_FUNCTION_CHARS, MAX_LINE_CHARS, MAX_LINES, Stream, TenantLog

ACME, SPY, OTHER = parse_tenant("acme"), parse_function("spy"), parse_function("other")


def add(log: TenantLog, text: str, function: str = "spy", stream: Stream = Stream.STDERR) -> None:
    log.add(ACME, parse_function(function), request_id=request_id(None), version=3, stream=stream, text=text)


def texts(log: TenantLog, function: str = "spy") -> list[str]:
    return [line.text for line in log.lines(ACME, parse_function(function))]


def test_lines_come_back_in_order_with_their_stream() -> None:
    log = TenantLog()
    add(log, "one\ntwo\n\n")
    add(log, "three", stream=Stream.LOG)
    assert texts(log) == ["one", "two", "", "three"]
    assert [line.stream for line in log.lines(ACME, SPY)] == [Stream.STDERR] * 3 + [Stream.LOG]
    assert {line.version for line in log.lines(ACME, SPY)} == {3}


def test_only_the_newest_lines_are_shown_and_long_ones_cut() -> None:
    log = TenantLog()
    add(log, "old\n" * 10)
    add(log, "".join(f"{number}\n" for number in range(5000)))
    assert texts(log) == [str(number) for number in range(5000 - MAX_LINES, 5000)]
    add(log, "x" * 10_000)
    assert texts(log)[-1] == "x" * MAX_LINE_CHARS


def test_a_function_keeps_so_much_and_its_newest_text_in_any_case() -> None:
    log = TenantLog()
    for number in range(100):
        add(log, f"{number} " + "y" * (MAX_FUNCTION_CHARS // 10))
    kept = texts(log)
    assert len(kept) <= 10
    assert kept[-1].startswith("99 ")
    add(log, "z" * (2 * MAX_FUNCTION_CHARS))
    assert len(texts(log)) == 1


def test_whole_functions_go_when_all_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenantlog, "MAX_CHARS", 1000)
    log = TenantLog()
    add(log, "a" * 900)
    add(log, "b" * 900, function="other")
    assert (texts(log), len(texts(log, "other"))) == ([], 1)
    log.forget(ACME, OTHER)
    add(log, "c" * 900)
    assert texts(log) == ["c" * 900]
