"""The access log: a line a request, readable by machines, that never waits for its reader."""

from __future__ import annotations

import io
import json
import os
import time

import pytest

from wisp.accesslog import FIELDS, MAX_LINES, AccessLog
from wisp.wire.outcome import Receipt

RECEIPT = Receipt(
    fuel=1, nn_fuel=2, memory_peak_bytes=3, host_calls=4, inferences=5, tensor_bytes=6, bytes_in=7, bytes_out=8,
    queue_ns=9_000, store_ns=10_000, guest_ns=11_000, nn_ns=12_000, cpu_ns=13_000,
)  # fmt: skip
PATIENCE_S = 20.0


def add(log: AccessLog) -> None:
    log.add(
        request_id="r-1", tenant="acme", function="hello", status=200, outcome="ok", total_s=0.5, version=3,
        receipt=RECEIPT,
    )  # fmt: skip


def test_a_json_line_has_the_whole_receipt() -> None:
    stream = io.StringIO()
    log = AccessLog("json", stream)
    log.start()
    add(log)
    log.stop()
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert {name: line[name] for name, _ in FIELDS} == {
        "request_id": "r-1", "tenant": "acme", "function": "hello", "version": 3, "status": 200, "outcome": "ok",
        "fuel": 1, "nn_fuel": 2, "memory_peak_bytes": 3, "host_calls": 4, "inferences": 5, "tensor_bytes": 6,
        "bytes_in": 7, "bytes_out": 8, "queue_ms": 0.009, "store_ms": 0.01, "guest_ms": 0.011, "nn_ms": 0.012,
        "cpu_ms": 0.013, "total_ms": 500.0,
    }  # fmt: skip
    assert line["time"].endswith("Z")


def test_a_text_line_has_the_same_fields() -> None:
    stream = io.StringIO()
    log = AccessLog("text", stream)
    log.start()
    add(log)
    log.stop()
    assert all(f" {name}=" in stream.getvalue() for name, _ in FIELDS)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_reader_that_does_not_read_delays_nobody_and_is_told_what_it_missed(log_format: str) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream, os.fdopen(read) as reader:
        log = AccessLog(log_format, stream)
        log.start()
        lines = 2 * MAX_LINES + 200_000 // 100
        for _ in range(lines):
            add(log)
        seen, lost, until = 0, None, time.monotonic() + PATIENCE_S
        while lost is None and time.monotonic() < until:
            line = reader.readline()
            if "lines" in line and "lost" in line:
                lost = json.loads(line)["lines"] if log_format == "json" else int(line.rpartition(" ")[2])
            else:
                seen += 1
        log.stop()
    assert lost is not None
    assert 0 < lost == lines - seen


class Gone(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_is_gone_ends_the_writing_and_nothing_else() -> None:
    log = AccessLog("json", Gone())
    log.start()
    for _ in range(2 * MAX_LINES):
        add(log)
    log.stop()
