"""Models whose target is a GPU, on nodes without one: refused, warned of, an errno, never run elsewhere in silence."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from platforms import OPERATOR_KEY, TINY_MODELS, Tenancy
from sandbox.pair import Talk, floats
from test_inline import CEILING
from test_nn import entries, play, puppet_of_a_node
from wisp import pools, stores
from wisp.errors import ExceedsCeiling, InvalidModel, InvalidSettings, ModelLoading
from wisp.inference.providers import CPU, CUDA, order_of, providers_of
from wisp.names import Digest, parse_model
from wisp.node import Node
from wisp.placement import GPU_PROVIDER, GPU_SUFFIX
from wisp.sandbox.nn import Errno
from wisp.settings import Settings

OPERATOR_MODEL = TINY_MODELS / "identity_f32.onnx"


def settings(tmp_path: Path, gpu: str) -> Settings:
    flags: dict[str, str | bool | None] = {"data_dir": str(tmp_path / "data"), "workers": "1", "gpu": gpu}
    return Settings.load(flags, environ={"WISP_OPERATOR_KEY": OPERATOR_KEY})


async def allow_gpus(node: Node) -> None:
    text = CEILING.replace(b"targets: [cpu]", b"targets: [cpu, gpu]")
    assert (await node.book.put("ceiling", text, author="operator", expected=None)).pending == ()


async def tenancy(node: Node, *models: str) -> Tenancy:
    """A tenant beside the operator's models of these names."""
    await allow_gpus(node)
    acme = await Tenancy.create(node, "acme", "standard")
    for name in models:
        await node.model_uploads.push(tenant=None, model=parse_model(name), file=OPERATOR_MODEL)
    return acme


def infer() -> Talk:
    talk = Talk().open("m")
    talk.set_input(0, 0, (2,), 1, floats(1, 2))
    talk.compute()
    talk.get_output()
    return talk


async def test_a_gpu_beyond_the_ceiling_is_refused_with_its_place(acme: Tenancy) -> None:
    await acme.push_model("m", OPERATOR_MODEL)
    with pytest.raises(ExceedsCeiling) as refused:
        await acme.deploy("puppet", puppet_of_a_node(), entries("m", bounds=", target: gpu"))
    assert [(fault.field, fault.allowed) for fault in refused.value.faults] == [("models[0].target", "cpu")]


async def test_a_node_without_a_gpu_warns_and_answers_an_errno(node: Node) -> None:
    acme = await tenancy(node, "m")
    deployed = await acme.deploy("puppet", puppet_of_a_node(), entries("m", bounds=", target: gpu"))
    assert [warning for warning in deployed.version.warnings if "no GPU" in warning]
    told = await play(acme, infer())
    assert told.errnos == [Errno.UNSUPPORTED_OPERATION, *[Errno.INVALID_ARGUMENT] * 4]
    lines = [line.text for line in node.tenantlog.lines(acme.name, (await acme.target("puppet")).function)]
    assert any("this node has no GPU" in line for line in lines)
    assert not node.host.has((Digest((await acme.target("puppet")).plan.record.models[0].digest),))


async def test_any_takes_the_cpu_where_there_is_nothing_else(node: Node) -> None:
    acme = await tenancy(node, "m")
    deployed = await acme.deploy("puppet", puppet_of_a_node(), entries("m", bounds=", target: any"))
    assert deployed.version.warnings == ()
    assert (await play(acme, infer())).errnos == [Errno.SUCCESS] * 5


async def test_auto_goes_on_without_a_gpu_and_require_does_not(tmp_path: Path) -> None:
    async with Node(settings(tmp_path, "auto")) as node:
        assert node.gpu_host is None
        assert node.providers() == {"shared": (CPU,)}
        assert "gpu-inference" not in node.walls.shown()
    with pytest.raises(InvalidSettings, match="--gpu require"):
        async with Node(settings(tmp_path, "require")):
            pass


async def test_a_session_that_the_gpu_does_not_take_is_not_opened_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is told that there is a GPU, and its host process knows better."""
    monkeypatch.setattr(pools, "has_gpu", lambda _: True)
    async with Node(settings(tmp_path, "require")) as node:
        acme = await tenancy(node, "m")
        await acme.deploy("puppet", puppet_of_a_node(), entries("m", bounds=", target: any"))
        with pytest.raises(ModelLoading, match="does not load"):
            await acme.call("puppet", infer().body())


async def test_what_runs_on_the_gpu_goes_to_the_host_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the device: that host opens the session on the CPU here."""
    monkeypatch.setattr(pools, "has_gpu", lambda _: True)
    monkeypatch.setattr(stores, "model_of", lambda digest: (Digest(digest.removesuffix(GPU_SUFFIX)), False))
    async with Node(settings(tmp_path, "require")) as node:
        acme = await tenancy(node, "m")
        for target, host in (("gpu", node.gpu_host), ("cpu", node.host), ("any", node.gpu_host)):
            await acme.deploy("puppet", puppet_of_a_node(), entries("m", bounds=f", target: {target}"))
            assert (await play(acme, infer())).errnos == [Errno.SUCCESS] * 5
            plan = (await acme.target("puppet")).plan
            assert host is not None
            assert host.has(plan.models)
            assert plan.gpu is (host is node.gpu_host)
        own = await Tenancy.create(node, "globex", "free")
        await own.push_model("own", OPERATOR_MODEL)
        await own.deploy("puppet", puppet_of_a_node(), entries("own", bounds=", target: gpu"))
        talk = Talk()
        talk.load("own")
        assert (await play(own, talk)).errnos == [Errno.UNSUPPORTED_OPERATION], "it is not trusted beside a GPU"


def test_providers_are_named_and_tried() -> None:
    assert providers_of(gpu=False) == (CPU,)
    assert order_of(gpu=False) == [CPU]
    assert GPU_PROVIDER == CUDA
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("there may be a GPU")
    assert providers_of(gpu=True) == (CPU,)
    with pytest.raises(InvalidModel):
        order_of(gpu=True)
