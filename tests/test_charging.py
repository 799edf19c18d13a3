"""Inference is paid for: in fuel, out of the guest's limit, by the time that the inference host measured."""

from __future__ import annotations

from pathlib import Path

from platforms import HANDLER_POLICY, REPOSITORY, TENANTS, TINY_MODELS, Tenancy
from wat import answering
from wisp.wire.outcome import Outcome, nn_fuel

INFER = (REPOSITORY / "tests/guests/infer/module.wasm").read_bytes()
ONE_FLOAT = b"graph=endless&type=f32&dims=1"


async def endless(acme: Tenancy, limits: bytes, max_time: bytes) -> None:
    await acme.push_model("endless", TINY_MODELS / "endless.onnx")
    models = b"models: [{name: endless, model: endless, max_time: " + max_time + b"}]\n"
    await acme.deploy("endless", INFER, HANDLER_POLICY + models + b"limits: " + limits + b"\n")


async def test_an_inference_is_charged_beside_the_guests_own_fuel(acme: Tenancy) -> None:
    await acme.push_model("digits", TENANTS / "acme" / "digits" / "digits.onnx")
    await acme.deploy_folder("digits")
    receipt = (await acme.call("digits", Path(TENANTS / "acme/digits/samples/7-a.png").read_bytes())).receipt
    assert receipt.nn_ns > 0
    assert receipt.nn_fuel == nn_fuel(receipt.nn_ns)
    assert receipt.fuel > receipt.nn_fuel
    assert receipt.tensor_bytes > 0


async def test_a_guest_without_inference_is_charged_none(acme: Tenancy) -> None:
    await acme.deploy("hello", answering(b"hi"))
    receipt = (await acme.call("hello")).receipt
    assert (receipt.nn_fuel, receipt.nn_ns, receipt.inferences) == (0, 0, 0)
    assert receipt.fuel > 0
    assert receipt.cpu_ns > 0


async def test_the_fuel_limit_bounds_inference_too(acme: Tenancy) -> None:
    """The model is cut off after 200 ms, which cost ten times the fuel that there is."""
    await endless(acme, b"{fuel: 20M, timeout: 10s}", b"200ms")
    reply = await acme.call("endless", bytes(4), query=ONE_FLOAT)
    assert reply.outcome is Outcome.FUEL_EXHAUSTED
    assert reply.receipt.nn_fuel == nn_fuel(reply.receipt.nn_ns) >= 200_000_000
    lines = [line.text for line in acme.node.tenantlog.lines(acme.name, (await acme.target("endless")).function)]
    assert any("costs" in line and "the fuel limit of 20000000" in line for line in lines)


async def test_the_same_inference_within_the_fuel_limit_is_only_an_errno(acme: Tenancy) -> None:
    await endless(acme, b"{fuel: 8G, timeout: 10s}", b"200ms")
    reply = await acme.call("endless", bytes(4), query=ONE_FLOAT)
    assert reply.outcome is Outcome.OK
    assert reply.receipt.nn_fuel >= 200_000_000


async def test_a_deadline_ends_a_running_inference_and_what_it_took_is_charged(acme: Tenancy) -> None:
    await endless(acme, b"{timeout: 2s}", b"10s")
    reply = await acme.call("endless", bytes(4), query=ONE_FLOAT)
    assert reply.outcome is Outcome.INFERENCE_TIMEOUT
    assert reply.receipt.inferences == 1
    assert reply.receipt.nn_fuel == nn_fuel(reply.receipt.nn_ns) > 0
