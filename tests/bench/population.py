"""Many tenants and functions in a data directory, written by the registry itself: an upload each would take hours.

All functions have the same module, as copies of an example do; their entries, grants, links and handles are their own.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from platforms import OPERATOR_KEY, TENANTS, Tenancy, wide_policies
from wat import REQUEST_AT, handler
from wisp.names import parse_class, parse_function, parse_tenant
from wisp.node import Node
from wisp.registry.records import Draft, Role
from wisp.settings import Settings

HELLO = TENANTS / "globex" / "hello"
AT_ONCE = 32

Person = tuple[str, str, int]
"""A tenant, a key of its, and how many functions it has: f0, f1, …"""


def settle(data_dir: Path, *, tenants: int, functions: int) -> list[Person]:
    return asyncio.run(_settle(data_dir, tenants, functions))


async def _settle(data_dir: Path, tenants: int, functions: int) -> list[Person]:
    settings = Settings.load(
        {"data_dir": str(data_dir), "workers": "1", "policies": str(wide_policies(data_dir.parent / "policies"))},
        environ={"WISP_OPERATOR_KEY": OPERATOR_KEY},
    )
    each = functions // tenants
    async with Node(settings) as node:
        first = await Tenancy.create(node, "first", "standard")
        await first.deploy("hello", (HELLO / "module.wasm").read_bytes(), (HELLO / "policy.yaml").read_bytes())
        version = await node.registry.functions.version(first.name, parse_function("hello"), 1)
        draft = Draft(**{name: getattr(version, name) for name in Draft.__dataclass_fields__})
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> Person:
            async with gate:
                tenant = parse_tenant(f"t{number}")
                await node.registry.tenants.create(tenant, parse_class("standard"))
                _, secret = await node.registry.keys.issue(tenant, Role.DEPLOY)
                for index in range(each):
                    name = parse_function(f"f{index}")
                    await node.registry.functions.put_version(tenant, name, replace(draft), activate=True)
                return tenant, secret, each

        return list(await asyncio.gather(*(one(number) for number in range(tenants))))


def rotation(directory: Path, people: list[Person], functions: int) -> Path:
    """A script for wrk that calls `functions` of them in turn, tenant after tenant."""
    calls = []
    for index in range(max(count for _, _, count in people)):
        calls += [(tenant, f"f{index}", secret) for tenant, secret, count in people if index < count]
    calls = calls[:functions]
    lines = [f'  {{"/t/{tenant}/{function}", "Bearer {secret}"}},' for tenant, function, secret in calls]
    script = directory / f"rotate-{functions}.lua"
    script.write_text(
        "local calls = {\n"
        + "\n".join(lines)
        + """
}
local at = 0
request = function()
  at = at % #calls + 1
  return wrk.format("GET", calls[at][1], {["Authorization"] = calls[at][2]})
end
"""
    )
    return script


def echo_module() -> bytes:
    """Answers with the body that it was sent. The request's head is skipped field by field."""
    skip = "(local.set $at (i32.add (i32.add (local.get $at) (i32.const 4)) (i32.load (local.get $at))))"
    return handler(
        f"""(local $at i32) (local $left i32) (local $size i32)
        (local.set $at (i32.add (local.get $pointer) (i32.const 4)))
        {skip * 3}
        (local.set $left (i32.mul (i32.load (local.get $at)) (i32.const 2)))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (block $done (loop $more
          (br_if $done (i32.eqz (local.get $left)))
          {skip}
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br $more)))
        (local.set $size (i32.sub (i32.add (local.get $pointer) (local.get $length)) (local.get $at)))
        (local.set $at (i32.sub (local.get $at) (i32.const 12)))
        (i32.store (local.get $at) (i32.const 1))
        (i32.store (i32.add (local.get $at) (i32.const 4)) (i32.const 200))
        (i32.store (i32.add (local.get $at) (i32.const 8)) (i32.const 0))
        (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
                (i64.extend_i32_u (i32.add (local.get $size) (i32.const 12))))""",
        memory=f'(memory (export "memory") {(REQUEST_AT + (12 << 20)) // 65536 + 1})',
    )
