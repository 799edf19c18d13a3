"""The registry against a plain dictionary model: any order of writes leaves what the model says, and nothing torn."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from registry.conftest import Server
from registry.samples import FREE, INPUTS, MOBILENET, OUTPUTS, digest, draft, pin
from wisp.errors import InUse, InvalidTraffic, NotFound, PreconditionFailed
from wisp.names import FunctionName, KeyId, TenantName, parse_function, parse_tenant
from wisp.registry.keys import Kind, key
from wisp.registry.records import Role
from wisp.registry.registry import Registry
from wisp.registry.traffic import Guard, Share, Traffic

T = TypeVar("T")

TENANTS = st.sampled_from([parse_tenant(name) for name in ("acme", "beta")])
FUNCTIONS = st.sampled_from([parse_function(name) for name in ("f", "f-2")])
CONTENTS = st.sampled_from("abc")
NUMBERS = st.integers(1, 5)


@dataclass
class Expected:
    """One function. `split`: the versions of a traffic in force, the stable one first."""

    versions: dict[int, str] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    active: int | None = None
    split: tuple[int, ...] = ()
    suspended: bool = False
    changes: int = 0

    @property
    def answering(self) -> tuple[int, ...]:
        return self.split or (() if self.active is None else (self.active,))


@dataclass
class Owner:
    functions: dict[FunctionName, Expected] = field(default_factory=dict)
    numbers: dict[FunctionName, int] = field(default_factory=dict)
    keys: set[KeyId] = field(default_factory=set)
    model: bool = False


class Platform(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.registry = Registry(self.url)
        self.run(self.registry.connection.command("FLUSHALL"))
        self.run(self.registry.prepare())
        self.owners: dict[TenantName, Owner] = {}
        self.revisions: set[int] = set()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    def refused(self, error: type[Exception], work: Coroutine[Any, Any, object]) -> None:
        with pytest.raises(error):
            self.run(work)

    def teardown(self) -> None:
        self.run(self.registry.aclose())
        self.loop.close()

    @initialize()
    def begin(self) -> None:
        self.create(parse_tenant("acme"))

    def known(self, tenant: TenantName, name: FunctionName) -> Expected | None:
        return self.owners[tenant].functions.get(name) if tenant in self.owners else None

    @rule(tenant=TENANTS)
    def create(self, tenant: TenantName) -> None:
        if tenant not in self.owners:
            self.run(self.registry.tenants.create(tenant, FREE))
            self.owners[tenant] = Owner()

    @rule(tenant=TENANTS)
    def delete_tenant(self, tenant: TenantName) -> None:
        if self.owners.pop(tenant, None) is None:
            self.refused(NotFound, self.registry.tenants.delete(tenant))
        else:
            self.run(self.registry.tenants.delete(tenant))

    @rule(tenant=TENANTS, name=FUNCTIONS, content=CONTENTS, activate=st.booleans(), pins=st.booleans())
    def upload(self, tenant: TenantName, name: FunctionName, content: str, activate: bool, pins: bool) -> None:
        wanted = draft(content)
        owner = self.owners.get(tenant)
        if owner is None:
            self.refused(NotFound, self.registry.functions.place(tenant, name, wanted, activate=activate))
            return
        if pins and owner.model:
            model = self.run(self.registry.models.get(tenant, MOBILENET))
            content += " with the model"
            wanted = replace(draft(content), models=(pin(model),))
        function = owner.functions.setdefault(name, Expected())
        same = [number for number, held in function.versions.items() if held == content]
        number = same[0] if same else owner.numbers.get(name, 0) + 1
        placed = self.run(self.registry.functions.place(tenant, name, wanted, activate=activate))
        assert (placed.version.number, placed.created) == (number, not same)
        owner.numbers[name] = max(number, owner.numbers.get(name, 0))
        function.versions[number] = content
        if wanted.models:
            function.pinned.add(number)
        switches = activate and (function.active, function.split) != (number, ())
        if switches:
            function.active, function.split = number, ()
        function.changes += bool(switches or not same)

    @rule(tenant=TENANTS, name=FUNCTIONS, number=NUMBERS)
    def activate(self, tenant: TenantName, name: FunctionName, number: int) -> None:
        function = self.known(tenant, name)
        if function is None or number not in function.versions:
            self.refused(NotFound, self.registry.functions.activate(tenant, name, number))
            return
        self.run(self.registry.functions.activate(tenant, name, number))
        function.changes += (function.active, function.split) != (number, ())
        function.active, function.split = number, ()

    @rule(tenant=TENANTS, name=FUNCTIONS, first=NUMBERS, second=NUMBERS)
    def split(self, tenant: TenantName, name: FunctionName, first: int, second: int) -> None:
        if first == second:
            return
        guard = Guard(max_errors_per_million=0, min_requests=1, window_s=60)
        shares = (Share(version=first, percent=60), Share(version=second, percent=40))
        traffic = Traffic(id=0, split=shares, sticky_header=None, sticky_key=True, guard=guard)
        function = self.known(tenant, name)
        if function is None:
            self.refused(NotFound, self.registry.functions.split(tenant, name, traffic))
            return
        if not {first, second} <= function.versions.keys():
            self.refused(InvalidTraffic, self.registry.functions.split(tenant, name, traffic))
            return
        self.run(self.registry.functions.split(tenant, name, traffic))
        function.active, function.split = first, (first, second)
        function.changes += 1

    @rule(tenant=TENANTS, name=FUNCTIONS, fails=st.booleans(), races=st.booleans(), number=NUMBERS)
    def judge(self, tenant: TenantName, name: FunctionName, fails: bool, races: bool, number: int) -> None:
        """A guard's count, alone or at once with an activation: whichever is first, the activation stands."""
        function = self.known(tenant, name)
        if function is None or not function.split:
            return
        stored = self.run(self.registry.functions.get(tenant, name))
        assert stored.traffic is not None
        split = stored.traffic.id
        counts = {function.split[1]: (5, int(fails))}

        async def both() -> object:
            work: list[Any] = [self.registry.functions.judge(tenant, name, split, counts)]
            if races and number in function.versions:
                work.append(self.registry.functions.activate(tenant, name, number))
            return (await asyncio.gather(*work))[0]

        change = self.run(both())
        if races and number in function.versions:
            if change is not None:
                function.changes += 1
                function.active, function.split = function.split[0], ()
            function.changes += (function.active, function.split) != (number, ())
            function.active, function.split = number, ()
        else:
            assert (change is not None) == fails
            if fails:
                function.changes += 1
                function.active, function.split = function.split[0], ()

    @rule(tenant=TENANTS, name=FUNCTIONS, suspended=st.booleans())
    def suspend(self, tenant: TenantName, name: FunctionName, suspended: bool) -> None:
        function = self.known(tenant, name)
        switch = self.registry.functions.suspend if suspended else self.registry.functions.resume
        if function is None:
            self.refused(NotFound, switch(tenant, name))
            return
        self.run(switch(tenant, name))
        function.changes += function.suspended != suspended
        function.suspended = suspended

    @rule(tenant=TENANTS, name=FUNCTIONS, number=NUMBERS)
    def delete_version(self, tenant: TenantName, name: FunctionName, number: int) -> None:
        function = self.known(tenant, name)
        work = self.registry.functions.delete_version(tenant, name, number)
        if function is None or number not in function.versions:
            self.refused(NotFound, work)
            return
        if number in function.answering or len(function.versions) == 1:
            self.refused(InUse, work)
            return
        self.run(work)
        del function.versions[number]
        function.pinned.discard(number)
        function.changes += 1

    @rule(tenant=TENANTS, name=FUNCTIONS, stale=st.booleans())
    def delete(self, tenant: TenantName, name: FunctionName, stale: bool) -> None:
        if self.known(tenant, name) is None:
            self.refused(NotFound, self.registry.functions.delete(tenant, name))
            return
        if stale:
            self.refused(PreconditionFailed, self.registry.functions.delete(tenant, name, expected=("1",)))
            return
        self.run(self.registry.functions.delete(tenant, name))
        del self.owners[tenant].functions[name]

    @rule(tenant=TENANTS)
    def put_model(self, tenant: TenantName) -> None:
        work = self.registry.models.put(
            tenant, MOBILENET, digest=digest("m"), size_bytes=1, inputs=INPUTS, outputs=OUTPUTS
        )
        if tenant not in self.owners:
            self.refused(NotFound, work)
            return
        self.run(work)
        self.owners[tenant].model = True

    @rule(tenant=TENANTS)
    def delete_model(self, tenant: TenantName) -> None:
        owner = self.owners.get(tenant)
        work = self.registry.models.delete(tenant, MOBILENET)
        if owner is None or not owner.model:
            self.refused(NotFound, work)
            return
        if any(function.pinned for function in owner.functions.values()):
            self.refused(InUse, work)
            return
        self.run(work)
        owner.model = False

    @rule(tenant=TENANTS, revoke=st.booleans())
    def keys(self, tenant: TenantName, revoke: bool) -> None:
        owner = self.owners.get(tenant)
        if owner is None:
            self.refused(NotFound, self.registry.keys.issue(tenant, Role.INVOKE))
            return
        if revoke and owner.keys:
            self.run(self.registry.keys.revoke(tenant, owner.keys.pop()))
        else:
            issued, _ = self.run(self.registry.keys.issue(tenant, Role.INVOKE))
            owner.keys.add(issued.id)

    @invariant()
    def what_is_stored_is_what_is_expected(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        assert [tenant.name for tenant in await self.registry.tenants.list()] == sorted(self.owners)
        for tenant, owner in self.owners.items():
            assert {key.id for key in await self.registry.keys.list(tenant)} == owner.keys
            assert bool(await self.registry.models.list(tenant)) == owner.model
            assert [each.name for each in await self.registry.functions.list(tenant)] == sorted(owner.functions)
            kept = sum(len(function.versions) for function in owner.functions.values())
            for kind in (Kind.VERSIONS, Kind.CONTENTS):
                assert len(await self.registry.connection.hash_all(key(tenant, kind))) == kept
            guarded = {name for name, function in owner.functions.items() if function.split}
            assert (await self.registry.connection.hash_all(key(tenant, Kind.GUARDS))).keys() <= guarded
            for name, function in owner.functions.items():
                await self.compare_function(tenant, name, function)

    async def compare_function(self, tenant: TenantName, name: FunctionName, expected: Expected) -> None:
        entry = await self.registry.functions.entry(tenant, name)
        assert entry is not None
        found = entry.function
        assert (found.active, found.suspended) == (expected.active, expected.suspended)
        assert found.versions == tuple(sorted(expected.versions))
        assert tuple(version.number for version in entry.versions) == expected.answering
        assert (found.traffic is not None) == bool(expected.split)
        assert [version.content_digest for version in await self.registry.functions.versions(tenant, name)] == [
            digest(content) for _, content in sorted(expected.versions.items())
        ]
        history = await self.registry.functions.history(tenant, name)
        assert [change.number for change in history] == list(range(expected.changes, 0, -1))[: len(history)]
        assert (history[0].revision, history[0].active) == (found.revision, found.active)


def test_any_order_of_writes_leaves_what_a_dictionary_would(redis_server: Server) -> None:
    platform = type("Platform", (Platform,), {"url": redis_server.url})
    run_state_machine_as_test(
        platform,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )
