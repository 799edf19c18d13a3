"""The inference host by itself under many callers: a real host process, this process in the router's and sandboxes'
place.

Through the whole platform as many inferences wait in the host as there are sandboxes, and the guests' own work bounds
the rate; what batching and its fairness give shows where more wait, as with one host for many sandboxes.
"""

from __future__ import annotations

import select
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from inference.onnx_models import gemm
from inference.peers import Router, Sandbox
from wisp.cores import usable_cores
from wisp.wire.admissions import MAX_BATCH_ROWS
from wisp.wire.inferences import Status
from wisp.wire.tensors import TensorRef

COLUMNS = 1904
"""Two square layers of it are 29 MB."""
CALLERS = 32
DEADLINE_S = 3600.0
RELATIVE = 1e-4
BATCHED, SINGLE = "batched", "single"
HANDLES = {BATCHED: 1, SINGLE: 2}
"""Of the majority's bindings; the minority's are 10 more."""


class Gemm:
    """A host with the same model twice, to be run in batches and singly, and callers with an input each."""

    def __init__(self, directory: Path) -> None:
        model = gemm(COLUMNS)
        self._router = Router(directory, threads=usable_cores())
        for name, batch in ((BATCHED, MAX_BATCH_ROWS), (SINGLE, 0)):
            assert self._router.load(name, model, batch=batch)["ok"]
            for more, tenant in ((0, "majority"), (10, "minority")):
                self._router.bind(HANDLES[name] + more, name, tenant=tenant, max_inferences=2**31 - 1)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(11)
        self._callers = [self._router.slot(number, segment_bytes=1 << 17) for number in range(CALLERS)]
        self._laid: list[tuple[list[TensorRef], int]] = []
        self._expected: list[npt.NDArray[np.float32]] = []
        for caller in self._callers:
            row = rng.standard_normal((1, COLUMNS), np.float32)
            self._laid.append(caller.lay([row]))
            self._expected.append(session.run(None, {"x": row})[0])
        self._invocation = 0

    def close(self) -> None:
        self._router.finish()

    def rates(self, model: str, tenants: Sequence[int], seconds: float) -> list[float]:
        """Inferences a second of each tenant with so many callers, the majority first; all ask again as soon as they
        are answered, and every answer is compared with the single one."""
        of_tenant = [tenant for tenant, count in enumerate(tenants) for _ in range(count)]
        active = list(range(len(of_tenant)))
        for at in active:
            self._invocation += 1
            handle = HANDLES[model] + 10 * of_tenant[at]
            self._router.open(self._callers[at], self._invocation, handle, deadline_s=DEADLINE_S)
        first = self._invocation - len(active) + 1
        counts = [0] * len(tenants)
        began = time.perf_counter()
        until = began + seconds
        with _polling([self._callers[at] for at in active]) as poll:
            by_fd = {self._callers[at].channel.fileno(): at for at in active}
            for at in active:
                self._ask(at, first + at)
            waiting = len(active)
            while waiting:
                ready = poll.poll(DEADLINE_S)
                for fd, _ in ready:
                    at = by_fd[fd]
                    self._check(at, first + at)
                    if time.perf_counter() < until:
                        counts[of_tenant[at]] += 1
                        self._ask(at, first + at)
                    else:
                        waiting -= 1
        for at in active:
            self._router.close_invocation(self._callers[at], first + at)
        return [count / seconds for count in counts]

    def _ask(self, at: int, invocation: int) -> None:
        refs, room = self._laid[at]
        caller = self._callers[at]
        caller.ask(invocation, refs, (room, caller.segment.size_bytes - room))

    def _check(self, at: int, invocation: int) -> None:
        answer = self._callers[at].answer(invocation)
        if answer.status is not Status.OK:
            raise RuntimeError(f"caller {at}: {answer.status.name}")
        expected = self._expected[at]
        if float(np.abs(answer.outputs[0] - expected).max()) > RELATIVE * float(np.abs(expected).max()):
            raise RuntimeError(f"caller {at} got what is not its answer")


@contextmanager
def _polling(callers: Sequence[Sandbox]) -> Iterator[select.epoll]:
    with select.epoll() as poll:
        for caller in callers:
            poll.register(caller.channel.fileno(), select.EPOLLIN)
        yield poll


@contextmanager
def gemm_host() -> Iterator[Gemm]:
    with tempfile.TemporaryDirectory() as directory:
        made = Gemm(Path(directory))
        try:
            yield made
        finally:
            made.close()
