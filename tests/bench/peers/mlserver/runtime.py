"""The same functions as a custom MLServer runtime (1.7) over onnxruntime, `mlserver start` in this folder.

The pictures come raw to endpoints of its own (`custom_handler`): its inference protocol over HTTP has no binary form,
and a photo as base64 in JSON, or its tensor as numbers in JSON, costs MLServer more than the model. `parallel_workers`
is 0, since the runtime hands its work to threads itself, and onnxruntime has one thread and does not spin: with worker
processes each body is pickled through a queue. The environment names the models, as for the FastAPI peer.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import onnxruntime
from fastapi import Request
from mlserver import MLModel
from mlserver.handlers import custom_handler
from mlserver.rest.responses import Response

from bench.peers.pictures import work

CORES = len(os.sched_getaffinity(0))


class Pictures(MLModel):  # type: ignore[misc]  # mlserver is not installed where types are checked
    async def load(self) -> bool:
        self._threads = ThreadPoolExecutor(CORES)
        self._functions = {}
        for name in ("classify", "digits"):
            if f"{name.upper()}_MODEL" not in os.environ:
                continue
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            session = onnxruntime.InferenceSession(
                os.environ[f"{name.upper()}_MODEL"], options, providers=["CPUExecutionProvider"]
            )
            labels = os.environ.get(f"{name.upper()}_LABELS")
            does = work(name, None if labels is None else Path(labels))
            self._functions[name] = (does, session, session.get_inputs()[0].name)
        return True

    def _run(self, name: str, body: bytes) -> dict[str, Any]:
        does, session, takes = self._functions[name]
        return does.answer(session.run(None, {takes: does.read(body)})[0])

    async def _answer(self, name: str, request: Request) -> Response:
        body = await request.body()
        return Response(await asyncio.get_running_loop().run_in_executor(self._threads, self._run, name, body))

    @custom_handler(rest_path="/classify")  # type: ignore[untyped-decorator]
    async def classify(self, request: Request) -> Response:
        return await self._answer("classify", request)

    @custom_handler(rest_path="/digits")  # type: ignore[untyped-decorator]
    async def digits(self, request: Request) -> Response:
        return await self._answer("digits", request)
