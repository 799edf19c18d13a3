"""Requests at a steady rate, sent when they are due whether or not earlier ones were answered.

A latency counts from when its request was due. The generator runs on the cores of what it measures, so it is one plain
loop around select(2), whose timeout is exact to microseconds: an event loop's timers come up to a millisecond early or
late, which is more than the answer takes. It stands for callers on other machines, so it waits for no core: it runs in
real time, before what it measures, where that is allowed.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress

CONNECT_S = 10.0
ANSWER_S = 30.0
MOST = 1000
"""Connections: select(2) takes no descriptor past 1,023."""
STATUS = b"HTTP/1.1 200 "
PIECE_BYTES = 65536
FIRST = 10
"""Of real time's priorities, 1 to 99: a platform's are 1 and 2."""


def wait_for_no_core() -> None:
    """This process runs before others whenever it has something to do; nothing where that is not allowed."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(FIRST))


class Line:
    """One keep-alive connection with one request under way at most."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), CONNECT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self.due = 0.0
        self.last = False
        """The server says that it takes no further request."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, request: bytes, due: float) -> None:
        self.due = due
        self._socket.sendall(request)

    def is_answered(self) -> bool:
        """Whether what can be read now is the rest of its answer. Raises `RuntimeError` for one that is not 200."""
        data = self._socket.recv(PIECE_BYTES)
        if not data:
            raise RuntimeError("the connection was closed")
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        fields = head.lower()
        if not found or len(body) < int(fields.partition(b"\ncontent-length:")[2].partition(b"\r")[0]):
            return False
        if not head.startswith(STATUS):
            raise RuntimeError(self._received[:600].decode("latin-1"))
        self._received = b""
        self.last = b"\nconnection: close" in fields
        return True

    def close(self) -> None:
        self._socket.close()


class Load:
    """All connections: those that wait for an answer, and the others."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self._request = request
        self._waiting: set[Line] = set()
        self._idle: list[Line] = []
        self.found_ms: list[float] = []

    def ask(self, due: float) -> None:
        """Raises `RuntimeError` where too many are under way."""
        if len(self._waiting) == MOST:
            raise RuntimeError(f"{MOST} requests are under way: the rate is too high for what answers them")
        line = self._idle.pop() if self._idle else Line(self._port)
        line.ask(self._request, due)
        self._waiting.add(line)

    def take(self, within_s: float) -> None:
        """The answers that are there within that time, as soon as there is one."""
        ready, _, _ = select.select(self._waiting, (), (), within_s)
        now = time.perf_counter()
        for line in ready:
            if line.is_answered():
                self.found_ms.append((now - line.due) * 1e3)
                self._waiting.remove(line)
                if line.last:
                    line.close()
                else:
                    self._idle.append(line)

    @property
    def under_way(self) -> bool:
        return bool(self._waiting)

    def close(self) -> None:
        for line in (*self._waiting, *self._idle):
            line.close()


def _measure(port: int, path: str, key: str, rate: float, seconds: float) -> list[float]:
    load = Load(port, f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\r\n".encode())
    start = time.perf_counter()
    try:
        for number in range(int(rate * seconds)):
            due = start + number / rate
            while (early := due - time.perf_counter()) > 0:
                load.take(early)
            load.ask(due)
        until = time.perf_counter() + ANSWER_S
        while load.under_way:
            left = until - time.perf_counter()
            if left <= 0:
                raise RuntimeError(f"answers are missing after {ANSWER_S:g} s")
            load.take(left)
    finally:
        load.close()
    return load.found_ms


def latencies_ms(port: int, path: str, key: str, rate: float, seconds: float) -> list[float]:
    """In a process of its own: the benchmark's own threads, which follow what a platform prints, delay nothing there.
    Raises `CalledProcessError` for an answer that is not 200."""
    order = json.dumps([port, path, key, rate, seconds])
    done = subprocess.run([sys.executable, __file__, order], stdout=subprocess.PIPE, check=True, timeout=seconds + 90)
    found: list[float] = json.loads(done.stdout)
    return found


def main() -> None:
    order = json.loads(sys.argv[1])
    gc.collect()
    gc.freeze()
    wait_for_no_core()
    print(json.dumps(_measure(*order)))


if __name__ == "__main__":
    main()
