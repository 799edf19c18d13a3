from __future__ import annotations

from wisp.wire.inferences import Binding, BoundModel


def test_a_binding_survives_the_round_trip() -> None:
    models = tuple(BoundModel(digest=f"sha256:{n}", max_inferences=n, max_time_ns=n * 10**9) for n in range(3))
    binding = Binding(handle=2**32 - 1, tenant="acme", models=models)
    assert Binding.decode(binding.encode()) == binding
