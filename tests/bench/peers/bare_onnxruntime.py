"""onnxruntime alone, in one process: as many sessions and threads as it is told, with the preprocessing or without.

Reads one JSON object a line: {"sessions", "intra", "spinning", "threads", "seconds", "prepare"}; answers each with
{"rate", "p50_ms", "p99_ms"}. `prepare`: each call starts from the picture's bytes and ends at the label.

    python tests/bench/peers/bare_onnxruntime.py classify|digits MODEL LABELS|- PICTURE
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnxruntime

from bench.peers.pictures import Work, work


class Bare:
    def __init__(self, does: Work, model: str, picture: bytes) -> None:
        self._does, self._model, self._picture = does, model, picture
        self._tensor = does.read(picture)
        self.sessions = cache(self._open)

    def _open(self, count: int, intra: int, spinning: bool) -> list[onnxruntime.InferenceSession]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        return [
            onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"]) for _ in range(count)
        ]

    def call(self, session: onnxruntime.InferenceSession, *, prepare: bool) -> Callable[[], object]:
        name = session.get_inputs()[0].name
        if prepare:
            return lambda: self._does.answer(session.run(None, {name: self._does.read(self._picture)})[0])
        return lambda: session.run(None, {name: self._tensor})

    def measure(self, order: dict[str, Any]) -> dict[str, float]:
        sessions = self.sessions(order["sessions"], order["intra"], order["spinning"])
        times: list[float] = []
        until = time.perf_counter() + order["seconds"]

        def caller(session: onnxruntime.InferenceSession) -> None:
            call = self.call(session, prepare=order["prepare"])
            while (started := time.perf_counter()) < until:
                call()
                times.append(time.perf_counter() - started)

        turn = itertools.cycle(sessions)
        threads = [threading.Thread(target=caller, args=(next(turn),)) for _ in range(order["threads"])]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - began
        times.sort()
        p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
        return {"rate": len(times) / took, "p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3}


def main() -> None:
    name, model, labels, picture = sys.argv[1:]
    bare = Bare(work(name, None if labels == "-" else Path(labels)), model, Path(picture).read_bytes())
    for line in sys.stdin:
        print(json.dumps(bare.measure(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
