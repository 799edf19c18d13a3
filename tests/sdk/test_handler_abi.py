"""The committed handler guests on a bare engine: the ABI as wisp-guest speaks it, without any of the platform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from sdk.abi import Guest, body_of, encode, status_of

TENANTS = Path(__file__).parents[2] / "tenants"
ENVIRONMENT = {"acme/hello": [("GREETING", "hello")]}


def requests(function: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((TENANTS / function / "samples" / "requests.json").read_text())
    return listed


@pytest.fixture(scope="module")
def engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.consume_fuel = True
    return wasmtime.Engine(config)


def start(engine: wasmtime.Engine, function: str, fuel: int = 50_000_000) -> Guest:
    module = wasmtime.Module(engine, (TENANTS / function / "module.wasm").read_bytes())
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    linker.define_unknown_imports_as_traps(module)
    store = wasmtime.Store(engine)
    wasi = wasmtime.WasiConfig()
    wasi.env = ENVIRONMENT.get(function, [])
    store.set_wasi(wasi)
    store.set_fuel(fuel)
    guest = Guest(store=store, exports=linker.instantiate(store, module).exports(store))
    guest.call("_initialize")
    return guest


@pytest.mark.parametrize("function", ["acme/hello", "globex/hello"])
def test_each_sample_request_is_answered_as_it_says(engine: wasmtime.Engine, function: str) -> None:
    for sample in requests(function):
        response = start(engine, function).handle(encode(sample["method"], sample["path"]))
        assert status_of(response) == sample["expect"]["status"]
        assert body_of(response).decode() == sample["expect"]["body"]


def test_an_instance_can_answer_more_than_once(engine: wasmtime.Engine) -> None:
    guest = start(engine, "acme/hello")
    assert body_of(guest.handle(encode("GET", "/?name=ada"))) == b"hello, ada\n"
    assert body_of(guest.handle(encode("GET", "/?name=" + "b" * 100_000))) == b"hello, " + b"b" * 100_000 + b"\n"


def test_an_image_that_is_none_is_refused_before_the_model_is_asked_for(engine: wasmtime.Engine) -> None:
    response = start(engine, "acme/digits").handle(encode("POST", "/", b"GIF89a"))
    assert status_of(response) == 400
    assert json.loads(body_of(response)) == {"error": "not a PNG image"}


def test_burn_ends_only_with_its_fuel(engine: wasmtime.Engine) -> None:
    with pytest.raises(wasmtime.Trap) as trap:
        start(engine, "acme/burn", fuel=1_000_000).handle(encode("GET", "/"))
    assert trap.value.trap_code == wasmtime.TrapCode.OUT_OF_FUEL


@pytest.mark.parametrize(("moved", "message"), [(4, encode("GET", "/")), (0, b"\x02\x00\x00\x00"), (0, b"")])
def test_a_broken_abi_traps_in_the_guest(engine: wasmtime.Engine, moved: int, message: bytes) -> None:
    guest = start(engine, "acme/hello")
    at = guest.call("wisp_alloc", len(message))
    guest.write(at, message)
    with pytest.raises(wasmtime.Trap) as trap:
        guest.call("wisp_handle", at + moved, len(message))
    assert trap.value.trap_code == wasmtime.TrapCode.UNREACHABLE
