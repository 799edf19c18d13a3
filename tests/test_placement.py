from __future__ import annotations

import pytest

from wisp.names import Digest
from wisp.placement import GPU_PROVIDER, has_gpu, model_of, place, session_of
from wisp.policy.choices import Target

DIGEST = Digest("sha256:" + "0" * 64)
CPU, GPU, ANY = Target.CPU, Target.GPU, Target.ANY


@pytest.mark.parametrize(
    ("target", "gpu", "where"),
    [(CPU, False, CPU), (CPU, True, CPU), (GPU, False, None), (GPU, True, GPU), (ANY, False, CPU), (ANY, True, GPU)],
)
def test_only_any_takes_what_is_there(target: Target, *, gpu: bool, where: Target | None) -> None:
    assert place(target, gpu=gpu) is where


def test_a_gpu_is_a_provider_that_the_host_reports() -> None:
    assert has_gpu((GPU_PROVIDER, "CPUExecutionProvider"))
    assert not has_gpu(("CPUExecutionProvider", "TensorrtExecutionProvider"))


@pytest.mark.parametrize("target", [CPU, GPU, None])
def test_a_digest_on_the_gpu_is_a_session_of_its_own(target: Target | None) -> None:
    session = session_of(DIGEST, target)
    assert model_of(session) == (DIGEST, target is GPU)
    assert (session != DIGEST) is (target is GPU)
