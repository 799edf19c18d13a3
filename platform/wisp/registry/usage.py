"""What tenants used, by hour and function: exact sums in each tenant's slot, kept for `KEPT_HOURS`.

A node adds what it counted in numbered batches. The slot remembers the last number of each node's life that it took, so
a batch whose answer was lost can be sent again, and a life's batches are taken in order, each once or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import add

from wisp.errors import WispError
from wisp.names import FunctionName, TenantName
from wisp.registry.connection import Connection
from wisp.registry.keys import Kind, key, keys
from wisp.registry.refusals import accepted
from wisp.registry.usagescripts import ADD_USAGE
from wisp.wire.outcome import Outcome

KEPT_HOURS = 32 * 24
SEQUENCES_KEPT_S = 8 * 24 * 3600
"""How long a slot remembers a node's life that is over; who sends a batch again must do so before."""
ITEMS_PER_READ = 200

METRICS = ("fuel", "nn_fuel", "cpu_ns", "nn_ns", "inferences", "tensor_bytes", "bytes_in", "bytes_out")
"""What is summed beside the outcomes; the order is the order of `Use.sums`."""
ABANDONED = "abandoned"
"""The caller went away while the guest ran."""


def _codes(error: type[WispError]) -> set[str]:
    return {error.code}.union(*(_codes(child) for child in error.__subclasses__()))


OUTCOMES = tuple(sorted({*Outcome, ABANDONED, *_codes(WispError)}))
"""Each way in which a request for a function can end: the guest's outcome, or the code with which it was refused."""
FIELDS = (*METRICS, *OUTCOMES)


@dataclass(slots=True, kw_only=True)
class Use:
    """Sums over some requests: `outcomes` counts them, `sums` are as `METRICS`."""

    outcomes: dict[str, int] = field(default_factory=dict)
    sums: list[int] = field(default_factory=lambda: [0] * len(METRICS))

    def add(self, outcome: str, count: int, sums: Sequence[int]) -> None:
        """`sums`: all of them."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count
        self.sums = list(map(add, self.sums, sums))

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())

    def metric(self, name: str) -> int:
        return self.sums[METRICS.index(name)]


Place = tuple[int, FunctionName]
"""An hour since 1970, and a function."""


class Usage:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def add(self, tenant: TenantName, life: str, sequence: int, used: Mapping[Place, Use], *, now_s: int) -> bool:
        """Whether it was counted by this call: not if it had been before, or if the tenant is gone."""
        items = []
        for (hour, function), use in used.items():
            pairs = [f"{name} {value}" for name, value in zip(METRICS, use.sums, strict=True) if value]
            pairs += [f"{name} {value}" for name, value in use.outcomes.items()]
            items.append(f"{hour} {function} {len(pairs)} {' '.join(pairs)}")
        answer = await self.connection.run(
            ADD_USAGE,
            keys(tenant, Kind.TENANT, Kind.USAGE, Kind.USAGE_ITEMS, Kind.USAGE_LIVES),
            life,
            sequence,
            now_s,
            now_s - SEQUENCES_KEPT_S,
            now_s // 3600 - KEPT_HOURS,
            " ".join(FIELDS),
            " ".join(items),
        )
        (counted,) = accepted(answer, tenant)
        return bool(counted)

    async def places(self, tenant: TenantName, from_hour: int, until_hour: int, most: int) -> list[Place]:
        """Of the hours from `from_hour` to before `until_hour`, `most` at most, in order."""
        found = await self.connection.command(
            "ZRANGEBYSCORE", key(tenant, Kind.USAGE_ITEMS), from_hour, f"({until_hour}", "LIMIT", 0, most
        )
        split = (member.decode().split(" ", 1) for member in found)
        return sorted((int(hour), FunctionName(function)) for hour, function in split)

    async def read(self, tenant: TenantName, places: Sequence[Place]) -> list[tuple[Place, Use]]:
        read: list[tuple[Place, Use]] = []
        for start in range(0, len(places), ITEMS_PER_READ):
            page = places[start : start + ITEMS_PER_READ]
            wanted = [f"{hour} {function} {name}" for hour, function in page for name in FIELDS]
            values = await self.connection.hash_get_each(key(tenant, Kind.USAGE), wanted)
            for number, place in enumerate(page):
                own = values[number * len(FIELDS) : (number + 1) * len(FIELDS)]
                numbers = {name: int(value) for name, value in zip(FIELDS, own, strict=True) if value is not None}
                use = Use(outcomes={name: numbers[name] for name in OUTCOMES if name in numbers})
                use.sums = [numbers.get(name, 0) for name in METRICS]
                read.append((place, use))
        return read
