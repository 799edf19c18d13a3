"""onnxruntime sessions: how every one is made, and what is known of it afterwards.

Small boxes are served best by one thread a session without spinning, and a hard memory cap needs two settings
together: an arena with `max_mem` that all sessions share, and a bound on what constant folding may produce
(onnxruntime_session_options_config_keys.h). Providers are named, never guessed.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

import onnxruntime

from wisp.errors import InvalidModel
from wisp.inference.reasons import plain, quote
from wisp.wire.admissions import MAX_DIM
from wisp.wire.tensors import MAX_RANK, MAX_TENSORS, ElementType, TensorSpec

ARENA_BYTES = 1 << 30
FOLDING_BYTES = 16 << 20
LOG_FATAL = 4
EXTEND_AS_REQUESTED = 1
ORT_DEFAULT = -1

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


class Sessions:
    """Makes sessions, one at a time (creating two at once is not safe), on one capped arena.

    One per process: the arena belongs to onnxruntime's process-wide environment. `arena_bytes` bounds what all
    running inferences use together, `folding_bytes` a single constant computed while a model is opened.
    """

    def __init__(self, *, arena_bytes: int = ARENA_BYTES, folding_bytes: int = FOLDING_BYTES) -> None:
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

    def open(self, digest: str, fd: int) -> LoadedModel:
        """Opens the model that `fd` (left open) leads to. Raises `InvalidModel` with onnxruntime's reason."""
        source = _path_or_bytes(fd)
        try:
            with self._creation:
                session = onnxruntime.InferenceSession(
                    source, self._options(), providers=["CPUExecutionProvider"], disabled_optimizers=None
                )
        except Exception as error:  # onnxruntime raises plain Exceptions of many classes
            if "bad_alloc" in str(error):
                raise InvalidModel("the model needs more memory to open than it is allowed") from error
            raise InvalidModel(f"onnxruntime refuses the model: {plain(str(error))}") from error
        if isinstance(source, bytes):
            session._model_bytes = (
                None  # kept for a change of providers, which nothing here makes; as large as the file
            )
        return LoadedModel(
            digest=digest,
            session=session,
            inputs=_specs("input", session.get_inputs()),
            outputs=_specs("output", session.get_outputs()),
        )

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = LOG_FATAL
        for key, value in (
            ("session.intra_op.allow_spinning", "0"),
            ("session.inter_op.allow_spinning", "0"),
            ("session.load_model_format", "ONNX"),
            ("session.use_env_allocators", "1"),
            ("optimization.constant_folding_max_output_size_in_bytes", str(self._folding_bytes)),
        ):
            options.add_session_config_entry(key, value)
        return options


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
