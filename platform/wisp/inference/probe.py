"""Trying an admitted model out, in the child that admits it: does it run, what does it take, may its rows share a run?

The inputs are made up: one row counts up in steps that no other row repeats, in [0, 1), so that rows which run into
each other show; whole numbers are 0 and 1, which most indices and masks can be. A dimension that the model leaves open
is 1, or the first of a few usual sizes at which the model runs at all. A model that fails on what was made up is not
refused: it may want inputs that no guess finds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnxruntime

from wisp.inference.reasons import plain
from wisp.inference.sessions import LoadedModel
from wisp.wire.admissions import MAX_BATCH_ROWS, ModelProbe
from wisp.wire.tensors import NUMPY_NAMES, TensorSpec, tensor_bytes

PROBE_S = 2.0
"""Of all runs together; the one under way is then ended at its next node."""
ROWS = 8
OPEN_DIMENSIONS = (1, 32, 224)
REPEATS = 5
REPEAT_S = 0.25
MAX_INPUT_BYTES = 32 << 20
"""Of one run: a request's tensors take no more than half of their segment."""
PAYS = 0.75
"""A batch pays when it takes at most this share of the time that its rows take one by one."""
TOLERANCES = {"float16": (2e-2, 2e-3), "float32": (1e-4, 1e-5), "float64": (1e-9, 1e-12)}
"""Relative, and of the largest magnitude in the output, by which a row of a batch may differ from the same row alone;
whole numbers may not differ at all."""
NOTE_CHARS = 200

Array = npt.NDArray[np.generic]
Feed = dict[str, Array]


class NotRun(Exception):
    """A run did not end well; the text says how."""


class Trials:
    """Runs of one model, all before one moment."""

    def __init__(self, model: LoadedModel, until_s: float) -> None:
        self._model = model
        self._until_s = until_s

    def run(self, feed: Feed) -> list[Array]:
        """Raises `NotRun`."""
        options = onnxruntime.RunOptions()
        try:
            with _ended(options, self._until_s):
                results: list[Array] = self._model.session.run(None, feed, options)
        except MemoryError as error:
            raise NotRun("it needs more memory than admission allows") from error
        except Exception as error:  # the boundary to native code: a terminated run and a failed one raise alike
            if options.terminate:
                raise NotRun(f"it did not end within {PROBE_S:g} s") from error
            raise NotRun(plain(str(error), NOTE_CHARS)) from error
        if not all(isinstance(result, np.ndarray) for result in results):
            raise NotRun("an output is not a tensor")
        return results

    def time_us(self, feed: Feed) -> int:
        """The best of a few runs, at least one. Raises `NotRun`."""
        best, began = 0.0, time.monotonic()
        for number in range(REPEATS):
            started = time.monotonic()
            self.run(feed)
            took = time.monotonic() - started
            best = min(best, took) if number else took
            if time.monotonic() - began > REPEAT_S:
                break
        return max(1, round(best * 1e6))


@contextmanager
def _ended(options: onnxruntime.RunOptions, until_s: float) -> Iterator[None]:
    """Ends the run at its next node once the moment has come; one long kernel is the process' limits' matter."""

    def end() -> None:
        options.terminate = True

    timer = threading.Timer(max(0.0, until_s - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def probe(model: LoadedModel) -> ModelProbe:
    """`peak_bytes` is left to whoever knows what the process took before. Never raises for what the model does."""
    trials = Trials(model, time.monotonic() + PROBE_S)
    try:
        size = _size_that_runs(model, trials)
        latency_us = trials.time_us(_feed(model.inputs, size, range(1)))
    except NotRun as error:
        return ModelProbe(latency_us=0, batch_latency_us=0, peak_bytes=0, batch=0, note=f"not probed: {error}")
    batch_latency_us, batch, note = 0, 0, ""
    if not all(spec.shape and spec.shape[0] == -1 for spec in model.inputs):
        note = "not batched: the first dimension of an input is not open"
    else:
        try:
            batch_latency_us = trials.time_us(_feed(model.inputs, size, range(ROWS)))
            _compare(model, trials, size)
            batch, note = _judge(model, trials, size, latency_us, batch_latency_us)
        except NotRun as error:
            note = f"not batched: {error}"
    return ModelProbe(latency_us=latency_us, batch_latency_us=batch_latency_us, peak_bytes=0, batch=batch, note=note)


def _size_that_runs(model: LoadedModel, trials: Trials) -> int:
    """What to give the open dimensions behind the first. Raises `NotRun` with the first failure."""
    is_open = any(-1 in spec.shape[1:] for spec in model.inputs)
    failure: NotRun | None = None
    for size in OPEN_DIMENSIONS if is_open else (1,):
        if _input_bytes(model.inputs, size, ROWS) > MAX_INPUT_BYTES:
            failure = failure or NotRun(f"its inputs take more than {MAX_INPUT_BYTES} bytes")
            continue
        try:
            trials.run(_feed(model.inputs, size, range(1)))
        except NotRun as error:
            failure = failure or error
        else:
            return size
    assert failure is not None
    raise failure


def _judge(model: LoadedModel, trials: Trials, size: int, latency_us: int, batch_latency_us: int) -> tuple[int, str]:
    if batch_latency_us > PAYS * ROWS * latency_us:
        return 0, f"not batched: {ROWS} rows together take {batch_latency_us / latency_us:.1f} times one row alone"
    if _input_bytes(model.inputs, size, MAX_BATCH_ROWS) > MAX_INPUT_BYTES:
        return ROWS, ""
    try:
        widest_us = trials.time_us(_feed(model.inputs, size, range(MAX_BATCH_ROWS)))
    except NotRun:
        return ROWS, ""
    return (MAX_BATCH_ROWS if widest_us * ROWS <= batch_latency_us * MAX_BATCH_ROWS else ROWS), ""


def _compare(model: LoadedModel, trials: Trials, size: int) -> None:
    """Raises `NotRun` unless each row of a batch is what the same row is alone."""
    together = trials.run(_feed(model.inputs, size, range(ROWS)))
    for row in range(ROWS):
        alone = trials.run(_feed(model.inputs, size, range(row, row + 1)))
        for output, (many, one) in enumerate(zip(together, alone, strict=True)):
            name = model.outputs[output].name
            if one.ndim == 0 or one.shape[0] != 1 or many.shape != (ROWS, *one.shape[1:]):
                raise NotRun(f"output {plain(name, 80)} has not one row for each of the inputs")
            if not _agree(many[row], one[0]):
                raise NotRun(f"row {row} of output {plain(name, 80)} differs from the same row alone")


def _agree(many: Array, one: Array) -> bool:
    tolerance = TOLERANCES.get(one.dtype.name)
    if tolerance is None:
        return bool(np.array_equal(many, one))
    relative, of_largest = tolerance
    finite = np.abs(one[np.isfinite(one)].astype(np.float64))
    absolute = of_largest * (float(finite.max()) if finite.size else 1.0)
    return bool(np.allclose(many.astype(np.float64), one.astype(np.float64), relative, absolute, equal_nan=True))


def _dims(spec: TensorSpec, size: int, rows: int) -> tuple[int, ...]:
    return tuple(dim if dim >= 0 else (rows if axis == 0 else size) for axis, dim in enumerate(spec.shape))


def _input_bytes(specs: tuple[TensorSpec, ...], size: int, rows: int) -> int:
    return sum(tensor_bytes(spec.dtype, _dims(spec, size, rows)) for spec in specs)


def _feed(specs: tuple[TensorSpec, ...], size: int, rows: range) -> Feed:
    """Row k of a feed is the same whatever rows stand beside it."""
    feed: Feed = {}
    for spec in specs:
        dims = _dims(spec, size, len(rows))
        dtype = np.dtype(NUMPY_NAMES[spec.dtype])
        count = int(np.prod(dims, dtype=np.int64)) // max(1, len(rows)) if dims else 1
        numbers = np.arange(rows.start * count, rows.start * count + (count * len(rows) if dims else 1))
        values = numbers * 0.6180339887498949 % 1.0 if dtype.kind == "f" else numbers * 7 // 3 % 2
        feed[spec.name] = values[: int(np.prod(dims, dtype=np.int64))].astype(dtype).reshape(dims)
    return feed
