"""The deployment path: what is refused and why, what is the same upload, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio

import pytest
import wasmtime

from platforms import HANDLER_POLICY, TENANTS, TINY_MODELS, Tenancy
from wat import LOOP, answering, handler
from wisp.errors import ExceedsCeiling, FunctionNotFound, InvalidModel, InvalidModule, InvalidPolicy, NotFound, Rejected
from wisp.names import parse_function, parse_model
from wisp.node import Node
from wisp.wire.outcome import Outcome

GOOD = answering(b"one")
SPARING = HANDLER_POLICY + b"limits: {fuel: 10M}\n"
"""Little enough to be gone long before the time is, however busy the machine."""


def wat(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


BAD_MODULES = {
    "empty": (b"", "not WebAssembly"),
    "text format": (b'(module (memory (export "memory") 1))', "text format is not accepted"),
    "component": (b"\0asm\x0d\0\x01\0", "component"),
    "truncated": (GOOD[:-20], "too early"),
    "garbage after the magic": (b"\0asm\x01\0\0\0" + b"\xff" * 40, "byte 14"),
    "no exports": (wat("(module)"), "memory"),
    "unknown import": (
        handler("(i64.const 0)", before='(import "env" "launch_missiles" (func))'),
        "launch_missiles",
    ),
    "known import, wrong signature": (
        handler("(i64.const 0)", before='(import "wasi_snapshot_preview1" "random_get" (func (param i64)))'),
        "random_get",
    ),
    "wasi-nn without models": (
        handler("(i64.const 0)", before='(import "wasi_ephemeral_nn" "compute" (func (param i32) (result i32)))'),
        "models",
    ),
    "wrong export signature": (
        wat("""(module (memory (export "memory") 1)
               (func (export "wisp_alloc") (param i64) (result i32) (i32.const 0))
               (func (export "wisp_handle") (param i32 i32) (result i64) (i64.const 0)))"""),
        "wisp_alloc",
    ),
    "more memory than granted": (
        handler("(i64.const 0)", memory='(memory (export "memory") 2000)'),
        "limits.memory",
    ),
    "two memories": (
        handler("(i64.const 0)", memory='(memory (export "memory") 1) (memory 1)'),
        "memor",
    ),
    "a body that does not validate": (handler("(i32.const 0)"), "type mismatch"),
    "too long": (GOOD + b"\0\xff\xff\xff\x07" + bytes(16 * 1024 * 1024), "allowed"),
}


@pytest.mark.parametrize("name", BAD_MODULES)
async def test_a_bad_module_is_refused_by_name_and_changes_nothing(acme: Tenancy, name: str) -> None:
    module, mentioned = BAD_MODULES[name]
    await acme.deploy("fn", GOOD)
    with pytest.raises(InvalidModule) as refused:
        await acme.deploy("fn", module)
    assert mentioned in refused.value.message
    assert refused.value.faults
    assert (await acme.node.registry.functions.get(acme.name, parse_function("fn"))).versions == (1,)
    assert (await acme.call("fn")).body == b"one"


@pytest.mark.parametrize(
    ("policy", "error", "line"),
    [
        (b"wisp: 1\nabi: handler\nfule: 1\n", InvalidPolicy, 3),
        (b"wisp: 1\nabi: handler\nlimits: {fuel: lots}\n", InvalidPolicy, 3),
        (b"wisp: 1\nabi: handler\nlimits: {memory: 4Gi}\n", Rejected, 3),
        (b"wisp: 1\nabi: handler\nlimits: {fuel: 19G}\n", ExceedsCeiling, 3),
        (b"wisp: 1\nabi: handler\nmodels: [{name: m, model: nothing}]\n", InvalidPolicy, 3),
        (b"\xff\xfe", InvalidPolicy, None),
        (b"", InvalidPolicy, None),
    ],
)
async def test_a_bad_policy_is_refused_with_its_line(
    acme: Tenancy, policy: bytes, error: type[Rejected], line: int | None
) -> None:
    with pytest.raises(error) as refused:
        await acme.deploy("fn", GOOD, policy)
    assert line is None or line in {fault.line for fault in refused.value.faults}
    with pytest.raises(NotFound):
        await acme.node.registry.functions.get(acme.name, parse_function("fn"))


async def test_the_same_upload_is_the_same_version(acme: Tenancy) -> None:
    first = await acme.deploy("fn", GOOD)
    again = await acme.deploy("fn", GOOD)
    assert (first.version.number, first.created) == (1, True)
    assert (again.version.number, again.created) == (1, False)
    other = await acme.deploy("fn", answering(b"two"))
    assert other.version.number == 2
    assert (await acme.call("fn")).body == b"two"
    back = await acme.deploy("fn", GOOD)
    assert (back.version.number, back.created, back.active) == (1, False, True)
    assert (await acme.call("fn")).body == b"one"


async def test_a_version_that_is_held_back_answers_only_once_it_is_activated(node: Node, acme: Tenancy) -> None:
    await acme.deploy("fn", GOOD)
    held = await acme.deploy("fn", answering(b"two"), activate=False)
    assert not held.active
    assert (await acme.call("fn")).body == b"one"
    await node.registry.functions.activate(acme.name, parse_function("fn"), held.version.number)
    node.snapshot.invalidate(acme.name, parse_function("fn"))
    assert (await acme.call("fn")).body == b"two"


async def test_the_first_upload_held_back_answers_not_found(acme: Tenancy) -> None:
    await acme.deploy("fn", GOOD, activate=False)
    with pytest.raises(FunctionNotFound):
        await acme.call("fn")


async def test_numbers_are_not_used_again_after_a_delete(node: Node, acme: Tenancy) -> None:
    await acme.deploy("fn", GOOD)
    await node.registry.functions.delete(acme.name, parse_function("fn"))
    node.snapshot.invalidate(acme.name, parse_function("fn"))
    with pytest.raises(FunctionNotFound):
        await acme.call("fn")
    assert (await acme.deploy("fn", GOOD)).version.number == 2


async def test_a_policy_alone_makes_a_version_on_the_same_module(node: Node, acme: Tenancy) -> None:
    await acme.deploy("fn", handler(LOOP), HANDLER_POLICY + b"limits: {fuel: 1M}\n")
    changed = await node.deployer.change_policy(
        tenant=acme.name, function=parse_function("fn"), policy=HANDLER_POLICY + b"limits: {fuel: 2M}\n", author="test"
    )
    assert changed.version.number == 2
    reply = await acme.call("fn")
    assert (reply.outcome, reply.receipt.fuel) == (Outcome.FUEL_EXHAUSTED, 2_000_000)


async def test_a_start_that_fails_is_a_warning_that_says_how(acme: Tenancy) -> None:
    deployed = await acme.deploy("fn", handler("(i64.const 0)", before=f"(func $start {LOOP}) (start $start)"), SPARING)
    assert "fuel_exhausted" in deployed.warnings[0]
    assert (await acme.call("fn")).outcome is Outcome.FUEL_EXHAUSTED


async def test_twenty_uploads_at_once_are_twenty_versions(acme: Tenancy) -> None:
    deployed = await asyncio.gather(*(acme.deploy("fn", answering(b"%d" % number)) for number in range(20)))
    assert sorted(one.version.number for one in deployed) == list(range(1, 21))


async def test_a_module_is_compiled_again_when_its_code_is_gone(node: Node, acme: Tenancy) -> None:
    deployed = await acme.deploy("fn", GOOD)
    for path in (node.data_dir / "code").iterdir():
        path.unlink()
    node.stores.code.cache.drop(deployed.version.module)
    replies = await asyncio.gather(*(acme.call("fn") for _ in range(5)))
    assert {reply.body for reply in replies} == {b"one"}


@pytest.mark.parametrize("name", ["external", "custom_domain"])
async def test_a_model_that_reaches_out_of_its_file_is_refused(acme: Tenancy, name: str) -> None:
    with pytest.raises(InvalidModel):
        await acme.push_model("m", TINY_MODELS / f"{name}.onnx")
    assert await acme.node.registry.models.list(acme.name) == ()


async def test_a_file_that_is_no_model_is_refused(acme: Tenancy) -> None:
    with pytest.raises(InvalidModel):
        await acme.push_model("m", TENANTS / "acme" / "tenant.yaml")


async def test_a_pinned_model_stays_what_it_was_at_upload(node: Node, acme: Tenancy) -> None:
    await acme.push_model("digits", TENANTS / "acme" / "digits" / "digits.onnx")
    await acme.deploy_folder("digits")
    await acme.push_model("digits", TINY_MODELS / "two_io.onnx")
    png = (TENANTS / "acme" / "digits" / "samples" / "7-a.png").read_bytes()
    assert b'"label": 7' in (await acme.call("digits", png)).body
    assert (await node.registry.models.get(acme.name, parse_model("digits"))).version == 2
