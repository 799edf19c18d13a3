"""onnxruntime sessions: how every one is made, and what is known of it afterwards.

Small boxes are served best by one thread a session without spinning (what runs alone: `inference.wide`), and a hard
memory cap needs two settings together: an arena with `max_mem` that all sessions share, and a bound on what constant
folding may produce (onnxruntime_session_options_config_keys.h). Providers are named, never guessed.
"""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass, replace

import onnxruntime

from wisp.errors import InvalidModel
from wisp.inference.providers import check, order_of
from wisp.inference.reasons import plain, quote
from wisp.inference.wide import Wide
from wisp.wire.admissions import MAX_DIM, PREPARED_MODEL
from wisp.wire.tensors import MAX_RANK, MAX_TENSORS, ElementType, TensorSpec

ARENA_BYTES = 1 << 30
FOLDING_BYTES = 16 << 20
SMALL_BYTES = 1 << 20
"""Of a model's file: one whose weights are not shared is opened twice only up to this."""
LOG_FATAL = 4
EXTEND_AS_REQUESTED = 1
ORT_DEFAULT = -1

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""glibc's."""

ELEMENTS: dict[str, ElementType] = {
    "tensor(float16)": ElementType.F16,
    "tensor(float)": ElementType.F32,
    "tensor(double)": ElementType.F64,
    "tensor(uint8)": ElementType.U8,
    "tensor(int32)": ElementType.I32,
    "tensor(int64)": ElementType.I64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """One session, shared by every tenant, slot and request that may use its digest."""

    digest: str
    session: onnxruntime.InferenceSession
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int = 0
    """How many rows may go into one run, as the probe at admission found; 0 if none may."""
    shared: bool = False
    """Whether its weights are mapped from the file that other processes map too."""
    wide: Wide | None = None
    """To run it on several threads at once."""

    def unbatched(self) -> LoadedModel:
        return replace(self, batch=0)


class Sessions:
    """Makes sessions, one at a time (creating two at once is not safe), on one capped arena.

    One per process: the arena belongs to onnxruntime's process-wide environment. `arena_bytes` bounds what all
    running inferences use together, `folding_bytes` a single constant computed while a model is opened. `prepared`: the
    directory in which this process finds prepared models (`inference.preparation`), if it was given one.
    """

    def __init__(
        self, *, arena_bytes: int = ARENA_BYTES, folding_bytes: int = FOLDING_BYTES, prepared: str | None = None
    ) -> None:
        self._prepared = prepared
        onnxruntime.set_default_logger_severity(LOG_FATAL)
        onnxruntime.disable_telemetry_events()
        arena = onnxruntime.OrtArenaCfg(
            {
                "max_mem": arena_bytes,
                "arena_extend_strategy": EXTEND_AS_REQUESTED,
                "initial_chunk_size_bytes": ORT_DEFAULT,
                "max_dead_bytes_per_chunk": ORT_DEFAULT,
            }
        )
        memory = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        onnxruntime.create_and_register_allocator(memory, arena)
        self._folding_bytes = folding_bytes
        self._creation = threading.Lock()

    def open(
        self, digest: str, fd: int, *, prepared: str = "", batch: int = 0, gpu: bool = False, threads: int = 1
    ) -> LoadedModel:
        """Opens the model that `fd` (left open) leads to. `prepared`: where, in the directory of prepared models, the
        same model lies optimised; it is opened instead, unless that fails. `gpu`: on the GPU, or not at all. `threads`:
        if more than one, opens it for so many too, where that takes little memory more. Raises `InvalidModel` with
        onnxruntime's reason."""
        session = self._open_prepared(prepared) if prepared and self._prepared is not None else None
        shared = session is not None
        if session is None:
            session = self._create(_path_or_bytes(fd), self._options(), gpu=gpu)
        wide = None
        if threads > 1 and not gpu and (shared or os.fstat(fd).st_size <= SMALL_BYTES):
            wide = self._open_wide(prepared if shared else "", fd, threads)
        _give_back_free_memory()
        return LoadedModel(
            digest=digest,
            session=session,
            inputs=_specs("input", session.get_inputs()),
            outputs=_specs("output", session.get_outputs()),
            batch=batch,
            shared=shared,
            wide=wide,
        )

    def _open_wide(self, prepared: str, fd: int, threads: int) -> Wide | None:
        """None where no more threads are to be had, or the model does not open a second time."""
        if prepared:
            session = self._open_prepared(prepared, threads)
        else:
            try:
                session = self._create(_path_or_bytes(fd), self._options(threads))
            except InvalidModel:
                session = None
        return None if session is None else Wide(session=session, threads=threads)

    def _open_prepared(self, name: str, threads: int = 1) -> onnxruntime.InferenceSession | None:
        options = self._options(threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was optimised
        try:
            return self._create(f"{self._prepared}/{name}/{PREPARED_MODEL}", options)
        except InvalidModel:
            return None

    def optimise(self, fd: int, *, model_path: str, weights_name: str, least: int) -> None:
        """Writes the optimised model to `model_path`, and its constants from `least` bytes on, with what the kernels
        make of them, to `weights_name` beside it. Raises `InvalidModel`."""
        options = self._options()
        options.optimized_model_filepath = model_path
        for key, value in (
            ("session.optimized_model_external_initializers_file_name", weights_name),
            ("session.optimized_model_external_initializers_min_size_in_bytes", str(least)),
            ("session.save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(key, value)
        self._create(_path_or_bytes(fd), options)

    def _create(
        self, source: str | bytes, options: onnxruntime.SessionOptions, *, gpu: bool = False
    ) -> onnxruntime.InferenceSession:
        providers = order_of(gpu=gpu)
        try:
            with self._creation:
                session = onnxruntime.InferenceSession(source, options, providers=providers, disabled_optimizers=None)
        except Exception as error:  # onnxruntime raises plain Exceptions of many classes
            if "bad_alloc" in str(error):
                raise InvalidModel("the model needs more memory to open than it is allowed") from error
            raise InvalidModel(f"onnxruntime refuses the model: {plain(str(error))}") from error
        check(session, gpu=gpu)
        if isinstance(source, bytes):
            session._model_bytes = (
                None  # kept for a change of providers, which nothing here makes; as large as the file
            )
        return session

    def _options(self, threads: int = 1) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = LOG_FATAL
        for key, value in (
            ("session.intra_op.allow_spinning", str(int(threads > 1))),
            ("session.force_spinning_stop", "1"),  # with the last run under way; else they would spin on for a while
            ("session.inter_op.allow_spinning", "0"),
            ("session.load_model_format", "ONNX"),
            ("session.use_env_allocators", "1"),
            ("optimization.constant_folding_max_output_size_in_bytes", str(self._folding_bytes)),
        ):
            options.add_session_config_entry(key, value)
        return options


def _give_back_free_memory() -> None:
    """What opening a model took for a moment, as much as its weights, stays with the allocator otherwise. See
    malloc_trim(3)."""
    if _malloc_trim is not None:
        _malloc_trim(ctypes.c_size_t(0))


def _path_or_bytes(fd: int) -> str | bytes:
    """A path where the descriptor can be opened again, so that the file is not copied through this process. Past the
    walls (`wire.walls`) that is so for a segment, and not for a file."""
    path = f"/proc/self/fd/{fd}"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    return path


def _specs(side: str, arguments: list[onnxruntime.NodeArg]) -> tuple[TensorSpec, ...]:
    """Raises `InvalidModel` for what wasi-nn cannot name."""
    if len(arguments) > MAX_TENSORS:
        raise InvalidModel(f"the model has {len(arguments)} {side}s, at most {MAX_TENSORS} are allowed")
    specs = []
    for argument in arguments:
        element = ELEMENTS.get(argument.type)
        if element is None:
            raise InvalidModel(
                f"{side} {quote(argument.name)} is {plain(argument.type, 80)}; allowed are {', '.join(ELEMENTS)}"
            )
        if len(argument.shape) > MAX_RANK:
            raise InvalidModel(f"{side} {quote(argument.name)} has rank {len(argument.shape)}, at most {MAX_RANK}")
        shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in argument.shape)
        if any(dim > MAX_DIM for dim in shape):
            raise InvalidModel(f"{side} {quote(argument.name)} has a dimension of {max(shape)}, at most {MAX_DIM}")
        specs.append(TensorSpec(name=argument.name, dtype=element, shape=shape))
    return tuple(specs)
