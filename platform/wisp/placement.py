"""Where a model runs on this node: what its policy entry asks for, against what the node has.

Never elsewhere in silence: `target: gpu` without a GPU runs nowhere, and only `target: any` takes what is there.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from wisp.names import Digest
from wisp.policy.choices import Target
from wisp.policy.grants import Grants

GPU_PROVIDER: Final = "CUDAExecutionProvider"
GPU_SUFFIX: Final = "+gpu"
"""Of a session's name: one digest may be open on either side."""


def has_gpu(providers: Collection[str]) -> bool:
    """`providers`: of onnxruntime, as an inference host reports them."""
    return GPU_PROVIDER in providers


def place(target: Target, *, gpu: bool) -> Target | None:
    """CPU, GPU or nowhere. `gpu`: whether this node has one for the model."""
    if target is Target.CPU:
        return Target.CPU
    if gpu:
        return Target.GPU
    return Target.CPU if target is Target.ANY else None


def session_of(digest: Digest, target: Target | None) -> Digest:
    """The name under which the inference host has it open."""
    return Digest(digest + GPU_SUFFIX) if target is Target.GPU else digest


def model_of(session: Digest) -> tuple[Digest, bool]:
    """The model's digest, and whether the session is on the GPU."""
    digest = session.removesuffix(GPU_SUFFIX)
    return Digest(digest), digest != session


def unplaced(grants: Grants, *, gpu: bool) -> tuple[str, ...]:
    """A warning for each model that does not run on this node; other nodes may have what it needs."""
    return tuple(
        f"model {grant.name}: target: {grant.target}, and this node has no GPU: here load_by_name answers an errno"
        for grant in grants.models
        if place(grant.target, gpu=gpu) is None
    )
