"""Optimising a model once, so that every process of the node that opens it maps the same weights.

onnxruntime writes the optimised graph into one file and the weights, as they are and as its kernels pack them, into
another (`session.save_external_prepacked_constant_initializers`). A process that opens these still packs each weight,
to know it by its hash, but then maps the packed bytes and lets its own go.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from wisp.inference.inspection import walk
from wisp.inference.sessions import Sessions
from wisp.wire.admissions import PREPARED_WEIGHTS

MIN_TENSOR_BYTES = 1024
MAX_GRAPH_BYTES = 64 << 20
"""Of the optimised file without its weights; one beyond it is opened as it was uploaded."""
LOCATION = "location"


def prepare(sessions: Sessions, fd: int, model_fd: int, weights_fd: int) -> int:
    """Writes both memory files; the bytes of the weights, 0 where there are none worth sharing.

    onnxruntime opens the files by their paths, which for memory files are their descriptors, and it names the weights'
    file in the graph as it was told: by the number. That name is put right afterwards. Raises `InvalidModel`.
    """
    sessions.optimise(fd, model_path=f"/proc/self/fd/{model_fd}", weights_name=str(weights_fd), least=MIN_TENSOR_BYTES)
    weights_bytes = os.fstat(weights_fd).st_size
    graph_bytes = os.fstat(model_fd).st_size
    if not weights_bytes or not 0 < graph_bytes <= MAX_GRAPH_BYTES:
        return 0
    model = onnx.ModelProto()
    model.ParseFromString(os.pread(model_fd, graph_bytes, 0))
    for message, _ in walk(model):
        if isinstance(message, onnx.TensorProto):
            for entry in message.external_data:
                if entry.key == LOCATION:
                    entry.value = PREPARED_WEIGHTS
    Path(f"/proc/self/fd/{model_fd}").write_bytes(model.SerializeToString())
    return weights_bytes
