"""onnxruntime's execution providers: named, tried before they are promised, never exchanged for another in silence.

What happens on a GPU is this file's and onnxruntime's alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnxruntime

from wisp.errors import InvalidModel

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"


def providers_of(*, gpu: bool) -> tuple[str, ...]:
    """Those that work here. That the library has CUDA does not say that there is a device: one is used, once."""
    if not gpu or CUDA not in onnxruntime.get_available_providers():
        return (CPU,)
    try:
        onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", 0)
    except Exception:  # noqa: BLE001 - the boundary to native code: drivers fail in many ways
        return (CPU,)
    return (CUDA, CPU)


def order_of(*, gpu: bool) -> list[str]:
    """For one session. Operators that CUDA has no kernel for run on the CPU, as onnxruntime places them."""
    if not gpu:
        return [CPU]
    if CUDA not in onnxruntime.get_available_providers():
        raise InvalidModel("this process has no GPU")
    return [CUDA, CPU]


def check(session: onnxruntime.InferenceSession, *, gpu: bool) -> None:
    """onnxruntime goes on without a provider that fails. Raises `InvalidModel` where it did."""
    if gpu and CUDA not in session.get_providers():
        raise InvalidModel("the session was not opened on the GPU")
