"""Logs that cannot be forged, metrics whose labels are bounded."""

from __future__ import annotations

import json
import logging
import sys

from wisp.telemetry import Gauges, JsonLines, Metrics, TextLines


def record(message: str, **extra: str) -> logging.LogRecord:
    made = logging.LogRecord("wisp.x", logging.WARNING, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_a_json_record_is_one_object_on_one_line() -> None:
    line = JsonLines().format(record("two\nlines", request_id="r-1"))
    assert "\n" not in line
    said = json.loads(line)
    assert {name: said[name] for name in ("level", "logger", "message", "request_id")} == {
        "level": "warning",
        "logger": "wisp.x",
        "message": "two\nlines",
        "request_id": "r-1",
    }
    assert said["time"].endswith("Z")


def test_a_text_record_cannot_forge_another() -> None:
    line = TextLines().format(record("a\n2026-01-01 info wisp: forged\x1b[31m", tenant="acme"))
    assert line.isprintable()
    assert line.endswith("tenant=acme")


def test_a_traceback_stays_in_the_log() -> None:
    try:
        int("inner")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    assert "ValueError: invalid literal" in json.loads(JsonLines().format(made))["exception"]
    assert "ValueError: invalid literal" in TextLines().format(made)


def test_a_deleted_tenants_labels_go_with_it() -> None:
    metrics = Metrics()
    metrics.answered("acme", "ok", 0.1)
    metrics.answered("globex", "guest_trap", 0.1)
    metrics.answered("", "unauthorized", 0.1)
    metrics.forget("acme")
    metrics.forget("nobody")
    text = metrics.exposition()[0].decode()
    assert 'tenant="acme"' not in text
    assert 'wisp_requests_total{code="guest_trap",tenant="globex"} 1.0' in text
    assert "wisp_request_seconds_count 3.0" in text
    metrics.answered("acme", "ok", 0.1)
    assert 'wisp_requests_total{code="ok",tenant="acme"} 1.0' in metrics.exposition()[0].decode()


def test_gauges_are_read_when_asked_for() -> None:
    metrics, queued = Metrics(), [3]
    metrics.watch(lambda: Gauges(queued=queued[0], sandbox_restarts=2))
    assert "wisp_queued 3.0" in metrics.exposition()[0].decode()
    queued[0] = 5
    text = metrics.exposition()[0].decode()
    assert "wisp_queued 5.0" in text
    assert 'wisp_child_restarts_total{kind="sandbox"} 2.0' in text


def test_two_platforms_in_one_process_do_not_meet() -> None:
    one, other = Metrics(), Metrics()
    one.answered("acme", "ok", 0.1)
    assert "acme" not in other.exposition()[0].decode()
