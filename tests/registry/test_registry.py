from __future__ import annotations

import pytest

from registry.conftest import Server
from wisp.errors import InvalidSettings
from wisp.registry import functionscripts, scripts, storagescripts, usagescripts
from wisp.registry.connection import Script
from wisp.registry.keys import SCHEMA
from wisp.registry.registry import Registry


async def test_an_empty_server_becomes_a_registry_and_stays_one(registry: Registry) -> None:
    await registry.prepare()
    assert await registry.connection.get(SCHEMA) == b"1"


@pytest.mark.parametrize(("stored", "says"), [("2", "newer wisp"), ("0", "reads 1 only"), ("x", "not a registry")])
async def test_another_schema_is_refused(registry: Registry, stored: str, says: str) -> None:
    await registry.connection.command("SET", SCHEMA, stored)
    with pytest.raises(InvalidSettings, match=says):
        await registry.prepare()
    assert await registry.connection.get(SCHEMA) == stored.encode()


SCRIPTS = {
    name: value
    for module in (functionscripts, scripts, storagescripts, usagescripts)
    for name, value in vars(module).items()
    if isinstance(value, Script)
}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_every_script_begins_with_its_contract(name: str) -> None:
    script = SCRIPTS[name]
    first, second, *_ = script.text.splitlines()
    assert first.startswith("-- KEYS: ")
    assert second.startswith("-- ARGV: ")


async def test_two_databases_of_one_server_are_two_registries(registry: Registry, single_server: Server) -> None:
    other = Registry(f"{single_server.url}?db=1")
    assert await other.connection.get(SCHEMA) is None
    await other.aclose()
