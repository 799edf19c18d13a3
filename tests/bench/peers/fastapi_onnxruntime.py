"""The same functions on FastAPI, uvicorn and onnxruntime.

    python tests/bench/peers/fastapi_onnxruntime.py default|tuned|processes PORT

`default`: as it is written first, every setting left alone. `tuned`: onnxruntime with one thread and without spinning,
and as many threads that infer as there are cores. `processes`: the same with one uvicorn worker for each core and one
such thread in each. The environment names the models: CLASSIFY_MODEL with CLASSIFY_LABELS, DIGITS_MODEL.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnxruntime
import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from bench.peers.pictures import work

CORES = len(os.sched_getaffinity(0))
SETTING = os.environ.get("BENCH_SETTING", "default")
THREADS = {"tuned": CORES, "processes": 1}


def session(model: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if SETTING != "default":
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    if SETTING in THREADS:
        current_default_thread_limiter().total_tokens = THREADS[SETTING]
    yield


def serve(name: str) -> Callable[[bytes], dict[str, Any]]:
    labels = os.environ.get(f"{name.upper()}_LABELS")
    does = work(name, None if labels is None else Path(labels))
    opened = session(os.environ[f"{name.upper()}_MODEL"])
    takes = opened.get_inputs()[0].name

    def run(body: bytes) -> dict[str, Any]:
        return does.answer(opened.run(None, {takes: does.read(body)})[0])

    return run


app = FastAPI(lifespan=lifespan)
functions = {
    name: serve(name)
    for name in ("classify", "digits")
    if f"{name.upper()}_MODEL" in os.environ and "BENCH_SETTING" in os.environ
}


@app.post("/{name}")
async def answer(name: str, request: Request) -> dict[str, Any]:
    return await run_in_threadpool(functions[name], await request.body())


def main() -> None:
    setting, port = sys.argv[1:]
    os.environ["BENCH_SETTING"] = setting
    # By name, since uvicorn's own processes import it again.
    uvicorn.run(
        f"{Path(__file__).stem}:app",
        app_dir=str(Path(__file__).parent),
        host="127.0.0.1",
        port=int(port),
        workers=CORES if setting == "processes" else 1,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
