"""One line for each request for a function, with its receipt, on standard error.

Lines are made in the event loop and written by a thread, so that whoever reads them slowly delays no request; what does
not fit meanwhile is dropped and counted in the next line that is written.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Final, TextIO

from wisp.wire.outcome import Receipt

WRITE_EVERY_S: Final = 0.2
MAX_LINES: Final = 20_000
NS_PER_MS: Final = 1e6

FIELDS: Final = (
    ("request_id", "s"), ("tenant", "s"), ("function", "s"), ("version", "d"), ("status", "d"), ("outcome", "s"),
    ("fuel", "d"), ("nn_fuel", "d"), ("memory_peak_bytes", "d"), ("host_calls", "d"), ("inferences", "d"),
    ("tensor_bytes", "d"), ("bytes_in", "d"), ("bytes_out", "d"), ("queue_ms", ".3f"), ("store_ms", ".3f"),
    ("guest_ms", ".3f"), ("nn_ms", ".3f"), ("cpu_ms", ".3f"), ("total_ms", ".3f"),
)  # fmt: skip
"""None of these texts can hold what JSON would escape: names, ids and codes are of closed grammars."""
JSON_LINE: Final = (
    '{"time": "%s.%03dZ", "level": "info", "logger": "wisp.access", "message": "request", '
    + ", ".join(f'"{name}": "%s"' if kind == "s" else f'"{name}": %{kind}' for name, kind in FIELDS)
    + "}\n"
)
TEXT_LINE: Final = "%s.%03dZ info    wisp.access: " + " ".join(f"{name}=%{kind}" for name, kind in FIELDS) + "\n"
JSON_LOST: Final = '{"level": "warning", "logger": "wisp.access", "message": "lines lost", "lines": %d}\n'
TEXT_LOST: Final = "warning wisp.access: lines lost: %d\n"
NOTHING: Final = Receipt()


class AccessLog:
    """`start`, then `add` from one thread, then `stop`."""

    def __init__(self, log_format: str, stream: TextIO | None = None) -> None:
        self._line = JSON_LINE if log_format == "json" else TEXT_LINE
        self._lost = JSON_LOST if log_format == "json" else TEXT_LOST
        self._stream = stream
        self._lines: list[str] = []
        self._dropped = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="access-log", daemon=True)
        self._second = -1
        self._moment = ""

    def start(self) -> None:
        self._thread.start()

    def add(
        self,
        *,
        request_id: str,
        tenant: str,
        function: str,
        status: int,
        outcome: str,
        total_s: float,
        version: int = 0,
        receipt: Receipt = NOTHING,
    ) -> None:
        """`tenant`, `function`: names that passed their grammar, or empty; `version` 0: no guest was started."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._moment = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        self._lines.append(
            self._line
            % (
                self._moment, int((now - second) * 1000),
                request_id, tenant, function, version, status, outcome, receipt.fuel, receipt.nn_fuel,
                receipt.memory_peak_bytes, receipt.host_calls, receipt.inferences, receipt.tensor_bytes,
                receipt.bytes_in, receipt.bytes_out, receipt.queue_ns / NS_PER_MS, receipt.store_ns / NS_PER_MS,
                receipt.guest_ns / NS_PER_MS, receipt.nn_ns / NS_PER_MS, receipt.cpu_ns / NS_PER_MS, total_s * 1e3,
            )
        )  # fmt: skip

    def _serve(self) -> None:
        while not self._ending.wait(WRITE_EVERY_S):
            if not self._write():
                return
        self._write()

    def _write(self) -> bool:
        lines, self._lines = self._lines, []
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.append(self._lost % dropped)
        if not lines:
            return True
        stream = sys.stderr if self._stream is None else self._stream
        try:
            stream.write("".join(lines))
            stream.flush()
        except (OSError, ValueError):  # whoever read it is gone
            return False
        return True

    def stop(self) -> None:
        """Writes what is left, for a second at most."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(1.0)
