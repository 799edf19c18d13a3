"""wasi-nn through a whole node: guests of three makes and two dialects, real models, a model entry's bounds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import wasmtime
from numpy.typing import NDArray

from platforms import HANDLER_POLICY, REPOSITORY, TINY_MODELS, Tenancy
from sandbox.pair import Talk, floats
from sandbox.puppet import RESPONSE, SCRATCH, Told, puppet
from wisp.names import parse_model
from wisp.node import Node
from wisp.sandbox.nn import Errno
from wisp.wire.exchange import encode_request_head
from wisp.wire.outcome import Outcome
from wisp.wire.tensors import NUMPY_NAMES, ElementType

INFER, CRATE, FORMER_CRATE, RAW = (
    (REPOSITORY / "tests" / "guests" / name / "module.wasm").read_bytes()
    for name in ("infer", "nncrate", "nncrate05", "nnraw")
)
IDENTITIES = {dtype: f"identity_{dtype.name.lower()}" for dtype in ElementType}
FORMER_TYPES = (ElementType.F16, ElementType.F32, ElementType.U8, ElementType.I32)
"""What the crate's release 0.5 can name, the last two by other numbers."""
BOTH = pytest.mark.parametrize("guest", [pytest.param(INFER, id="infer"), pytest.param(CRATE, id="nncrate")])


def entries(*models: str, bounds: str = "", more: bytes = b"") -> bytes:
    """A policy with an entry for each of these models, all with these bounds."""
    lines = [f"- {{name: {model}, model: {model.replace('_', '-')}{bounds}}}" for model in models]
    return HANDLER_POLICY + b"models:\n" + "\n".join(lines).encode() + b"\n" + more


async def grant(tenant: Tenancy, *models: str) -> None:
    for model in models:
        await tenant.push_model(model.replace("_", "-"), TINY_MODELS / f"{model}.onnx")


async def ask(tenant: Tenancy, function: str, body: bytes, query: str) -> tuple[int | None, bytes]:
    """Status and body of a guest that ended well."""
    reply = await tenant.call(function, body, query=query.encode())
    assert reply.outcome is Outcome.OK
    return reply.status, reply.body


def puppet_of_a_node() -> bytes:
    """The puppet expects a body where the message begins: it is handed the message from behind the head on."""
    head_bytes = len(encode_request_head(b"POST", b"/", b"", ()))
    inner = puppet().replace('(export "wisp_alloc")', "$alloc").replace('(export "wisp_handle")', "$handle")
    # What needs a grant that these policies do not give is not imported; the numbers of the others stay.
    inner = re.sub(
        r'\(import "wisp" "\w+" (\(func \$f\d+ .*)\(result i32\)\)\)', r"\1(result i32) (unreachable))", inner
    )
    return bytes(
        wasmtime.wat2wasm(f"""{inner.rstrip().removesuffix(")")}
          (func (export "wisp_alloc") (param i32) (result i32)
            (i32.sub (call $alloc (local.get 0)) (i32.const {head_bytes})))
          (func (export "wisp_handle") (param i32 i32) (result i64)
            (call $handle
              (i32.add (local.get 0) (i32.const {head_bytes}))
              (i32.sub (local.get 1) (i32.const {head_bytes})))))""")
    )


async def play(tenant: Tenancy, script: Talk) -> Told:
    """What a puppet has to tell that made these calls."""
    reply = await tenant.call("puppet", script.body())
    assert reply.outcome is Outcome.OK
    errnos = np.frombuffer(reply.body, np.uint32, len(script.steps)).tolist()
    return Told(errnos=errnos, scratch=reply.body[SCRATCH - RESPONSE - 12 :])


@pytest.mark.parametrize(
    ("guest", "dtypes"),
    [
        pytest.param(INFER, tuple(ElementType), id="infer"),
        pytest.param(CRATE, tuple(ElementType), id="crate 0.6"),
        pytest.param(FORMER_CRATE, FORMER_TYPES, id="crate 0.5"),
    ],
)
async def test_every_element_type_comes_back_as_it_went(
    acme: Tenancy, guest: bytes, dtypes: Sequence[ElementType]
) -> None:
    names = [IDENTITIES[dtype] for dtype in dtypes]
    await grant(acme, *names)
    await acme.deploy("infer", guest, entries(*names))
    for dtype, name in zip(dtypes, names, strict=True):
        # One, two and eight elements: as many bytes as one element of a wider type has.
        for count in (1, 2, 8):
            data = (np.arange(count) * 7 + 1).astype(NUMPY_NAMES[dtype]).tobytes()
            query = f"graph={name}&type={dtype.name.lower()}&dims={count}"
            assert await ask(acme, "infer", data, query) == (200, data)


@BOTH
async def test_several_inputs_and_outputs_keep_their_order(acme: Tenancy, guest: bytes) -> None:
    await grant(acme, "two_io")
    await acme.deploy("infer", guest, entries("two_io"))
    body = floats(1, 2, 3, 4, 10, 20, 30, 40)
    for output, expected in ((0, (11, 22, 33, 44)), (1, (-9, -18, -27, -36))):
        query = f"graph=two_io&type=f32&dims=2,2&inputs=2&output={output}"
        assert await ask(acme, "infer", body, query) == (200, floats(*expected))


@BOTH
async def test_shapes_are_free_only_where_the_model_leaves_them_free(acme: Tenancy, guest: bytes) -> None:
    await grant(acme, "identity_f32", "batch_rows", "static_2x3")
    await acme.deploy("infer", guest, entries("identity_f32", "batch_rows", "static_2x3"))
    for rows in (0, 1, 5, 300):
        data = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
        expected = np.stack([data[:, 0] + data[:, 2], data[:, 1] + data[:, 3]], axis=1).tobytes()
        assert await ask(acme, "infer", data.tobytes(), f"graph=batch_rows&type=f32&dims={rows},4") == (200, expected)
    assert await ask(acme, "infer", b"", "graph=identity_f32&type=f32&dims=0") == (200, b"")
    for dims in ("3,2", "6", "1,2,3"):
        status, body = await ask(acme, "infer", bytes(24), f"graph=static_2x3&type=f32&dims={dims}")
        assert (status, body.startswith(b"set_input: ")) == (502, True)
    assert await ask(acme, "infer", bytes(24), "graph=static_2x3&type=f32&dims=2,3") == (200, bytes(24))


async def test_an_output_may_be_much_larger_than_the_input(acme: Tenancy) -> None:
    await grant(acme, "grow")
    await acme.deploy("infer", INFER, entries("grow"))
    await acme.deploy("crate", CRATE, entries("grow"))
    many = np.int64(300_000).tobytes()
    assert await ask(acme, "infer", many, "graph=grow&type=i64&dims=1") == (200, floats(1) * 300_000)
    too_small = await ask(acme, "crate", many, "graph=grow&type=i64&dims=1&room=1199999")
    assert too_small == (502, b"get_output: BackendError(TooLarge)\n")
    assert (await ask(acme, "crate", many, "graph=grow&type=i64&dims=1&room=1200000"))[0] == 200


async def test_interleaved_contexts_of_two_graphs_do_not_mix_and_are_read_again(acme: Tenancy) -> None:
    names = ("two_io", "identity_i64")
    await grant(acme, *names)
    await acme.deploy("puppet", puppet_of_a_node(), entries(*names))
    talk = Talk().open(*names)
    talk.context(0)
    integers = np.arange(-4, 4, dtype=np.int64).tobytes()
    talk.set_input(0, 0, (2, 2), ElementType.F32, floats(1, 2, 3, 4))
    talk.set_input(2, 0, (2, 2), ElementType.F32, floats(5, 6, 7, 8))
    talk.set_input(1, 0, (8,), ElementType.I64, integers)
    talk.set_input(2, 1, (2, 2), ElementType.F32, floats(1, 1, 1, 1))
    talk.set_input(0, 1, (2, 2), ElementType.F32, floats(10, 10, 10, 10))
    for context in (2, 1, 0):
        talk.compute(context)
    reads = [(0, 0), (2, 1), (1, 0), (0, 1), (2, 0), (0, 0), (1, 0)]
    for number, (context, output) in enumerate(reads):
        talk.get_output(context, output, at=Talk.BUFFER + 64 * number)
    told = await play(acme, talk)
    assert set(told.errnos) == {Errno.SUCCESS}
    expected = {
        (0, 0): floats(11, 12, 13, 14),
        (0, 1): floats(-9, -8, -7, -6),
        (1, 0): integers,
        (2, 0): floats(6, 7, 8, 9),
        (2, 1): floats(4, 5, 6, 7),
    }
    for number, key in enumerate(reads):
        assert told.at(Talk.BUFFER + 64 * number, len(expected[key])) == expected[key]


@BOTH
async def test_the_guest_sees_busy_when_its_inferences_are_used_up_and_the_next_request_has_its_own(
    acme: Tenancy, guest: bytes
) -> None:
    await grant(acme, "identity_f32")
    await acme.deploy("puppet", puppet_of_a_node(), entries("identity_f32", bounds=", max_inferences: 2"))
    await acme.deploy("infer", guest, entries("identity_f32", bounds=", max_inferences: 2"))
    talk = Talk().open("identity_f32")
    talk.set_input(0, 0, (1,), ElementType.F32, floats(1))
    for _ in range(4):
        talk.compute()
    talk.get_output()
    for _ in range(2):
        told = await play(acme, talk)
        assert told.errnos[3:] == [Errno.SUCCESS, Errno.SUCCESS, Errno.BUSY, Errno.BUSY, Errno.SUCCESS]
        assert told.at(Talk.BUFFER, 4) == floats(1)
    for _ in range(5):
        assert await ask(acme, "infer", floats(3), "graph=identity_f32&type=f32&dims=1") == (200, floats(3))


async def test_the_guest_sees_a_models_time_run_out_and_goes_on(acme: Tenancy) -> None:
    await grant(acme, "endless", "identity_f32")
    policy = entries("identity_f32", more=b"- {name: endless, model: endless, max_time: 50ms}\nlimits: {timeout: 5s}\n")
    await acme.deploy("puppet", puppet_of_a_node(), policy)
    await acme.deploy("infer", INFER, policy)
    talk = Talk().open("endless", "identity_f32")
    for context in (0, 1):
        talk.set_input(context, 0, (1,), ElementType.F32, floats(7))
        talk.compute(context)
    talk.get_output(0)
    talk.get_output(1)
    told = await play(acme, talk)
    failed, fine = Errno.RUNTIME_ERROR, Errno.SUCCESS
    assert told.errnos[4:] == [fine, failed, fine, fine, failed, fine]
    assert told.at(Talk.BUFFER, 4) == floats(7)
    answer = await ask(acme, "infer", floats(1), "graph=endless&type=f32&dims=1")
    assert answer == (502, b"compute: RuntimeError\n")


async def test_a_model_that_fails_is_an_errno_and_serves_on(acme: Tenancy) -> None:
    await grant(acme, "fails")
    await acme.deploy("infer", CRATE, entries("fails"))
    for number, status in ((0, 200), (1, 502), (0, 200)):
        answered, body = await ask(acme, "infer", np.int64(number).tobytes(), "graph=fails&type=i64&dims=1")
        assert (answered, body) == (status, floats(7) if status == 200 else b"compute: BackendError(RuntimeError)\n")


async def test_one_session_of_a_shared_model_serves_all_tenants(node: Node, acme: Tenancy, globex: Tenancy) -> None:
    """Without its file no second session could be made."""
    model, _ = await node.model_uploads.push(
        tenant=None, model=parse_model("batch-rows"), file=TINY_MODELS / "batch_rows.onnx"
    )
    for tenant in (acme, globex):
        await tenant.deploy("infer", INFER, entries("batch_rows"))
    query = "graph=batch_rows&type=f32&dims=1,4"
    assert await ask(acme, "infer", floats(1, 2, 3, 4), query) == (200, floats(4, 6))
    assert await node.stores.blobs.delete(model.digest)
    assert await ask(globex, "infer", floats(5, 6, 7, 8), query) == (200, floats(12, 14))

    async def one(tenant: Tenancy, number: int) -> bool:
        answer = await ask(tenant, "infer", floats(number, 1, 0, number), query)
        return answer == (200, floats(number, number + 1))

    assert all(await asyncio.gather(*(one(tenant, number) for number in range(24) for tenant in (acme, globex))))


def tensor_of(file: Path) -> NDArray[np.float32]:
    tensor: NDArray[np.float32] = onnx.numpy_helper.to_array(onnx.load_tensor(str(file)))
    return tensor


async def test_a_guest_in_c_without_a_library_gives_mnists_reference_outputs(acme: Tenancy, shared_data: Path) -> None:
    await acme.push_model("mnist", shared_data / "mnist-8" / "model.onnx")
    await acme.deploy("mnist", RAW, entries("mnist"))
    for data_set in sorted((shared_data / "mnist-8").glob("test_data_set_*")):
        pixels, expected = tensor_of(data_set / "input_0.pb"), tensor_of(data_set / "output_0.pb")
        status, body = await ask(acme, "mnist", pixels.tobytes(), "")
        assert status == 200
        np.testing.assert_allclose(np.frombuffer(body, np.float32), expected[0], atol=1e-3)
    assert (await ask(acme, "mnist", bytes(3135), ""))[0] == 400


async def test_mobilenet_reads_a_photo_that_is_a_tensor_already(acme: Tenancy, shared_data: Path) -> None:
    await acme.push_model("mobilenet", shared_data / "mobilenetv2" / "model.onnx")
    photo = (shared_data / "photos" / "000000062808.rgb").read_bytes()
    for name, guest in (("infer", INFER), ("crate", CRATE), ("former", FORMER_CRATE)):
        await acme.deploy(name, guest, entries("mobilenet"))
        status, body = await ask(acme, name, photo, "graph=mobilenet&type=f32&dims=1,3,224,224")
        assert (status, int(np.frombuffer(body, np.float32).argmax())) == (200, 963)
